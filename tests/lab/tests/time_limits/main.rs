//! `cargo lab test` ends tests that hang, and reports what they wait for.
//!
//! The tests that hang, die and fail are planted in this program.

use std::path::PathBuf;
use std::time::Duration;

use lab::hushport;
use lab::setup;
use lab::suites::{self, Children, Ended, Limits, Program, Summary, Verdict};
use machine::nt::Options;

/// Environment variable that enables the planted tests. Without it they do nothing.
const PLANTED: &str = "HUSHPORT_LAB_PLANTED";

fn spinning_driver() -> PathBuf {
    setup::compile(&setup::root().join("tests/lab/tests/time_limits/spins.rs"), &[]).unwrap()
}

/// The planted tests.
mod planted {
    use super::*;

    fn is_wanted() -> bool {
        std::env::var_os(PLANTED).is_some()
    }

    #[test]
    fn passes() {}

    /// A simulated thread waits forever.
    #[test]
    fn waits() {
        if !is_wanted() {
            return;
        }
        let machine = hushport::machine(Options { hang_limit: Duration::MAX, ..Options::default() });
        std::thread::scope(|scope| {
            let visitor = std::thread::Builder::new().name("visitor".into());
            let kernel = machine.kernel();
            visitor.spawn_scoped(scope, || kernel.wait_until("a door that nobody opens", || false)).unwrap();
        });
    }

    /// A driver loops forever.
    #[test]
    fn spins() {
        if is_wanted() {
            let _never = hushport::machine(Options::default()).start(&spinning_driver());
        }
    }

    #[test]
    fn dies() {
        if is_wanted() {
            std::process::abort();
        }
    }

    #[test]
    fn fails() {
        assert!(!is_wanted(), "planted failure");
    }
}

/// Runs planted tests under a limit of a few seconds each.
fn run(tests: &[&str], limits: Limits) -> Summary {
    let program = Program {
        name: "lab/time_limits".to_owned(),
        file: std::env::current_exe().unwrap(),
        folder: setup::root().join("tests/lab"),
        tests: tests.iter().map(|test| format!("planted::{test}")).collect(),
        environment: vec![(PLANTED.into(), "1".into())],
    };
    suites::run(&[program], &limits, &Children::new(limits.whole)).unwrap()
}

const LIMITS: Limits = Limits { test: Duration::from_secs(5), whole: Duration::from_secs(250) };

/// The report of a failed test.
fn failure<'a>(summary: &'a Summary, test: &str) -> &'a str {
    let name = format!("lab/time_limits::planted::{test}");
    let mut ended = summary.ended.iter().filter(|ended| ended.name == name);
    match (ended.next(), ended.next()) {
        (Some(Ended { verdict: Verdict::Failed(report), .. }), None) => report,
        other => panic!("{test}: {other:?}"),
    }
}

fn passed(summary: &Summary, test: &str) -> bool {
    let name = format!("lab/time_limits::planted::{test}");
    summary.ended.iter().any(|ended| ended.name == name && ended.verdict == Verdict::Passed)
}

#[test]
fn a_test_that_hangs_fails_with_what_waits_for_what() {
    let summary = run(&["waits", "passes"], LIMITS);
    let report = failure(&summary, "waits");
    assert!(report.contains("the limit of 5 s for a test"), "{report}");
    assert!(report.contains("visitor waits for a door that nobody opens"), "{report}");
    // The report has the name of the thread and its stack.
    assert!(report.contains("thread visitor") && report.contains("schedule::bell::Bell"), "{report}");
    assert!(passed(&summary, "passes") && !summary.passed());
}

#[test]
fn a_driver_that_hangs_is_named_by_its_function() {
    // The time of the build does not count.
    spinning_driver();
    let summary = run(&["spins"], LIMITS);
    let report = failure(&summary, "spins");
    assert!(report.contains("spins.sys") && report.contains("spin_for_good"), "{report}");
    assert!(report.contains("DriverEntry"), "{report}");
}

#[test]
fn a_program_that_dies_fails_its_test_and_the_rest_is_run() {
    let summary = run(&["dies", "fails", "passes"], LIMITS);
    assert!(failure(&summary, "dies").contains("SIGABRT"), "{}", failure(&summary, "dies"));
    assert_eq!(summary.ended.len(), 3, "{summary}");
    assert!(!summary.passed());
    let summary = run(&["fails", "passes"], LIMITS);
    assert!(failure(&summary, "fails").contains("planted failure"));
    assert!(passed(&summary, "passes"));
}

#[test]
fn the_whole_run_has_a_limit() {
    let limits = Limits { test: Duration::from_secs(200), whole: Duration::from_secs(3) };
    let summary = run(&["waits"], limits);
    assert!(failure(&summary, "waits").contains("the limit of 3 s for the whole run"));
    assert!(summary.is_over() && !summary.passed());
    assert!(summary.to_string().ends_with("test result: FAILED. 0 passed; 1 failed; 0 ignored"));
}
