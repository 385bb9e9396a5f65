//! Watching the Base Filtering Engine come and go.

use core::ptr;

use crate::ffi;
use crate::kernel::device::Device;
use crate::kernel::irql::Passive;
use crate::kernel::status::{Result, to_result};
use crate::kernel::work_item::{Inner, Work, WorkItem};

/// Whether BFE runs, so that a session can be opened.
pub fn is_running(_: &Passive) -> bool {
    // SAFETY: takes nothing; allowed up to DISPATCH_LEVEL.
    unsafe { ffi::FwpmBfeStateGet0() == ffi::FWPM_SERVICE_STATE_::FWPM_SERVICE_RUNNING }
}

/// Something that follows BFE's state.
pub trait Follow: Send + Sync {
    /// Looks at the state and does what it takes.
    fn follow(&self, irql: &Passive);
    /// BFE does not run, or did not for a while: what was opened before is
    /// dead, even where it runs again by the time of the next look. At any IRQL
    /// up to DISPATCH_LEVEL.
    fn interrupted(&self);
}

/// A subscription: [`Follow::follow`] runs on a system thread after every
/// change, until the subscription is dropped.
pub struct Subscription<F: Follow> {
    change: Change,
    item: WorkItem<Following<F>>,
}

struct Change(ffi::HANDLE);
struct Following<F>(F);

// SAFETY: the handle is only handed back to the engine.
unsafe impl Send for Change {}
// SAFETY: as above.
unsafe impl Sync for Change {}

impl<F: Follow> Subscription<F> {
    /// Subscribes. The state it has already is for the caller to look at.
    pub fn new(device: &Device, follower: F, irql: &Passive) -> Result<Self> {
        let item = WorkItem::new(device, Following(follower), irql)?;
        let mut handle = ptr::null_mut();
        // SAFETY: the device is alive, and the item at the context's address
        // outlives the subscription: fields are dropped in their order.
        to_result(unsafe {
            ffi::FwpmBfeStateSubscribeChanges0(
                device.as_ptr().cast(),
                Some(changed::<F>),
                item.as_ptr().cast(),
                &mut handle,
            )
        })?;
        Ok(Self { change: Change(handle), item })
    }

    /// Who follows.
    pub fn follower(&self) -> &F {
        debug_assert!(!self.change.0.is_null(), "subscribed");
        &self.item.work().0
    }
}

impl<F: Follow> Work for Following<F> {
    fn run(&self, irql: &Passive) {
        self.0.follow(irql);
    }
}

/// FWPM_SERVICE_STATE_CHANGE_CALLBACK0. Its IRQL is not documented, and it must
/// not unsubscribe; so the work is put off to a system thread.
unsafe extern "C" fn changed<F: Follow>(context: *mut core::ffi::c_void, state: ffi::FWPM_SERVICE_STATE) {
    let item = context.cast::<Inner<Following<F>>>();
    if state != ffi::FWPM_SERVICE_STATE_::FWPM_SERVICE_RUNNING {
        // SAFETY: the context is the work item of the subscription, which is
        // dropped only after this callback can no longer come.
        unsafe { &*item }.work.0.interrupted();
    }
    // SAFETY: as above.
    unsafe { Inner::request(item) };
}

impl Drop for Change {
    fn drop(&mut self) {
        // SAFETY: the handle is a subscription's, ended once, here; waits for
        // callbacks. Subscriptions are only held at PASSIVE_LEVEL.
        let ended = unsafe { ffi::FwpmBfeStateUnsubscribeChanges0(self.0) };
        debug_assert!(to_result(ended).is_ok(), "a subscription ends");
    }
}
