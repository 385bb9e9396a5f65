//! Every kind of allocation and kernel call of the driver fails in turn. Of the calls in
//! loops some fail; `cargo lab faults` makes each of them fail.
//!
//! Planted drivers show that the sweep finds faults.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use lab::hushport::Hushport;
use lab::setup::{self, Target};
use machine::faults::{FALLIBLE, INFALLIBLE, Mode, Plan};
use machine::image::{ImportName, PeFile};
use machine::sweep::{Baseline, Bfe, Case, Extent, Life, Sweep, Variant, live};

const SEED: u64 = 1;
/// Each run waits for BFE and for busy callouts. More jobs than processors end
/// earlier.
const JOBS: usize = 4;

fn hushport() -> Arc<PeFile> {
    Arc::new(PeFile::read(&setup::build(Target::X64).unwrap().sys).unwrap())
}

/// Sweeps the planted driver. `wrong` is the `--cfg` that plants a fault.
fn planted(wrong: &str) -> Sweep {
    let source = setup::root().join("tests/lab/tests/fault_sweep/planted.rs");
    let arguments: &[&str] = if wrong.is_empty() { &[] } else { &["--cfg", wrong] };
    let driver = setup::compile(&source, arguments).unwrap_or_else(|error| panic!("{error:#}"));
    Sweep::of(&Hushport, &Arc::new(PeFile::read(&driver).unwrap()), Variant::Plain, Extent::Loops, SEED, JOBS)
}

/// The names of the functions that the driver imports.
fn imports(file: &PeFile) -> BTreeSet<String> {
    let names = file.imports.iter().filter_map(|import| match &import.name {
        ImportName::Name(name) => Some(name.clone()),
        ImportName::Ordinal(_) => None,
    });
    names.collect()
}

/// Makes these runs, [`JOBS`] at a time.
fn live_all(file: &Arc<PeFile>, baseline: &Baseline, cases: &[Case]) -> Vec<(Case, Life)> {
    let (next, lives) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..JOBS {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let life = live(&Hushport, file, baseline, *case);
                    lives.lock().unwrap().push((*case, life));
                }
            });
        }
    });
    lives.into_inner().unwrap()
}

/// The functions whose failure the driver did not survive, and the reports.
fn found(sweep: &Sweep) -> (BTreeSet<&'static str>, String) {
    assert!(sweep.undisturbed.is_empty(), "{:?}", sweep.undisturbed);
    let reports = sweep.failed.iter().map(ToString::to_string).collect();
    (sweep.failed.iter().map(|failed| failed.function).collect(), reports)
}

#[test]
fn the_driver_bears_every_failure() {
    let sweep = Sweep::of(&Hushport, &hushport(), Variant::Plain, Extent::Loops, SEED, JOBS);
    println!("{sweep}");
    let reports: String = sweep.failed.iter().take(20).map(ToString::to_string).collect();
    assert!(sweep.passed(), "{sweep}\n{:?}\n{reports}", sweep.undisturbed);
    // Without failures the driver silences closed ports, so the sweep checked that.
    assert!(sweep.works);
    // 66 callouts are registered and unregistered twice.
    for name in ["FwpsCalloutRegister3", "FwpsCalloutUnregisterById0"] {
        assert_eq!(sweep.tallies[name].calls, 132, "{name}");
    }
    // Each life has one session when BFE first runs and one after its restart. Then two
    // changes of the policy add and delete filters.
    assert_eq!(sweep.tallies["FwpmTransactionCommit0"].calls, 8);
    let imports = imports(&hushport());
    for call in FALLIBLE.iter().filter(|call| imports.contains(call.name)) {
        assert!(sweep.tallies[call.name].failures > 0, "{} never failed", call.name);
    }
    assert!(sweep.tallies["ExAllocatePool2"].refused > 0);
}

/// A thread of a user's process is suspended in the driver, each time at another
/// instruction. Every instruction has a run; `cargo lab faults --variant suspended` makes
/// all runs.
#[test]
fn a_suspended_thread_of_a_user_holds_up_nothing() {
    let (file, failure, variant) = (hushport(), FALLIBLE[0].failures[0], Variant::Suspended);
    let baseline = Baseline::of(&Hushport, &file, variant, Bfe::Running);
    assert!(baseline.problems.is_empty(), "{:?}", baseline.problems);
    // One after the other: the driver follows its configuration on the host's clock.
    for nth in 1..=64 {
        let plan = Plan { nth, mode: Mode::Once, failure, seed: SEED };
        let case = Case { variant, bfe: Bfe::Running, plan };
        let life = live(&Hushport, &file, &baseline, case);
        assert!(life.problems.is_empty(), "{case}: {:?}", life.problems);
    }
}

/// Filters of others name the callouts, so a flow begins as soon as the callouts are
/// registered, before the driver has a session. Whichever call of the start fails then,
/// DriverEntry ends and leaves nothing: a callout with flow contexts cannot be
/// unregistered. `cargo lab faults --variant open-flow` makes all runs.
#[test]
fn a_start_that_fails_with_an_open_flow_leaves_nothing() {
    let (file, variant) = (hushport(), Variant::OpenFlow);
    let baseline = Baseline::of(&Hushport, &file, variant, Bfe::Running);
    assert!(baseline.problems.is_empty(), "{:?}", baseline.problems);
    let mut refused = 0;
    let failing = Extent::Loops.of(&baseline.calls, SEED);
    let case = |before: &usize| {
        let failure = FALLIBLE[baseline.calls[*before]].failures[0];
        let plan = Plan { nth: before + 1, mode: Mode::Once, failure, seed: SEED };
        Case { variant, bfe: Bfe::Running, plan }
    };
    let cases: Vec<_> = failing.iter().map(case).collect();
    let lives = live_all(&file, &baseline, &cases);
    assert_eq!(lives.len(), failing.len());
    for (case, life) in lives {
        assert!(life.problems.is_empty(), "{case}: {:?}", life.problems);
        refused += usize::from(life.refused.is_some());
    }
    assert!(refused > 30, "of {} failures only {refused} ended the start", failing.len());
}

/// The sweep only fails calls that the table has.
#[test]
fn every_import_can_fail_or_it_is_said_why_not() {
    let file = hushport();
    let known: BTreeSet<&str> = FALLIBLE
        .iter()
        .map(|call| call.name)
        .chain(INFALLIBLE.iter().map(|(name, why)| {
            assert!(!why.is_empty());
            *name
        }))
        .collect();
    let imports = imports(&file);
    assert!(imports.len() > 25, "{imports:?}");
    let unknown: Vec<_> = imports.iter().filter(|name| !known.contains(name.as_str())).collect();
    assert!(unknown.is_empty(), "say in machine::faults::table how they fail: {unknown:?}");
}

#[test]
fn a_driver_without_fault_passes() {
    let sweep = planted("");
    let (functions, reports) = found(&sweep);
    assert!(functions.is_empty(), "{reports}");
    assert!(sweep.lives >= 16, "{sweep}");
}

#[test]
fn planted_faults_are_found() {
    let cases = [
        ("unchecked", "ExAllocatePool2", "stopped the machine"),
        ("leaks", "IoCreateDevice", "POOL_LEAK"),
        ("keeps_device", "FwpsCalloutRegister3", "DEVICE_LEFT"),
        ("hides_cause", "IoCreateDevice", "DriverEntry returned STATUS_UNSUCCESSFUL, expected"),
        ("impatient", "FwpsCalloutUnregisterById0", "DEVICE_IN_USE"),
    ];
    for (wrong, function, text) in cases {
        let (functions, reports) = found(&planted(wrong));
        assert!(functions.contains(function), "{wrong}: {functions:?}\n{reports}");
        assert!(reports.contains(text), "{wrong}: {reports}");
        // Only this function: the rest of the driver is correct.
        if wrong != "hides_cause" {
            assert_eq!(functions.len(), 1, "{wrong}: {reports}");
        }
    }
}

#[test]
fn two_sweeps_are_alike_whatever_the_number_of_jobs() {
    let source = setup::root().join("tests/lab/tests/fault_sweep/planted.rs");
    let driver = setup::compile(&source, &["--cfg", "leaks"]).unwrap();
    let file = Arc::new(PeFile::read(&driver).unwrap());
    let [one, two] =
        [1, 3].map(|jobs| Sweep::of(&Hushport, &file, Variant::Plain, Extent::Loops, SEED, jobs));
    assert_eq!(one.tallies, two.tallies);
    let cases = |sweep: &Sweep| sweep.failed.iter().map(|it| it.case.to_string()).collect::<Vec<_>>();
    assert_eq!(cases(&one), cases(&two));
}
