//! `Mode` 0 and 1 take effect even if other values are refused.

use lab::hushport::{self, LOOK, SERVICE};
use lab::policy::state::await_reading;
use machine::etw::Event;
use machine::nt::registry::RegistryValue;
use machine::nt::{Options, Trace, parameters_key};

use super::events::{named, session};
use super::probe::{Bench, Probe};

/// A started driver, and a session for its events.
struct Running {
    bench: Bench,
    trace: Trace,
}

impl Running {
    fn start(values: &[(&str, RegistryValue)]) -> Self {
        let machine = hushport::machine(Options::default());
        // The driver reads the values again when it begins to watch the key.
        machine.set("Trace", 1);
        for (name, value) in values {
            machine.set_value(name, value.clone());
        }
        let changes = machine.kernel().registry().changes();
        let trace = session(&machine);
        let bench = Bench::start(machine);
        super::events::eventually(&trace, "the first reading of the watch", |events| {
            events.iter().any(|event| event.text("Occasion") == "Change")
        });
        let running = Self { bench, trace };
        running.read("Mode", changes);
        running
    }

    fn read(&self, name: &str, change: u64) {
        await_reading(self.bench.machine.kernel(), name, change).unwrap();
    }

    /// Sets or deletes a value. Returns the policy events that follow.
    fn change(&self, name: &str, value: Option<RegistryValue>) -> Vec<Event> {
        self.trace.take();
        let (kernel, key) = (self.bench.machine.kernel(), parameters_key(SERVICE));
        match value {
            Some(value) => kernel.set_value(&key, name, value),
            None => kernel.delete_value(&key, name),
        };
        kernel.pass(LOOK);
        self.read(name, kernel.registry().changes());
        let mut events = self.trace.take();
        events.retain(|event| event.name.starts_with("Policy"));
        events
    }

    fn mode(&self, number: u32) -> Vec<Event> {
        self.change("Mode", Some(RegistryValue::dword(number)))
    }

    fn ports(&self, entry: &str) -> Vec<Event> {
        self.change("ExemptPorts", Some(RegistryValue::multi_sz([entry])))
    }

    /// The verdict on a SYN to port 23.
    fn verdict(&self) -> String {
        self.bench.ask(&Probe::syn("V4")).1
    }

    fn end(self) {
        drop(self.trace);
        self.bench.end();
    }
}

/// Value, reason and `Holds` of each PolicyRejected.
fn refused(events: &[Event]) -> Vec<[&str; 3]> {
    let rejected = named(events, "PolicyRejected").into_iter();
    rejected.map(|event| [event.text("Value"), event.text("Reason"), event.text("Holds")]).collect()
}

/// Mode and number of exempt ports of each PolicyApplied.
fn applied(events: &[Event]) -> Vec<(u64, u64)> {
    let applied = named(events, "PolicyApplied").into_iter();
    applied.map(|event| (event.number("Mode"), event.number("ExemptPorts"))).collect()
}

const EXCEPT: [&str; 3] = ["ExemptPorts", "BadPort", "LastPolicyExceptMode"];
const WHOLE: [&str; 3] = ["ExemptPorts", "BadPort", "LastPolicy"];

#[test]
fn it_can_always_be_switched_off_and_to_audit() {
    let running = Running::start(&[("ExemptPorts", RegistryValue::multi_sz(["22"]))]);
    let events = running.ports("ssh");
    assert_eq!((applied(&events), refused(&events)), (vec![], vec![WHOLE]));
    assert_eq!(running.verdict(), "Silenced");
    for (mode, verdict) in [(0, "Off"), (1, "Audited"), (0, "Off")] {
        let events = running.mode(mode);
        assert_eq!(applied(&events), [(mode.into(), 2)], "the last good list stays");
        assert_eq!(refused(&events), [EXCEPT]);
        assert_eq!(events[0].name, "PolicyApplied");
        assert_eq!(events[0].text("Occasion"), "Change");
        assert_eq!(running.verdict(), verdict);
        // An equal mode applies no new policy when the values are read again.
        let port = running.bench.machine.kernel().registry().changes() as u32 + 1;
        let events = running.change("DynamicPortStart", Some(RegistryValue::dword(port)));
        assert_eq!((applied(&events), refused(&events)), (vec![], vec![EXCEPT]));
    }
    // A second bad value, and a session that asks for the state.
    let events = running.change("ScanPorts", Some(RegistryValue::dword(0)));
    assert_eq!(refused(&events), [EXCEPT, ["ScanPorts", "OutOfRange", "LastPolicyExceptMode"]]);
    let asked = session(&running.bench.machine).events();
    assert_eq!((applied(&asked), refused(&asked)), (vec![(0, 2)], refused(&events)));
    running.change("ScanPorts", None);
    // All values are good again: the whole policy is applied, with the current mode.
    assert_eq!(applied(&running.ports("23/tcp")), [(0, 1)]);
    assert_eq!(applied(&running.mode(2)), [(2, 1)]);
    assert_eq!(running.verdict(), "ExemptPort");
    running.end();
}

#[test]
fn other_modes_wait_for_the_rest() {
    let running = Running::start(&[]);
    running.ports("ssh");
    running.mode(0);
    for value in [
        Some(RegistryValue::dword(2)),
        Some(RegistryValue::dword(3)),
        Some(RegistryValue::sz("1")),
        Some(RegistryValue { kind: 4, data: vec![1, 0] }),
        Some(RegistryValue { kind: 4, data: vec![1, 0, 0, 0, 0, 0, 0, 0, 0] }),
        None,
    ] {
        let events = running.change("Mode", value.clone());
        assert_eq!(applied(&events), [], "{value:?}");
        assert!(refused(&events).contains(&WHOLE), "{events:#?}");
        assert_eq!(running.verdict(), "Off", "{value:?}");
    }
    // Only a good Mode takes effect beside a bad value.
    assert_eq!(applied(&running.mode(1)), [(1, 0)]);
    assert_eq!(applied(&running.change("ExemptPorts", None)), [(1, 0)]);
    running.end();
}

#[test]
fn at_the_start_a_mode_takes_effect_beside_a_refused_value() {
    for (mode, verdict) in [(0, "Off"), (1, "Audited"), (2, "Silenced"), (3, "Silenced")] {
        let ports = RegistryValue::multi_sz(["ssh"]);
        let running = Running::start(&[("Mode", RegistryValue::dword(mode)), ("ExemptPorts", ports)]);
        assert_eq!(running.verdict(), verdict, "{mode}");
        let events = running.trace.events();
        let start: Vec<_> =
            events.iter().filter(|event| event.text("Occasion") == "Start").cloned().collect();
        let bad = [["Mode", "OutOfRange", "Default"], ["ExemptPorts", "BadPort", "Default"]];
        assert_eq!(refused(&start), &bad[usize::from(mode != 3)..], "{mode}");
        assert_eq!(applied(&start), [(mode.min(2).into(), 0)]);
        // The driver reads the values once more, and nothing changes.
        let again: Vec<_> =
            events.iter().filter(|event| event.text("Occasion") == "Change").cloned().collect();
        assert_eq!(applied(&again), []);
        let holds = if mode < 2 { EXCEPT } else { WHOLE };
        assert_eq!(refused(&again).last(), Some(&holds));
        running.end();
    }
}

/// `Mode` 0 takes effect even if the driver gets no memory. It says that the rest waits.
#[test]
fn it_can_be_switched_off_without_memory() {
    let running = Running::start(&[("ExemptPorts", RegistryValue::multi_sz(["22"]))]);
    running.bench.machine.kernel().pool().fail_above(0);
    let events = running.mode(0);
    let waits = ["*", "NoMemory", "LastPolicyExceptMode"];
    assert_eq!((applied(&events), refused(&events)), (vec![(0, 2)], vec![waits]));
    assert_eq!(running.verdict(), "Off");
    assert_eq!(applied(&running.mode(2)), []);
    running.bench.machine.kernel().pool().fail_above(usize::MAX);
    assert_eq!(applied(&running.ports("23/tcp")), [(2, 1)]);
    running.end();
}
