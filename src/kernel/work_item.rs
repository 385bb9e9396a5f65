//! Work items: work that a system thread does at PASSIVE_LEVEL.

use core::sync::atomic::{AtomicU32, Ordering};

use super::device::Device;
use super::irql::Passive;
use super::pool::{PoolBox, tag};
use super::status::{Result, Status, to_result};
use super::waiting::waiting;
use crate::ffi;
use crate::logic::waiting::Awaited;

/// The work of a work item.
pub trait Work: Send + Sync {
    /// Does the work. Requests that arrive meanwhile cause one more run.
    fn run(&self, irql: &Passive);
}

/// A work item and its work. Dropping it waits until all requests are done. They run on
/// a system thread, which no user can suspend.
pub struct WorkItem<W: Work>(PoolBox<WorkState<W>>);

pub(super) struct WorkState<W> {
    item: ffi::PIO_WORKITEM,
    /// Requests that no run has taken yet.
    requests: AtomicU32,
    pub(super) work: W,
    /// The work item refers to it.
    _device: Device,
}

// SAFETY: the item is only handed back to the system; queueing is guarded by
// `requests`.
unsafe impl<W: Send> Send for WorkState<W> {}
// SAFETY: as above.
unsafe impl<W: Sync> Sync for WorkState<W> {}

impl<W: Work> WorkItem<W> {
    /// Starts without requests.
    pub fn new(device: &Device, work: W, _: &Passive) -> Result<Self> {
        // SAFETY: the device is alive, and the item keeps it so.
        let item = unsafe { ffi::IoAllocateWorkItem(device.as_ptr()) };
        if item.is_null() {
            return Err(Status::INSUFFICIENT_RESOURCES);
        }
        let inner = WorkState { item, requests: AtomicU32::new(0), work, _device: device.clone() };
        Ok(Self(PoolBox::new(tag::WORK_ITEM, inner)?))
    }

    /// The address for [`WorkState::request`].
    pub(super) fn as_ptr(&self) -> *mut WorkState<W> {
        self.0.as_ptr()
    }

    /// The work.
    pub fn work(&self) -> &W {
        &self.0.work
    }
}

impl<W: Work> WorkState<W> {
    /// Requests a run; callable at any IRQL up to DISPATCH_LEVEL.
    ///
    /// # Safety
    /// `inner` is a live [`WorkItem`]'s, which is not being dropped yet.
    pub(super) unsafe fn request(inner: *mut Self) {
        // SAFETY: by this function's contract.
        let this = unsafe { &*inner };
        if this.requests.fetch_add(1, Ordering::AcqRel) == 0 {
            // SAFETY: the item is allocated and, since there was no request,
            // not queued; `inner` lives until it has run (see Drop).
            unsafe {
                ffi::IoQueueWorkItem(
                    this.item,
                    Some(Self::routine),
                    ffi::_WORK_QUEUE_TYPE::DelayedWorkQueue,
                    inner.cast(),
                );
            }
        }
    }

    unsafe extern "C" fn routine(_: ffi::PDEVICE_OBJECT, context: ffi::PVOID) {
        // SAFETY: the context is what `request` passed, and it lives until
        // `requests` is zero.
        let this = unsafe { &*context.cast::<Self>() };
        // SAFETY: the system calls work routines at PASSIVE_LEVEL
        // (IO_WORKITEM_ROUTINE).
        let irql = unsafe { Passive::assume() };
        loop {
            let requests = this.requests.load(Ordering::Acquire);
            this.work.run(&irql);
            if this.requests.fetch_sub(requests, Ordering::AcqRel) == requests {
                return;
            }
        }
    }
}

impl<W: Work> Drop for WorkItem<W> {
    fn drop(&mut self) {
        // Nobody makes requests any more. Wait for those that were made. The routine
        // shares the state meanwhile, so this must not be `WorkState::drop`, which has
        // the only reference.
        let state: &WorkState<W> = &self.0;
        wait_until(Awaited::WorkItem, || state.requests.load(Ordering::Acquire) == 0);
    }
}

impl<W> Drop for WorkState<W> {
    fn drop(&mut self) {
        // SAFETY: the item is allocated and not queued: a `WorkItem` has waited, or
        // there was none and no request. It is freed once, here.
        unsafe { ffi::IoFreeWorkItem(self.item) };
    }
}

/// Waits until `done` returns `true`, and lets other threads run meanwhile. To be
/// called at PASSIVE_LEVEL.
pub(crate) fn wait_until(awaited: Awaited, mut done: impl FnMut() -> bool) {
    waiting(awaited, || {
        while !done() {
            pause();
        }
    });
}

/// Waits for a millisecond. To be called at PASSIVE_LEVEL.
pub(super) fn pause() {
    // Relative, in units of 100 ns: 1 ms.
    let mut interval = ffi::LARGE_INTEGER { QuadPart: -10_000 };
    // SAFETY: `interval` is a local, and callers are at PASSIVE_LEVEL, where
    // everything that waits is dropped.
    let waited = unsafe {
        ffi::KeDelayExecutionThread(ffi::_MODE::KernelMode as ffi::KPROCESSOR_MODE, 0, &mut interval)
    };
    debug_assert!(to_result(waited).is_ok(), "nothing interrupts this wait");
}
