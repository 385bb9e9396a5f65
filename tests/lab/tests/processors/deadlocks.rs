//! The report of a deadlock names each thread and what it waits for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lab::hushport;
use machine::nt::{Options, Stop};
use machine::schedule::{Scheduling, Thread};

fn waits(scheduling: Scheduling) -> String {
    let machine = hushport::machine(Options { hang_limit: Duration::from_millis(800), ..Options::default() });
    let kernel = machine.kernel();
    let (left, right) = (AtomicBool::new(false), AtomicBool::new(false));
    let wait = |what: &str, mine: &AtomicBool, other: &AtomicBool| {
        if kernel.wait_until(what, || mine.load(Ordering::SeqCst)) {
            other.store(true, Ordering::SeqCst);
        }
    };
    kernel.run_threads(
        scheduling,
        vec![
            Thread::new("one", || wait("the left", &left, &right)),
            Thread::new("two", || wait("the right", &right, &left)),
        ],
    );
    match kernel.stopped() {
        Some(Stop::Deadlock { waits }) => waits.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_deadlock_names_who_waits_for_what() {
    for seed in 0..4 {
        for scheduling in [Scheduling::Deterministic { seed }, Scheduling::Parallel { seed }] {
            let waits = waits(scheduling);
            assert!(waits.contains("one waits for the left"), "{scheduling:?}: {waits}");
            assert!(waits.contains("two waits for the right"), "{scheduling:?}: {waits}");
        }
    }
}
