//! Following the Parameters key as it changes, goes and comes back.

use core::cell::UnsafeCell;
use core::ptr;

use super::entry::DriverObject;
use super::irql::Passive;
use super::registry::Key;
use super::status::Result;
use super::thread::{Signal, Thread, ThreadBody};
use crate::ffi;

/// Something that follows the key's values.
pub trait KeyFollower: Send + Sync {
    /// Reads them; there is no key if there is none. Comes once when watching
    /// begins, for what changed before, and after every change.
    fn follow(&self, key: Option<&Key>, irql: &Passive);

    /// Comes again and again while nothing changes, after the time that it says
    /// in milliseconds.
    fn tick(&self, irql: &Passive) -> u32;
}

/// Watches until dropped, on a thread of its own.
///
/// A work item would do for the notice (ZwNotifyChangeKey's ApcRoutine), but it
/// is a WORK_QUEUE_ITEM, which nothing keeps the image in memory for: its last
/// instructions could run after the unload. And a notice belongs to the thread
/// that asked for it; one of the system's workers may end at any time.
pub struct KeyWatch<F: KeyFollower>(#[expect(dead_code, reason = "dropped to end it")] Thread<Watcher<F>>);

struct Watcher<F> {
    driver: DriverObject,
    /// Written by the system when a notice comes.
    outcome: UnsafeCell<ffi::IO_STATUS_BLOCK>,
    follower: F,
}

// SAFETY: the outcome is the system's to write, and nobody reads it.
unsafe impl<F: Sync> Sync for Watcher<F> {}
// SAFETY: as above.
unsafe impl<F: Send> Send for Watcher<F> {}

/// While there is no key, or none that can be watched, one is looked for after
/// so many milliseconds.
const LOOK_AGAIN: u32 = 5_000;

/// What is known about the key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// It will tell of its next change.
    Watched,
    /// There is none.
    Missing,
    /// It cannot be opened or watched now.
    Unknown,
}

impl<F: KeyFollower> KeyWatch<F> {
    /// Starts watching.
    pub fn new(driver: &DriverObject, follower: F, irql: &Passive) -> Result<Self> {
        let outcome = UnsafeCell::new(ffi::IO_STATUS_BLOCK::default());
        Ok(Self(Thread::new(Watcher { driver: driver.clone(), outcome, follower }, irql)?))
    }
}

impl<F: KeyFollower> ThreadBody for Watcher<F> {
    fn run(&self, signal: &Signal, irql: &Passive) {
        let (mut key, mut before) = (None, State::Unknown);
        loop {
            // Asked for the next notice before the values are read, so that no
            // change falls between.
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
    /// Ticks until a notice comes or, unless it is [`u32::MAX`], patience ends;
    /// `false` where the thread is to end.
    fn wait(&self, signal: &Signal, mut patience: u32, irql: &Passive) -> bool {
        loop {
            let interval = self.follower.tick(irql);
            let noticed = signal.wait(interval.min(patience), irql);
            if signal.is_ending() {
                return false;
            }
            if patience != u32::MAX {
                patience = patience.saturating_sub(interval);
            }
            if noticed || patience == 0 {
                return true;
            }
        }
    }

    /// Asks for a notice, of the key that is open or, where that has been
    /// deleted, of the one that is there now.
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

    /// Has the signal's event set at the next change of a value.
    fn notify(&self, key: &Key, signal: &Signal, _: &Passive) -> Result {
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
