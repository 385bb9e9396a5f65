//! The scripts of `tests/vm` are consistent and run on PowerShell 5.1.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use sha1::{Digest, Sha1};
use uuid::Uuid;

use super::powershell::{Function, Script};
use super::{files, read};

const ENTRIES: [&str; 3] =
    ["tests/vm/Test-Hushport.ps1", "tests/vm/Start-TestMachine.ps1", "tests/vm/Watch-TestMachine.ps1"];
const PLAN: &str = "tests/vm/Hushport.State.psm1";
const TRACE: &str = "tests/vm/Hushport.Trace.psm1";

/// The modules and the scripts that run on Windows, by name. The Pester tests and
/// their mocks run in PowerShell 7 only.
fn scripts() -> BTreeMap<String, String> {
    let mut paths = files("tests/vm", "psm1");
    paths.retain(|path| !path.ends_with("Support.Tests.psm1"));
    paths.extend(ENTRIES.map(|entry| lab::setup::root().join(entry)));
    let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    paths.iter().map(|path| (name(path), std::fs::read_to_string(path).unwrap())).collect()
}

fn functions() -> BTreeMap<String, Function> {
    scripts().values().flat_map(|text| Script::parse(text).functions()).collect()
}

#[test]
fn every_script_holds_together() {
    assert_eq!(scripts().len(), 16);
    let known = functions();
    assert!(known.len() > 100, "{}", known.len());
    let mut wrong = Vec::new();
    for (name, text) in scripts() {
        let findings = Script::parse(&text).findings(&known);
        wrong.extend(findings.into_iter().map(|(line, what)| format!("{name}:{line}: {what}")));
        assert!(text.contains("Set-StrictMode -Version Latest\n$ErrorActionPreference = 'Stop'\n"), "{name}");
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Each text between a `from` and the next `to`.
fn between<'a>(text: &'a str, from: &str, to: &str) -> Vec<&'a str> {
    text.split(from).skip(1).filter_map(|rest| rest.split_once(to)).map(|(inner, _)| inner).collect()
}

/// Texts in single quotation marks.
fn quoted(text: &str) -> BTreeSet<String> {
    text.split('\'').skip(1).step_by(2).map(str::to_owned).collect()
}

/// A module can use its own functions and exported ones.
#[test]
fn modules_export_what_is_used_and_there() {
    let scripts = scripts();
    for (module, text) in scripts.iter().filter(|(name, _)| name.ends_with(".psm1")) {
        let exported = quoted(text.split_once("Export-ModuleMember -Function").unwrap().1);
        let exports = |name: &str| {
            let steps =
                exported.contains("Invoke-*Step") && name.starts_with("Invoke-") && name.ends_with("Step");
            exported.contains(name) || steps
        };
        let defined = Script::parse(text).functions();
        for name in exported.iter().filter(|name| !name.contains('*')) {
            assert!(defined.contains_key(name), "{module} exports {name}, which it does not define");
        }
        for (user, other) in scripts.iter().filter(|(user, _)| *user != module) {
            let own = Script::parse(other).functions();
            for (_, called) in Script::parse(other).called() {
                let used = defined.contains_key(&called) && !own.contains_key(&called);
                assert!(!used || exports(&called), "{user} uses {called}, which {module} does not export");
            }
        }
    }
}

/// The command line of the answer file is PowerShell, too.
#[test]
fn the_first_logon_finds_its_script() {
    let line = lab::vm::answer::FIRST_LOGON;
    let command = line.split_once("-Command \"").unwrap().1.strip_suffix('"').unwrap();
    let findings = Script::parse(command).findings(&BTreeMap::new());
    let own = |what: &str| what.contains("unknown command: &") || what.contains("$script");
    assert!(findings.iter().all(|(_, what)| own(what)), "{findings:?}");
    assert!(lab::setup::root().join("tests").join("vm/Start-TestMachine.ps1").is_file());
    assert!(command.contains("'vm\\Start-TestMachine.ps1'"));
}

#[test]
fn every_step_of_the_plans_is_there_and_every_step_in_a_plan() {
    let defined: BTreeSet<_> = functions()
        .into_keys()
        .filter_map(|name| Some(name.strip_prefix("Invoke-")?.strip_suffix("Step")?.to_owned()))
        .filter(|step| !step.is_empty())
        .collect();
    let text = read(PLAN);
    let mut planned = BTreeSet::new();
    for plan in ["function Get-Plan {", "function Get-HostedPlan {"] {
        planned.extend(quoted(between(&text, plan, "\n}")[0]));
    }
    // Options of steps are quoted there, too.
    planned.retain(|name| name.starts_with(char::is_uppercase));
    assert_eq!(planned, defined);
}

/// The provider's GUID by TraceLoggingProvider.h: the first 16 bytes of SHA-1 over a
/// name space and the name in upper case (UTF-16BE), as a UUID of version 5.
fn provider_id(name: &str) -> Uuid {
    let space = 0x482c_2db2_c390_47c8_87f8_1a15_bfc1_30fb_u128.to_be_bytes();
    let name: Vec<u8> = name.to_uppercase().encode_utf16().flat_map(u16::to_be_bytes).collect();
    let mut id = [0; 16];
    id.copy_from_slice(&Sha1::new().chain_update(space).chain_update(name).finalize()[..16]);
    id[7] = id[7] & 0x0f | 0x50;
    Uuid::from_bytes_le(id)
}

#[test]
fn the_trace_is_of_our_provider() {
    // The header's own example.
    assert_eq!(provider_id("MyCompany.MyComponent").to_string(), "ce5fa4ea-ab00-5402-8b76-9f76ac858fb5");
    assert!(read(TRACE).contains(&format!("'{{{}}}'", provider_id("Hushport"))));
    // The conformance driver's provider.
    let id = provider_id("HushportConformance");
    assert!(read("docs/CONFORMANCE.md").contains(&format!("`HushportConformance`, `{{{id}}}`")));
    let number = id.to_string().replace("-", "_");
    assert!(read("tests/conformance/src/events.rs").contains(&format!("0x{number}")));
}

#[test]
fn faults_that_would_stop_a_run_are_found() {
    let known = functions();
    for (text, what) in [
        ("if ($true) { Get-Date", "syntax"),
        ("Get-Date | | Out-String", "syntax"),
        ("$x = \"a", "syntax"),
        ("Get-Date && Get-Date", "syntax"),
        ("gci", "unknown command: gci"),
        ("Get-Dates", "unknown command: Get-Dates"),
        ("Get-Item -Paht 'x'", "Get-Item -Paht"),
        ("Set-PolicyValue -Name 'x'", "needs -Value"),
        ("Set-PolicyValue -Name 'x' -Value 1 -Kind 'y'", "has no -Kind"),
        ("Invoke-Program -Path 'regsvr32.exe'", "unknown program: regsvr32.exe"),
        ("function Make-It { Get-Date }", "approved verb"),
        ("Write-Host $nobody", "$nobody is never set"),
        ("function Get-It { $own = 1; $own }\nWrite-Host $own", "$own is never set"),
    ] {
        let findings = Script::parse(text).findings(&known);
        assert!(findings.iter().any(|(_, found)| found.contains(what)), "{text}: {findings:?}");
    }
}
