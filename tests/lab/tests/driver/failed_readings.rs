//! The driver's thread cannot read the registry, or has no memory for a new policy.

use std::time::Duration;

use lab::hushport::{self, LOOK};
use machine::etw::{Event, Value};
use machine::nt::{Effect, Failure, Options, Trace};
use machine::status::Status;

use super::events::{named, session};
use super::probe::{Bench, Probe};

const WORKING: Failure = Failure { status: Status::UNSUCCESSFUL, effect: Effect::Refused };

const CHANGE: &str = "Change";
const RUNDOWN: &str = "Rundown";

const fn refused(status: Status) -> Failure {
    Failure { status, effect: Effect::Refused }
}

/// A machine with a time of its own, so that looks at the registry can be counted.
fn start() -> Bench {
    let options = Options { own_time: true, ..Options::default() };
    let bench = Bench::start(hushport::machine(options));
    pass(&bench, 3 * LOOK);
    bench
}

fn pass(bench: &Bench, time: Duration) {
    let kernel = bench.machine.kernel();
    kernel.run_until(kernel.clock().since_start() + time, Duration::MAX);
}

/// Value, reason and what is in force, of each refusal that a change has caused, or that a
/// new session was told.
fn refusals<'a>(events: &'a [Event], occasion: &str) -> Vec<(&'a str, &'a str, &'a str)> {
    let rejected = named(events, "PolicyRejected").into_iter();
    let rejected = rejected.filter(|event| event.text("Occasion") == occasion);
    rejected.map(|event| (event.text("Value"), event.text("Reason"), event.text("Holds"))).collect()
}

fn applied(trace: &Trace) -> usize {
    let events = trace.events();
    named(&events, "PolicyApplied").iter().filter(|event| event.text("Occasion") == CHANGE).count()
}

/// The entries of the event log about a refused policy.
fn entries(bench: &Bench) -> usize {
    bench.machine.kernel().error_log().iter().filter(|entry| entry.id() == 3).count()
}

#[test]
fn a_change_that_cannot_be_read_is_told_once_and_follows_when_it_can() {
    let unreadable = ("*", "Unreadable", "LastPolicy");
    let short = ("*", "NoMemory", "LastPolicy");
    for (calls, status, expected) in [
        (&["ExAllocatePool2"][..], Status::INSUFFICIENT_RESOURCES, short),
        (&["ZwOpenKey"], Status::ACCESS_DENIED, unreadable),
        (&["ZwOpenKey"], Status::INSUFFICIENT_RESOURCES, short),
        // A key that is open is asked for its time, and opened again if that fails.
        (&["ZwQueryKey"], Status::ACCESS_DENIED, unreadable),
        (&["ZwQueryKey", "IoOpenDriverRegistryKey"], Status::INSUFFICIENT_RESOURCES, short),
    ] {
        let bench = start();
        let (faults, what) = (bench.machine.faults(), format!("{calls:?}, {status}"));
        let verdict = || bench.ask(&Probe::syn("V4")).1;
        bench.machine.set("Observe", 1);
        pass(&bench, 2 * LOOK);
        let trace = session(&bench.machine);
        trace.take();
        faults.fail_always(calls, refused(status));
        bench.machine.set("SilenceTcp", 0);
        pass(&bench, 20 * LOOK);
        assert_eq!(verdict(), "Silenced", "{what}: the last policy stays");
        assert_eq!(refusals(&trace.events(), CHANGE), [expected], "{what}");
        assert_eq!((applied(&trace), entries(&bench)), (0, 1), "{what}");
        // A new session is told as well.
        assert_eq!(refusals(&session(&bench.machine).events(), RUNDOWN), [expected], "{what}");
        faults.fail_always(&[], WORKING);
        pass(&bench, 2 * LOOK);
        assert_eq!((verdict(), applied(&trace)), ("OtherKind".into(), 1), "{what}");
        assert_eq!(refusals(&session(&bench.machine).events(), RUNDOWN), [], "{what}");
        // A second time is told again.
        trace.take();
        faults.fail_always(calls, refused(status));
        bench.machine.set("SilenceTcp", 1);
        pass(&bench, 2 * LOOK);
        assert_eq!((refusals(&trace.events(), CHANGE), entries(&bench)), (vec![expected], 2), "{what}");
        faults.fail_always(&[], WORKING);
        pass(&bench, 2 * LOOK);
        assert_eq!(verdict(), "Silenced", "{what}");
        drop(trace);
        bench.end();
    }
}

/// Each value is named that the registry refuses to read. Mode is the first to be read.
#[test]
fn values_that_cannot_be_read_are_read_again() {
    let bench = start();
    let faults = bench.machine.faults();
    let trace = session(&bench.machine);
    trace.take();
    faults.fail_always(&["ZwQueryValueKey"], refused(Status::ACCESS_DENIED));
    bench.machine.set("Mode", 0);
    pass(&bench, 20 * LOOK);
    let events = trace.events();
    let told = refusals(&events, CHANGE);
    assert!(told.contains(&("Mode", "Unreadable", "LastPolicy")), "{told:?}");
    assert!(told.iter().all(|(_, reason, _)| *reason == "Unreadable"), "{told:?}");
    let values: std::collections::BTreeSet<_> = told.iter().map(|(value, ..)| value).collect();
    assert_eq!(values.len(), told.len(), "each once: {told:?}");
    faults.fail_always(&[], WORKING);
    pass(&bench, 2 * LOOK);
    assert_eq!(bench.ask(&Probe::syn("V4")).1, "Off");
    drop(trace);
    bench.end();
}

/// The memory of the policy, of its lists, and of the order's check, which `CheckOrder` needs
/// the first time. Every allocation fails once.
#[test]
fn a_lack_of_memory_that_passes_loses_no_change() {
    let mut failed = 0;
    for nth in 0.. {
        let bench = start();
        let trace = session(&bench.machine);
        trace.take();
        let before = bench.machine.faults().injected().len();
        bench.machine.faults().fail_after("ExAllocatePool2", nth, refused(Status::INSUFFICIENT_RESOURCES));
        bench.machine.set("CheckOrder", 1);
        pass(&bench, 4 * LOOK);
        let events = trace.events();
        let last = named(&events, "PolicyApplied");
        let [last] = &last[..] else { panic!("the {nth}th: {events:#?}") };
        assert_eq!(last.field("CheckOrder"), Some(&Value::Bool(true)), "the {nth}th");
        let has_failed = bench.machine.faults().injected().len() > before;
        let expected = if has_failed { vec![("*", "NoMemory", "LastPolicy")] } else { Vec::new() };
        assert_eq!(refusals(&events, CHANGE), expected, "the {nth}th");
        drop(trace);
        bench.end();
        if !has_failed {
            break;
        }
        failed += 1;
    }
    // A buffer, the lists, the two of the check, the policy.
    assert_eq!(failed, 5);
}
