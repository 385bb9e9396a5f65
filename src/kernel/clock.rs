//! Time since the system started.

use super::irql::MaxDispatch;
use crate::ffi;

/// Units of [`interrupt_time`] in a millisecond.
pub const PER_MS: u64 = 10_000;

/// Units of [`interrupt_time`] in a second.
pub const PER_SECOND: u64 = 1000 * PER_MS;

/// In units of 100 ns, sleep included; never goes back.
pub fn interrupt_time(_: &MaxDispatch) -> u64 {
    let mut counter = 0;
    // SAFETY: the argument is a local; callable at any IRQL.
    unsafe { ffi::KeQueryInterruptTimePrecise(&mut counter) }
}
