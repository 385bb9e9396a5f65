//! What changed in the engine, in order.

use std::collections::VecDeque;

use super::Change;

/// Changes kept. A machine that runs for days must not grow.
const MOST: usize = 1 << 16;

/// The last changes.
#[derive(Default)]
pub(super) struct Journal(VecDeque<Change>);

impl Journal {
    /// Adds a change; the oldest goes where there are too many.
    pub(super) fn push(&mut self, change: Change) {
        if self.0.len() == MOST {
            self.0.pop_front();
        }
        self.0.push_back(change);
    }

    /// All that are kept.
    pub(super) fn to_vec(&self) -> Vec<Change> {
        self.0.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_changes_stay() {
        let mut journal = Journal::default();
        journal.push(Change::EngineOpen);
        for _ in 0..MOST {
            journal.push(Change::EngineClose);
        }
        let kept = journal.to_vec();
        assert_eq!(kept.len(), MOST);
        assert!(!kept.contains(&Change::EngineOpen));
    }
}
