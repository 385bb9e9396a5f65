//! The active processors: a walk over all of them, and those that are added.

use core::ffi::c_void;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicI32, Ordering};

use super::irql::Passive;
use super::pool::{PoolArc, PoolBox};
use super::status::{Result, Status, to_result};
use super::work_item::pause;
use crate::ffi;

/// How often this thread tries to come to a processor, about a millisecond apart. On
/// an active processor the first try succeeds.
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
pub trait PerProcessor: Send + Sync {
    /// Prepares for the processor with this number, before it becomes active. A
    /// processor may be announced again after it did not become active.
    fn add(&self, processor: usize, irql: &Passive) -> Result;
}

/// Prepares for each active processor, now and when one is added, until dropped.
pub struct ProcessorRegistration<T: PerProcessor> {
    handle: NonNull<c_void>,
    _state: PoolBox<State<T>>,
}

struct State<T> {
    prepared: PoolArc<T>,
    /// Why preparing failed; 0 if it did not.
    failed: AtomicI32,
}

// SAFETY: the handle is only handed back to the system, which locks for itself.
unsafe impl<T: PerProcessor> Send for ProcessorRegistration<T> {}
// SAFETY: as above.
unsafe impl<T: PerProcessor> Sync for ProcessorRegistration<T> {}

impl<T: PerProcessor> ProcessorRegistration<T> {
    /// Prepares for every active processor before it returns.
    pub fn new(prepared: PoolArc<T>, _: &Passive) -> Result<Self> {
        let state = PoolBox::new(State { prepared, failed: AtomicI32::new(0) })?;
        // SAFETY: the function lives as long as the image, and the state longer than
        // the registration; at PASSIVE_LEVEL.
        let handle = unsafe {
            ffi::KeRegisterProcessorChangeCallback(
                Some(changed::<T>),
                state.as_ptr().cast(),
                ffi::KE_PROCESSOR_CHANGE_ADD_EXISTING,
            )
        };
        // The system gives no status of its own.
        let failed = to_result(state.failed.load(Ordering::Acquire)).err();
        match NonNull::new(handle) {
            Some(handle) => Ok(Self { handle, _state: state }),
            None => Err(failed.unwrap_or(Status::INSUFFICIENT_RESOURCES)),
        }
    }
}

/// PROCESSOR_CALLBACK_FUNCTION. Only an error at the start is reported; then the
/// system does not add the processor. What was prepared for a processor that was not
/// added stays: others may be reading it, and it serves when the processor comes.
unsafe extern "C" fn changed<T: PerProcessor>(
    context: ffi::PVOID,
    change: ffi::PKE_PROCESSOR_CHANGE_NOTIFY_CONTEXT,
    operation: ffi::PNTSTATUS,
) {
    // SAFETY: the context is the registration's state, which outlives it.
    let state = unsafe { &*context.cast::<State<T>>() };
    // SAFETY: the system passes its own structure, which does not change during the call.
    let change = unsafe { &*change };
    if change.State != ffi::KE_PROCESSOR_CHANGE_NOTIFY_STATE::KeProcessorAddStartNotify {
        return;
    }
    // SAFETY: the callback is called at PASSIVE_LEVEL
    // (KeRegisterProcessorChangeCallback).
    let irql = unsafe { Passive::assume() };
    if let Err(status) = state.prepared.add(change.NtNumber as usize, &irql) {
        state.failed.store(status.code(), Ordering::Release);
        // SAFETY: the system passes a place for the status.
        unsafe { operation.write(status.code()) };
    }
}

impl<T: PerProcessor> Drop for ProcessorRegistration<T> {
    fn drop(&mut self) {
        // SAFETY: the handle is a registration's, undone once, here. Registrations are
        // held at PASSIVE_LEVEL.
        unsafe { ffi::KeDeregisterProcessorChangeCallback(self.handle.as_ptr()) };
    }
}
