//! Calls of the engine that do not return, and releases that are refused for ever.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use lab::hushport::{self, LOOK, SERVICE};
use lab::setup::{self, Target};
use machine::Machine;
use machine::etw::Event;
use machine::faults::Faults;
use machine::nt::{Effect, Failure, Kernel, Options, Trace, foreign};
use machine::status::Status;
use machine::wfp::{BfeState, Engine};

use super::events::{eventually, named, session};

const fn refused(status: Status) -> Failure {
    Failure { status, effect: Effect::Refused }
}

const WORKING: Failure = refused(Status::UNSUCCESSFUL);
const MINUTE: Duration = Duration::from_secs(60);
/// The driver looks at its waits this often.
const LOOKS: Duration = Duration::from_secs(5);

struct Running {
    machine: Machine,
    engine: Arc<Engine>,
    kernel: Arc<Kernel>,
    faults: Arc<Faults>,
    trace: Trace,
}

impl Running {
    fn new() -> Self {
        let machine = hushport::machine(Options::default());
        machine.set("FlowLimit", 64);
        let (engine, kernel) = (Arc::clone(machine.engine()), Arc::clone(machine.kernel()));
        let (faults, trace) = (Arc::clone(machine.faults()), session(&machine));
        Self { machine, engine, kernel, faults, trace }
    }

    fn start() -> Self {
        let mut running = Self::new();
        running.machine.start(&setup::build(Target::X64).unwrap().sys).unwrap();
        assert!(running.kernel.let_threads_wait(Duration::from_secs(10)));
        running.trace.take();
        running
    }

    /// Lets time pass in the steps in which the driver looks at its waits.
    fn pass(&self, time: Duration) {
        for _ in 0..time.as_secs() / LOOKS.as_secs() {
            assert!(self.kernel.let_threads_wait(Duration::from_secs(10)));
            self.kernel.pass(LOOKS);
        }
        assert!(self.kernel.let_threads_wait(Duration::from_secs(10)));
    }

    /// The words of `WAITING` that are not 0, by their number: since when, in ms.
    fn words(&self) -> Vec<(usize, u64)> {
        let (at, symbol) = self.machine.image().unwrap().data("kernel::waiting::WAITING").unwrap();
        let bytes = foreign::read_bytes(at as usize, symbol.size as usize).unwrap();
        let words = bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()));
        words.enumerate().filter(|(_, since)| *since != 0).collect()
    }

    /// Checks that a wait is told after half a minute and again every minute, and then no
    /// more.
    fn expect_told(&self, awaited: &str, end: impl FnOnce(&Faults)) {
        let told = || told_of(&self.trace.events(), awaited);
        self.pass(Duration::from_secs(25));
        assert!(told().is_empty(), "{awaited}: {:?}", told());
        self.pass(Duration::from_secs(10));
        let first = told();
        assert!(matches!(first[..], [30..=40]), "{awaited}: {first:?}");
        self.pass(MINUTE);
        let second = told();
        assert!(matches!(second[..], [_, 90..=100]), "{awaited}: {second:?}");
        end(&self.faults);
        assert!(self.kernel.let_threads_wait(Duration::from_secs(10)));
        self.pass(2 * MINUTE);
        assert_eq!(told(), second, "{awaited}: it waits no more");
        self.trace.take();
    }

    fn filters(&self) -> usize {
        self.engine.objects().filters.len()
    }

    /// Stops the driver, which waits. `meanwhile` ends the wait.
    fn end(self, meanwhile: impl FnOnce(&dyn Fn(Duration), &Trace, &Faults)) {
        let Self { mut machine, kernel, faults, trace, .. } = self;
        let (ended, has_ended) = mpsc::channel();
        std::thread::scope(|scope| {
            let stopping = scope.spawn(move || {
                let left = machine.stop();
                ended.send(()).unwrap();
                (left, machine)
            });
            let pass = |time: Duration| {
                for _ in 0..time.as_secs() {
                    kernel.pass(Duration::from_secs(1));
                    std::thread::sleep(Duration::from_millis(2));
                }
            };
            meanwhile(&pass, &trace, &faults);
            has_ended.recv_timeout(Duration::from_secs(20)).expect("the driver ends");
            let (left, machine) = stopping.join().unwrap();
            assert!(left.unwrap().is_empty());
            assert!(machine.kernel().verifier().findings().is_empty());
        });
    }
}

/// The seconds of each event about this.
fn told_of(events: &[Event], awaited: &str) -> Vec<u64> {
    let waiting = named(events, "Waiting").into_iter();
    waiting.filter(|event| event.text("Awaited") == awaited).map(|event| event.number("Seconds")).collect()
}

/// Every call to the engine that the driver's thread makes. What it waits for is told while
/// it waits, and the driver works as soon as the call returns.
#[test]
fn an_engine_call_that_does_not_return_is_told() {
    let running = Running::start();
    for call in [
        "FwpmEngineOpen0",
        "FwpmTransactionBegin0",
        "FwpmProviderAdd0",
        "FwpmSubLayerAdd0",
        "FwpmCalloutAdd0",
        "FwpmFilterAdd0",
        "FwpmTransactionCommit0",
        "FwpmEngineClose0",
    ] {
        running.faults.block(&[call]);
        running.engine.set_bfe_state(BfeState::Stopped);
        running.engine.set_bfe_state(BfeState::Running);
        running.expect_told(call, |faults| faults.block(&[]));
        assert_eq!(running.filters(), 66, "{call}");
    }
    for (call, observe) in [("FwpmFilterDeleteByKey0", 0), ("FwpmTransactionAbort0", 1)] {
        running.faults.block(&[call]);
        if call == "FwpmTransactionAbort0" {
            running.faults.fail_next("FwpmTransactionCommit0", refused(Status::FWP_TXN_ABORTED));
        }
        running.machine.set("Observe", observe);
        running.kernel.pass(LOOK);
        running.expect_told(call, |faults| faults.block(&[]));
        assert_eq!(running.filters(), if observe == 1 { 66 } else { 6 }, "{call}");
    }
    running.end(|_, _, _| {});
}

/// The thread waits for the commit, and the unload for the thread. Packets are judged all the
/// same, and a session is told the driver's state.
#[test]
fn an_unload_waits_for_a_commit_and_says_so() {
    let running = Running::start();
    let commit = "FwpmTransactionCommit0";
    running.faults.block(&[commit]);
    running.machine.set("Observe", 0);
    running.pass(Duration::from_secs(40));
    let words = running.words();
    let [(number, since)] = words[..] else { panic!("{words:?}") };
    assert_eq!(number, 7, "docs/OBSERVE.md");
    let now = running.kernel.clock().since_start().as_millis() as u64;
    assert!((now.saturating_sub(60_000)..=now - 35_000).contains(&since), "{since}, now {now}");
    let rundown = session(&running.machine).events();
    assert_eq!(named(&rundown, "PolicyApplied").len(), 1);
    let kernel = Arc::clone(&running.kernel);
    running.end(|pass, trace, faults| {
        pass(Duration::from_secs(120));
        let events = trace.events();
        let (thread, call) = (told_of(&events, "DriverThread"), told_of(&events, commit));
        assert!(matches!(thread[..], [30..=40, 90..=105]), "{thread:?}");
        assert!(call.len() >= 2, "{call:?}");
        faults.block(&[]);
    });
    let entries = kernel.error_log();
    let messages = kernel.messages(SERVICE);
    let texts: Vec<_> = entries.iter().map(|entry| entry.text(&messages)).collect();
    for awaited in [commit, "DriverThread"] {
        let begin = format!("hushport has waited for {awaited} for 3");
        assert!(texts.iter().any(|text| text.starts_with(&begin)), "{begin}: {texts:?}");
    }
}

#[test]
fn a_release_that_is_refused_for_ever_is_told() {
    for call in ["FwpsCalloutUnregisterById0", "FwpmBfeStateUnsubscribeChanges0"] {
        for blocks in [false, true] {
            let running = Running::start();
            match blocks {
                true => running.faults.block(&[call]),
                false => running.faults.fail_always(&[call], refused(Status::DEVICE_BUSY)),
            }
            running.end(|pass, trace, faults| {
                pass(Duration::from_secs(100));
                let told = told_of(&trace.events(), call);
                assert!(matches!(told[..], [30..=40, 90..=100]), "{call}: {told:?}");
                faults.block(&[]);
                faults.fail_always(&[], WORKING);
            });
        }
    }
}

/// Also before the driver has started.
#[test]
fn a_start_that_waits_for_the_engine_says_so() {
    let mut running = Running::new();
    let commit = "FwpmTransactionCommit0";
    running.faults.block(&[commit]);
    let (kernel, faults) = (Arc::clone(&running.kernel), Arc::clone(&running.faults));
    std::thread::scope(|scope| {
        let machine = &mut running.machine;
        let starting = scope.spawn(|| machine.start(&setup::build(Target::X64).unwrap().sys));
        let told = || told_of(&running.trace.events(), commit);
        let end = std::time::Instant::now() + Duration::from_secs(20);
        while told().is_empty() {
            assert!(std::time::Instant::now() < end, "nothing is told");
            kernel.pass(Duration::from_secs(1));
            std::thread::sleep(Duration::from_millis(2));
        }
        assert!(told()[0] >= 30, "{:?}", told());
        faults.block(&[]);
        starting.join().unwrap().unwrap();
    });
    let said = |events: &[Event]| named(events, "PolicyApplied").len() == 2;
    eventually(&running.trace, "the policy, from the start and from the thread", said);
    running.end(|_, _, _| {});
}
