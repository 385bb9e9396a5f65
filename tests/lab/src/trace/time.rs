//! The time of a capture, from the timestamps of its frames.
//!
//! Timestamps are whatever the capturing machine's clock said. Time itself only goes
//! forward:
//!
//! | timestamp | time |
//! |---|---|
//! | later than those before | goes forward as much |
//! | earlier by up to [`DISORDER`] | stands still: frames of several interfaces or processors are not in order |
//! | earlier by more, or later by more than [`LEAP`] | stands still and goes on from there: somebody has set the clock, or the file was put together |
//! | missing | stands still |

use std::time::Duration;

/// The most by which a timestamp may be earlier than one before, unless the clock was
/// set.
const DISORDER: Duration = Duration::from_secs(60);
/// The longest time between two frames, unless the clock was set: a year.
const LEAP: Duration = Duration::from_secs(366 * 86_400);

/// When a packet was captured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Time since the first frame with a timestamp. Never goes back.
    pub at: Duration,
    /// The capturing machine's clock, in time since 1970; `None` before the first
    /// timestamp.
    pub clock: Option<Duration>,
}

/// Follows the timestamps of a capture.
#[derive(Debug, Default)]
pub struct CaptureClock {
    now: Moment,
    /// How often the clock was set.
    pub set: u64,
    /// The number of frames that are earlier than one before, without those at which
    /// the clock was set.
    pub disordered: u64,
}

impl CaptureClock {
    /// The time of the next frame, which has this timestamp in nanoseconds since 1970.
    pub fn next(&mut self, stamp: Option<u64>) -> Moment {
        let Some(stamp) = stamp.map(Duration::from_nanos) else { return self.now };
        let before = *self.now.clock.get_or_insert(stamp);
        let (ahead, behind) = (stamp.saturating_sub(before), before.saturating_sub(stamp));
        if ahead > LEAP || behind > DISORDER {
            self.set += 1;
            self.now.clock = Some(stamp);
        } else if behind > Duration::ZERO {
            self.disordered += 1;
        } else {
            self.now = Moment { at: self.now.at.saturating_add(ahead), clock: Some(stamp) };
        }
        self.now
    }

    /// The time of the last frame.
    pub fn now(&self) -> Moment {
        self.now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const YEAR_2024: u64 = 1_704_067_200 * SECOND;

    /// Plays seconds since the first timestamp; returns the time since the first frame.
    fn times(stamps: &[Option<u64>]) -> (Vec<Duration>, CaptureClock) {
        let mut clock = CaptureClock::default();
        (stamps.iter().map(|stamp| clock.next(*stamp).at).collect(), clock)
    }

    fn seconds(times: &[u64]) -> Vec<Duration> {
        times.iter().map(|at| Duration::from_secs(*at)).collect()
    }

    #[test]
    fn time_follows_the_timestamps_forward() {
        let at = |seconds: u64| Some(YEAR_2024 + seconds * SECOND);
        let (found, clock) = times(&[None, at(0), at(2), None, at(2), at(86_400)]);
        assert_eq!((found, clock.set, clock.disordered), (seconds(&[0, 0, 2, 2, 2, 86_400]), 0, 0));
        let (found, _) = times(&[Some(YEAR_2024), Some(YEAR_2024 + 1)]);
        assert_eq!(found[1], Duration::from_nanos(1));
    }

    #[test]
    fn frames_out_of_order_do_not_move_time_back() {
        let at = |seconds: u64| Some(YEAR_2024 + seconds * SECOND);
        let (found, clock) = times(&[at(100), at(110), at(50), at(105), at(112)]);
        assert_eq!((found, clock.set, clock.disordered), (seconds(&[0, 10, 10, 10, 12]), 0, 2));
        assert_eq!(clock.now().clock, Some(Duration::from_nanos(YEAR_2024 + 112 * SECOND)));
    }

    #[test]
    fn a_clock_that_was_set_neither_stops_nor_moves_time() {
        let at = |seconds: u64| Some(YEAR_2024 + seconds * SECOND);
        // Back by hours, forward by years, zero in between, the largest.
        let (found, clock) = times(&[at(86_400), at(0), at(5)]);
        assert_eq!((found, clock.set), (seconds(&[0, 0, 5]), 1));
        let (found, clock) = times(&[at(0), at(1), at(80 * 366 * 86_400), at(2), at(4)]);
        assert_eq!((found, clock.set), (seconds(&[0, 1, 1, 1, 3]), 2));
        let (found, clock) = times(&[at(0), Some(0), at(3), at(4), Some(u64::MAX), at(4), at(6)]);
        assert_eq!((found, clock.set), (seconds(&[0, 0, 0, 1, 1, 1, 3]), 4));
        let (found, clock) = times(&[Some(0), Some(0), Some(SECOND)]);
        assert_eq!((found, clock.set), (seconds(&[0, 0, 1]), 0));
    }
}
