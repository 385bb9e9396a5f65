//! A bounded list of the changes of the engine's objects, in order.

use std::collections::VecDeque;

use super::Change;

/// The maximum number of changes, so that memory does not grow while a machine
/// runs.
const MOST: usize = 1 << 16;

/// The last changes.
#[derive(Default)]
pub(super) struct Journal(VecDeque<Change>);

impl Journal {
    /// Adds a change. If there are too many, the oldest one is dropped.
    pub(super) fn push(&mut self, change: Change) {
        if self.0.len() == MOST {
            self.0.pop_front();
        }
        self.0.push_back(change);
    }

    /// All stored changes.
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
