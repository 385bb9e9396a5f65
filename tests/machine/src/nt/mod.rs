//! The NT kernel as a callout driver sees it.
//!
//! | module | content |
//! |---|---|
//! | [`Kernel`] | a simulated machine; exports find it through their thread |
//! | [`types`] | structures with the layout of the WDK headers |
//! | [`guest`] | calls driver code and abandons it |
//! | [`cpu`] | processors and IRQL |
//! | `drivers`, `load` | which driver calls; their start and end |
//! | [`memory`], [`foreign`] | guarded pages; copies of what drivers point to |
//! | [`pool`], [`registry`], [`work`], [`objects`] | the parts of which a machine has one each |
//! | [`journal`] | every call of an export with its arguments, for tests |
//! | [`ex`], [`ke`], [`affinity`], [`processors`], [`resource`], [`remove_lock`], [`ob`], [`io`], [`zw`], [`rtl`], [`mm`], [`ps`], [`ndis`], [`fwp`], [`etw`], [`seh`] | the exports, mostly one file per prefix |
//! | [`error_log`] | entries of the System event log |
//! | [`irp`], [`links`], [`process`] | devices as programs reach them: requests, links, processes |
//! | [`wmi`], [`wpp`] | providers of WMI; trace messages of WPP |
//! | [`wdf`] | the Kernel-Mode Driver Framework |

pub mod addresses;
pub mod affinity;
pub mod avl;
mod breach;
pub mod callbacks;
mod clock;
pub mod conversions;
pub mod cpu;
pub mod debug;
pub mod dispatcher;
pub mod dpc;
mod drivers;
mod enter;
pub mod error_log;
pub mod etw;
pub mod ex;
mod failing;
mod fault;
pub mod foreign;
pub mod fwp;
pub mod guest;
mod information;
mod initialized;
pub mod interlocked;
pub mod io;
pub mod irp;
pub mod journal;
pub mod ke;
mod kernel;
pub mod links;
mod load;
mod locks;
pub mod lookaside;
pub mod mapped;
pub mod memory;
mod missing;
pub mod mm;
pub mod ndis;
pub mod ob;
pub mod objects;
mod options;
mod packets;
mod paging;
mod placement;
pub mod pool;
pub mod process;
pub mod process_routines;
pub mod processors;
pub mod ps;
pub mod queued;
pub mod registry;
pub mod remove_lock;
pub mod resource;
mod ring;
pub mod rtl;
pub mod rwlock;
pub mod security;
pub mod seh;
mod sleepers;
pub mod slist;
mod stack;
mod stepwise;
pub mod strings;
mod threads;
pub mod timer;
pub mod types;
pub mod wdf;
pub mod wmi;
pub mod work;
pub mod wpp;
pub mod zw;

#[cfg(test)]
mod tests;

pub use breach::describe_address;
pub use clock::Clock;
pub use cpu::Irql;
pub use enter::{Export, resolve};
pub use etw::Trace;
pub use failing::{Caller, CanFail, Effect, FailCalls, Failure};
pub use fwp::{MdlMapping, NblLayout};
pub use guest::{Cause, Direct, Exception, Guest, Place, Stop};
pub use kernel::{Kernel, SYSTEM_THREAD};
pub use load::{DriverImage, LeakReport, parameters_key, service_key};
pub use missing::missing;
pub use options::{Options, RunningCallbacks};
pub use stepwise::BeforeInstruction;

pub(crate) use breach::Trouble;
pub(crate) use kernel::Current;
pub(crate) use threads::at_import;

/// Status codes that only this kernel uses (`ntstatus.h`).
pub mod status {
    use crate::status::Status;

    /// `STATUS_TIMEOUT`.
    pub const TIMEOUT: Status = Status(0x102);
    /// `STATUS_NOTIFY_CLEANUP`.
    pub const NOTIFY_CLEANUP: Status = Status(0x10B);
    /// `STATUS_KEY_DELETED`.
    pub const KEY_DELETED: Status = Status(0xC000_017C_u32 as i32);
    /// `STATUS_INVALID_DEVICE_REQUEST`.
    pub const INVALID_DEVICE_REQUEST: Status = Status(0xC000_0010_u32 as i32);
}
