//! Follows the Parameters key: its changes, its deletion, its creation.

use core::cell::UnsafeCell;
use core::ptr;

use super::entry::DriverObject;
use super::irql::Passive;
use super::pool::PoolArc;
use super::registry::Key;
use super::status::Result;
use super::thread::{Signal, Thread, ThreadBody};
use crate::ffi;

/// Follows the values of the key.
pub trait KeyFollower: Send + Sync {
    /// Reads the values; `key` is `None` if the key does not exist. Called once when
    /// watching begins, for changes made before, and after every change.
    fn follow(&self, key: Option<&Key>, irql: &Passive);

    /// Called repeatedly while nothing changes. Returns the time until the next
    /// call, in milliseconds.
    fn tick(&self, irql: &Passive) -> u32;
}

/// Watches the key until dropped, on a thread of its own.
///
/// ZwNotifyChangeKey could queue a work item instead (its ApcRoutine). But that is a
/// WORK_QUEUE_ITEM, which does not keep the image in memory: its last instructions
/// could run after the unload. A notification also belongs to the thread that asked
/// for it, and the system may end a worker thread at any time.
pub struct KeyWatch<F: KeyFollower>(
    #[expect(dead_code, reason = "its drop ends the watch")] Thread<Watcher<F>>,
);

struct Watcher<F> {
    driver: DriverObject,
    /// The system writes it when a notification arrives.
    outcome: UnsafeCell<ffi::IO_STATUS_BLOCK>,
    follower: F,
}

// SAFETY: the system writes the outcome on the thread that watches, and only this
// thread reads it.
unsafe impl<F: Sync> Sync for Watcher<F> {}
// SAFETY: as above.
unsafe impl<F: Send> Send for Watcher<F> {}

/// Milliseconds until the next attempt, while the key does not exist or cannot be
/// watched.
const LOOK_AGAIN: u32 = 5_000;

/// What is known about the key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Its next change will be notified.
    Watched,
    /// It does not exist.
    Missing,
    /// It cannot be opened or watched now.
    Unknown,
}

impl<F: KeyFollower> KeyWatch<F> {
    /// Starts watching. The signal wakes the thread, so that it ticks at once.
    pub fn new(driver: &DriverObject, follower: F, signal: PoolArc<Signal>, irql: &Passive) -> Result<Self> {
        let outcome = UnsafeCell::new(ffi::IO_STATUS_BLOCK::default());
        Ok(Self(Thread::new(Watcher { driver: driver.clone(), outcome, follower }, signal, irql)?))
    }
}

impl<F: KeyFollower> ThreadBody for Watcher<F> {
    fn run(&self, signal: &Signal, irql: &Passive) {
        let (mut key, mut before) = (None, State::Unknown);
        loop {
            // Ask for the next notification before reading the values, so that no
            // change is missed.
            let state = self.ask(&mut key, signal, irql);
            if signal.is_ending() {
                // Closing the key ends the notice that is still to come.
                return;
            }
            match state {
                State::Watched => self.follower.follow(key.as_ref(), irql),
                State::Missing if before != State::Missing => self.follower.follow(None, irql),
                State::Missing | State::Unknown => {}
            }
            before = state;
            let patience = if state == State::Watched { u32::MAX } else { LOOK_AGAIN };
            if !self.wait(signal, patience, irql) {
                return;
            }
        }
    }
}

impl<F: KeyFollower> Watcher<F> {
    /// Ticks until a notification arrives or `patience` ends; [`u32::MAX`] never
    /// ends. Returns `false` if the thread must end.
    fn wait(&self, signal: &Signal, mut patience: u32, irql: &Passive) -> bool {
        loop {
            let interval = self.follower.tick(irql);
            let set = signal.wait(interval.min(patience), irql);
            if signal.is_ending() {
                return false;
            }
            if patience != u32::MAX {
                patience = patience.saturating_sub(interval);
            }
            // The event may stand for a wake-up and a notification at once.
            let notified = set && (!signal.was_woken() || self.has_outcome());
            if notified || patience == 0 {
                return true;
            }
        }
    }

    /// Asks for a notification. If the open key has been deleted, opens the one that
    /// exists now.
    fn ask(&self, key: &mut Option<Key>, signal: &Signal, irql: &Passive) -> State {
        if key.as_ref().is_some_and(|key| self.notify(key, signal, irql).is_ok()) {
            return State::Watched;
        }
        *key = match Key::parameters(&self.driver, irql) {
            Ok(Some(key)) => Some(key),
            Ok(None) => return State::Missing,
            Err(_) => return State::Unknown,
        };
        match key.as_ref().map(|key| self.notify(key, signal, irql)) {
            Some(Ok(())) => State::Watched,
            _ => State::Unknown,
        }
    }

    /// Whether the notification has arrived. The system writes the outcome before it
    /// sets the event.
    fn has_outcome(&self) -> bool {
        // SAFETY: the outcome lives as long as this, and the system writes it on this
        // thread.
        let outcome = unsafe { self.outcome.get().read_volatile() };
        // SAFETY: both members of the union are numbers, and `notify` has set this one.
        unsafe { outcome.__bindgen_anon_1.Status != ffi::STATUS_PENDING }
    }

    /// Has the signal's event set at the next change of a value.
    fn notify(&self, key: &Key, signal: &Signal, _: &Passive) -> Result {
        let mut pending = ffi::IO_STATUS_BLOCK::default();
        pending.__bindgen_anon_1.Status = ffi::STATUS_PENDING;
        // SAFETY: the outcome lives as long as this. The system writes it on this
        // thread only.
        unsafe { self.outcome.get().write_volatile(pending) };
        // SAFETY: key and event are open; the outcome stays where it is until
        // the key is closed and the thread that asks has ended; the call is
        // made at PASSIVE_LEVEL.
        let asked = unsafe {
            ffi::ZwNotifyChangeKey(
                key.as_raw(),
                signal.event(),
                None,
                ptr::null_mut(),
                self.outcome.get(),
                ffi::REG_NOTIFY_CHANGE_LAST_SET,
                0,
                ptr::null_mut(),
                0,
                1,
            )
        };
        super::status::to_result(asked)
    }
}
