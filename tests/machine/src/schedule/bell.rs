//! A condition variable for all waits, with and without a schedule.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::{Machine, seat};
use crate::notes::{self, Note};

/// The result of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Waited {
    /// The condition is true.
    Ready,
    /// The timeout came first.
    TimedOut,
    /// The machine has stopped or hangs, so the condition will not become true.
    GaveUp,
}

/// The maximum sleep between two checks. Nothing announces some changes: the driver
/// changes a lock or an event in its own memory.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// After this time, a wait is listed for those who ask why nothing proceeds.
const LONG: Duration = Duration::from_millis(500);

/// Is rung at every change that a thread may wait for.
///
/// Its lock is not held while a condition is checked: the check may read driver
/// memory that is gone, and may then be abandoned.
#[derive(Debug, Default)]
pub struct Bell {
    rung: AtomicU64,
    /// The number of threads that sleep.
    sleeping: Mutex<usize>,
    sleepers: Condvar,
}

impl Bell {
    /// Wakes all waiting threads. Without one, it makes no system call: a classify rings.
    pub fn ring(&self) {
        let sleeping = {
            let sleeping = self.sleeping.lock().unwrap_or_else(PoisonError::into_inner);
            self.rung.fetch_add(1, Ordering::Release);
            *sleeping
        };
        if sleeping > 0 {
            self.sleepers.notify_all();
        }
        seat::rang();
    }

    /// How often it was rung.
    pub fn rung(&self) -> u64 {
        self.rung.load(Ordering::Acquire)
    }

    /// Waits until `ready` returns true, at most for `timeout`; `what` names the
    /// wait in reports. `ready` may be abandoned, so this frame owns nothing while
    /// it runs.
    pub fn wait(
        &self,
        what: &dyn Fn() -> String,
        timeout: Option<Duration>,
        mut ready: impl FnMut() -> bool,
    ) -> Waited {
        // A wait that was abandoned while it checked has left its name.
        name_wait(|| None);
        let waited = self.wait_until(what, timeout, &mut ready);
        name_wait(|| None);
        waited
    }

    fn wait_until(
        &self,
        what: &dyn Fn() -> String,
        timeout: Option<Duration>,
        ready: &mut impl FnMut() -> bool,
    ) -> Waited {
        let began = Instant::now();
        // A schedule has its own time.
        let deadline = timeout.map(|timeout| seat::now().unwrap_or_default().saturating_add(timeout));
        loop {
            let count = self.rung.load(Ordering::Acquire);
            if ready() {
                seat::progressed();
                return Waited::Ready;
            }
            let over = match seat::park(what, deadline) {
                Some(outcome) => outcome,
                None => self.sleep(count, what, began, timeout),
            };
            match over {
                None => {}
                Some(Waited::TimedOut) if ready() => return Waited::Ready,
                Some(over) => return over,
            }
        }
    }

    /// Sleeps once, on a thread without a schedule. Returns the result if the wait
    /// is over.
    fn sleep(
        &self,
        count: u64,
        what: &dyn Fn() -> String,
        began: Instant,
        timeout: Option<Duration>,
    ) -> Option<Waited> {
        let waited = began.elapsed();
        let left = timeout.map(|timeout| timeout.saturating_sub(waited));
        if left.is_some_and(|left| left.is_zero()) {
            return Some(Waited::TimedOut);
        }
        let nap = left.unwrap_or(LOOK_AGAIN).min(LOOK_AGAIN);
        let machine = machine_of_thread();
        if waited > LONG && !is_named() {
            name_wait(|| Some(Named::new(machine.as_deref(), what())));
        }
        let mut sleeping = self.sleeping.lock().unwrap_or_else(PoisonError::into_inner);
        *sleeping += 1;
        let unchanged = |_: &mut usize| self.rung.load(Ordering::Acquire) == count;
        let woken = self.sleepers.wait_timeout_while(sleeping, nap, unchanged);
        *woken.unwrap_or_else(PoisonError::into_inner).0 -= 1;
        let machine = machine?;
        if left.is_none() && waited > machine.hang_limit() && !machine.is_stopped() {
            machine.hang(named_waits(&*machine));
        }
        machine.is_stopped().then_some(Waited::GaveUp)
    }
}

type OfThread = fn() -> Option<Arc<dyn Machine>>;

static OF_THREAD: OnceLock<OfThread> = OnceLock::new();

/// Sets the function with which a waiting thread finds its machine. Only the first
/// call has an effect.
pub fn find_machines_by(of_thread: OfThread) {
    let _the_same = OF_THREAD.set(of_thread);
}

fn machine_of_thread() -> Option<Arc<dyn Machine>> {
    OF_THREAD.get().and_then(|of_thread| of_thread())
}

/// The long waits by number, with their machine.
static WAITS: Mutex<BTreeMap<u64, (usize, String)>> = Mutex::new(BTreeMap::new());

/// A wait that is listed.
struct Named(u64, #[expect(dead_code, reason = "taken back when it is dropped")] Note);

impl Named {
    fn new(machine: Option<&dyn Machine>, what: String) -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let thread = std::thread::current();
        let text = format!("{} waits for {what}", thread.name().unwrap_or("a thread"));
        let id = machine.map_or(0, Machine::id);
        let note = notes::note(|| format!("wait {text}"));
        WAITS.lock().unwrap_or_else(PoisonError::into_inner).insert(number, (id, text));
        Self(number, note)
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        WAITS.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

thread_local! {
    /// This thread's wait, if it is long. It is not in the frame of the wait, because
    /// a wait may be abandoned while it checks.
    static LONG_WAIT: RefCell<Option<Named>> = const { RefCell::new(None) };
}

fn is_named() -> bool {
    LONG_WAIT.try_with(|wait| wait.borrow().is_some()).unwrap_or(true)
}

/// Names this thread's wait, or ends its name. A thread that ends has none.
fn name_wait(named: impl FnOnce() -> Option<Named>) {
    let _no_name_at_the_end = LONG_WAIT.try_with(|wait| {
        let named = named();
        drop(wait.replace(named));
    });
}

/// The long waits in a machine.
fn named_waits(machine: &dyn Machine) -> String {
    let waits = WAITS.lock().unwrap_or_else(PoisonError::into_inner);
    let here = waits.values().filter(|(id, _)| *id == machine.id());
    here.map(|(_, text)| text.as_str()).collect::<Vec<_>>().join("; ")
}
