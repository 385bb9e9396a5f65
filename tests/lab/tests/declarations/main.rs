//! Every declaration of the driver equals the one in the WDK.
//!
//! This compares bindgen's output for the current build with tables taken from the
//! WDK's headers. The compiler checks bindgen's layout assertions for the target, so
//! their numbers are the driver's layouts.
//!
//! Under `cargo lab wdk` bindgen reads the WDK's own headers. Then only the names in
//! `src/ffi/wdk.h` are compared.

mod compare;
mod declared;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeSet;

use declared::Declared;
use lab::setup::{self, Target};
use support::facts;

/// Declarations that no table has: name, and source or reason.
const REASONS: &[(&str, &str)] = &[
    ("RPC_C_AUTHN_WINNT", "rpcdce.h, a header of user mode: 10"),
    ("EVENT_CONTROL_CODE_DISABLE_PROVIDER", "evntrace.h, a header of user mode: 0"),
    ("EVENT_CONTROL_CODE_ENABLE_PROVIDER", "evntrace.h: 1"),
    ("EVENT_CONTROL_CODE_CAPTURE_STATE", "evntrace.h: 2"),
    ("ETWENABLECALLBACK", "wdm.h; the tables give its parameters as a callback's"),
    ("LPCGUID", "guiddef.h: const GUID *"),
    ("DRIVER_REGKEY_TYPE", "wdm.h; the tables give its use (IoOpenDriverRegistryKey), not its values: 0, 1"),
    ("FWP_ACTION_TYPE", "fwptypes.h: UINT32"),
    ("CCHAR", "ntdef.h: char"),
    ("CHAR", "ntdef.h: char"),
    ("CSHORT", "ntdef.h: short"),
    ("DWORD", "minwindef.h: unsigned long"),
    ("KPROCESSOR_MODE", "wdm.h: CCHAR"),
    ("PHANDLE", "ntdef.h: HANDLE *"),
    ("PWCH", "ntdef.h: WCHAR *"),
    ("wchar_t", "the compiler's own under MSVC: unsigned short"),
    ("LONG_PTR", "basetsd.h: __int64"),
    ("ULONG64", "basetsd.h: unsigned __int64"),
    ("WCHAR", "ntdef.h: wchar_t"),
    ("LPWSTR", "ntdef.h: WCHAR *"),
];

#[test]
fn x64_declarations_are_the_kits() {
    compare(Target::X64);
}

#[test]
fn arm64_declarations_are_the_kits() {
    compare(Target::Arm64);
}

fn compare(target: Target) {
    let mut declared = Declared::read(&bindings(target));
    declared.of_kit = setup::build(target).unwrap().bindings.len() > 1;
    let constants = setup::root().join("src/ffi/constants.rs");
    declared.read_constants(&std::fs::read_to_string(constants).unwrap());
    let layouts = facts(&format!("layouts.{}", target.name()));
    let mut faults = Vec::new();
    let mut unknown = BTreeSet::new();
    let counts = [
        declared.compare_layouts(&layouts, &mut faults, &mut unknown),
        declared.compare_enums(&facts("enums"), &mut faults, &mut unknown),
        declared.compare_macros(&facts("macros"), target, &mut faults, &mut unknown),
        declared.compare_functions(&facts("functions"), &mut faults, &mut unknown),
    ];
    // Declarations from the WDK's own headers need no reason.
    for name in unknown.iter().filter(|_| !declared.of_kit) {
        if !REASONS.iter().any(|(known, _)| known == name) {
            faults.push(format!("{name}: in none of the tables; give a reason in REASONS"));
        }
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    let [layouts, enumerators, macros, functions] = counts;
    // A parser that reads nothing would find no fault.
    assert!(layouts > 150 && enumerators > 30 && macros > 20 && functions > 30, "{counts:?}");
}

#[test]
fn every_reason_is_needed() {
    let mut text = bindings(Target::X64);
    text += &std::fs::read_to_string(setup::root().join("src/ffi/constants.rs")).unwrap();
    for (name, _) in REASONS {
        assert!(text.contains(name), "{name} is no longer declared");
    }
}

/// Bindgen's output for a target.
fn bindings(target: Target) -> String {
    let driver = setup::build(target).unwrap();
    driver.bindings.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect()
}
