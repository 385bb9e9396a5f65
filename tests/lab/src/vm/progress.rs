//! Where a run is, and what this side has checked so far.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::config::Kind;
use super::line::Counts;
use super::verdict::Check;
use crate::printable::printable;

/// Where a run is. It survives an interruption.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Progress {
    /// The kind of the phase.
    pub kind: Kind,
    /// Its name.
    pub phase: String,
    /// How long it takes so far, without interruptions.
    pub took: Duration,
    /// How long the whole run takes so far.
    pub whole: Duration,
    /// The steps that the guest announced.
    pub steps: BTreeSet<String>,
    /// Whether the guest has announced the next restart.
    pub announced: bool,
    /// The number of restarts that nobody announced.
    pub crashes: usize,
    /// The guest's closing line.
    pub verdict: Option<Counts>,
    /// Whether the guest said that all results are written.
    pub ended: bool,
    /// What this side has checked.
    pub checks: Vec<Check>,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            kind: Kind::Start,
            phase: "power on".to_owned(),
            took: Duration::ZERO,
            whole: Duration::ZERO,
            steps: BTreeSet::new(),
            announced: false,
            crashes: 0,
            verdict: None,
            ended: false,
            checks: Vec::new(),
        }
    }
}

/// What this side checks in every run, besides the verdict and the scans.
pub(super) const STAYS_UP: &str = "the machine restarts only when it says so";
pub(super) const IN_TIME: &str = "every phase ends within its limit";
pub(super) const NO_DUMP: &str = "there is no crash dump";
pub(super) const TO_THE_END: &str = "the machine runs to the end of its plan";
pub(super) const KEPT: &str = "every result was kept";
const ALWAYS: [&str; 5] = [STAYS_UP, IN_TIME, NO_DUMP, TO_THE_END, KEPT];

impl Progress {
    /// Records that a check failed.
    pub fn fail(&mut self, name: &str, failure: impl Into<String>) {
        self.checks.push(Check::new(name, printable(&failure.into())));
    }

    /// The checks of this side, with those that nothing spoke against.
    pub fn verdicts(&self) -> Vec<Check> {
        let mut all = self.checks.clone();
        let failed = |name: &str| self.checks.iter().any(|check| check.name == name);
        all.extend(ALWAYS.into_iter().filter(|name| !failed(name)).map(|name| Check::new(name, "")));
        all
    }

    /// Notes that a file or the whole of the results is lost.
    pub fn lose(&mut self, what: impl Into<String>) {
        self.fail(KEPT, what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nothing_spoke_against_has_passed() {
        let mut progress = Progress::default();
        assert!(progress.verdicts().iter().all(|check| check.failure.is_empty()));
        assert_eq!(progress.verdicts().len(), ALWAYS.len());
        progress.fail(NO_DUMP, "MEMORY.DMP\u{1b}[2J");
        progress.fail(NO_DUMP, "another");
        let failed: Vec<_> =
            progress.verdicts().into_iter().filter(|check| !check.failure.is_empty()).collect();
        assert_eq!(failed.len(), 2);
        assert_eq!(failed[0].failure, "MEMORY.DMP\\u{1b}[2J");
        assert_eq!(progress.verdicts().len(), ALWAYS.len() + 1);
    }
}
