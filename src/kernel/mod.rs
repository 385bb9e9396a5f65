//! SAFE WRAPPERS: the kernel's interface as Rust; the only hand-written unsafe.
//!
//! Wrappers keep the C name, recased. Types express what must hold at a call: a
//! token proves the IRQL ([`irql`]), and dropping a value undoes what it stands for.
#![allow(unsafe_code, reason = "calls into the kernel and reads what it passes")]

pub mod clock;
pub mod critical_region;
pub mod current;
pub mod device;
pub mod ending;
pub mod entry;
pub mod error_log;
pub mod etw;
pub mod exclusive;
pub mod irql;
pub mod mutex;
#[cfg(all(windows, not(feature = "wdk")))]
mod panic;
pub mod per_cpu;
pub mod pool;
pub mod prefetch;
pub mod processors;
pub mod published;
pub mod registry;
pub mod status;
pub mod thread;
pub mod utf16;
pub mod waiting;
pub mod watch;
#[cfg(feature = "wdk")]
mod wdk;
pub mod wfp;
pub mod work_item;
