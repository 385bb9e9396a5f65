//! scan.py, the scanner for a test VM, against real sockets and the lab.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::process::{Command, Output};

use lab::setup::{self, Need, Target};
use lab::world::{Plan, World};
use machine::host::Application;
use machine::nt::registry::RegistryValue;
use machine::wire::Family;

fn scanner(arguments: &[&str]) -> Command {
    setup::ensure(&[Need::PYTHON]).unwrap();
    let mut command = Command::new("python3");
    command.arg(setup::root().join("tests/vm/scan.py")).args(arguments).args(["--patience", "1"]);
    command
}

fn closing_line(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().next_back().unwrap_or_default().to_owned()
}

/// Scans a host with the driver in Mode 0 and in Mode 2.
#[test]
fn the_scanner_tells_silence_from_an_answer() {
    let driver = &*setup::build(Target::X64).unwrap().sys;
    for (mode, right, wrong) in [(0, "answered", "silent"), (2, "silent", "answered")] {
        let values = vec![("Mode".to_owned(), RegistryValue::dword(mode))];
        let listen = vec![(80, Application::Http)];
        let mut world =
            World::start(&Plan { driver: Some(driver), values, listen, ..Plan::default() }).unwrap();
        for family in Family::BOTH {
            let host = world.address(family, 0).ip().to_string();
            let scan = |expect: &str| {
                let command = scanner(&[
                    &host, "--tcp", "22,113", "--udp", "33333", "--open", "80", "--expect", expect,
                ]);
                world.namespace.output(command).unwrap()
            };
            let output = scan(right);
            assert!(output.status.success(), "mode {mode}, {family}: {output:?}");
            assert_eq!(closing_line(&output), "1 passed, 0 failed");
            let output = scan(wrong);
            assert!(!output.status.success());
            assert_eq!(closing_line(&output), "0 passed, 1 failed");
        }
        assert!(world.machine.stop().unwrap().is_empty());
        world.host.stop().unwrap();
    }
}

/// Plays the VM's side of the protocol on this machine's ports.
#[test]
fn the_scanner_does_what_the_machine_asks_for() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let control = listener.local_addr().unwrap().port();
    // Ports that were free a moment ago.
    let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let vm = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut answers = BufReader::new(stream.try_clone().unwrap()).lines();
        let mut ask = |request: &str| {
            writeln!(&stream, "{request}").unwrap();
            answers.next().unwrap().unwrap()
        };
        let right = ask(&format!("answered tcp={tcp} udp={udp} open={control}"));
        let wrong = ask(&format!("silent tcp={tcp}"));
        writeln!(&stream, "done").unwrap();
        // Waits until scan.py has read it.
        _ = answers.next();
        (right, wrong)
    });
    let control = control.to_string();
    let arguments = ["127.0.0.1", "--control", &control, "--wait", "10", "--scans", "1"];
    let output = scanner(&arguments).output().unwrap();
    let (right, wrong) = vm.join().unwrap();
    assert_eq!((right.as_str(), wrong), ("ok", format!("failed tcp {tcp} is answered, not silent")));
    assert_eq!(closing_line(&output), "1 passed, 1 failed");
    assert!(!output.status.success());
}

/// A machine names its addresses. One that names others does not make them a target.
#[test]
fn the_scanner_scans_no_address_that_was_not_allowed() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let control = listener.local_addr().unwrap().port();
    // It can be reached over IPv6 as well.
    let other = TcpListener::bind((std::net::Ipv6Addr::LOCALHOST, control)).unwrap();
    let ask = |only: &str| {
        let control = control.to_string();
        let scanner = std::thread::spawn({
            let only = only.to_owned();
            move || {
                let arguments =
                    ["127.0.0.1", "--control", &control, "--wait", "10", "--scans", "1", "--only", &only];
                scanner(&arguments).output().unwrap()
            }
        });
        let (stream, _) = listener.accept().unwrap();
        writeln!(&stream, "families also=::1").unwrap();
        let answer = BufReader::new(stream.try_clone().unwrap()).lines().next().unwrap().unwrap();
        writeln!(&stream, "done").unwrap();
        assert!(scanner.join().unwrap().status.success() == (answer == "ok"));
        answer
    };
    assert_eq!(ask("::1"), "ok");
    other.set_nonblocking(true).unwrap();
    while other.accept().is_ok() {}
    assert_eq!(ask("fd77::2"), "failed no address of the other family is reached: ::1");
    assert!(other.accept().is_err(), "it was scanned");
}

/// What nmap says is read, and differences from what the machine asks for are faults.
#[test]
fn the_scanner_reads_nmaps_states() {
    let program = "import importlib.util, sys
spec = importlib.util.spec_from_file_location('scan', sys.argv[1])
scan = importlib.util.module_from_spec(spec)
spec.loader.exec_module(scan)
text = 'Host: 10.77.0.2 ()\\tStatus: Up\\nHost: 10.77.0.2 ()\\tPorts: 113/filtered/tcp//ident///, 9/open|filtered/udp/////\\tIgnored'
assert scan.nmap_ports(text) == {('tcp', 113): 'filtered', ('udp', 9): 'open|filtered'}, scan.nmap_ports(text)
assert scan.nmap_ports('# Nmap done') == {}
";
    setup::ensure(&[Need::PYTHON]).unwrap();
    let mut python = Command::new("python3");
    let output =
        python.args(["-B", "-c", program]).arg(setup::root().join("tests/vm/scan.py")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
