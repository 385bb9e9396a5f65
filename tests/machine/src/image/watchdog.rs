//! Finds calls of a driver that stay at DISPATCH_LEVEL or above for too long.
//!
//! A thread of the lab looks at the others again and again, as the clock's interrupt
//! does on Windows. It counts the processor time of the thread, so a busy host makes no
//! difference. A thread that has none left gets a signal: in driver code the call ends
//! like a fault; in an export body it ends at the driver's next call of an export.
#![expect(unsafe_code, reason = "reads clocks of threads, and signals them")]

use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::fault;
use super::running;
use super::stack::Control;

/// The signal for a thread whose time is over.
pub(super) const SIGNAL: libc::c_int = libc::SIGXCPU;

/// How often the threads are looked at.
const PERIOD: Duration = Duration::from_millis(20);

/// What the watchdog knows of a thread. The thread writes it, except for `overdue`.
#[derive(Debug, Default)]
pub(super) struct Watched {
    /// The number of the call that is watched; 0 if none is.
    call: AtomicU64,
    /// What the call may use at DISPATCH_LEVEL, in nanoseconds.
    allotment: AtomicU64,
    /// How often the level has crossed DISPATCH_LEVEL, times two; the lowest bit is set
    /// while it is there or above.
    raised: AtomicU64,
    /// What the call has used when its time was over, in nanoseconds; 0 before.
    overdue: AtomicU64,
}

/// Watches this thread's call of a driver from now on. `raised`: whether the thread is at
/// DISPATCH_LEVEL or above.
pub fn watch(allotment: Duration, raised: bool) {
    static WATCHDOG: Once = Once::new();
    // Before there is a thread: a filter of system calls may refuse one of its calls.
    fault::install();
    WATCHDOG.call_once(|| {
        let watchdog = std::thread::Builder::new().name("lab-watchdog".into());
        // Without it, no call is found to be too long.
        let _started = watchdog.spawn(look);
    });
    let control = Control::of_thread();
    let watched = &control.shared.watched;
    let nanoseconds = u64::try_from(allotment.as_nanos()).unwrap_or(u64::MAX);
    watched.allotment.store(nanoseconds, Ordering::Relaxed);
    watched.cross(raised);
    let calls = control.shared.calls.load(Ordering::Relaxed);
    watched.call.store(calls + 1, Ordering::Release);
}

/// Ends the watch.
pub fn end_watch() {
    if let Some(control) = Control::existing() {
        control.shared.watched.call.store(0, Ordering::Release);
        control.shared.watched.overdue.store(0, Ordering::Relaxed);
    }
}

/// To be called when this thread's level crosses DISPATCH_LEVEL; `raised`: upwards.
pub fn crossed(raised: bool) {
    if let Some(control) = Control::existing() {
        control.shared.watched.cross(raised);
    }
}

/// The time that this thread's call has used, if that is too much.
pub fn overdue() -> Option<Duration> {
    Control::existing().and_then(|control| control.shared.watched.overdue())
}

impl Watched {
    fn cross(&self, raised: bool) {
        let next = ((self.raised.load(Ordering::Relaxed) + 2) & !1) | u64::from(raised);
        self.raised.store(next, Ordering::Release);
        self.overdue.store(0, Ordering::Relaxed);
    }

    pub(super) fn overdue(&self) -> Option<Duration> {
        let used = self.overdue.load(Ordering::Acquire);
        (used > 0).then(|| Duration::from_nanos(used))
    }

    /// What identifies a stay of a call at DISPATCH_LEVEL; `None` if there is none.
    fn stay(&self) -> Option<(u64, u64)> {
        let (call, raised) = (self.call.load(Ordering::Acquire), self.raised.load(Ordering::Acquire));
        (call != 0 && raised & 1 != 0).then_some((call, raised))
    }

    /// Looks at the thread's stay at DISPATCH_LEVEL. `seen` is what the last look has found:
    /// the stay, and the thread's processor time. Returns whether the time is over.
    pub(super) fn look(&self, seen: &mut Option<((u64, u64), Duration)>, clock: libc::pid_t) -> bool {
        let stay = self.stay();
        if seen.map(|(seen, _)| seen) != stay || stay.is_none() {
            *seen = stay.and_then(|stay| Some((stay, processor_time(clock)?)));
            return false;
        }
        let Some(((_, since), now)) = seen.zip(processor_time(clock)) else { return false };
        let used = now.saturating_sub(since).as_nanos() as u64;
        let over = used > self.allotment.load(Ordering::Relaxed);
        if over && self.stay() == stay {
            self.overdue.store(used, Ordering::Release);
        }
        over
    }
}

/// Looks at all threads, for as long as the process lives.
fn look() {
    loop {
        std::thread::sleep(PERIOD);
        for thread in running::overdue() {
            // SAFETY: signals a thread of this process. One that has ended meanwhile is not
            // there, and the call fails.
            unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), thread, SIGNAL) };
        }
    }
}

/// The processor time of a thread of this process.
fn processor_time(thread: libc::pid_t) -> Option<Duration> {
    /// `CPUCLOCK_SCHED`, per thread (clock_getcpuclockid(3), `posix-timers.h`).
    const OF_THREAD: libc::clockid_t = 2 | 4;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes the time to the local.
    let result = unsafe { libc::clock_gettime((!thread << 3) | OF_THREAD, &raw mut time) };
    (result == 0).then(|| Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_processor_time_of_one_stay_counts() {
        // SAFETY: takes nothing.
        let thread = unsafe { libc::gettid() };
        let watched = Watched::default();
        watched.allotment.store(30_000_000, Ordering::Relaxed);
        let mut seen = None;
        assert!(!watched.look(&mut seen, thread), "no call");
        watched.call.store(1, Ordering::Relaxed);
        watched.raised.store(3, Ordering::Relaxed);
        assert!(!watched.look(&mut seen, thread), "the first look");
        std::thread::sleep(Duration::from_millis(60));
        assert!(!watched.look(&mut seen, thread), "a wait takes no processor time");
        let spin = || {
            let began = processor_time(thread).unwrap();
            while processor_time(thread).unwrap() - began < Duration::from_millis(40) {}
        };
        spin();
        watched.raised.store(5, Ordering::Relaxed);
        assert!(!watched.look(&mut seen, thread), "the level was lowered meanwhile");
        spin();
        assert!(watched.look(&mut seen, thread) && watched.overdue().is_some());
        watched.raised.store(6, Ordering::Relaxed);
        assert!(!watched.look(&mut seen, thread), "the level is low");
    }
}
