//! Values of Group Policy override the service's own, and the key may come and go.

use lab::hushport;
use lab::policy::state::await_reading;
use lab::setup::{self, Target};
use machine::Machine;
use machine::etw::Event;
use machine::nt::Options;
use machine::nt::registry::RegistryValue;

use super::events::{named, session};
use super::support::eventually;

const KEY: &str = r"\Registry\Machine\SOFTWARE\Policies\hushport";

fn driver() -> Machine {
    hushport::machine(Options::default())
}

fn start(machine: &mut Machine) {
    machine.start(&setup::build(Target::X64).unwrap().sys).unwrap();
}

fn set(machine: &Machine, name: &str, value: RegistryValue) {
    machine.kernel().set_value(KEY, name, value);
}

/// Waits until the driver has read the last change.
fn settle(machine: &Machine) {
    let kernel = machine.kernel();
    await_reading(kernel, "Mode", kernel.registry().changes()).unwrap();
}

/// The policy that the driver reports to a new session.
fn applied(machine: &Machine) -> Event {
    named(&session(machine).events(), "PolicyApplied").last().map(|event| (*event).clone()).unwrap()
}

/// Value, reason and source of each refused value.
fn refused(machine: &Machine) -> Vec<[String; 4]> {
    let events = session(machine).events();
    let rejected = named(&events, "PolicyRejected").into_iter();
    rejected
        .map(|event| ["Value", "Reason", "Source", "Holds"].map(|field| event.text(field).to_owned()))
        .collect()
}

fn stop(mut machine: Machine) {
    assert!(machine.kernel().verifier().findings().is_empty());
    assert!(machine.stop().unwrap().is_empty());
}

#[test]
fn each_value_of_the_policy_key_overrides_the_services_own() {
    let mut machine = driver();
    machine.set("Mode", 2);
    machine.set("ScanPorts", 20);
    machine.set_value("ExemptPorts", RegistryValue::multi_sz(["1", "2", "3"]));
    set(&machine, "Mode", RegistryValue::dword(1));
    set(&machine, "ExemptPorts", RegistryValue::multi_sz(["113/tcp"]));
    start(&mut machine);
    let event = applied(&machine);
    assert_eq!((event.number("Mode"), event.number("ScanPorts"), event.number("ExemptPorts")), (1, 20, 1));
    assert_eq!(event.text("GroupPolicy"), "Mode,ExemptPorts");
    stop(machine);
}

#[test]
fn the_key_appears_changes_and_disappears() {
    let mut machine = driver();
    machine.set("Mode", 1);
    start(&mut machine);
    let event = applied(&machine);
    assert_eq!((event.number("Mode"), event.text("GroupPolicy")), (1, ""));
    for round in 0..2 {
        set(&machine, "Mode", RegistryValue::dword(round));
        set(&machine, "SilenceEcho", RegistryValue::dword(1));
        settle(&machine);
        let event = applied(&machine);
        assert_eq!((event.number("Mode"), event.text("GroupPolicy")), (round.into(), "Mode,SilenceEcho"));
        // The service's own value changes meanwhile, and holds when the policy is gone.
        machine.set("Mode", 2 - round);
        machine.kernel().delete_value(KEY, "SilenceEcho");
        settle(&machine);
        let event = applied(&machine);
        assert_eq!((event.number("Mode"), event.text("GroupPolicy")), (round.into(), "Mode"));
        machine.kernel().delete_key(KEY);
        eventually("the service's own value", || {
            let event = applied(&machine);
            (event.number("Mode"), event.text("GroupPolicy")) == (u64::from(2 - round), "")
        });
    }
    stop(machine);
}

/// What is refused in the policy key keeps the whole policy from before.
#[test]
fn hostile_values_of_the_policy_key_are_refused() {
    let mut machine = driver();
    machine.set("ScanPorts", 20);
    start(&mut machine);
    settle(&machine);
    for (value, reason) in [
        (RegistryValue::dword(3), "OutOfRange"),
        (RegistryValue { kind: 4, data: vec![1] }, "WrongLength"),
        (RegistryValue { kind: 1, data: vec![0x31, 0, 0, 0] }, "WrongType"),
        (RegistryValue { kind: 4, data: vec![0; 1 << 17] }, "TooLong"),
        (RegistryValue { kind: 4, data: Vec::new() }, "WrongLength"),
    ] {
        set(&machine, "Mode", value);
        machine.set("ScanPorts", 30);
        settle(&machine);
        let row = ["Mode", reason, "GroupPolicy", "LastPolicy"].map(str::to_owned);
        assert_eq!(refused(&machine), [row]);
        let event = applied(&machine);
        assert_eq!((event.number("Mode"), event.number("ScanPorts")), (2, 20), "{reason}");
    }
    machine.kernel().delete_key(KEY);
    eventually("the service's own values", || applied(&machine).number("ScanPorts") == 30);
    assert!(refused(&machine).is_empty());
    stop(machine);
}

/// Mode 0 and 1 take effect even if another value is refused, from either key.
#[test]
fn a_mode_of_the_policy_key_takes_effect_alone() {
    let mut machine = driver();
    start(&mut machine);
    settle(&machine);
    machine.set_value("ExemptPorts", RegistryValue::multi_sz(["ssh"]));
    set(&machine, "Mode", RegistryValue::dword(1));
    settle(&machine);
    let event = applied(&machine);
    assert_eq!((event.number("Mode"), event.text("GroupPolicy")), (1, "Mode"));
    let row = ["ExemptPorts", "BadPort", "Registry", "LastPolicyExceptMode"].map(str::to_owned);
    assert_eq!(refused(&machine), [row]);
    stop(machine);
}
