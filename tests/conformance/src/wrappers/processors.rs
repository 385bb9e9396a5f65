//! The number of processors.

use crate::ffi;

/// Active and maximum processors, in all groups.
pub fn counts() -> (u32, u32) {
    let all = ffi::ALL_PROCESSOR_GROUPS as ffi::USHORT;
    // SAFETY: takes a group number, no pointers; callable at any IRQL.
    let active = unsafe { ffi::KeQueryActiveProcessorCountEx(all) };
    // SAFETY: as above.
    let maximum = unsafe { ffi::KeQueryMaximumProcessorCountEx(all) };
    (active, maximum)
}
