//! The active processors: a walk over all of them, and those that are added.

use core::ffi::c_void;
use core::ptr::{self, NonNull};

use super::critical_region::CriticalRegion;
use super::irql::Passive;
use super::published::{Findable, Publication};
use super::status::{Result, Status, to_result};
use super::waiting::waiting;
use super::work_item::pause;
use crate::ffi;
use crate::logic::waiting::Awaited;

/// How often this thread tries to come to a processor, about a millisecond apart.
///
/// The first try succeeds if the processor is active: below DISPATCH_LEVEL the thread has
/// moved when the call returns, and only a mask without an active processor changes
/// nothing (KeSetSystemGroupAffinityThread, remarks). So a try fails only if the processor
/// is not active any more, and then nothing runs there. Should a system break this promise,
/// the driver has still waited a second. What ran at DISPATCH_LEVEL at the time of the call
/// has ended by then, because the driver's code takes microseconds there. To try for ever
/// would let the broken promise hold the driver up.
const TRIES: u32 = 1_000;

/// The processors of a group: the bits of an affinity.
const GROUP: u32 = ffi::KAFFINITY::BITS;

/// Returns when all code has ended that ran at DISPATCH_LEVEL at the time of the
/// call. Code that starts later sees what this thread wrote before the call.
///
/// This thread runs on each active processor in turn. At PASSIVE_LEVEL it can run
/// there only when nothing at DISPATCH_LEVEL does. So readers at that level need not
/// do anything. On a processor that becomes active meanwhile, no code runs that
/// started before the call.
///
/// The walk ends on every machine: there are at most [`GROUP`] visits to a group, and
/// at most [`TRIES`] for each. The thread has the highest priority meanwhile, so no
/// busy thread delays it.
pub fn wait_for_all(irql: &Passive) {
    let urgent = Urgent::begin(irql);
    let mut before = None;
    // SAFETY: takes nothing; callable at any IRQL. The number never changes.
    let groups = unsafe { ffi::KeQueryMaximumGroupCount() };
    for group in 0..groups {
        let mut left = ffi::KAFFINITY::MAX;
        for _ in 0..GROUP {
            // The lowest of those that are active now and have not been visited.
            let there = active(group) & left;
            let mask = there & there.wrapping_neg();
            if mask == 0 {
                break;
            }
            left &= !mask;
            visit(group, mask, &mut before);
        }
    }
    if let Some(mut before) = before {
        // SAFETY: what the first call gave; at PASSIVE_LEVEL.
        unsafe { ffi::KeRevertToUserGroupAffinityThread(&mut before) };
    }
    drop(urgent);
}

/// Runs on a processor, unless it is no longer active: then nothing runs there.
/// `before` becomes the affinity from before the first visit.
fn visit(group: u16, mask: ffi::KAFFINITY, before: &mut Option<ffi::GROUP_AFFINITY>) {
    for _ in 0..TRIES {
        let previous = run_on(group, mask);
        before.get_or_insert(previous);
        if is_here(group, mask) || active(group) & mask == 0 {
            return;
        }
        pause();
    }
}

/// The active processors of a group.
fn active(group: u16) -> ffi::KAFFINITY {
    // SAFETY: takes a number, which need not be a group's; callable at any IRQL.
    unsafe { ffi::KeQueryGroupAffinity(group) }
}

/// Moves this thread to a processor. Returns the affinity from before.
fn run_on(group: u16, mask: ffi::KAFFINITY) -> ffi::GROUP_AFFINITY {
    let mut there = ffi::GROUP_AFFINITY { Mask: mask, Group: group, Reserved: [0; 3] };
    let mut previous = ffi::GROUP_AFFINITY { Mask: 0, Group: 0, Reserved: [0; 3] };
    // SAFETY: both are locals; at PASSIVE_LEVEL the thread has moved when the
    // call returns.
    unsafe { ffi::KeSetSystemGroupAffinityThread(&mut there, &mut previous) };
    previous
}

fn is_here(group: u16, mask: ffi::KAFFINITY) -> bool {
    let mut here = ffi::PROCESSOR_NUMBER { Group: 0, Number: 0, Reserved: 0 };
    // SAFETY: the number is a local; callable at any IRQL.
    let _index = unsafe { ffi::KeGetCurrentProcessorNumberEx(&mut here) };
    here.Group == group && mask.checked_shr(here.Number.into()) == Some(1)
}

/// This thread at the highest priority. Dropping it restores the thread's base
/// priority.
struct Urgent {
    thread: ffi::PKTHREAD,
    /// The base priority from before, relative to the process.
    increment: ffi::LONG,
}

impl Urgent {
    /// NtCurrentThread (wdm.h): the calling thread in place of a handle.
    const CURRENT: ffi::HANDLE = ptr::without_provenance_mut(usize::MAX - 1);

    /// Raises the priority. `None` if the system does not give the thread's object;
    /// then the thread keeps its priority.
    fn begin(_: &Passive) -> Option<Self> {
        let mut object = ptr::null_mut();
        // SAFETY: no type is asked for, which code in kernel mode need not do; the
        // object is a local; at PASSIVE_LEVEL.
        let found = unsafe {
            ffi::ObReferenceObjectByHandle(
                Self::CURRENT,
                0,
                ptr::null_mut(),
                ffi::_MODE::KernelMode as ffi::KPROCESSOR_MODE,
                &mut object,
                ptr::null_mut(),
            )
        };
        to_result(found).ok()?;
        let thread: ffi::PKTHREAD = object.cast();
        // The priority of this moment may have a boost, and must not become the base.
        // SAFETY: the thread is referenced; at PASSIVE_LEVEL.
        let increment = unsafe { ffi::KeSetBasePriorityThread(thread, 0) };
        // SAFETY: as above; HIGH_PRIORITY is a priority.
        let _before = unsafe { ffi::KeSetPriorityThread(thread, ffi::HIGH_PRIORITY as ffi::KPRIORITY) };
        Some(Self { thread, increment })
    }
}

impl Drop for Urgent {
    fn drop(&mut self) {
        // SAFETY: the thread is referenced; it is dropped at PASSIVE_LEVEL, like
        // everything in `wait_for_all`.
        let _high = unsafe { ffi::KeSetBasePriorityThread(self.thread, self.increment) };
        // SAFETY: it was referenced in `begin`, once.
        let _left = unsafe { ffi::ObfDereferenceObject(self.thread.cast()) };
    }
}

/// Has something for each active processor.
pub trait PerProcessor: Findable + Send {
    /// Prepares for the processor with this number, before it becomes active. A
    /// processor may be announced again after it did not become active.
    fn add(&self, processor: usize, irql: &Passive) -> Result;
}

/// Prepares for each active processor, now and when one is added, until dropped.
///
/// No page says whether undoing the registration waits for a callback that runs. So the
/// callback has no context: it finds the published value, and is counted while it uses
/// it. Who ends the publication waits for it.
pub struct ProcessorRegistration(NonNull<c_void>);

// SAFETY: the handle is only handed back to the system, which locks for itself.
unsafe impl Send for ProcessorRegistration {}
// SAFETY: as above.
unsafe impl Sync for ProcessorRegistration {}

impl ProcessorRegistration {
    /// Prepares for every active processor before it returns.
    pub fn new<T: PerProcessor>(_: &Publication<T>, _: &Passive) -> Result<Self> {
        // SAFETY: the function lives as long as the image and needs no context; at
        // PASSIVE_LEVEL.
        let handle = unsafe {
            ffi::KeRegisterProcessorChangeCallback(
                Some(changed::<T>),
                ptr::null_mut(),
                ffi::KE_PROCESSOR_CHANGE_ADD_EXISTING,
            )
        };
        // The system gives no status. Nothing but memory can be missing.
        NonNull::new(handle).map(Self).ok_or(Status::INSUFFICIENT_RESOURCES)
    }
}

/// PROCESSOR_CALLBACK_FUNCTION. Only an error at the start is reported; then the
/// system does not add the processor. What was prepared for a processor that was not
/// added stays: others may be reading it, and it serves when the processor comes.
unsafe extern "C" fn changed<T: PerProcessor>(
    _context: ffi::PVOID,
    change: ffi::PKE_PROCESSOR_CHANGE_NOTIFY_CONTEXT,
    operation: ffi::PNTSTATUS,
) {
    // SAFETY: the system passes its own structure, which does not change during the call.
    let change = unsafe { &*change };
    if change.State != ffi::KE_PROCESSOR_CHANGE_NOTIFY_STATE::KeProcessorAddStartNotify {
        return;
    }
    // SAFETY: the callback is called at PASSIVE_LEVEL
    // (KeRegisterProcessorChangeCallback).
    let irql = unsafe { Passive::assume() };
    let region = CriticalRegion::enter(&irql);
    // Published before the registration, and gone only when the driver stops.
    let Some(prepared) = T::published().enter(&region) else { return };
    if let Err(status) = prepared.add(change.NtNumber as usize, &irql) {
        // SAFETY: the system passes a place for the status.
        unsafe { operation.write(status.code()) };
    }
}

impl Drop for ProcessorRegistration {
    fn drop(&mut self) {
        // SAFETY: the handle is a registration's, undone once, here. Registrations are
        // held at PASSIVE_LEVEL.
        let deregister = || unsafe { ffi::KeDeregisterProcessorChangeCallback(self.0.as_ptr()) };
        waiting(Awaited::ProcessorDeregister, deregister);
    }
}
