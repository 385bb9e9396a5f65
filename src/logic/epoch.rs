//! Waits until no thread reads a replaced value any more.
//!
//! Readers count themselves in and out on their own processor, in the current phase.
//! Whoever replaces a value changes the phase and waits until no processor has
//! readers of either phase. No cache line is written by readers of two processors,
//! and no reader waits.

use core::sync::atomic::{AtomicU32, Ordering};

/// The readers of one processor, by phase, on a cache line of their own.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct Readers {
    even: AtomicU32,
    odd: AtomicU32,
}

/// The phase in which new readers count themselves. Only one writer at a time
/// changes it.
#[derive(Debug, Default)]
pub struct Phase(AtomicU32);

/// A reader, counted as long as this value lives. It may be dropped on another
/// processor than it was made on.
#[derive(Debug)]
#[must_use]
pub struct Inside<'a>(&'a AtomicU32);

impl Readers {
    /// No readers.
    pub const fn new() -> Self {
        Self { even: AtomicU32::new(0), odd: AtomicU32::new(0) }
    }

    fn of(&self, phase: u32) -> &AtomicU32 {
        if phase & 1 == 0 { &self.even } else { &self.odd }
    }
}

impl Phase {
    /// The first phase.
    pub const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Counts a reader. The reader loads the value afterwards, in sequentially
    /// consistent order. So either the writer sees the count, or the reader sees the
    /// new value.
    pub fn enter<'a>(&self, readers: &'a Readers) -> Inside<'a> {
        let count = readers.of(self.0.load(Ordering::Relaxed));
        count.fetch_add(1, Ordering::SeqCst);
        Inside(count)
    }

    /// Waits until all readers that came before the call have left. The caller
    /// replaces the value before, in sequentially consistent order.
    ///
    /// First it waits for readers of the other phase: readers that loaded the phase
    /// before the last change and counted themselves after it. Then it changes the
    /// phase, so that new readers cannot keep the old phase busy, and waits for that
    /// one. A reader of the old value is in one of the two phases.
    pub fn wait<'a, R: Iterator<Item = &'a Readers> + Clone>(&self, readers: R, mut pause: impl FnMut()) {
        let phase = self.0.load(Ordering::Relaxed);
        let other = phase.wrapping_add(1);
        let mut empty = |phase| {
            for readers in readers.clone() {
                while readers.of(phase).load(Ordering::SeqCst) != 0 {
                    pause();
                }
            }
        };
        empty(other);
        self.0.store(other, Ordering::SeqCst);
        empty(phase);
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicUsize};

    /// Values are marked instead of freed, so that a reader can detect it.
    #[test]
    fn no_reader_sees_a_freed_value() {
        const ROUNDS: usize = 100;
        let (phase, processors) = (Phase::new(), [const { Readers::new() }; 2]);
        let freed = [const { AtomicBool::new(false) }; ROUNDS + 1];
        let [current, reads] = [const { AtomicUsize::new(0) }; 2];
        let [done, bad] = [const { AtomicBool::new(false) }; 2];
        let look = |value: usize| {
            if freed[value].load(Ordering::Relaxed) {
                bad.store(true, Ordering::Relaxed);
            }
        };
        let read = |number: usize| {
            while !done.load(Ordering::Relaxed) {
                let count = reads.fetch_add(1, Ordering::Relaxed);
                // Threads may change processors.
                let inside = phase.enter(&processors[(number + count) % 2]);
                let value = current.load(Ordering::SeqCst);
                for _ in 0..count % 7 {
                    look(value);
                    std::thread::yield_now();
                }
                look(value);
                drop(inside);
            }
        };
        std::thread::scope(|scope| {
            for number in 0..3 {
                let read = &read;
                scope.spawn(move || read(number));
            }
            for (round, freed) in freed.iter().enumerate().take(ROUNDS) {
                let before = reads.load(Ordering::Relaxed);
                while reads.load(Ordering::Relaxed) == before {
                    std::thread::yield_now();
                }
                current.store(round + 1, Ordering::SeqCst);
                phase.wait(processors.iter(), std::thread::yield_now);
                freed.store(true, Ordering::Relaxed);
            }
            done.store(true, Ordering::Relaxed);
        });
        assert!(!bad.load(Ordering::Relaxed), "a reader met what had been waited for");
    }

    #[test]
    fn a_reader_of_either_phase_is_waited_for() {
        for turns in 0..3 {
            let (phase, readers) = (Phase::new(), Readers::new());
            for _ in 0..turns {
                phase.wait([&readers].into_iter(), || panic!("nobody is inside"));
            }
            let mut inside = Some(phase.enter(&readers));
            let mut paused = 0;
            phase.wait([&readers].into_iter(), || {
                paused += 1;
                // Readers that come meanwhile are not waited for.
                std::mem::forget(phase.enter(&readers));
                if paused == 3 {
                    inside = None;
                }
            });
            assert_eq!(paused, 3);
        }
    }

    #[test]
    fn a_reader_that_comes_late_to_the_other_phase_is_waited_for() {
        let (phase, readers) = (Phase::new(), Readers::new());
        // This reader loaded the phase, and was interrupted before it counted
        // itself.
        let late = readers.of(phase.0.load(Ordering::Relaxed));
        phase.wait([&readers].into_iter(), || panic!("nobody is inside"));
        late.fetch_add(1, Ordering::SeqCst);
        let mut late = Some(Inside(late));
        let mut paused = 0;
        phase.wait([&readers].into_iter(), || {
            paused += 1;
            late = None;
        });
        assert_eq!(paused, 1);
    }
}
