//! Whether the filter engine has our filters, and when to ask it again if it refuses.

use core::sync::atomic::{AtomicU64, Ordering};

/// Which filters the engine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// None: BFE does not run.
    WaitingForBfe,
    /// Those that the policy needs.
    Active,
    /// None: BFE runs, but the engine has refused them.
    Refused,
    /// Those of an earlier policy: the engine has refused a change.
    Outdated,
}

/// A state, its cause, and what comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protection {
    /// Which filters the engine has.
    pub state: State,
    /// The NTSTATUS of the refusal; 0 if there is none.
    pub status: i32,
    /// Milliseconds until the next try; 0 if it is due, or if none is needed.
    pub next_try_ms: u32,
}

/// A [`Protection`] that one thread at a time sets and every thread can read, whatever
/// other threads do.
#[derive(Debug)]
pub struct Shown(AtomicU64);

/// In a [`Shown`], the status has the low bits, the state the two bits above them, and
/// the time of the next try the rest.
const STATE_SHIFT: u32 = 32;
const TIME_SHIFT: u32 = STATE_SHIFT + 2;
/// Times have so many bits. Milliseconds then repeat after 12 days, and a wait is
/// shorter than half of that.
const TIME_BITS: u32 = u64::BITS - TIME_SHIFT;
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;

impl State {
    const ALL: [Self; 4] = [Self::WaitingForBfe, Self::Active, Self::Refused, Self::Outdated];

    /// Whether the engine has refused, so that it must be asked again.
    pub const fn is_refused(self) -> bool {
        matches!(self, Self::Refused | Self::Outdated)
    }
}

impl Shown {
    /// The state before the engine is asked for the first time.
    pub const fn new() -> Self {
        Self(AtomicU64::new((State::WaitingForBfe as u64) << STATE_SHIFT))
    }

    /// What is shown now. `now` is the time in milliseconds, here and below.
    pub fn at(&self, now: u64) -> Protection {
        let word = self.0.load(Ordering::Relaxed);
        let index = (word >> STATE_SHIFT & 0b11) as usize;
        let state = State::ALL.get(index).copied().unwrap_or(State::WaitingForBfe);
        let left = (word >> TIME_SHIFT).wrapping_sub(now) & TIME_MASK;
        let is_ahead = state.is_refused() && left <= TIME_MASK / 2;
        Protection { state, status: word as i32, next_try_ms: if is_ahead { left as u32 } else { 0 } }
    }

    /// Shows this. Returns whether it differs from what was shown before.
    pub fn set(&self, protection: &Protection, now: u64) -> bool {
        let Protection { state, status, next_try_ms } = *protection;
        let next = match state.is_refused() {
            true => now.wrapping_add(next_try_ms.into()) & TIME_MASK,
            false => 0,
        };
        let word = next << TIME_SHIFT | (state as u64) << STATE_SHIFT | u64::from(status as u32);
        self.0.swap(word, Ordering::Relaxed) != word
    }
}

impl Default for Shown {
    fn default() -> Self {
        Self::new()
    }
}

/// The waits between tries: soon at first, then every few seconds.
#[derive(Debug, Default)]
pub struct Backoff(u32);

/// The first wait, in milliseconds.
const FIRST_MS: u32 = 250;
/// How often the wait doubles; the longest is 4 s.
const DOUBLINGS: u32 = 4;

impl Backoff {
    /// The wait after one more refusal, in milliseconds.
    pub fn next_wait(&mut self) -> u32 {
        let wait = FIRST_MS << self.0;
        self.0 = (self.0 + 1).min(DOUBLINGS);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_are_bounded() {
        let mut backoff = Backoff::default();
        let waits = [(); 7].map(|()| backoff.next_wait());
        assert_eq!(waits, [250, 500, 1000, 2000, 4000, 4000, 4000]);
    }

    #[test]
    fn what_was_set_is_shown() {
        // The last times are around the repetition.
        for now in [0, 1, 123_456_789, TIME_MASK - 1, TIME_MASK, u64::MAX] {
            for state in State::ALL {
                for status in [0, -1, i32::MIN, 0xC022_0012_u32 as i32] {
                    for wait in [0, 250, 4000] {
                        let shown = Shown::new();
                        let next_try_ms = if state.is_refused() { wait } else { 0 };
                        let protection = Protection { state, status, next_try_ms };
                        shown.set(&protection, now);
                        assert_eq!(shown.at(now), protection);
                        assert!(!shown.set(&protection, now), "nothing changes");
                        let later = shown.at(now.wrapping_add(249)).next_try_ms;
                        assert_eq!(later, next_try_ms.saturating_sub(249));
                        assert_eq!(shown.at(now.wrapping_add(9000)).next_try_ms, 0, "it is due");
                    }
                }
            }
        }
    }

    #[test]
    fn each_part_is_a_change() {
        let (shown, now) = (Shown::new(), 1000);
        let first = Protection { state: State::Refused, status: -1, next_try_ms: 250 };
        assert!(shown.set(&first, now));
        assert!(shown.set(&Protection { next_try_ms: 500, ..first }, now));
        assert!(shown.set(&Protection { status: -2, ..first }, now));
        assert!(shown.set(&Protection { state: State::Outdated, ..first }, now));
        assert!(shown.set(&Protection { state: State::Active, status: 0, next_try_ms: 0 }, now));
        assert!(!shown.set(&Protection { state: State::Active, status: 0, next_try_ms: 0 }, now + 1));
    }
}
