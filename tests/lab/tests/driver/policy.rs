//! Exemptions, refused values, and reload of the policy while the driver runs.

use lab::hushport::{self, LOOK, SERVICE};
use machine::Machine;
use machine::nt::registry::RegistryValue;
use machine::nt::{NblLayout, Options, Trace, parameters_key};
use machine::wfp::{Discard, LayerData, Metadata, Packet, Request, Value};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::events::{named, session};
use super::probe::{Bench, INTERFACE, Probe};
use super::support::eventually;

fn set(machine: &Machine, name: &str, value: RegistryValue) {
    machine.kernel().set_value(&parameters_key(SERVICE), name, value);
    machine.kernel().pass(LOOK);
}

fn list(entries: &[&str]) -> RegistryValue {
    RegistryValue::multi_sz(entries)
}

/// The number of the current policy. The driver counts them.
fn applied(machine: &Machine) -> u64 {
    let events = session(machine).events();
    named(&events, "PolicyApplied").last().map_or(0, |event| event.number("Number"))
}

/// Value, reason and entry of each PolicyRejected.
fn refused(trace: &Trace) -> Vec<(String, String, u64)> {
    let events = trace.events();
    let rejected = named(&events, "PolicyRejected").into_iter();
    let rows = rejected.map(|event| {
        let text = |field| event.text(field).to_owned();
        (text("Value"), text("Reason"), event.number("Entry"))
    });
    rows.collect()
}

/// A list is set before the driver starts, or while it runs.
#[test]
fn the_lists_exempt_from_the_start_and_live() {
    let luid = format!("{INTERFACE:#x}");
    for (name, entries, expected) in [
        ("ExemptPorts", ["22", "23/tcp"], ["ExemptPort"; 2]),
        ("ExemptPorts", ["0-22", "23/udp"], ["Silenced"; 2]),
        ("ExemptPrefixes", ["10.77.0.0/31", "fd77::/16"], ["ExemptPrefix"; 2]),
        ("ExemptPrefixes", ["10.77.0.0/32", "fd77::/16"], ["Silenced", "ExemptPrefix"]),
        ("ExemptPrefixes", ["::ffff:10.77.0.1", "::fffe:0:0/96"], ["ExemptPrefix", "Silenced"]),
        ("ExemptPrefixes", ["::ffff:10.77.0.0/120", "2001:db8::/32"], ["ExemptPrefix", "Silenced"]),
        ("ExemptInterfaces", ["0x6007000000000", &luid], ["ExemptInterface"; 2]),
        ("ExemptInterfaces", ["0x6007000000000", "0x18000000000000"], ["Silenced"; 2]),
        ("ExemptInterfaces", ["tunnel", "6"], ["ExemptInterface"; 2]),
        ("ExemptInterfaces", ["tunnel", "ppp"], ["Silenced"; 2]),
        ("ExemptProfiles", ["private", "Public"], ["ExemptProfile"; 2]),
        ("ExemptProfiles", ["private", "domain"], ["Silenced"; 2]),
    ] {
        for live in [false, true] {
            let machine = hushport::machine(Options::default());
            if !live {
                set(&machine, name, list(&entries));
            }
            let bench = Bench::start(machine);
            if live {
                let before = applied(&bench.machine);
                set(&bench.machine, name, list(&entries));
                // The driver's second reading may come between.
                eventually("applied", || applied(&bench.machine) > before);
            }
            for (family, expected) in ["V4", "V6"].into_iter().zip(expected) {
                let probe = Probe::syn(family);
                if live {
                    eventually(expected, || bench.ask(&probe).1 == expected);
                }
                let (decision, verdict) = bench.ask(&probe);
                assert_eq!(verdict, expected, "{name} {entries:?} {family}");
                assert_eq!(decision.blocked(), expected == "Silenced");
            }
            bench.end();
        }
    }
}

#[test]
fn at_the_start_a_refused_value_is_its_default_and_the_others_hold() {
    let machine = hushport::machine(Options::default());
    set(&machine, "Mode", RegistryValue::dword(1));
    set(&machine, "ExemptPorts", list(&["113", "8100-8000"]));
    set(&machine, "ExemptPrefixes", list(&["fd77::/16"]));
    let trace = session(&machine);
    let bench = Bench::start(machine);
    assert_eq!(bench.ask(&Probe::syn("V4")).1, "Audited");
    assert_eq!(bench.ask(&Probe::syn("V6")).1, "ExemptPrefix");
    assert_eq!(refused(&trace)[0], ("ExemptPorts".into(), "ReversedRange".into(), 2));
    drop(trace);
    bench.end();
}

#[test]
fn a_refused_value_leaves_the_last_good_policy_whole() {
    let bench = Bench::new(Options::default(), &[("Mode", 1)]);
    let audited = || bench.ask(&Probe::syn("V4")).1 == "Audited";
    eventually("the watch has begun", || applied(&bench.machine) == 2);
    let trace = session(&bench.machine);
    for (value, reason, entry) in [
        (RegistryValue::dword(1), "WrongType", 0),
        (list(&["10.0.0.0/8", "10.1.2.3/8"]), "HostBits", 2),
        (RegistryValue { kind: 7, data: vec![b'1', 0, 0] }, "OddLength", 0),
        (RegistryValue { kind: 7, data: vec![0x31; 0x20000] }, "TooLong", 0),
    ] {
        trace.take();
        set(&bench.machine, "ExemptPrefixes", value);
        eventually("refused", || !refused(&trace).is_empty());
        // A good value takes effect only when all values are good.
        set(&bench.machine, "SilenceTcp", RegistryValue::dword(0));
        eventually("refused", || refused(&trace).len() > 1);
        let last = ("ExemptPrefixes".into(), reason.into(), entry);
        assert_eq!(refused(&trace).last(), Some(&last));
        assert_eq!(applied(&bench.machine), 2);
        assert!(audited());
        set(&bench.machine, "SilenceTcp", RegistryValue::dword(1));
        eventually("refused", || refused(&trace).len() > 2);
    }
    drop(trace);
    set(&bench.machine, "Mode", RegistryValue::dword(0));
    bench.machine.kernel().delete_value(&parameters_key(SERVICE), "ExemptPrefixes");
    eventually("the new policy holds", || bench.ask(&Probe::syn("V4")).1 == "Off");
    bench.end();
}

#[test]
fn a_key_that_goes_means_the_defaults_and_comes_back() {
    let bench = Bench::new(Options::default(), &[("Mode", 1)]);
    let verdict = || bench.ask(&Probe::syn("V4")).1;
    assert_eq!(verdict(), "Audited");
    bench.machine.kernel().delete_key(&parameters_key(SERVICE));
    eventually("the default holds", || verdict() == "Silenced");
    bench.machine.set("Mode", 0);
    eventually("the new key is found", || verdict() == "Off");
    bench.machine.set("Mode", 1);
    eventually("and watched", || verdict() == "Audited");
    bench.end();
}

#[test]
fn without_values_the_driver_starts_and_ends() {
    for _ in 0..3 {
        Bench::start(hushport::machine(Options::default())).end();
    }
}

/// The driver looks for a missing key again and again, but applies the defaults once.
#[test]
fn a_key_that_stays_away_means_the_defaults_once() {
    let bench = Bench::start(hushport::machine(Options { own_time: true, ..Options::default() }));
    let kernel = bench.machine.kernel();
    let after = |seconds| {
        kernel.run_until(Duration::from_secs(seconds), Duration::MAX);
        applied(&bench.machine)
    };
    let first = after(10);
    kernel.delete_key(&parameters_key(SERVICE));
    assert_eq!([after(20), after(80)], [first + 1; 2]);
    bench.end();
}

/// Two processors classify while the policy changes. A policy that a classify still
/// reads is not freed: freed pool faults in the lab. The packets have many MDLs, so
/// reading them takes long.
#[test]
fn policies_change_under_packets() {
    let bench = Bench::new(Options { nbl_layout: NblLayout::Pieces(1), ..Options::default() }, &[]);
    let engine = bench.machine.engine();
    let bytes = [0; 2000];
    let done = AtomicBool::new(false);
    let stopped = || bench.machine.kernel().stopped().is_some();
    let ask = |family: &str, processor: u32| {
        let layer = engine.layer_by_name(&format!("INBOUND_TRANSPORT_{family}_DISCARD")).unwrap();
        let mut values = vec![Value::Empty; layer.fields];
        values[layer.field("IP_PROTOCOL").unwrap()] = Value::Uint8(6);
        values[layer.field("IP_LOCAL_PORT").unwrap()] = Value::Uint16(23);
        values[layer.field("IP_REMOTE_PORT").unwrap()] = Value::Uint16(40_000);
        let discard = Some(Discard { module: 1, reason: 4, filter_id: 0 });
        let metadata = Metadata { discard, transport_header_size: Some(20), ..Metadata::default() };
        let data = LayerData::Packet(Packet { bytes: &bytes, data_start: bytes.len() });
        let request = Request { layer: layer.id, values: &values, metadata: &metadata, data };
        let (mut blocked, mut passed) = (0, 0);
        while !done.load(Ordering::Relaxed) && !stopped() {
            let decision = bench
                .machine
                .kernel()
                .on_processor(processor, machine::nt::Irql::PASSIVE, |_| engine.classify(&request));
            match decision.blocked() {
                true => blocked += 1,
                false => passed += 1,
            }
        }
        (blocked, passed)
    };
    let counts = std::thread::scope(|scope| {
        let asking = [("V4", 0), ("V6", 1)].map(|(family, processor)| {
            scope.spawn({
                let ask = &ask;
                move || ask(family, processor)
            })
        });
        for round in 0..300 {
            let before = applied(&bench.machine);
            let ports: &[&str] = if round % 2 == 0 { &["23"] } else { &[] };
            set(&bench.machine, "ExemptPorts", list(ports));
            eventually("applied", || stopped() || applied(&bench.machine) > before);
        }
        done.store(true, Ordering::Relaxed);
        asking.map(|asking| asking.join().unwrap())
    });
    assert!(!stopped(), "{:?}", bench.machine.kernel().stopped());
    assert!(counts.iter().all(|(blocked, passed)| *blocked > 0 && *passed > 0), "{counts:?}");
    bench.end();
}
