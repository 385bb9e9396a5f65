//! The machine's time: the host's time plus what the lab adds.
//!
//! While the machine sleeps, the unbiased interrupt time stands still. The interrupt
//! time, the performance counter and the system time go on ("KeQueryInterruptTime",
//! "KSCORRELATED_TIME").
//!
//! A machine with a time of its own ([`Options::own_time`]) has only what the lab adds.
//!
//! During a deterministic schedule, the schedule gives the time, so that a seed
//! fixes it. Afterwards, time continues from the host's time plus the schedule's
//! duration.
//!
//! [`Options::own_time`]: super::Options::own_time

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::schedule;

/// 100 ns units between 1601 and 1970, the two epochs.
const EPOCH_DIFFERENCE: u64 = 116_444_736_000_000_000;
/// System time at the start of a deterministic schedule: 2026-01-01.
const SCHEDULED_START: u64 = EPOCH_DIFFERENCE + 1_767_225_600 * 10_000_000;

/// The clock of one machine.
#[derive(Debug)]
pub struct Clock {
    start: Instant,
    /// Whether the host's time does not count.
    own_time: bool,
    /// System time at `start`, in 100 ns since 1601. It wraps.
    system_at_start: AtomicU64,
    /// What the lab has added, in 100 ns units.
    added: AtomicU64,
    /// The part of it that also passed for waits in progress.
    passed: AtomicU64,
    /// How long the machine has slept, in 100 ns units.
    slept: AtomicU64,
}

impl Clock {
    /// A clock that starts now.
    pub(super) fn new(own_time: bool) -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
        let since_1970 = since_1970.map_or(0, units);
        Self {
            start: Instant::now(),
            own_time,
            system_at_start: AtomicU64::new(EPOCH_DIFFERENCE + since_1970),
            added: AtomicU64::new(0),
            passed: AtomicU64::new(0),
            slept: AtomicU64::new(0),
        }
    }

    /// Whether time passes only as the lab lets it.
    pub fn is_own_time(&self) -> bool {
        self.own_time
    }

    /// Sets the system time, in time since 1970. It may go back. The time since the
    /// machine was made does not change.
    pub fn set_system_time(&self, since_1970: Duration) {
        let system_time = EPOCH_DIFFERENCE.saturating_add(units(since_1970));
        self.system_at_start.store(system_time.wrapping_sub(self.interrupt_time()), Ordering::Relaxed);
    }

    /// Moves a clock with a time of its own forward to an unbiased interrupt time.
    pub(super) fn move_to(&self, unbiased_time: u64) {
        self.added.fetch_max(unbiased_time, Ordering::Relaxed);
    }

    /// Moves the clock forward. Waits in progress do not end earlier, except those of a
    /// clock with a time of its own.
    pub fn advance(&self, by: Duration) {
        self.added.fetch_add(units(by), Ordering::Relaxed);
    }

    /// Moves the clock forward for waits in progress, too; see [`Kernel::pass`].
    ///
    /// [`Kernel::pass`]: super::Kernel::pass
    pub(super) fn pass(&self, by: Duration) {
        self.advance(by);
        self.passed.fetch_add(units(by), Ordering::Release);
    }

    /// How much time [`Self::pass`] has added.
    pub(super) fn passed(&self) -> Duration {
        Duration::from_nanos(self.passed.load(Ordering::Acquire).saturating_mul(100))
    }

    /// Adds time in which the machine sleeps.
    pub(super) fn sleep(&self, time: Duration) {
        self.slept.fetch_add(units(time), Ordering::Release);
    }

    /// How long the machine has slept.
    pub(super) fn slept(&self) -> Duration {
        Duration::from_nanos(self.slept.load(Ordering::Acquire).saturating_mul(100))
    }

    /// Time since the machine was made, in 100 ns units, with the time in which it slept.
    pub fn interrupt_time(&self) -> u64 {
        self.unbiased_time().saturating_add(self.slept.load(Ordering::Acquire))
    }

    /// Time since the machine was made, in 100 ns units, without the time in which it
    /// slept.
    pub fn unbiased_time(&self) -> u64 {
        let added = self.added.load(Ordering::Relaxed);
        if self.own_time {
            return added;
        }
        units(schedule::now().unwrap_or_else(|| self.start.elapsed())) + added
    }

    /// Time since the machine was made, without the time in which it slept.
    pub fn since_start(&self) -> Duration {
        Duration::from_nanos(self.unbiased_time().saturating_mul(100))
    }

    /// System time, in 100 ns units since 1601.
    pub fn system_time(&self) -> u64 {
        let start = match schedule::now() {
            Some(_) => SCHEDULED_START,
            None => self.system_at_start.load(Ordering::Relaxed),
        };
        start.wrapping_add(self.interrupt_time())
    }

    /// How long to wait for a kernel timeout. A negative timeout is relative,
    /// others are absolute system time (`KeWaitForSingleObject` documentation).
    pub fn until(&self, timeout: i64) -> Duration {
        let units = match timeout {
            ..0 => timeout.unsigned_abs(),
            0.. => timeout.unsigned_abs().saturating_sub(self.system_time()),
        };
        Duration::from_nanos(units.saturating_mul(100))
    }
}

/// In 100 ns units.
pub(super) fn units(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos() / 100).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_relative_or_absolute() {
        let clock = Clock::new(false);
        assert_eq!(clock.until(-10), Duration::from_micros(1));
        assert_eq!(clock.until(0), Duration::ZERO);
        let soon = clock.system_time() as i64 + 10_000_000;
        let wait = clock.until(soon);
        assert!(wait > Duration::from_millis(900) && wait <= Duration::from_secs(1));
        clock.advance(Duration::from_secs(2));
        assert_eq!(clock.until(soon), Duration::ZERO);
    }

    #[test]
    fn only_the_unbiased_time_stands_still_during_sleep() {
        let clock = Clock::new(true);
        clock.advance(Duration::from_secs(5));
        let system_time = clock.system_time();
        clock.sleep(Duration::from_secs(3600));
        assert_eq!((clock.unbiased_time(), clock.interrupt_time()), (50_000_000, 36_050_000_000));
        assert_eq!(clock.system_time() - system_time, 36_000_000_000);
        assert_eq!((clock.since_start(), clock.slept()), (Duration::from_secs(5), Duration::from_secs(3600)));
        clock.move_to(60_000_000);
        assert_eq!((clock.unbiased_time(), clock.interrupt_time()), (60_000_000, 36_060_000_000));
    }

    #[test]
    fn the_system_time_can_be_set_in_either_direction() {
        let clock = Clock::new(true);
        clock.advance(Duration::from_secs(5));
        for since_1970 in [Duration::from_secs(3), Duration::ZERO, Duration::from_secs(1 << 31)] {
            clock.set_system_time(since_1970);
            assert_eq!(clock.system_time(), EPOCH_DIFFERENCE + units(since_1970));
            assert_eq!(clock.interrupt_time(), 50_000_000);
        }
        clock.move_to(60_000_000);
        assert_eq!(clock.system_time(), EPOCH_DIFFERENCE + 10_000_000 * ((1 << 31) + 1));
        clock.move_to(0);
        assert_eq!(clock.interrupt_time(), 60_000_000, "time never goes back");
    }
}
