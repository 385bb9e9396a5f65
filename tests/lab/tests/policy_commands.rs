//! `cargo lab reg`, `up --set` and `trace --set` report the driver's answer.
//!
//! The exit status is 1 if the driver refuses a value.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Arc;

use lab::hushport;
use lab::policy::Assignment;
use lab::remote_registry::{Policy, Reply, Request, Served, ask_at, text};
use lab::setup::{self, Target};
use machine::Machine;
use machine::nt::Options;
use machine::nt::registry::RegistryValue;

/// A served registry with a driver behind it.
struct Up {
    served: Option<Served>,
    machine: Machine,
    path: PathBuf,
    _directory: tempfile::TempDir,
}

impl Up {
    fn new(values: &[&str]) -> Self {
        let sys = setup::build(Target::X64).unwrap().sys.as_path();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registry.sock");
        let mut machine = hushport::machine(Options::default());
        machine.set("Mode", 2);
        for value in values {
            let (name, value) = value.parse::<Assignment>().unwrap().resolve().unwrap();
            machine.set_value(&name, value);
        }
        machine.start(sys).unwrap();
        let served =
            Served::at(path.clone(), Arc::clone(machine.kernel()), hushport::SERVICE, Some(sys)).unwrap();
        Self { served: Some(served), machine, path, _directory: directory }
    }

    fn change(&self, values: &[&str]) -> (Reply, Policy) {
        let resolved = values.iter().map(|value| value.parse::<Assignment>().unwrap().resolve().unwrap());
        let changes = resolved.map(|(name, value)| (name, Some(value))).collect();
        let reply = ask_at(&self.path, &Request::Change(changes)).unwrap();
        assert_eq!(reply.failure, None);
        (reply.clone(), reply.policy.expect("a driver runs"))
    }

    fn end(mut self) {
        drop(self.served.take());
        assert!(self.machine.stop().unwrap().is_empty());
    }
}

fn in_force(policy: &Policy, name: &str) -> String {
    text(&policy.in_force[name])
}

#[test]
fn a_change_is_answered_with_what_is_in_force() {
    let up = Up::new(&["ExemptPorts=22"]);
    let (_, policy) = up.change(&["ExemptPorts=113,53/udp"]);
    assert!(policy.refused.is_empty());
    assert_eq!(in_force(&policy, "ExemptPorts"), "113,53/udp (REG_MULTI_SZ)");
    // The driver refuses this list. The last good list and mode stay in force.
    let (reply, policy) = up.change(&["ExemptPorts=113,ssh"]);
    let [refusal] = &policy.refused[..] else { panic!("{policy:?}") };
    assert_eq!((&*refusal.value, &*refusal.reason, refusal.entry), ("ExemptPorts", "BadPort", 2));
    let printed = refusal.text(&reply.values);
    assert!(
        printed.contains("entry 2 \"ssh\"") && printed.contains("22/tcp") && printed.contains("8000-8100"),
        "{printed}"
    );
    assert_eq!(in_force(&policy, "ExemptPorts"), "113,53/udp (REG_MULTI_SZ)");
    let (_, policy) = up.change(&["ScanPorts=5"]);
    assert_eq!(in_force(&policy, "ScanPorts"), "16 (REG_DWORD)");
    let (_, policy) = up.change(&["Mode=3"]);
    assert_eq!(policy.refused.len(), 2);
    assert_eq!(in_force(&policy, "Mode"), "2 (REG_DWORD)");
    // Mode 0 takes effect beside a refused value. One change of both values is
    // accepted.
    let (_, policy) = up.change(&["Mode=0"]);
    assert_eq!((policy.refused.len(), in_force(&policy, "Mode")), (1, "0 (REG_DWORD)".into()));
    assert_eq!(in_force(&policy, "ExemptPorts"), "113,53/udp (REG_MULTI_SZ)");
    let (_, policy) = up.change(&["Mode=2", "ExemptPorts=22/tcp"]);
    assert!(policy.refused.is_empty());
    for (name, expected) in
        [("Mode", "2 (REG_DWORD)"), ("ExemptPorts", "22/tcp (REG_MULTI_SZ)"), ("ScanPorts", "5 (REG_DWORD)")]
    {
        assert_eq!(in_force(&policy, name), expected);
    }
    up.end();
}

/// With `Trace` 0 the driver writes no events. The lab starts a second driver with
/// equal values and reports its answer.
#[test]
fn a_driver_that_reports_nothing_is_still_queried() {
    let up = Up::new(&["Trace=0", "ExemptPorts=22"]);
    let (_, policy) = up.change(&["ExemptPorts=80:443"]);
    assert_eq!((&*policy.refused[0].reason, policy.refused[0].entry), ("BadPort", 1));
    assert_eq!(in_force(&policy, "ExemptPorts"), "22 (REG_MULTI_SZ)");
    let (_, policy) = up.change(&["Mode=1"]);
    assert_eq!((policy.refused.len(), in_force(&policy, "Mode")), (1, "1 (REG_DWORD)".into()));
    let (_, policy) = up.change(&["ExemptPorts=80-443"]);
    assert!(policy.refused.is_empty());
    assert_eq!(in_force(&policy, "ExemptPorts"), "80-443 (REG_MULTI_SZ)");
    // Events are written again from here on.
    let (_, policy) = up.change(&["Trace=1"]);
    assert_eq!((in_force(&policy, "Trace"), policy.refused.len()), ("1 (REG_DWORD)".into(), 0));
    up.end();
}

#[test]
fn a_value_refused_at_the_start_is_its_default() {
    let up = Up::new(&["ExemptPorts=ssh", "Mode=1", "ExemptPrefixes=10.0.0.0/8"]);
    let (_, policy) = up.change(&["ScanWindowMs=0"]);
    assert_eq!(policy.refused.len(), 2);
    for (name, expected) in [
        ("ExemptPorts", RegistryValue::multi_sz([""; 0])),
        ("ExemptPrefixes", RegistryValue::multi_sz(["10.0.0.0/8"])),
        ("Mode", RegistryValue::dword(1)),
        ("ScanWindowMs", RegistryValue::dword(10_000)),
    ] {
        assert_eq!(policy.in_force[name], expected, "{name}");
    }
    up.end();
}

fn lab(arguments: &[&str]) -> (Output, String) {
    let output =
        Command::new(lab::setup::profile_directory().unwrap().join("lab")).args(arguments).output().unwrap();
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    (output, String::from_utf8(text).unwrap())
}

#[test]
fn commands_that_announce_values_exit_where_the_driver_refuses() {
    let capture = tempfile::NamedTempFile::new().unwrap();
    let path = capture.path().to_str().unwrap();
    for (command, values, expected) in [
        (&["up"][..], &["ExemptPorts=ssh"][..], &["entry 1 \"ssh\"", "BadPort", "its default, empty"][..]),
        (
            &["up"],
            &["Mode=0", "ExemptPrefixes=fd00::/8,10.1.2.3/8"],
            &["entry 2 \"10.1.2.3/8\"", "10.0.0.0/8"],
        ),
        (&["up"], &["Mode=3"], &["OutOfRange", "0 to 2", "its default, 2"]),
        (&["up"], &["Trace=0", "Mode=3"], &["OutOfRange", "0 to 2", "its default, 2"]),
        (&["up"], &["Mod=0"], &["did you mean Mode?"]),
        (&["trace", path], &["ExemptPorts=tcp/80"], &["BadProtocol", "80/tcp"]),
        (&["trace", path], &["Mod=0"], &["did you mean Mode?"]),
        (&["trace", path], &["Mode=off"], &["expected a number", "0 off"]),
    ] {
        let set = values.iter().flat_map(|value| ["--set", value]);
        let (output, printed) = lab(&command.iter().copied().chain(set).collect::<Vec<_>>());
        assert_eq!(output.status.code(), Some(1), "{command:?} {values:?}: {printed}");
        for part in expected {
            assert!(printed.contains(part), "{values:?}: {part:?} is missing in {printed}");
        }
    }
    // Names and types are checked first, so no host need be running.
    for (item, part) in [
        ("Mod=0", "did you mean Mode?"),
        ("ExemptPort", "did you mean ExemptPorts?"),
        ("Mode=off", "0 off, 1 count"),
        ("Mode:qword=1", "dword, sz or multi_sz"),
    ] {
        let (output, printed) = lab(&["reg", item]);
        assert!(output.status.code() == Some(1) && printed.contains(part), "{item}: {printed}");
    }
}
