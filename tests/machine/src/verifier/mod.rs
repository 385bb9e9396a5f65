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
    /// is the first parameter, except where [`Rule::place`] says otherwise.
    pub parameter: Option<u64>,
    /// What the driver did wrong, in words.
    pub text: &'static str,
}

impl Rule {
    /// Whether the rule is about what a driver leaves behind at its unload. The names
    /// of most of these rules end alike.
    pub fn is_about_leftovers(&self) -> bool {
        self.id.ends_with("_LEFT")
            || [rules::POOL_LEAK.id, rules::MDL_PAGES_LEFT_LOCKED.id].contains(&self.id)
    }

    /// Whether the rule is about the IRQL of a call or of a return.
    pub fn is_about_irql(&self) -> bool {
        self.id.contains("IRQL")
    }

    /// The place of [`Rule::parameter`] among the four parameters.
    pub fn place(&self) -> usize {
        match self.code {
            rules::SPECIAL_POOL | rules::INVALID_KERNEL_HANDLE => 3,
            _ => 0,
        }
    }

    /// The option of Driver Verifier that checks the rule, as a bit of its flags
    /// ("Driver Verifier options", Microsoft Learn). 0 if the rule needs no option that
    /// the standard flags lack.
    pub fn option(&self) -> u32 {
        match (self.code, self.parameter) {
            (0xC4, Some(0x2000..=0x2005)) => option::CODE_INTEGRITY,
            (0xC4, Some(0x4_0003 | 0x4_0007 | 0x4_000A)) => option::DDI_ADDITIONAL,
            (0xC4, Some(0x2_0000..0x10_0000)) => option::DDI,
            (0xC4, Some(0x1010 | 0x1011)) => option::INVARIANT_MDL,
            _ => 0,
        }
    }
}

/// Options of Driver Verifier ("Driver Verifier command syntax", Microsoft Learn).
pub mod option {
    /// Invariant MDL checking for the driver stack.
    pub const INVARIANT_MDL: u32 = 0x1000;
    /// DDI compliance checking.
    pub const DDI: u32 = 0x2_0000;
    /// DDI compliance checking (additional).
    pub const DDI_ADDITIONAL: u32 = 0x8_0000;
    /// Code integrity checking.
    pub const CODE_INTEGRITY: u32 = 0x200_0000;
    /// What `verifier /standard` sets: special pool, force IRQL checking, pool tracking,
    /// I/O verification, deadlock detection, DMA and security checks, miscellaneous
    /// checks and DDI compliance checking.
    pub const STANDARD: u32 = 0x2_09BB;
}

/// A detected breach that is not reported yet.
#[derive(Clone, Debug)]
#[must_use = "a violation has no effect until it is reported to the kernel"]
pub struct Violation {
    /// The rule that was broken.
    pub rule: &'static Rule,
    /// Bugcheck code: the rule's, unless the place of the breach changes it.
    pub code: u32,
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
        Self { rule, code: rule.code, parameters, fourth: 0, detail: detail.into() }
    }

    /// A breach of a DDI compliance rule: the bugcheck has the address of the rule's text.
    pub fn of_ddi(rule: &'static Rule, detail: impl Into<String>) -> Self {
        Self::new(rule, [rule.text.as_ptr().expose_provenance() as u64, 0, 0], detail)
    }

    /// Sets the fourth parameter.
    pub fn with_fourth(self, fourth: u64) -> Self {
        Self { fourth, ..self }
    }

    /// Gives an unhandled exception the code that Windows has for it in a thread of the
    /// system: the parameters are the exception's code and address, and the addresses of
    /// the exception record and the context, which the lab does not make.
    pub fn in_system_thread(self) -> Self {
        const SYSTEM_THREAD_EXCEPTION: u32 = 0x7E;
        if self.rule.code != rules::KMODE_EXCEPTION {
            return self;
        }
        let [first, second, _] = self.parameters;
        // A rule for any exception has the exception's code among its parameters.
        let parameters = if self.rule.parameter.is_some() { [first, 0, 0] } else { [first, second, 0] };
        Self { code: SYSTEM_THREAD_EXCEPTION, parameters, fourth: 0, ..self }
    }

    /// The four parameters, as the bugcheck screen shows them.
    pub fn bugcheck_parameters(&self) -> [u64; 4] {
        let [a, b, c] = self.parameters;
        match self.rule.parameter {
            Some(last) if self.rule.place() == 3 => [a, b, c, last],
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
            self.rule.id, self.code, self.rule.text, self.detail
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
#[derive(Debug)]
pub struct Verifier {
    /// The options that are on: bits of [`option`].
    flags: u32,
    findings: Mutex<Vec<Finding>>,
    /// Findings of rules that are advice.
    advice: Mutex<Vec<Finding>>,
    tolerated: Mutex<BTreeSet<&'static str>>,
}

impl Default for Verifier {
    fn default() -> Self {
        Self::new(option::STANDARD)
    }
}

impl Verifier {
    /// A verifier with these options, bits of [`option`].
    pub fn new(flags: u32) -> Self {
        Self { flags, findings: Mutex::default(), advice: Mutex::default(), tolerated: Mutex::default() }
    }

    /// Whether the option that checks the rule is on. If not, a breach is a warning.
    pub fn checks(&self, rule: &Rule) -> bool {
        self.flags & rule.option() == rule.option()
    }

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
        let rule = finding.violation.rule;
        let fatal = self.checks(rule) && !lock(&self.tolerated).contains(rule.id);
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
    fn a_rule_whose_option_is_off_is_a_warning() {
        let finding = || {
            let violation = Violation::new(&rules::POOL_EXECUTABLE, [0; 3], "");
            Finding { violation, driver: "".into(), stack: Vec::new() }
        };
        let standard = Verifier::default();
        assert!(!standard.report(finding()));
        assert_eq!(standard.findings().len(), 1);
        assert!(Verifier::new(option::STANDARD | option::CODE_INTEGRITY).report(finding()));
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
