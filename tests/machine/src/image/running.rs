//! Which threads are in driver code, for a watchdog.
#![expect(unsafe_code, reason = "reads the control pages of other threads")]

use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::dispatch::BLOCKED;
use super::stack::Control;

/// A thread that has called a driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// A number of the thread; no other thread of the process has had it.
    pub thread: u64,
    /// The thread's name.
    pub name: String,
    /// Whether it is in a call of the driver.
    pub in_call: bool,
    /// Whether it is in the driver's own code, not in an export body.
    pub in_driver: bool,
    /// How often the host has called the driver.
    pub calls: u64,
    /// How often the thread has entered or left the driver's code.
    pub crossings: u64,
}

struct Known {
    thread: u64,
    /// The host's number of the thread.
    id: libc::pid_t,
    /// What the watchdog has seen last.
    seen: Option<((u64, u64), Duration)>,
    name: String,
    control: *const Control,
}

// SAFETY: the pointer is used under the lock of `THREADS` only. The thread removes it
// before its control page is unmapped.
unsafe impl Send for Known {}

struct Threads {
    last: u64,
    known: Vec<Known>,
}

static THREADS: Mutex<Threads> = Mutex::new(Threads { last: 0, known: Vec::new() });

fn threads() -> MutexGuard<'static, Threads> {
    THREADS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Adds the calling thread.
pub(super) fn begin(control: &Control) {
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    let mut threads = threads();
    threads.last += 1;
    let thread = threads.last;
    // SAFETY: takes nothing.
    let id = unsafe { libc::gettid() };
    threads.known.push(Known { thread, id, seen: None, name, control });
}

/// Removes the thread with this control.
pub(super) fn end(control: *const Control) {
    threads().known.retain(|known| known.control != control);
}

/// The host's numbers of the threads whose call has been at DISPATCH_LEVEL for too long.
pub(super) fn overdue() -> Vec<libc::pid_t> {
    let mut threads = threads();
    let over = threads.known.iter_mut().filter_map(|Known { id, seen, control, .. }| {
        // SAFETY: as in `running`.
        let watched = unsafe { &(**control).shared.watched };
        watched.look(seen, *id).then_some(*id)
    });
    over.collect()
}

/// The threads that have called a driver and have not ended.
pub fn running() -> Vec<Running> {
    let threads = threads();
    let all = threads.known.iter().map(|Known { thread, name, control, .. }| {
        // SAFETY: mapped while it is in the list, which is locked.
        let shared = unsafe { &(**control).shared };
        Running {
            thread: *thread,
            name: name.clone(),
            in_call: shared.depth.load(Ordering::Relaxed) > 0,
            in_driver: shared.selector.load(Ordering::Relaxed) == BLOCKED,
            calls: shared.calls.load(Ordering::Relaxed),
            crossings: shared.crossings.load(Ordering::Relaxed),
        }
    });
    all.collect()
}
