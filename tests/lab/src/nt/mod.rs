//! The NT kernel a callout driver sees.
//!
//! | module | holds |
//! |---|---|
//! | [`Kernel`] | one simulated machine; exports find it through the thread |
//! | [`types`] | structures as the WDK lays them out |
//! | [`guest`] | how driver code is entered and abandoned |
//! | [`cpu`] | processors and IRQL |
//! | [`memory`], [`foreign`] | guarded pages; reading what drivers point to |
//! | [`pool`], [`registry`], [`work`], [`objects`] | what a machine has one of each |
//! | [`ex`], [`ke`], [`io`], [`zw`], [`rtl`], [`mm`], [`ndis`], [`fwp`] | the exports, a file per prefix |

mod breach;
mod clock;
pub mod cpu;
pub mod ex;
pub mod foreign;
pub mod fwp;
pub mod guest;
mod information;
pub mod io;
pub mod ke;
mod kernel;
mod load;
pub mod mapped;
pub mod memory;
pub mod mm;
pub mod ndis;
pub mod objects;
pub mod pool;
pub mod registry;
pub mod rtl;
mod schedule;
pub mod types;
pub mod work;
pub mod zw;

#[cfg(test)]
mod tests;

pub use breach::describe_address;
pub use clock::Clock;
pub use cpu::Irql;
pub use fwp::{MdlMapping, NblLayout};
pub use guest::{Direct, Guest, Stop};
pub use kernel::{Kernel, Options};
pub use load::{DriverImage, LeakReport, parameters_key};

pub(crate) use breach::Trouble;
pub(crate) use kernel::Current;
pub(crate) use schedule::at_import;

/// Statuses of this kernel that the filter engine has no use for
/// (`ntstatus.h`).
pub mod status {
    use crate::status::Status;

    /// `STATUS_TIMEOUT`.
    pub const TIMEOUT: Status = Status(0x102);
    /// `STATUS_NOTIFY_CLEANUP`.
    pub const NOTIFY_CLEANUP: Status = Status(0x10B);
    /// `STATUS_INVALID_DEVICE_REQUEST`.
    pub const INVALID_DEVICE_REQUEST: Status = Status(0xC000_0010_u32 as i32);
}
