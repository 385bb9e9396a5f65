//! How many tests run at the same time.

use std::num::NonZeroUsize;
use std::sync::{Condvar, Mutex, PoisonError};

use crate::mutex::lock;

/// The number of tests that a program runs at the same time, for the test programs.
pub(super) const THREADS: &str = "RUST_TEST_THREADS";

/// Many tests wait most of their time: for a scanner, a timeout, another process.
const TESTS_PER_PROCESSOR: usize = 2;

/// The tests that run, of all programs.
#[derive(Debug)]
pub(super) struct Places {
    /// The most tests that run at the same time.
    threads: usize,
    running: Mutex<usize>,
    changed: Condvar,
}

impl Default for Places {
    /// As many threads as RUST_TEST_THREADS says, if it is set.
    fn default() -> Self {
        let wanted = std::env::var(THREADS).ok().and_then(|threads| threads.parse().ok());
        let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self::new(wanted.unwrap_or(TESTS_PER_PROCESSOR * processors))
    }
}

impl Places {
    fn new(threads: usize) -> Self {
        Self { threads: threads.max(1), running: Mutex::new(0), changed: Condvar::new() }
    }

    /// Waits until not more than half of the threads have a test. The others are for a
    /// program with so many tests, so no more tests run at the same time than threads.
    pub(super) fn enter(&self, tests: usize) -> Place<'_> {
        let running = lock(&self.running);
        let is_full = |running: &mut usize| *running > self.threads / 2;
        let mut running = self.changed.wait_while(running, is_full).unwrap_or_else(PoisonError::into_inner);
        let threads = self.threads - *running;
        let taken = tests.min(threads);
        *running += taken;
        Place { places: self, threads, taken: taken.into() }
    }
}

/// The places of a program.
#[derive(Debug)]
pub(super) struct Place<'a> {
    places: &'a Places,
    /// The number of tests that the program runs at the same time.
    pub(super) threads: usize,
    taken: Mutex<usize>,
}

impl Place<'_> {
    /// Gives places back. So many tests of the program have not ended.
    pub(super) fn keep(&self, tests: usize) {
        let kept = tests.min(self.threads);
        let taken = std::mem::replace(&mut *lock(&self.taken), kept);
        let mut running = lock(&self.places.running);
        *running = *running + kept - taken;
        self.places.changed.notify_all();
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.keep(0);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn the_next_program_enters_when_half_of_the_threads_have_no_test() {
        let (places, entered) = (Places::new(4), AtomicBool::new(false));
        let first = places.enter(9);
        std::thread::scope(|scope| {
            let second = scope.spawn(|| {
                let place = places.enter(5);
                entered.store(true, Ordering::SeqCst);
                place
            });
            for left in [8, 4, 3] {
                first.keep(left);
                std::thread::sleep(std::time::Duration::from_millis(20));
                assert!(!entered.load(Ordering::SeqCst), "{left} tests are left");
            }
            first.keep(2);
            let second = second.join().unwrap();
            assert_eq!((first.threads, second.threads, *lock(&places.running)), (4, 2, 4));
            drop(first);
            assert_eq!(*lock(&places.running), 2);
            drop(second);
            assert_eq!(*lock(&places.running), 0);
        });
    }
}
