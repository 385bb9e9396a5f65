//! Registry answers that lie about a length, or change between two queries.

use std::time::{Duration, Instant};

use lab::hushport::{self, LOOK, SERVICE};
use machine::etw::Event;
use machine::nt::registry::{RegistryValue, Reply};
use machine::nt::{Options, Trace, parameters_key};

use super::events::{session, settled};
use super::probe::{Bench, Probe};

/// The value whose answers are scripted.
const PORTS: &str = "ExemptPorts";

fn list(entries: &[&str]) -> RegistryValue {
    RegistryValue::multi_sz(entries)
}

/// A list of `entries` ports, among them the port of the probe.
fn long_list(entries: u16) -> RegistryValue {
    let ports: Vec<_> = (0..entries).map(|number| (23 + 2 * number).to_string()).collect();
    RegistryValue::multi_sz(ports)
}

/// Lets the driver read its values with these replies. Returns its policy event.
fn read_with(bench: &Bench, trace: &Trace, replies: Vec<Reply>) -> Event {
    let kernel = bench.machine.kernel();
    trace.take();
    kernel.registry().script(&parameters_key(SERVICE), PORTS, replies);
    // After any change the driver reads all values.
    let ports = kernel.registry().changes() as u32 % 100 + 1;
    bench.machine.set("ScanPorts", ports);
    kernel.pass(LOOK);
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let events = trace.events().into_iter();
        let mut events = events.filter(|event| ["PolicyApplied", "PolicyRejected"].contains(&&*event.name));
        if let Some(event) = events.next() {
            return event;
        }
        assert!(Instant::now() < end, "the driver does not read its values");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn refused(event: &Event) -> (&str, &str) {
    assert_eq!(event.name, "PolicyRejected");
    (event.text("Value"), event.text("Reason"))
}

/// A running driver whose policy exempts the probe's port.
fn exempting() -> (Bench, Trace) {
    let machine = hushport::machine(Options::default());
    machine.set_value(PORTS, list(&["23"]));
    let bench = Bench::start(machine);
    let trace = session(&bench.machine);
    settled(&trace);
    (bench, trace)
}

fn verdict(bench: &Bench) -> String {
    bench.ask(&Probe::syn("V4")).1
}

/// The registry succeeds with a length beyond the buffer. The driver reads nothing
/// behind the buffer and refuses the value.
#[test]
fn a_value_that_claims_to_be_longer_than_its_room_is_refused() {
    let (bench, trace) = exempting();
    for claimed in [1 << 17, (1 << 20) + 2, u32::MAX - 1, u32::MAX] {
        let reply = Reply::Claims { value: list(&["23"]), length: claimed };
        let event = read_with(&bench, &trace, vec![reply]);
        assert_eq!(refused(&event), (PORTS, "TooLong"), "{claimed:#x}");
        assert_eq!(verdict(&bench), "ExemptPort", "the last good policy stays");
    }
    drop(trace);
    bench.end();
}

/// The driver reads no further than the length that the registry gives. The buffer
/// may still hold the end of an earlier value.
#[test]
fn a_value_that_claims_to_be_shorter_is_read_no_further() {
    let (bench, trace) = exempting();
    // "24", and "23" behind the claimed end.
    let value = list(&["24", "23"]);
    let ends_after_the_first = Reply::Claims { value: value.clone(), length: 6 };
    let event = read_with(&bench, &trace, vec![ends_after_the_first]);
    match &*event.name {
        "PolicyApplied" => assert_eq!(verdict(&bench), "Silenced"),
        _ => assert_eq!(verdict(&bench), "ExemptPort", "the last good policy stays"),
    }
    drop(trace);
    bench.end();
}

/// Each query of the value returns another value. The driver takes one of them,
/// whole.
#[test]
fn a_value_that_changes_between_two_queries_is_one_or_the_other() {
    let (bench, trace) = exempting();
    let long = long_list(60);
    let other_type = RegistryValue::dword(23);
    let endless = RegistryValue { kind: 7, data: vec![0x31; 1 << 17] };
    let none = list(&[]);
    for replies in [
        vec![none.clone(), long.clone()],
        vec![long.clone(), none.clone()],
        vec![list(&["24"]), endless.clone()],
        vec![endless.clone(), list(&["24"])],
        vec![list(&["24"]), other_type.clone()],
        vec![other_type, list(&["24"]), long],
        vec![list(&["24"]), none],
    ] {
        // More replies than the driver has queries.
        let changing = replies.iter().cloned().cycle().take(6 * replies.len()).map(Reply::Value).collect();
        let event = read_with(&bench, &trace, changing);
        let exempts = |value: &RegistryValue| *value == list(&["23"]) || *value == long_list(60);
        let possible: Vec<_> =
            replies.iter().map(|value| if exempts(value) { "ExemptPort" } else { "Silenced" }).collect();
        let verdict = verdict(&bench);
        match &*event.name {
            "PolicyApplied" => assert!(possible.contains(&&*verdict), "{verdict} of {replies:?}"),
            _ => assert!(["WrongType", "TooLong"].contains(&refused(&event).1), "{event:?}"),
        }
        // Back to what is stored.
        read_with(&bench, &trace, Vec::new());
    }
    drop(trace);
    bench.end();
}
