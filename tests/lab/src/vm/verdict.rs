//! Whether to believe what the machine says.
//!
//! The closing line counts only with the results behind it: the checks of each step that
//! the plan has, on the disk for results.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::line::Counts;

/// A check.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Check {
    /// What was checked.
    pub name: String,
    /// Why it failed; empty if it passed.
    pub failure: String,
}

impl Check {
    /// A check that passed if there is no failure.
    pub fn new(name: &str, failure: impl Into<String>) -> Self {
        Self { name: name.to_owned(), failure: failure.into() }
    }
}

/// The steps of the plan in order, see `Get-Plan` in tests/vm/Hushport.State.psm1. Each
/// name is followed by `-` and what Driver Verifier is set to, if anything.
pub const STEPS: [&str; 24] = [
    "Prepare",
    "Install",
    "Start",
    "Conformance",
    "Policy",
    "Trace",
    "Cycle",
    SCAN,
    "EnableStandard",
    "Settings-standard",
    "Start-standard",
    "Policy-standard",
    "Trace-standard",
    "Cycle-standard",
    "Scan-standard",
    "Query-standard",
    "EnableLowResources",
    "Settings-low-resources",
    "Cycle-low-resources",
    "Query-low-resources",
    "DisableVerifier",
    "Settings-off",
    "Collect",
    "Remove",
];

/// The step in which the machine is scanned.
pub const SCAN: &str = "Scan";

/// Whether a step is a scan.
pub fn is_scan(step: &str) -> bool {
    step == SCAN || step.strip_prefix(SCAN).is_some_and(|rest| rest.starts_with('-'))
}

/// Steps that may have no check: one without its driver in the package, and scans that
/// nobody asked for.
fn may_be_empty(step: &str, scans: bool) -> bool {
    step == "Conformance" || (is_scan(step) && !scans)
}

/// What the results folder has.
#[derive(Clone, Debug, Default)]
pub struct Results {
    /// The checks, by step, and whether each failed.
    pub checks: Vec<(String, bool)>,
    /// The closing line in verdict.txt.
    pub verdict: Option<Counts>,
    /// Lines of checks.jsonl that are no checks.
    pub torn: usize,
}

impl Results {
    /// Reads a folder. What is missing is left empty.
    pub fn read(folder: &Path) -> Self {
        let text = |name: &str| {
            String::from_utf8_lossy(&std::fs::read(folder.join(name)).unwrap_or_default()).into_owned()
        };
        let mut results = Self { verdict: Counts::parse(&text("verdict.txt")), ..Self::default() };
        for line in text("checks.jsonl").lines().filter(|line| !line.is_empty()) {
            let check: Option<Value> = serde_json::from_str(line).ok();
            let field = |name: &str| Some(check.as_ref()?.get(name)?.as_str()?.to_owned());
            match (field("Step"), field("Name"), field("Failure")) {
                (Some(step), Some(_), Some(failure)) => results.checks.push((step, !failure.is_empty())),
                _ => results.torn += 1,
            }
        }
        results
    }

    /// The numbers of the checks.
    pub fn counts(&self) -> Counts {
        let failed = self.checks.iter().filter(|(_, failed)| *failed).count();
        Counts { passed: self.checks.len() - failed, failed }
    }
}

/// Checks what the machine said against what it left. `steps` are those that it
/// announced.
pub fn judge(said: Option<Counts>, steps: &BTreeSet<String>, results: &Results, scans: bool) -> Vec<Check> {
    let counted = results.counts();
    let mut agreement = Vec::new();
    match said {
        None => agreement.push("the machine reported no verdict".to_owned()),
        Some(said) if said != counted => {
            agreement.push(format!("it reported {said}, and checks.jsonl has {counted}"));
        }
        Some(_) => {}
    }
    match results.verdict {
        None => agreement.push("verdict.txt is missing or has no closing line".to_owned()),
        Some(written) if written != counted => {
            agreement.push(format!("verdict.txt has {written}, and checks.jsonl has {counted}"));
        }
        Some(_) => {}
    }
    if results.torn > 0 {
        agreement.push(format!("{} lines of checks.jsonl are no checks", results.torn));
    }
    let checked: BTreeSet<&str> = results.checks.iter().map(|(step, _)| step.as_str()).collect();
    let missing: Vec<&str> = STEPS
        .into_iter()
        .filter(|step| !steps.contains(*step) || !(checked.contains(step) || may_be_empty(step, scans)))
        .collect();
    let missing =
        if missing.is_empty() { String::new() } else { format!("not tested: {}", missing.join(", ")) };
    vec![
        Check::new("the machine's verdict agrees with its results", agreement.join("; ")),
        Check::new("every step of the plan ran", missing),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failures(said: Option<Counts>, steps: &[&str], results: &Results, scans: bool) -> Vec<String> {
        let steps = steps.iter().map(|step| (*step).to_owned()).collect();
        judge(said, &steps, results, scans).into_iter().map(|check| check.failure).collect()
    }

    fn complete() -> Results {
        let checks: Vec<_> = STEPS.iter().map(|step| ((*step).to_owned(), false)).collect();
        let counts = Counts { passed: checks.len(), failed: 0 };
        Results { checks, verdict: Some(counts), torn: 0 }
    }

    #[test]
    fn a_whole_run_is_believed() {
        let mut results = complete();
        let said = results.verdict;
        assert_eq!(failures(said, &STEPS, &results, true), ["", ""]);
        results.checks.retain(|(step, _)| step != "Conformance");
        let said = Counts { passed: STEPS.len() - 1, failed: 0 };
        results.verdict = Some(said);
        assert_eq!(failures(Some(said), &STEPS, &results, true), ["", ""]);
    }

    #[test]
    fn a_lie_is_found() {
        let whole = complete();
        let said = whole.verdict;
        let other = Some(Counts { passed: 99, failed: 0 });
        assert!(failures(other, &STEPS, &whole, true)[0].starts_with("it reported 99 passed"));
        assert_eq!(failures(None, &STEPS, &whole, true)[0], "the machine reported no verdict");
        let torn = Results { torn: 2, ..whole.clone() };
        assert_eq!(failures(said, &STEPS, &torn, true)[0], "2 lines of checks.jsonl are no checks");
        let unwritten = Results { verdict: None, ..whole.clone() };
        assert!(failures(said, &STEPS, &unwritten, true)[0].starts_with("verdict.txt is missing"));
        let mut hidden = whole.clone();
        hidden.checks[3].1 = true;
        assert!(failures(said, &STEPS, &hidden, true)[0].contains("checks.jsonl has 23 passed, 1 failed"));
        // A step that was not announced, and one that was but has no check.
        assert_eq!(failures(said, &STEPS[1..], &whole, true)[1], "not tested: Prepare");
        let mut short = whole;
        short.checks.retain(|(step, _)| !is_scan(step));
        assert_eq!(failures(said, &STEPS, &short, true)[1], "not tested: Scan, Scan-standard");
        assert_eq!(failures(said, &STEPS, &short, false)[1], "");
        assert_eq!(failures(None, &[], &Results::default(), true)[1].matches(',').count(), STEPS.len() - 1);
    }

    #[test]
    fn results_are_read_as_the_scripts_write_them() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &[u8]| std::fs::write(folder.path().join(name), text).unwrap();
        assert_eq!(Results::read(folder.path()).counts(), Counts::default());
        write("verdict.txt", b"1 passed, 1 failed\n");
        write(
            "checks.jsonl",
            b"{\"Time\":\"x\",\"Step\":\"Start\",\"Name\":\"it starts\",\"Failure\":\"\",\"Place\":2}\n\
              {\"Step\":\"Start\",\"Name\":\"it stops\",\"Failure\":\"no\",\"Place\":2}\r\n{\"Step\":1}\n\0\0\0\n\xff\n",
        );
        let results = Results::read(folder.path());
        assert_eq!(results.verdict, Some(Counts { passed: 1, failed: 1 }));
        assert_eq!((results.counts(), results.torn), (Counts { passed: 1, failed: 1 }, 3));
    }
}
