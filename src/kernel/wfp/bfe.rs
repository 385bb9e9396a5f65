//! The state of the Base Filtering Engine (BFE), and its changes.

use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::ffi;
use crate::kernel::device::Device;
use crate::kernel::irql::{self, Dispatch, Passive};
use crate::kernel::processors;
use crate::kernel::status::{Result, to_result};
use crate::kernel::waiting::waiting;
use crate::kernel::work_item::{Work, WorkItem, WorkState, wait_until};
use crate::logic::waiting::Awaited;

/// Whether BFE runs, so that a session can be opened. To be called only after
/// [`Subscription::new`] has returned (FwpmBfeStateGet0, remarks).
pub fn is_running(_: &Passive) -> bool {
    // SAFETY: takes nothing; allowed up to DISPATCH_LEVEL.
    unsafe { ffi::FwpmBfeStateGet0() == ffi::FWPM_SERVICE_STATE_::FWPM_SERVICE_RUNNING }
}

/// Follows the state of BFE.
pub trait BfeFollower: Send + Sync {
    /// Notes that the state has changed. `interrupted` says that BFE was not running at
    /// some time since the last call, even if it runs again. Then the old session is
    /// gone. This runs in a system work item, so it must be short, and it may run before
    /// [`Subscription::new`] has returned.
    fn note(&self, interrupted: bool, irql: &Passive);
}

/// A subscription. [`BfeFollower::note`] runs on a system thread after every change of
/// state, until the subscription is dropped.
pub struct Subscription<F: BfeFollower> {
    change: Change,
    item: WorkItem<FollowerItem<F>>,
}

struct Change(ffi::HANDLE);
struct FollowerItem<F> {
    follower: F,
    /// Set when BFE's state changes to anything but running; cleared by the next
    /// run.
    interrupted: AtomicBool,
    changes: AtomicU32,
}

// SAFETY: the handle is only handed back to the engine.
unsafe impl Send for Change {}
// SAFETY: as above.
unsafe impl Sync for Change {}

impl<F: BfeFollower> Subscription<F> {
    /// Subscribes. The caller looks at the current state itself.
    pub fn new(device: &Device, follower: F, irql: &Passive) -> Result<Self> {
        let following =
            FollowerItem { follower, interrupted: AtomicBool::new(false), changes: AtomicU32::new(0) };
        let item = WorkItem::new(device, following, irql)?;
        let mut handle = ptr::null_mut();
        // SAFETY: the device is alive, and the item at the context's address
        // outlives the subscription: fields are dropped in their order.
        let subscribe = || unsafe {
            ffi::FwpmBfeStateSubscribeChanges0(
                device.as_ptr().cast(),
                Some(changed::<F>),
                item.as_ptr().cast(),
                &mut handle,
            )
        };
        to_result(waiting(Awaited::BfeSubscribe, subscribe))?;
        Ok(Self { change: Change(handle), item })
    }

    /// The follower.
    pub fn follower(&self) -> &F {
        debug_assert!(!self.change.0.is_null(), "subscribed");
        &self.item.work().follower
    }

    /// How often the state has changed. If it changed during an operation that
    /// failed, BFE may have stopped and started meanwhile, which explains the
    /// failure.
    pub fn changes(&self) -> u32 {
        self.item.work().changes.load(Ordering::Acquire)
    }
}

impl<F: BfeFollower> Work for FollowerItem<F> {
    fn run(&self, irql: &Passive) {
        self.follower.note(self.interrupted.swap(false, Ordering::AcqRel), irql);
    }
}

/// FWPM_SERVICE_STATE_CHANGE_CALLBACK0. Its IRQL and its thread are not documented, and
/// it must not unsubscribe. So a system thread does the work, and this runs at
/// DISPATCH_LEVEL: who drops the subscription waits for it.
unsafe extern "C" fn changed<F: BfeFollower>(
    context: *mut core::ffi::c_void,
    state: ffi::FWPM_SERVICE_STATE,
) {
    let note = |_: &Dispatch<'_>| {
        let inner = context.cast::<WorkState<FollowerItem<F>>>();
        // SAFETY: the context is the work item of the subscription, which is
        // dropped only after this callback can no longer come.
        let following = unsafe { &(*inner).work };
        following.changes.fetch_add(1, Ordering::AcqRel);
        if state != ffi::FWPM_SERVICE_STATE_::FWPM_SERVICE_RUNNING {
            following.interrupted.store(true, Ordering::Release);
        }
        // SAFETY: as above.
        unsafe { WorkState::request(inner) };
    };
    // SAFETY: such a callback is to queue a work item, so the IRQL is at most
    // DISPATCH_LEVEL. There is no token yet.
    unsafe { irql::at_dispatch(note) };
}

impl Drop for Change {
    fn drop(&mut self) {
        // The callback must have ended before its context and the image are freed.
        // If the call fails, there is no choice but to try again.
        wait_until(Awaited::BfeUnsubscribe, || {
            // SAFETY: the handle is a subscription's, and it is not used again
            // once this has succeeded. Subscriptions are only held at PASSIVE_LEVEL.
            to_result(unsafe { ffi::FwpmBfeStateUnsubscribeChanges0(self.0) }).is_ok()
        });
        // No page says whether the call waits for a callback that runs.
        // SAFETY: as above.
        processors::wait_for_all(&unsafe { Passive::assume() });
    }
}
