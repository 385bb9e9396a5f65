//! Waits until every processor has left DISPATCH_LEVEL.

use super::irql::Passive;
use super::work_item::wait_until;
use crate::ffi;

/// Returns when all code has ended that ran at DISPATCH_LEVEL at the time of the
/// call. Code that starts later sees what this thread wrote before the call.
///
/// This thread runs on each processor in turn. At PASSIVE_LEVEL it can run there
/// only when nothing at DISPATCH_LEVEL does. So readers at that level need not do
/// anything.
pub fn wait_for_all(_: &Passive) {
    // SAFETY: takes a group number, no pointers; callable at any IRQL.
    let count = unsafe { ffi::KeQueryMaximumProcessorCountEx(ffi::ALL_PROCESSOR_GROUPS as ffi::USHORT) };
    let mut before: Option<ffi::GROUP_AFFINITY> = None;
    for index in 0..count {
        // The call fails for a processor that is not active, where nothing runs, and
        // perhaps for a moment while a processor starts or stops.
        wait_until(|| match affinity(index) {
            None => true,
            Some(affinity) => {
                let previous = run_on(&affinity);
                before.get_or_insert(previous);
                current() == index
            }
        });
    }
    if let Some(mut before) = before {
        // SAFETY: what the first call gave; at PASSIVE_LEVEL.
        unsafe { ffi::KeRevertToUserGroupAffinityThread(&mut before) };
    }
}

/// The affinity of a processor, by its number over all groups; `None` while it is
/// not active.
fn affinity(index: u32) -> Option<ffi::GROUP_AFFINITY> {
    let mut number = ffi::PROCESSOR_NUMBER { Group: 0, Number: 0, Reserved: 0 };
    // SAFETY: the number is a local; callable at any IRQL.
    let status = unsafe { ffi::KeGetProcessorNumberFromIndex(index, &mut number) };
    let mask = 1u64.checked_shl(number.Number.into())?;
    (status == ffi::STATUS_SUCCESS).then_some(ffi::GROUP_AFFINITY {
        Mask: mask,
        Group: number.Group,
        Reserved: [0; 3],
    })
}

/// Moves this thread to a processor. Returns the affinity from before.
fn run_on(affinity: &ffi::GROUP_AFFINITY) -> ffi::GROUP_AFFINITY {
    let (mut there, mut previous) = (*affinity, ffi::GROUP_AFFINITY { Mask: 0, Group: 0, Reserved: [0; 3] });
    // SAFETY: both are locals; at PASSIVE_LEVEL the thread has moved when the
    // call returns.
    unsafe { ffi::KeSetSystemGroupAffinityThread(&mut there, &mut previous) };
    previous
}

fn current() -> u32 {
    // SAFETY: the argument may be NULL (its documentation); callable at any
    // IRQL.
    unsafe { ffi::KeGetCurrentProcessorNumberEx(core::ptr::null_mut()) }
}
