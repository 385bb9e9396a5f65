//! Waking those who wait in the kernel for driver memory to change.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// One bell for a whole machine: rung at every change of a waitable object.
///
/// Nobody holds its lock while looking at driver memory, which may be gone.
#[derive(Debug, Default)]
pub(super) struct Bell {
    rung: AtomicU64,
    lock: Mutex<()>,
    sleepers: Condvar,
}

impl Bell {
    /// How often it has been rung; taken before looking at the object.
    pub(super) fn count(&self) -> u64 {
        self.rung.load(Ordering::Acquire)
    }

    /// Wakes everybody.
    pub(super) fn ring(&self) {
        let guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.rung.fetch_add(1, Ordering::Release);
        drop(guard);
        self.sleepers.notify_all();
    }

    /// Sleeps until it is rung once more than `count`, or `limit` is over.
    pub(super) fn wait_past(&self, count: u64, limit: Duration) {
        let guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = |_: &mut ()| self.count() == count;
        let outcome = self.sleepers.wait_timeout_while(guard, limit, waiting);
        drop(outcome);
    }
}
