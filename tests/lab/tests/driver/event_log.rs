//! What an administrator reads in the System event log.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use lab::hushport::{self, SERVICE};
use lab::policy::state::await_reading;
use lab::setup::{self, Target};
use lab::world::stronger;
use machine::Machine;
use machine::image::Messages;
use machine::nt::registry::RegistryValue;
use machine::nt::{Effect, Failure, Irql, Options};
use machine::status::Status;
use machine::wfp::{ActionType, BfeState};

use super::support::eventually;
use super::verdicts::{Decision, Kind, packet_to};

const TCP: u8 = 6;

fn start(values: &[(&str, u32)]) -> Machine {
    let mut machine = hushport::machine(Options::default());
    values.iter().for_each(|(name, value)| machine.set(name, *value));
    machine.start(&setup::build(Target::X64).unwrap().sys).unwrap();
    machine
}

fn stop(mut machine: Machine) -> Vec<String> {
    assert!(machine.kernel().verifier().findings().is_empty());
    assert!(machine.stop().unwrap().is_empty());
    log(&machine)
}

/// Every entry: event id, severity, category, and the text that Event Viewer shows.
fn log(machine: &Machine) -> Vec<String> {
    let (kernel, messages) = (machine.kernel(), machine.kernel().messages(SERVICE));
    let shown = kernel.error_log().into_iter().map(|entry| {
        assert_eq!(entry.source, SERVICE);
        let (category, text) = (entry.category(&messages).to_owned(), entry.text(&messages));
        format!("{} {} {category}: {text}", entry.id(), entry.severity())
    });
    shown.collect()
}

/// Waits until the driver's thread has read the last change of a value.
fn settle(machine: &Machine, value: &str) {
    let kernel = machine.kernel();
    await_reading(kernel, value, kernel.registry().changes()).unwrap();
}

/// Waits until the log has so many entries, and returns them.
fn entries(machine: &Machine, count: usize) -> Vec<String> {
    let kernel = machine.kernel();
    eventually(&format!("{count} entries"), || kernel.error_log().len() >= count);
    log(machine)
}

fn started(mode: u32) -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "1 Information Service: hushport {version} has started. Its mode is {mode} (0 off, 1 audit, 2 silence)."
    )
}

const STOPPED: &str = "2 Information Service: hushport has stopped. Closed ports answer again.";

/// Shows SYNs from a remote to 40 closed ports.
fn scan(machine: &Machine, remote: IpAddr) {
    let engine = machine.engine();
    machine.kernel().on_processor(0, Irql::DISPATCH, |_| {
        for port in 1000..1040 {
            let kind = Kind { tcp_flags: 2, ..Kind::of(TCP) };
            engine.classify(&packet_to(engine, Decision::TransportDiscard, kind, remote, port).request());
        }
    });
}

#[test]
fn start_and_stop_are_written() {
    for mode in [0, 1, 2] {
        assert_eq!(stop(start(&[("Mode", mode)])), [started(mode), STOPPED.to_owned()]);
    }
}

/// The start reads the registry, and the driver's thread reads it again at once.
#[test]
fn a_refused_value_is_written_once_and_again_after_each_change() {
    let machine = start(&[("Mode", 3), ("ScanPorts", 0)]);
    let refused = |value: &str, reason: &str, entry: u32, holds: &str| {
        format!(
            "3 Warning Policy: hushport refuses the value {value} (from: Registry): {reason}, entry {entry} \
             (0: the value as a whole). In force: {holds}."
        )
    };
    let mut expected = vec![
        started(2),
        refused("Mode", "OutOfRange", 0, "Default"),
        refused("ScanPorts", "OutOfRange", 0, "Default"),
    ];
    settle(&machine, "Mode");
    assert_eq!(log(&machine), expected);
    machine.set_value("ExemptPorts", RegistryValue::multi_sz(["22", "ssh"]));
    expected.extend([
        refused("Mode", "OutOfRange", 0, "LastPolicy"),
        refused("ExemptPorts", "BadPort", 2, "LastPolicy"),
        refused("ScanPorts", "OutOfRange", 0, "LastPolicy"),
    ]);
    assert_eq!(entries(&machine, expected.len()), expected);
    machine.set("Mode", 1);
    expected.push(refused("ExemptPorts", "BadPort", 2, "LastPolicyExceptMode"));
    expected.push(refused("ScanPorts", "OutOfRange", 0, "LastPolicyExceptMode"));
    assert_eq!(entries(&machine, expected.len()), expected);
    stop(machine);
}

#[test]
fn lost_protection_is_written_when_it_is_lost_and_when_it_is_back() {
    let lost = "4 Error Protection: The filter engine does not have the filters that hushport needs: \
                WaitingForBfe, status 0x00000000. Closed ports may answer. hushport keeps trying.";
    let regained = "5 Information Protection: The filter engine has all filters of hushport again.";
    let machine = start(&[]);
    for round in 0..2 {
        machine.engine().set_bfe_state(BfeState::Stopped);
        assert_eq!(entries(&machine, 2 + 2 * round).last().unwrap(), lost);
        machine.engine().set_bfe_state(BfeState::Running);
        assert_eq!(entries(&machine, 3 + 2 * round).last().unwrap(), regained);
    }
    assert_eq!(stop(machine).len(), 6);

    // At the start, after the entry about the start.
    let mut machine = hushport::machine(Options::default());
    machine.engine().set_bfe_state(BfeState::Stopped);
    machine.start(&setup::build(Target::X64).unwrap().sys).unwrap();
    assert_eq!(entries(&machine, 2), [started(2), lost.to_owned()]);
    machine.engine().set_bfe_state(BfeState::Running);
    assert_eq!(entries(&machine, 3)[2], regained);
    stop(machine);
}

#[test]
fn a_start_that_fails_writes_nothing() {
    let mut machine = hushport::machine(Options::default());
    let refused = Failure { status: Status::INSUFFICIENT_RESOURCES, effect: Effect::Refused };
    machine.faults().fail_always(&["FwpmTransactionCommit0"], refused);
    machine.start(&setup::build(Target::X64).unwrap().sys).unwrap_err();
    assert_eq!(log(&machine), [""; 0]);
}

#[test]
fn a_scan_names_remote_ports_time_and_technique() {
    let machine = start(&[("ScanWindowMs", 2_400)]);
    let remotes = [
        IpAddr::from(Ipv4Addr::new(198, 51, 100, 7)),
        IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 1, 0, 0, 7)),
    ];
    for (number, remote) in remotes.into_iter().enumerate() {
        scan(&machine, remote);
        let entry = entries(&machine, 2 + number).pop().unwrap();
        let head = format!("6 Warning Network: {remote} scans this machine: ");
        let rest = entry.strip_prefix(&head).unwrap_or_else(|| panic!("{entry}"));
        let (ports, rest) = rest.split_once(' ').unwrap();
        assert!((16..=50).contains(&ports.parse::<u32>().unwrap()), "{entry}");
        let expected = "closed ports in the last 4 seconds, by Syn. It has proven its address: no (if no, \
                        anybody can have forged it).";
        assert_eq!(rest, expected);
    }
    stop(machine);
}

/// 20 entries a minute, and one that sums up the rest.
#[test]
fn a_flood_of_entries_is_summed_up() {
    let machine = start(&[("ScanWindowMs", 2_400)]);
    // The start is the first entry of the minute.
    let remotes = (1..=25).map(|number| IpAddr::from(Ipv4Addr::new(203, 0, 113, number)));
    remotes.for_each(|remote| scan(&machine, remote));
    assert_eq!(entries(&machine, 20).len(), 20);
    let kernel = machine.kernel();
    eventually("the sum", || {
        kernel.clock().advance(Duration::from_secs(60));
        kernel.error_log().len() > 20
    });
    let log = log(&machine);
    let left_out = log[20].strip_prefix("9 Warning Service: hushport has left out ").unwrap();
    assert!(left_out.ends_with(" entries, because it writes at most 20 a minute."), "{left_out}");
    let count: u32 = left_out.split(' ').next().unwrap().parse().unwrap();
    assert!((1..=6).contains(&count), "{left_out}");
    let log = stop(machine);
    assert_eq!(log.last().unwrap(), STOPPED);
}

/// The stop is written even if the minute is full.
#[test]
fn the_stop_is_always_written_after_the_sum() {
    let machine = start(&[("ScanWindowMs", 2_400)]);
    (1..=25).for_each(|number| scan(&machine, Ipv4Addr::new(203, 0, 113, number).into()));
    entries(&machine, 20);
    let log = stop(machine);
    assert_eq!(log.last().unwrap(), STOPPED);
    let sums = log.iter().filter(|entry| entry.starts_with("9 ")).count();
    assert!(sums <= 1 && log.len() == 21 + sums, "{log:#?}");
}

#[test]
fn a_filter_that_overrules_the_driver_is_written_once_an_hour() {
    let mut machine = hushport::machine(Options::default());
    stronger::add(machine.engine(), ActionType::PERMIT).unwrap();
    machine.set("ScanWindowMs", 1_000);
    machine.set("ScanPorts", 65536);
    machine.start(&setup::build(Target::X64).unwrap().sys).unwrap();
    let remote = Ipv4Addr::new(198, 51, 100, 7).into();
    let overruled = |count| {
        format!(
            "7 Warning Protection: Another filter has permitted {count} packets to closed ports that hushport \
             would have silenced. Their senders got answers."
        )
    };
    machine.kernel().on_processor(0, Irql::DISPATCH, |_| {
        let engine = machine.engine();
        let kind = Kind { tcp_flags: 2, ..Kind::of(TCP) };
        engine.classify(&packet_to(engine, Decision::TransportDiscard, kind, remote, 9).request());
    });
    assert_eq!(entries(&machine, 2)[1], overruled(1));
    scan(&machine, remote);
    scan(&machine, remote);
    machine.kernel().clock().advance(Duration::from_secs(3_590));
    assert_eq!(log(&machine).len(), 2, "at most once an hour");
    machine.kernel().clock().advance(Duration::from_secs(20));
    assert_eq!(entries(&machine, 3)[2], overruled(80));
    stop(machine);
}

#[test]
fn the_log_can_be_switched_off_and_on() {
    let machine = start(&[("EventLog", 0)]);
    machine.set_value("ExemptPorts", RegistryValue::multi_sz(["ssh"]));
    settle(&machine, "ExemptPorts");
    assert_eq!(log(&machine), [""; 0]);
    machine.set("EventLog", 1);
    machine.set_value("ExemptPorts", RegistryValue::multi_sz(["22"]));
    settle(&machine, "ExemptPorts");
    assert_eq!(stop(machine), [STOPPED]);
}

/// The lab reports an entry whose message the file does not have.
#[test]
fn a_message_that_the_file_lacks_is_a_finding() {
    for (lost, detail) in [(2, "message 0x60000002"), (1, "name for category 1")] {
        let mut machine = start(&[]);
        let whole = machine.kernel().messages(SERVICE);
        let kept = whole.identifiers().filter(|identifier| identifier & 0xffff != lost);
        let kept: Messages =
            kept.map(|identifier| (identifier, whole.text(identifier).unwrap().to_owned())).collect();
        machine.kernel().set_messages(SERVICE, kept);
        let stop = machine.stop().unwrap_err().to_string();
        assert!(stop.contains("ERROR_LOG_ENTRY") && stop.contains(detail), "{stop}");
    }
}
