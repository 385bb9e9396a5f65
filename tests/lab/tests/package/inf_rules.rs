//! The INF keeps every rule, and the check finds each broken rule.

use std::collections::BTreeSet;

use lab::package::Plan;
use lab::package::inf::Inf;
use lab::package::rules::{self, CLASS, Rule};
use lab::package::stamp::architecture;
use lab::setup::Target;

fn stamped(target: Target) -> String {
    Plan::new(target, "unused".into(), 0).stamp().unwrap()
}

fn broken(text: &str) -> BTreeSet<Rule> {
    rules::check(&Inf::parse(text).unwrap(), "amd64").iter().map(|fault| fault.rule).collect()
}

#[test]
fn the_inf_keeps_every_rule() {
    for target in Target::ALL {
        let faults = rules::check(&Inf::parse(&stamped(target)).unwrap(), architecture(target));
        assert!(faults.is_empty(), "{target:?}: {faults:#?}");
    }
    // The INF of one architecture is not valid for another.
    assert!(broken(&stamped(Target::Arm64)).contains(&Rule::Decoration));
}

#[test]
fn the_class_is_the_headers() {
    let path = lab::setup::root().join("tests/machine/facts/guids.json");
    let guids: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let guid = guids["SETUP_CLASS_WFPCALLOUTS"].as_str().unwrap();
    assert!(CLASS.1.eq_ignore_ascii_case(&format!("{{{guid}}}")));
}

/// Broken rule, old text, new text.
const CHANGES: &[(Rule, &str, &str)] = &[
    (Rule::Version, "$WINDOWS NT$", "$CHICAGO$"),
    (Rule::Version, "= WFPCALLOUTS", "= Net"),
    (Rule::Version, "{57465043", "{57465044"),
    (Rule::Version, "PnpLockdown = 1", "PnpLockdown = 0"),
    (Rule::Version, "PnpLockdown = 1", "PnpLockdown = 1\nPnpLockdown = 1"),
    (Rule::Version, "hushport.cat", "hushport.dat"),
    (Rule::Version, "PnpLockdown = 1", "PnpLockdown = 1\nLayoutFile = layout.inf"),
    (Rule::DriverVer, "DriverVer   = ", "DriverVer   = 1"),
    (Rule::DriverVer, "0.1.0.0", "0.1.0"),
    (Rule::DriverVer, "0.1.0.0", "0.1.0.65536"),
    (
        Rule::NoDevices,
        "[SourceDisksNames]",
        "[Manufacturer]\n%ProviderName% = Models,NTamd64\n[SourceDisksNames]",
    ),
    (Rule::Decoration, "[DefaultInstall.NTamd64]", "[DefaultInstall]"),
    (Rule::Decoration, "[DriverFiles]", "[DefaultInstall]\nCopyFiles = DriverFiles\n[DriverFiles]"),
    (Rule::Decoration, "[DriverFiles]", "[DefaultUninstall.NTamd64]\n[DriverFiles]"),
    (Rule::Declarative, "CopyFiles = DriverFiles", "CopyFiles = DriverFiles\nDelFiles = DriverFiles"),
    (Rule::Declarative, "CopyFiles = DriverFiles", "CopyFiles = DriverFiles\nDelReg = Parameters"),
    (Rule::Declarative, "CopyFiles = DriverFiles", "CopyFiles = DriverFiles\nBitReg = Parameters"),
    (Rule::Declarative, "AddService", "DelService = hushport\nAddService"),
    (Rule::Declarative, "[DriverFiles]", "[ClassInstall32]\nAddReg = Parameters\n[DriverFiles]"),
    (Rule::Declarative, "[DriverFiles]", "[DefaultInstall.NTamd64.CoInstallers]\nAddReg = x\n[DriverFiles]"),
    (Rule::Declarative, "ErrorControl", "LoadOrderGroup = NDIS\nErrorControl"),
    (Rule::Reference, "AddService = hushport,, Service", "AddService = hushport,, Servise"),
    (Rule::Reference, "AddReg        = Parameters", "AddReg        = Parameter"),
    (Rule::Reference, "CopyFiles = DriverFiles", "CopyFiles = Files"),
    (Rule::Token, "%ServiceName%", "%ServisName%"),
    (Rule::Token, "%ServiceName%", "hushport"),
    (Rule::Token, "%ServiceName%", "%ServiceName"),
    (Rule::File, "DefaultDestDir = 13", "DefaultDestDir = 12"),
    (Rule::File, "DefaultDestDir = 13", "DefaultDestDir = 13\nDriverFiles = 12"),
    (Rule::File, "hushport.sys = 1", "hushport.sys = 2"),
    (Rule::File, "hushport.sys = 1", "hushport.sys = 1\nother.dll = 1"),
    (Rule::File, "[DriverFiles]", "[DriverFiles]\nother.sys"),
    (Rule::Service, "%13%\\hushport.sys", "%12%\\hushport.sys"),
    (Rule::Service, "%13%\\hushport.sys", "%13%\\other.sys"),
    (Rule::Service, "ServiceType   = 1", "ServiceType   = 0x10"),
    (Rule::Service, "StartType     = 3", "StartType     = 4"),
    (Rule::Service, "hushport,, Service", "hushport, 2, Service"),
    (Rule::Service, "Service, EventLog", "Service"),
    (Rule::Reference, "AddReg = EventSource", "AddReg = EventSauce"),
    (Rule::Declarative, "AddReg = EventSource", "AddReg = EventSource\nDelReg = EventSource"),
    (Rule::EventSource, "EventMessageFile,    0x00020000, \"%13%", "EventMessageFile,    0x00020000, \"%12%"),
    (Rule::EventSource, "CategoryMessageFile, 0x00020000", "CategoryMessageFile, 0x00000000"),
    (Rule::EventSource, "CategoryCount,       0x00010001, 4", "CategoryCount,       0x00010001, 0"),
    (Rule::EventSource, "TypesSupported,      0x00010001, 7", "TypesSupported,      0x00010001, 31"),
    (Rule::EventSource, "HKR,, TypesSupported", "HKR, Other, TypesSupported"),
    (Rule::EventSource, "HKR,, TypesSupported", "HKR,, Other"),
    (Rule::Registry, "HKR, Parameters, Mode", "HKLM, Parameters, Mode"),
    (Rule::Registry, "HKR, Parameters, Mode", "HKR, , Mode"),
    (Rule::Registry, "HKR, Parameters, Observe", "HKR, Parameters, Mode"),
    (Rule::Registry, "0x00010003, 2", "0x00010001, 2"),
    (Rule::Registry, "0x00010003, 2", "0x00010003, two"),
];

/// Replaces a text in the first line that has it outside a comment.
///
/// # Panics
/// If no line has it.
fn changed(inf: &str, from: &str, to: &str) -> String {
    let has = |line: &&str| line.split(';').next().unwrap_or_default().contains(from);
    let line = inf.lines().position(|line| has(&line));
    let line = line.unwrap_or_else(|| panic!("the INF has no {from:?} outside comments"));
    let changed = |(index, text): (usize, &str)| match index == line {
        true => text.replacen(from, to, 1) + "\n",
        false => format!("{text}\n"),
    };
    let changed: String = inf.lines().enumerate().map(changed).collect();
    assert_ne!(changed, inf, "{from} -> {to} changes nothing");
    changed
}

#[test]
#[should_panic = "the INF has no"]
fn a_change_that_finds_nothing_is_no_change() {
    changed("; only = a comment\n[Version]\n", "only = a", "x");
}

#[test]
fn each_rule_can_be_broken() {
    let inf = stamped(Target::X64);
    assert_eq!(broken(&inf), BTreeSet::new(), "before anything is changed");
    for (rule, from, to) in CHANGES {
        let faults = broken(&changed(&inf, from, to));
        assert!(faults.contains(rule), "{rule:?}: {from} -> {to}: only {faults:?}");
    }
    let planted: BTreeSet<_> = CHANGES.iter().map(|(rule, ..)| *rule).collect();
    assert_eq!(planted, Rule::ALL.into());
}

/// Lines with registry values are excluded. A test beside the policy's table checks them.
#[test]
fn no_line_is_superfluous() {
    let inf = stamped(Target::X64);
    let lines: Vec<&str> = inf.lines().collect();
    let mut taken = 0;
    for (index, line) in lines.iter().enumerate() {
        let text = line.split(';').next().unwrap_or_default().trim();
        if text.is_empty() || text.starts_with("HKR,") {
            continue;
        }
        let rest: Vec<&str> =
            lines.iter().enumerate().filter(|(other, _)| *other != index).map(|(_, line)| *line).collect();
        let faulty = Inf::parse(&rest.join("\n")).map(|inf| !rules::check(&inf, "amd64").is_empty());
        assert!(faulty.unwrap_or(true), "no rule needs line {}: {line}", index + 1);
        taken += 1;
    }
    assert!(taken > 30, "{taken}");
}
