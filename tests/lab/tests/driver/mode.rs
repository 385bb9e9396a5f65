//! `Mode` 0 and 1 take effect whatever else is refused, and the events say so.

use lab::hushport::{self, SERVICE};
use lab::policy::state::await_reading;
use machine::etw::Event;
use machine::nt::registry::RegistryValue;
use machine::nt::{Options, Trace, parameters_key};

use super::events::{named, session};
use super::probe::{Bench, Probe};

/// A started driver, and a session that hears what it says.
struct Told {
    bench: Bench,
    trace: Trace,
}

impl Told {
    fn start(values: &[(&str, RegistryValue)]) -> Self {
        let machine = hushport::machine(Options::default());
        // Read once more when the watch begins.
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
        let told = Self { bench, trace };
        told.read("Mode", changes);
        told
    }

    fn read(&self, name: &str, change: u64) {
        await_reading(self.bench.machine.kernel(), name, change).unwrap();
    }

    /// Sets or deletes a value; what the driver says about it.
    fn change(&self, name: &str, value: Option<RegistryValue>) -> Vec<Event> {
        self.trace.take();
        let (kernel, key) = (self.bench.machine.kernel(), parameters_key(SERVICE));
        match value {
            Some(value) => kernel.set_value(&key, name, value),
            None => kernel.delete_value(&key, name),
        };
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

    /// What becomes of a SYN to port 23.
    fn verdict(&self) -> String {
        self.bench.ask(&Probe::syn("V4")).1
    }

    fn end(self) {
        drop(self.trace);
        self.bench.end();
    }
}

/// The refusals among the events: value, reason, and what is in force instead.
fn refused(events: &[Event]) -> Vec<[&str; 3]> {
    let rejected = named(events, "PolicyRejected").into_iter();
    rejected.map(|event| [event.text("Value"), event.text("Reason"), event.text("Holds")]).collect()
}

/// Mode and number of exempt ports of the policies that were put in force.
fn applied(events: &[Event]) -> Vec<(u64, u64)> {
    let applied = named(events, "PolicyApplied").into_iter();
    applied.map(|event| (event.number("Mode"), event.number("ExemptPorts"))).collect()
}

const EXCEPT: [&str; 3] = ["ExemptPorts", "BadPort", "LastPolicyExceptMode"];
const WHOLE: [&str; 3] = ["ExemptPorts", "BadPort", "LastPolicy"];

#[test]
fn it_can_always_be_switched_off_and_to_audit() {
    let told = Told::start(&[("ExemptPorts", RegistryValue::multi_sz(["22"]))]);
    let events = told.ports("ssh");
    assert_eq!((applied(&events), refused(&events)), (vec![], vec![WHOLE]));
    assert_eq!(told.verdict(), "Silenced");
    for (mode, verdict) in [(0, "Off"), (1, "Audited"), (0, "Off")] {
        let events = told.mode(mode);
        assert_eq!(applied(&events), [(mode.into(), 2)], "the last good list stays");
        assert_eq!(refused(&events), [EXCEPT]);
        assert_eq!(events[0].name, "PolicyApplied");
        assert_eq!(events[0].text("Occasion"), "Change");
        assert_eq!(told.verdict(), verdict);
        // The same again is no other policy.
        let events = told.mode(mode);
        assert_eq!((applied(&events), refused(&events)), (vec![], vec![EXCEPT]));
    }
    // Another bad value beside the first, and a session that asks.
    let events = told.change("ScanPorts", Some(RegistryValue::dword(0)));
    assert_eq!(refused(&events), [EXCEPT, ["ScanPorts", "OutOfRange", "LastPolicyExceptMode"]]);
    let asked = session(&told.bench.machine).events();
    assert_eq!((applied(&asked), refused(&asked)), (vec![(0, 2)], refused(&events)));
    told.change("ScanPorts", None);
    // All good again: the whole of it, with the mode as it is.
    assert_eq!(applied(&told.ports("23/tcp")), [(0, 1)]);
    assert_eq!(applied(&told.mode(2)), [(2, 1)]);
    assert_eq!(told.verdict(), "ExemptPort");
    told.end();
}

#[test]
fn other_modes_wait_for_the_rest() {
    let told = Told::start(&[]);
    told.ports("ssh");
    told.mode(0);
    for value in [
        Some(RegistryValue::dword(2)),
        Some(RegistryValue::dword(3)),
        Some(RegistryValue::sz("1")),
        Some(RegistryValue { kind: 4, data: vec![1, 0] }),
        Some(RegistryValue { kind: 4, data: vec![1, 0, 0, 0, 0, 0, 0, 0, 0] }),
        None,
    ] {
        let events = told.change("Mode", value.clone());
        assert_eq!(applied(&events), [], "{value:?}");
        assert!(refused(&events).contains(&WHOLE), "{events:#?}");
        assert_eq!(told.verdict(), "Off", "{value:?}");
    }
    // Nothing but a good Mode beside bad ones.
    assert_eq!(applied(&told.mode(1)), [(1, 0)]);
    assert_eq!(applied(&told.change("ExemptPorts", None)), [(1, 0)]);
    told.end();
}

#[test]
fn at_the_start_a_mode_takes_effect_beside_a_refused_value() {
    for (mode, verdict) in [(0, "Off"), (1, "Audited"), (2, "Silenced"), (3, "Silenced")] {
        let ports = RegistryValue::multi_sz(["ssh"]);
        let told = Told::start(&[("Mode", RegistryValue::dword(mode)), ("ExemptPorts", ports)]);
        assert_eq!(told.verdict(), verdict, "{mode}");
        let events = told.trace.events();
        let start: Vec<_> =
            events.iter().filter(|event| event.text("Occasion") == "Start").cloned().collect();
        let bad = [["Mode", "OutOfRange", "Default"], ["ExemptPorts", "BadPort", "Default"]];
        assert_eq!(refused(&start), &bad[usize::from(mode != 3)..], "{mode}");
        assert_eq!(applied(&start), [(mode.min(2).into(), 0)]);
        // The watch reads the same once more, and nothing changes.
        let again: Vec<_> =
            events.iter().filter(|event| event.text("Occasion") == "Change").cloned().collect();
        assert_eq!(applied(&again), []);
        let holds = if mode < 2 { EXCEPT } else { WHOLE };
        assert_eq!(refused(&again).last(), Some(&holds));
        told.end();
    }
}

/// A driver that gets no memory can be switched off, too.
#[test]
fn it_can_be_switched_off_without_memory() {
    let told = Told::start(&[("ExemptPorts", RegistryValue::multi_sz(["22"]))]);
    told.bench.machine.kernel().pool().fail_above(0);
    let events = told.mode(0);
    assert_eq!((applied(&events), refused(&events)), (vec![(0, 2)], vec![]));
    assert_eq!(told.verdict(), "Off");
    assert_eq!(applied(&told.mode(2)), []);
    told.bench.machine.kernel().pool().fail_above(usize::MAX);
    assert_eq!(applied(&told.ports("23/tcp")), [(2, 1)]);
    told.end();
}
