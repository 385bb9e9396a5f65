//! Driver Verifier's rules, each with its bugcheck code.
//!
//! A [`Rule`] is one row of the table in [`rules`]. Code that detects a breach
//! passes a [`Violation`] to the kernel. The kernel keeps a [`Finding`] and stops
//! the machine with the rule's bugcheck, unless the rule is tolerated.
#![forbid(unsafe_code)]

mod bugchecks;
pub mod rules;

pub use bugchecks::bugcheck_name;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A rule that a driver must keep.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// The rule's name in reports, such as `POOL_DOUBLE_FREE`.
    pub id: &'static str,
    /// Bugcheck code; [`rules::LAB`] if Windows does not check the rule.
    pub code: u32,
    /// The parameter that selects the meaning of a code with several meanings. It
    /// is the first parameter, except for [`rules::SPECIAL_POOL`], where it is the
    /// fourth.
    pub parameter: Option<u64>,
    /// What the driver did wrong, in words.
    pub text: &'static str,
}

impl Rule {
    /// Whether the rule is about what a driver leaves behind at its unload. The names
    /// of these rules end alike.
    pub fn is_about_leftovers(&self) -> bool {
        self.id.ends_with("_LEFT") || self.id == rules::POOL_LEAK.id
    }

    /// Whether the rule is about the IRQL of a call or of a return.
    pub fn is_about_irql(&self) -> bool {
        self.id.contains("IRQL")
    }
}

/// A detected breach that is not reported yet.
#[derive(Clone, Debug)]
#[must_use = "a violation has no effect until it is reported to the kernel"]
pub struct Violation {
    /// The rule that was broken.
    pub rule: &'static Rule,
    /// The other parameters of the bugcheck, in order, without the rule's own.
    pub parameters: [u64; 3],
    /// The fourth parameter, for rules without a parameter of their own.
    fourth: u64,
    /// What happened in this case.
    pub detail: String,
}

impl Violation {
    /// A breach of `rule`.
    pub fn new(rule: &'static Rule, parameters: [u64; 3], detail: impl Into<String>) -> Self {
        Self { rule, parameters, fourth: 0, detail: detail.into() }
    }

    /// Sets the fourth parameter.
    pub fn with_fourth(self, fourth: u64) -> Self {
        Self { fourth, ..self }
    }

    /// The four parameters, as the bugcheck screen shows them.
    pub fn bugcheck_parameters(&self) -> [u64; 4] {
        let [a, b, c] = self.parameters;
        match self.rule.parameter {
            Some(last) if self.rule.code == rules::SPECIAL_POOL => [a, b, c, last],
            Some(first) => [first, a, b, c],
            None => [a, b, c, self.fourth],
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d] = self.bugcheck_parameters();
        write!(
            f,
            "{} {:#x} ({a:#x}, {b:#x}, {c:#x}, {d:#x}): {}: {}",
            self.rule.id, self.rule.code, self.rule.text, self.detail
        )
    }
}

/// A reported breach.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The broken rule and the details.
    pub violation: Violation,
    /// The service of the driver; empty if no driver has broken the rule.
    pub driver: Arc<str>,
    /// Return addresses in the driver, innermost first. Empty if the lab detected
    /// the breach after the driver had returned.
    pub stack: Vec<u64>,
}

/// The findings of one kernel, and the rules it tolerates.
#[derive(Debug, Default)]
pub struct Verifier {
    findings: Mutex<Vec<Finding>>,
    /// Findings of rules that are advice.
    advice: Mutex<Vec<Finding>>,
    tolerated: Mutex<BTreeSet<&'static str>>,
}

impl Verifier {
    /// Reports breaches of `rule` from now on, but does not stop the machine.
    pub fn tolerate(&self, rule: &'static Rule) {
        lock(&self.tolerated).insert(rule.id);
    }

    /// Everything found so far.
    pub fn findings(&self) -> Vec<Finding> {
        lock(&self.findings).clone()
    }

    /// What the driver does against advice, each once.
    pub fn advice(&self) -> Vec<Finding> {
        lock(&self.advice).clone()
    }

    /// Keeps the finding. Returns whether it is fatal. Advice never is.
    pub fn report(&self, finding: Finding) -> bool {
        if rules::ADVICE.contains(&finding.violation.rule) {
            let mut advice = lock(&self.advice);
            let is_same = |known: &Finding| {
                known.violation.rule == finding.violation.rule
                    && known.violation.detail == finding.violation.detail
            };
            if !advice.iter().any(is_same) {
                advice.push(finding);
            }
            return false;
        }
        let fatal = !lock(&self.tolerated).contains(finding.violation.rule.id);
        lock(&self.findings).push(finding);
        fatal
    }
}

/// Locks even after a panic, so that a panicking test does not hide findings.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_names_and_codes_are_unique() {
        let names: BTreeSet<_> = rules::ALL.iter().map(|rule| rule.id).collect();
        assert_eq!(names.len(), rules::ALL.len());
        let codes: BTreeSet<_> = rules::ALL
            .iter()
            .filter(|rule| rule.code != rules::LAB)
            .map(|rule| (rule.code, rule.parameter))
            .collect();
        let coded = rules::ALL.iter().filter(|rule| rule.code != rules::LAB);
        assert_eq!(codes.len(), coded.count());
    }

    #[test]
    fn rules_are_grouped_by_their_names() {
        let left: Vec<_> = rules::ALL.iter().filter(|rule| rule.is_about_leftovers()).collect();
        assert!(left.iter().all(|rule| rule.text.contains("unload")), "{left:?}");
        assert!(rules::THREAD_LEFT.is_about_leftovers() && rules::LIST_LEFT.is_about_leftovers());
        assert!(!rules::POOL_DOUBLE_FREE.is_about_leftovers());
        for rule in [&rules::API_IRQL, &rules::ZW_IRQL, &rules::WORKER_IRQL, &rules::IRQL_CHANGED] {
            assert!(rule.is_about_irql(), "{}", rule.id);
        }
        assert!(!rules::POOL_LEAK.is_about_irql());
    }

    #[test]
    fn a_tolerated_rule_is_still_reported() {
        let verifier = Verifier::default();
        let finding = |rule| {
            let violation = Violation::new(rule, [1, 2, 3], "test");
            Finding { violation, driver: "".into(), stack: Vec::new() }
        };
        assert!(verifier.report(finding(&rules::POOL_DOUBLE_FREE)));
        verifier.tolerate(&rules::POOL_DOUBLE_FREE);
        assert!(!verifier.report(finding(&rules::POOL_DOUBLE_FREE)));
        assert!(verifier.report(finding(&rules::POOL_BAD_FREE)));
        assert_eq!(verifier.findings().len(), 3);
    }

    #[test]
    fn the_rules_own_parameter_is_in_its_place() {
        let with = Violation::new(&rules::POOL_DOUBLE_FREE, [7, 8, 9], "");
        assert_eq!(with.bugcheck_parameters(), [0x13, 7, 8, 9]);
        let without = Violation::new(&rules::READ_ONLY_WRITE, [7, 8, 9], "");
        assert_eq!(without.bugcheck_parameters(), [7, 8, 9, 0]);
        let fourth = Violation::new(&rules::BAD_POINTER_RAISED, [7, 8, 9], "").with_fourth(6);
        assert_eq!(fourth.bugcheck_parameters(), [7, 8, 9, 6]);
        let last = Violation::new(&rules::POOL_OVERRUN, [7, 8, 9], "");
        assert_eq!(last.bugcheck_parameters(), [7, 8, 9, 0x24]);
    }
}
