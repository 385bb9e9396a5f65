//! The state of the Base Filtering Engine, and subscriptions to its changes.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::activation::Notices;
use super::lock::Locked;
use super::{Engine, Rule, RunningCalls};
use crate::driver::DriverId;
use crate::schedule::{Bell, Waited};
use crate::status::Status;

/// `FWPM_SERVICE_STATE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are fwpmtypes.h's own")]
pub enum BfeState {
    Stopped = 0,
    StartPending = 1,
    StopPending = 2,
    Running = 3,
}

/// The id of a subscription to state changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionId(pub u64);

thread_local! {
    /// The subscriptions whose callback this thread is executing.
    static INSIDE: RefCell<Vec<SubscriptionId>> = const { RefCell::new(Vec::new()) };
}

type Callback = Arc<dyn Fn(BfeState) + Send + Sync>;

/// `FwpmBfeStateSubscribeChanges0`.
#[derive(Clone)]
pub(super) struct Subscription {
    pub(super) owner: DriverId,
    callback: Callback,
    running: Arc<(AtomicUsize, Bell)>,
}

impl Engine {
    /// `FwpmBfeStateGet0`.
    pub fn bfe_state(&self) -> BfeState {
        self.core.locked().bfe
    }

    /// Changes the state. Subscribers are called for each change before this
    /// returns.
    ///
    /// From `StopPending` on no session can be opened. `Stopped` ends all sessions:
    /// their objects are deleted, and calls with their handles fail with
    /// `STATUS_FWP_SESSION_ABORTED`, except for closing.
    pub fn set_bfe_state(&self, state: BfeState) {
        let mut core = self.core.locked();
        if core.bfe == state {
            return;
        }
        core.bfe = state;
        let notices = match state {
            BfeState::Stopped => self.stop(&mut core),
            BfeState::Running => self.activate(&mut core, &[]),
            BfeState::StartPending | BfeState::StopPending => Notices::default(),
        };
        let subscriptions: Vec<_> = core.subscriptions.iter().map(|(id, it)| (*id, it.clone())).collect();
        for (_, subscription) in &subscriptions {
            subscription.running.0.fetch_add(1, SeqCst);
        }
        self.release(core, notices);
        for (id, subscription) in subscriptions {
            INSIDE.with_borrow_mut(|inside| inside.push(id));
            (subscription.callback)(state);
            INSIDE.with_borrow_mut(Vec::pop);
            subscription.running.0.fetch_sub(1, SeqCst);
            subscription.running.1.ring();
        }
    }

    /// `FwpmBfeStateSubscribeChanges0`. The callback may call back into the
    /// engine.
    pub fn bfe_subscribe(&self, callback: Callback) -> Result<SubscriptionId, Status> {
        self.bfe_subscribe_for(DriverId::SYSTEM, callback)
    }

    /// As [`Self::bfe_subscribe`], for a driver.
    pub fn bfe_subscribe_for(&self, owner: DriverId, callback: Callback) -> Result<SubscriptionId, Status> {
        let id = SubscriptionId(self.next_id());
        let subscription = Subscription { owner, callback, running: Arc::default() };
        self.core.locked().subscriptions.insert(id, subscription);
        Ok(id)
    }

    /// `FwpmBfeStateUnsubscribeChanges0`. Waits until the callback has returned. A
    /// call from inside the callback would wait for itself on Windows; here it is
    /// recorded as a violation.
    pub fn bfe_unsubscribe(&self, id: SubscriptionId) -> Status {
        let Some(subscription) = self.core.locked().subscriptions.remove(&id) else {
            return Status::INVALID_HANDLE;
        };
        if INSIDE.with_borrow(|inside| inside.contains(&id)) {
            let text = "unsubscribed from inside the callback, which deadlocks";
            self.violate((subscription.owner, None), Rule::WaitsForItself, text);
            return Status::SUCCESS;
        }
        let (count, returned) = &*subscription.running;
        match self.options.bfe_callbacks {
            RunningCalls::Refused if count.load(SeqCst) != 0 => {
                self.core.locked().subscriptions.insert(id, subscription);
                return Status::DEVICE_BUSY;
            }
            RunningCalls::Awaited => {}
            RunningCalls::Refused | RunningCalls::Ignored => return Status::SUCCESS,
        }
        let what = || format!("callbacks of BFE state subscription {} to return", id.0);
        match returned.wait(&what, None, || count.load(SeqCst) == 0) {
            Waited::Ready => Status::SUCCESS,
            // The machine has stopped, so the caller goes no further.
            Waited::TimedOut | Waited::GaveUp => Status::UNSUCCESSFUL,
        }
    }
}
