//! The machine's time: the host's time plus what the lab adds.
//!
//! During a deterministic schedule, the schedule gives the time, so that a seed
//! fixes it. Afterwards, time continues from the host's time plus the schedule's
//! duration.

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
    /// System time at `start`, in 100 ns since 1601.
    system_at_start: u64,
    /// What the lab has added, in 100 ns units.
    added: AtomicU64,
    /// The part of it that also passed for waits in progress.
    passed: AtomicU64,
}

impl Default for Clock {
    fn default() -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
        let since_1970 = since_1970.map_or(0, units);
        Self {
            start: Instant::now(),
            system_at_start: EPOCH_DIFFERENCE + since_1970,
            added: AtomicU64::new(0),
            passed: AtomicU64::new(0),
        }
    }
}

impl Clock {
    /// Moves the clock forward. Waits in progress do not end earlier.
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

    /// Time since the machine was made, in 100 ns units.
    pub fn interrupt_time(&self) -> u64 {
        let elapsed = schedule::now().unwrap_or_else(|| self.start.elapsed());
        units(elapsed) + self.added.load(Ordering::Relaxed)
    }

    /// System time, in 100 ns units since 1601.
    pub fn system_time(&self) -> u64 {
        let start = schedule::now().map_or(self.system_at_start, |_| SCHEDULED_START);
        start + self.interrupt_time()
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

fn units(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos() / 100).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_relative_or_absolute() {
        let clock = Clock::default();
        assert_eq!(clock.until(-10), Duration::from_micros(1));
        assert_eq!(clock.until(0), Duration::ZERO);
        let soon = clock.system_time() as i64 + 10_000_000;
        let wait = clock.until(soon);
        assert!(wait > Duration::from_millis(900) && wait <= Duration::from_secs(1));
        clock.advance(Duration::from_secs(2));
        assert_eq!(clock.until(soon), Duration::ZERO);
    }
}
