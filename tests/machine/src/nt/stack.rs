//! Measures the most kernel stack that each kind of entry point uses.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The first calls are all measured, later ones at this interval. A measurement
/// scans the whole stack, which costs more than many a call.
const INTERVAL: u64 = 64;

#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    calls: u64,
    most: usize,
}

/// The marks of a machine, by kind of call.
#[derive(Debug, Default)]
pub(super) struct StackMarks {
    marks: Mutex<BTreeMap<&'static str, Mark>>,
}

impl StackMarks {
    /// Counts a call. Returns whether to measure it; `every`: always.
    pub fn is_due(&self, what: &'static str, every: bool) -> bool {
        let mut marks = self.marks();
        let mark = marks.entry(what).or_default();
        mark.calls += 1;
        every || mark.calls <= INTERVAL || mark.calls.is_multiple_of(INTERVAL)
    }

    /// Records what a call used.
    pub fn note(&self, what: &'static str, bytes: usize) {
        let mut marks = self.marks();
        let mark = marks.entry(what).or_default();
        mark.most = mark.most.max(bytes);
    }

    /// Most bytes used by each kind of call, in the measured calls.
    pub fn all(&self) -> Vec<(&'static str, usize)> {
        let marks = self.marks();
        marks.iter().filter(|(_, mark)| mark.most > 0).map(|(what, mark)| (*what, mark.most)).collect()
    }

    fn marks(&self) -> MutexGuard<'_, BTreeMap<&'static str, Mark>> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_calls_and_some_later_ones_are_measured() {
        let marks = StackMarks::default();
        let due = (1..=300).filter(|_| marks.is_due("classifyFn", false)).count();
        assert_eq!(due, 64 + 3);
        assert!(marks.is_due("classifyFn", true));
        assert!(marks.all().is_empty());
        marks.note("classifyFn", 700);
        marks.note("classifyFn", 300);
        assert_eq!(marks.all(), [("classifyFn", 700)]);
    }
}
