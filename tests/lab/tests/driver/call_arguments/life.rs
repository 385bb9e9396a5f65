//! A life of the driver in which it makes every call that it can make.

use lab::bench::indication::Subject;
use lab::bench::stage::Callouts;
use lab::hushport::{self, EVENT_PROVIDER, SERVICE};
use lab::setup::{self, Target};
use lab::traffic::Family;
use machine::etw::Enable;
use machine::faults::FALLIBLE;
use machine::nt::journal::Call;
use machine::nt::registry::RegistryValue;
use machine::nt::{Effect, Failure};
use machine::nt::{Irql, Options, Trace, parameters_key};
use machine::status::Status;
use machine::wfp::{BfeState, Engine};
use machine::{Machine, StartError};
use std::sync::Arc;

use super::super::support::eventually;
use super::table::{FIRST_WEIGHT, FIRST_WINDOW, PROCESSORS, SECOND_WEIGHT, SECOND_WINDOW};

/// A machine that records calls, and a session for events.
pub struct Living {
    machine: Machine,
    session: Trace,
}

impl Living {
    /// Makes a machine.
    pub fn new() -> Self {
        // Classifies run at the level of the calling thread.
        let options = Options { processors: PROCESSORS, classify_irql: Irql::PASSIVE, ..Options::default() };
        let machine = hushport::machine(options);
        for (name, number) in [
            ("SublayerWeight", FIRST_WEIGHT),
            ("ScanWindowMs", FIRST_WINDOW),
            ("FlowLimit", 64),
            ("Trace", 2),
            ("CheckOrder", 1),
        ] {
            machine.set(name, number);
        }
        let session = machine.kernel().trace(Enable::all(EVENT_PROVIDER), None);
        machine.kernel().journal().start();
        Self { machine, session }
    }

    pub fn engine(&self) -> Arc<Engine> {
        Arc::clone(self.machine.engine())
    }

    /// Starts the driver, changes BFE and the policy, shows traffic, and stops the
    /// driver. Returns its calls.
    pub fn live(mut self) -> Vec<Call> {
        self.start();
        self.follow_bfe();
        self.pass_traffic();
        self.reload();
        self.stop();
        let journal = self.machine.kernel().journal();
        assert_eq!(journal.lost(), 0);
        journal.take()
    }

    /// The engine refuses the first start, so the driver aborts a transaction. The
    /// second start comes before BFE runs.
    fn start(&mut self) {
        let sys = &setup::build(Target::X64).unwrap().sys;
        self.refuse("FwpmFilterAdd0");
        match self.machine.start(sys) {
            Err(StartError::Refused(Status::INSUFFICIENT_RESOURCES)) => {}
            other => panic!("{other:?}"),
        }
        self.machine.engine().set_bfe_state(BfeState::Stopped);
        self.machine.start(sys).unwrap();
    }

    fn follow_bfe(&self) {
        let engine = self.machine.engine();
        engine.set_bfe_state(BfeState::Running);
        eventually("filters when BFE runs", || engine.objects().filters.len() == 66);
        self.machine.set("SublayerWeight", SECOND_WEIGHT);
        self.await_policy("the second weight", |event| {
            event.number("SublayerWeight") == u64::from(SECOND_WEIGHT)
        });
        engine.set_bfe_state(BfeState::Stopped);
        eventually("no session without BFE", || engine.objects().sessions.is_empty());
        engine.set_bfe_state(BfeState::Running);
        eventually("filters when BFE runs again", || engine.objects().filters.len() == 66);
    }

    /// Shows TCP and UDP at every layer and at each IRQL. Flows begin and end; some
    /// last until the driver stops.
    fn pass_traffic(&self) {
        let callouts = Callouts::of(self.machine.kernel(), self.machine.engine()).unwrap();
        let engine = self.machine.engine();
        for irql in [Irql::PASSIVE, Irql::DISPATCH] {
            for family in [Family::V4, Family::V6] {
                for subject in [Subject::syn(family), Subject::datagram(family)] {
                    self.machine.kernel().on_processor(0, irql, |_| {
                        let ended = callouts.begin_flow(&subject).unwrap();
                        callouts.begin_flow(&subject).unwrap();
                        for layer in
                            callouts.layers().filter(|layer| layer.name.contains(&format!("_{family:?}")))
                        {
                            engine.classify(&subject.at(layer).request());
                        }
                        engine.flow_end(ended);
                    });
                }
            }
        }
    }

    /// Changes the policy and deletes its key.
    fn reload(&self) {
        let key = parameters_key(SERVICE);
        let engine = self.machine.engine();
        self.machine.set("ScanWindowMs", SECOND_WINDOW);
        self.await_policy("the second window", |event| {
            event.number("ScanWindowMs") == u64::from(SECOND_WINDOW)
        });
        self.machine.set_value("ExemptPrefixes", RegistryValue::multi_sz(["10.0.0.0/8", "fd00::/8"]));
        self.await_policy("prefixes", |event| event.number("ExemptPrefixes") == 2);
        self.machine.set_value("ExemptPorts", RegistryValue::multi_sz(["113/tcp", "53/udp"]));
        self.await_policy("ports", |event| event.number("ExemptPorts") == 2);
        self.machine.set("Observe", 0);
        eventually("filters go", || engine.objects().filters.len() == 6);
        self.machine.set("Observe", 1);
        eventually("filters come", || engine.objects().filters.len() == 66);
        self.machine.kernel().delete_key(&key);
        self.await_policy("the defaults", |event| event.number("ScanWindowMs") == 10_000);
    }

    /// The engine refuses one call of the stop. The driver waits and calls again.
    fn stop(&mut self) {
        self.refuse("FwpmBfeStateUnsubscribeChanges0");
        assert!(self.machine.stop().unwrap().is_empty());
        let kernel = self.machine.kernel();
        let injected = self.machine.faults().injected();
        let names: Vec<_> = injected.iter().map(|injection| FALLIBLE[injection.row].name).collect();
        assert_eq!(names, ["FwpmFilterAdd0", "FwpmBfeStateUnsubscribeChanges0"]);
        assert!(kernel.verifier().findings().is_empty(), "{:?}", kernel.verifier().findings());
    }

    fn refuse(&self, export: &str) {
        let failure = Failure { status: Status::INSUFFICIENT_RESOURCES, effect: Effect::Refused };
        self.machine.faults().fail_next(export, failure);
    }

    fn await_policy(&self, what: &str, holds: impl Fn(&machine::etw::Event) -> bool) {
        eventually(what, || {
            let events = self.session.events();
            events.iter().rfind(|event| event.name == "PolicyApplied").is_some_and(&holds)
        });
    }
}
