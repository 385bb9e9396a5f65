//! The scripts for a test machine.

use std::collections::{BTreeMap, BTreeSet};

use sha1::{Digest, Sha1};
use uuid::Uuid;

use super::powershell::{Function, Script};
use super::{files, read};

const STEPS: &str = "tests/vm/Hushport.Steps.psm1";
const ENTRY: &str = "tests/vm/Test-Hushport.ps1";
const SHARED: &str = "tests/vm/Hushport.Vm.psm1";

fn scripts() -> Vec<String> {
    [SHARED, STEPS, ENTRY].map(read).into()
}

fn functions() -> BTreeMap<String, Function> {
    scripts().iter().flat_map(|text| Script::parse(text).functions()).collect()
}

#[test]
fn every_script_holds_together() {
    assert_eq!(files("tests/vm", "ps1").len() + files("tests/vm", "psm1").len(), 3);
    let known = functions();
    assert!(known.len() > 30, "{}", known.len());
    for text in scripts() {
        let findings = Script::parse(&text).findings(&known);
        assert!(findings.is_empty(), "{}\n{findings:#?}", text.lines().next().unwrap_or_default());
        assert!(text.contains("Set-StrictMode -Version Latest\n$ErrorActionPreference = 'Stop'\n"));
    }
}

/// Text between a line's first `from` and the `to` behind it, each time.
fn between<'a>(text: &'a str, from: &str, to: &str) -> Vec<&'a str> {
    text.split(from).skip(1).filter_map(|rest| rest.split_once(to)).map(|(inner, _)| inner).collect()
}

/// What stands in quotation marks.
fn quoted(text: &str) -> BTreeSet<String> {
    text.split('\'').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn modules_export_what_is_used_and_there() {
    let text = read(SHARED);
    let exported = quoted(between(&text, "Export-ModuleMember -Function @(", ")")[0]);
    let defined = Script::parse(&text).functions();
    for name in &exported {
        assert!(defined.contains_key(name), "{name} is exported, not defined");
    }
    let others = [STEPS, ENTRY].map(read).concat();
    for name in defined.keys().filter(|name| others.contains(name.as_str())) {
        assert!(exported.contains(name), "{name} is used, not exported");
    }
}

#[test]
fn every_step_of_the_plan_is_there_and_every_step_in_the_plan() {
    let text = read(ENTRY);
    let set = quoted(between(&text, "ValidateSet(", ")]")[0]);
    let defined: BTreeSet<_> = Script::parse(&read(STEPS))
        .functions()
        .into_keys()
        .filter_map(|name| Some(name.strip_prefix("Invoke-")?.strip_suffix("Step")?.to_owned()))
        .collect();
    assert_eq!(set, defined);
    let plan = between(&text, "function Get-Plan {", "\n}")[0];
    let planned = quoted(plan);
    let missing: Vec<_> = defined.difference(&planned).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// As TraceLoggingProvider.h describes it: SHA-1 over a name space and the
/// name in upper case, UTF-16BE; sixteen bytes of it, version 5.
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
    assert!(read(STEPS).contains(&format!("'{{{}}}'", provider_id("Hushport"))));
}

#[test]
fn what_a_run_would_stumble_over_is_found() {
    let known = functions();
    for (text, what) in [
        ("if ($true) { Get-Date", "syntax"),
        ("Get-Date | | Out-String", "syntax"),
        ("$x = \"a", "syntax"),
        ("Get-Date && Get-Date", "syntax"),
        ("gci", "nothing is known of gci"),
        ("Get-Dates", "nothing is known of Get-Dates"),
        ("Get-Item -Paht 'x'", "Get-Item -Paht"),
        ("Set-PolicyValue -Name 'x'", "wants -Value"),
        ("Set-PolicyValue -Name 'x' -Value 1 -Kind 'y'", "has no -Kind"),
        ("Invoke-Program -Path 'regsvr32.exe'", "nothing is known of regsvr32.exe"),
        ("function Make-It { Get-Date }", "approved verb"),
        ("Write-Host $nobody", "$nobody is never set"),
        ("function Get-It { $own = 1; $own }\nWrite-Host $own", "$own is never set"),
    ] {
        let findings = Script::parse(text).findings(&known);
        assert!(findings.iter().any(|(_, found)| found.contains(what)), "{text}: {findings:?}");
    }
}
