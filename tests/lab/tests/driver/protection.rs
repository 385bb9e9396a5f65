//! The engine refuses after the start: the driver says so and tries again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lab::hushport;
use lab::setup::{self, Target};
use machine::Machine;
use machine::etw::Event;
use machine::nt::{Effect, Failure, Options, Trace};
use machine::status::Status;
use machine::wfp::{BfeState, DisplayData, Engine, Session, SessionId};

use super::events::{eventually, named, session};

/// How soon the filters must be there after the calls work again, on the lab's clock.
const RECOVERY: Duration = Duration::from_secs(10);

/// The longest wait between two tries (docs/EVENTS.md).
const LONGEST: Duration = Duration::from_secs(4);

/// Every management call that the driver makes for its filters.
const CALLS: [&str; 7] = [
    "FwpmEngineOpen0",
    "FwpmTransactionBegin0",
    "FwpmProviderAdd0",
    "FwpmSubLayerAdd0",
    "FwpmCalloutAdd0",
    "FwpmFilterAdd0",
    "FwpmTransactionCommit0",
];

/// What they may return for a while.
const TRANSIENT: [Status; 6] = [
    Status::FWP_TIMEOUT,
    Status::INSUFFICIENT_RESOURCES,
    Status::SERVER_UNAVAILABLE,
    Status::SERVER_TOO_BUSY,
    Status::CALL_FAILED,
    Status::FWP_SESSION_ABORTED,
];

const fn refused(status: Status) -> Failure {
    Failure { status, effect: Effect::Refused }
}

const fn done(status: Status) -> Failure {
    Failure { status, effect: Effect::Done }
}

/// Makes all calls work.
const NONE: Failure = refused(Status::UNSUCCESSFUL);

struct Running {
    machine: Machine,
    engine: Arc<Engine>,
    trace: Trace,
}

impl Running {
    fn start() -> Self {
        let mut machine = hushport::machine(Options::default());
        machine.set("FlowLimit", 64);
        // The driver's thread sleeps long if nothing else wakes it.
        machine.set("ScanWindowMs", 3_600_000);
        machine.start(&setup::build(Target::X64).unwrap().sys).unwrap();
        // The thread reads the registry once more when it begins, and would ask the
        // engine, too.
        assert!(machine.kernel().let_threads_wait(Duration::from_secs(10)));
        let (engine, trace) = (Arc::clone(machine.engine()), session(&machine));
        Self { machine, engine, trace }
    }

    /// Stops BFE, lets `fail` prepare failures, and starts BFE.
    fn restart_bfe(&self, fail: impl FnOnce()) {
        self.engine.set_bfe_state(BfeState::Stopped);
        self.settle();
        fail();
        self.engine.set_bfe_state(BfeState::Running);
        self.settle();
    }

    /// Waits until the driver has followed BFE.
    fn settle(&self) {
        assert!(self.machine.kernel().let_threads_wait(Duration::from_secs(20)));
    }

    fn filters(&self) -> usize {
        self.engine.objects().filters.len()
    }

    /// The state, the status and the next try that a new session is told, and the
    /// state in `Counters`.
    fn told(&self) -> (String, u64, u64) {
        for _ in 0..10 {
            let events = session(&self.machine).take();
            let mut told = named(&events, "Protection").into_iter();
            let event = told.find(|event| event.text("Occasion") == "Rundown").unwrap();
            let counters = named(&events, "Counters")[0];
            // The driver's thread may have tried again between the two events.
            if counters.text("Protection") == event.text("State") {
                return (event.text("State").to_owned(), event.number("Status"), event.number("NextTryMs"));
            }
        }
        panic!("Counters has another state than Protection");
    }

    /// Lets the time pass within which the driver must have recovered.
    fn recovers(&self, what: &str, filters: usize) {
        self.machine.kernel().pass(RECOVERY);
        let end = Instant::now() + Duration::from_secs(5);
        while self.filters() != filters || self.told().0 != "Active" {
            assert!(Instant::now() < end, "{what}: {} filters, {:?}", self.filters(), self.told());
            std::thread::sleep(Duration::from_millis(1));
        }
        let sessions = self.engine.objects().sessions;
        assert_eq!(sessions.iter().filter(|open| open.contains("hushport")).count(), 1, "{what}");
    }

    fn end(self) {
        let Self { mut machine, trace, .. } = self;
        drop(trace);
        let left = machine.stop().unwrap();
        assert!(left.is_empty(), "{left}");
        assert!(machine.kernel().verifier().findings().is_empty());
    }
}

fn number(status: Status) -> u64 {
    u64::from(status.0 as u32)
}

/// State, status and next try of each `Protection` event that a change has caused.
fn changes(events: &[Event]) -> Vec<(&str, u64, u64)> {
    let changes = named(events, "Protection").into_iter().filter(|event| event.text("Occasion") == "Change");
    changes.map(|event| (event.text("State"), event.number("Status"), event.number("NextTryMs"))).collect()
}

#[test]
fn a_refusal_is_told_and_tried_again_soon_and_then_every_few_seconds() {
    let running = Running::start();
    let kernel = running.machine.kernel();
    assert_eq!(running.told(), ("Active".to_owned(), 0, 0));
    running.trace.take();
    let (open, status) = ("FwpmEngineOpen0", Status::INSUFFICIENT_RESOURCES);
    running.restart_bfe(|| running.machine.faults().fail_always(&[open], refused(status)));
    // The driver tries at once, and then waits 250 ms. Nothing else wakes its thread.
    for next in [500, 1000, 2000, 4000, 4000, 4000] {
        let (state, told, left) = running.told();
        assert_eq!((&*state, told), ("Refused", number(status)));
        assert!(left <= next, "{left}");
        let before = kernel.call_count(open);
        kernel.pass(LONGEST);
        eventually(&running.trace, "one more try", |events| {
            changes(events).iter().any(|(_, _, left)| *left == next) && kernel.call_count(open) > before
        });
        assert_eq!(kernel.call_count(open), before + 1, "it does not try without a wait");
        let said = running.trace.take();
        assert_eq!(changes(&said).last(), Some(&("Refused", number(status), next)));
        assert!(named(&said, "Protection").iter().all(|event| (event.level, event.keyword) == (3, 1)));
    }
    assert!(running.engine.objects().sessions.is_empty());
    running.machine.faults().fail_always(&[], NONE);
    running.recovers("the end of the failures", 66);
    eventually(&running.trace, "it is said", |events| changes(events) == [("Active", 0, 0)]);
    running.trace.take();
    // The next refusal is tried again soon.
    running.restart_bfe(|| running.machine.faults().fail_next(open, refused(status)));
    eventually(&running.trace, "filters, without any help", |_| running.filters() == 66);
    let said = running.trace.take();
    let first = [("WaitingForBfe", 0, 0), ("Refused", number(status), 250)];
    assert_eq!(changes(&said)[..2], first, "{said:#?}");
    running.end();
}

#[test]
fn a_call_that_fails_for_a_while_after_a_restart_of_bfe_is_survived() {
    let running = Running::start();
    let (faults, kernel) = (running.machine.faults(), running.machine.kernel());
    for call in CALLS {
        for status in TRANSIENT {
            // The abort of the transaction may fail, too.
            for failing in [&[call][..], &[call, "FwpmTransactionAbort0"]] {
                let what = format!("{failing:?}, {status}");
                running.restart_bfe(|| faults.fail_always(failing, refused(status)));
                kernel.pass(LONGEST);
                let told = running.told();
                assert_eq!((&*told.0, told.1, running.filters()), ("Refused", number(status), 0), "{what}");
                faults.fail_always(&[], NONE);
                running.recovers(&what, 66);
            }
        }
    }
    running.end();
}

#[test]
fn any_call_that_fails_once_after_a_restart_of_bfe_is_survived() {
    let running = Running::start();
    for call in CALLS {
        let number = if ["FwpmCalloutAdd0", "FwpmFilterAdd0"].contains(&call) { 66 } else { 1 };
        for before in (0..number).step_by(13) {
            let status = TRANSIENT[before % TRANSIENT.len()];
            // If the answer of FwpmEngineOpen0 is lost, nobody can close the session.
            let failures = [refused(status), done(status)];
            for failure in failures.into_iter().take(if call == "FwpmEngineOpen0" { 1 } else { 2 }) {
                let what = format!("{call} {before}, {failure:?}");
                running.restart_bfe(|| running.machine.faults().fail_after(call, before, failure));
                running.machine.kernel().pass(RECOVERY);
                eventually(&running.trace, &what, |_| running.filters() == 66);
                assert_eq!(running.engine.objects().sessions.len(), 1, "{what}");
                running.trace.take();
            }
        }
    }
    running.end();
}

/// A user's session, which needs the engine's lock.
fn other(engine: &Engine) -> SessionId {
    let display = DisplayData { name: Some("another program".into()), description: None };
    engine.open(Session { display, ..Session::default() }).unwrap()
}

/// `Observe` changes at a bad moment.
#[test]
fn a_change_that_is_refused_is_outdated_until_it_works() {
    let running = Running::start();
    let (faults, engine) = (running.machine.faults(), &running.engine);
    let other = other(engine);
    let mut filters = [66, 6].into_iter().cycle();
    let mut before = filters.next().unwrap();
    for call in
        ["FwpmTransactionBegin0", "FwpmFilterAdd0", "FwpmFilterDeleteByKey0", "FwpmTransactionCommit0"]
    {
        for status in TRANSIENT {
            let what = format!("{call}, {status}");
            // A filter is added only if `Observe` becomes 1, and deleted only if it
            // becomes 0.
            let wrong = if before == 66 { "FwpmFilterAdd0" } else { "FwpmFilterDeleteByKey0" };
            if call == wrong {
                let after = filters.next().unwrap();
                running.machine.set("Observe", u32::from(after == 66));
                eventually(&running.trace, &what, |_| running.filters() == after);
                before = after;
            }
            let after = filters.next().unwrap();
            running.trace.take();
            faults.fail_always(&[call], refused(status));
            running.machine.set("Observe", u32::from(after == 66));
            eventually(&running.trace, &what, |events| {
                changes(events).iter().any(|(state, told, _)| (*state, *told) == ("Outdated", number(status)))
            });
            assert_eq!(running.filters(), before, "{what}: the filters stay");
            // Between two tries the driver does not hold the engine's lock.
            assert_eq!(engine.transaction_begin(other, 0), Status::SUCCESS, "{what}");
            assert_eq!(engine.transaction_abort(other), Status::SUCCESS);
            faults.fail_always(&[], NONE);
            running.machine.kernel().pass(RECOVERY);
            eventually(&running.trace, &what, |_| running.filters() == after);
            before = after;
        }
    }
    assert_eq!(engine.close(other), Status::SUCCESS);
    running.recovers("the last change", before);
    running.end();
}

/// If a transaction can be neither committed nor aborted, nobody knows what is in force.
#[test]
fn a_session_whose_transaction_cannot_be_ended_is_closed_and_replaced() {
    let running = Running::start();
    let faults = running.machine.faults();
    let commit = "FwpmTransactionCommit0";
    for (observe, failure, abort) in [
        (0, refused(Status::FWP_TXN_ABORTED), Some(Status::INSUFFICIENT_RESOURCES)),
        (1, refused(Status::SERVER_UNAVAILABLE), Some(Status::SERVER_UNAVAILABLE)),
        // The commit worked, but its reply was lost: there is nothing to abort.
        (0, done(Status::SERVER_UNAVAILABLE), None),
        (1, done(Status::CALL_FAILED), None),
    ] {
        let opened = running.machine.kernel().call_count("FwpmEngineOpen0");
        if let Some(status) = abort {
            faults.fail_always(&["FwpmTransactionAbort0"], refused(status));
        }
        faults.fail_next(commit, failure);
        running.machine.set("Observe", observe);
        let filters = if observe == 1 { 66 } else { 6 };
        eventually(&running.trace, "the filters of the new policy", |_| {
            running.filters() == filters
                && running.machine.kernel().call_count("FwpmEngineOpen0") == opened + 1
        });
        assert_eq!(running.engine.objects().sessions.len(), 1);
        faults.fail_always(&[], NONE);
    }
    running.end();
}

#[test]
fn an_unload_does_not_wait_for_the_next_try() {
    let running = Running::start();
    let faults = running.machine.faults();
    let status = Status::SERVER_UNAVAILABLE;
    running.restart_bfe(|| faults.fail_always(&["FwpmEngineOpen0"], refused(status)));
    for next in [500, 1000, 2000, 4000] {
        running.machine.kernel().pass(LONGEST);
        eventually(&running.trace, "the longest wait", |events| {
            changes(events).last().is_some_and(|(_, _, left)| *left == next)
        });
    }
    let before = Instant::now();
    running.end();
    assert!(before.elapsed() < LONGEST / 2, "{:?}", before.elapsed());
}

/// Another program holds the engine's lock, without limit.
#[test]
fn a_lock_that_another_program_holds_is_awaited_in_short_tries() {
    let running = Running::start();
    let engine = Arc::clone(&running.engine);
    // A session from before waits for the lock as long as one at the start does.
    running.restart_bfe(|| {});
    let session = other(&engine);
    assert_eq!(engine.transaction_begin(session, 0), Status::SUCCESS);
    running.trace.take();
    running.machine.set("Observe", 0);
    eventually(&running.trace, "the end of the wait for the lock", |events| {
        changes(events)
            .iter()
            .any(|(state, told, _)| (*state, *told) == ("Outdated", number(Status::FWP_TIMEOUT)))
    });
    assert_eq!(engine.transaction_abort(session), Status::SUCCESS);
    running.recovers("the lock is free", 6);
    assert_eq!(engine.close(session), Status::SUCCESS);
    running.end();
}
