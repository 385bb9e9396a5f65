//! Imports of the linked driver exist in the oldest supported Windows.
//!
//! Each import has the documented module, and Windows 10 2004 has it.

mod support;

use lab::setup::{self, Target};
use object::LittleEndian as LE;
use object::pe::ImageNtHeaders64;
use object::read::pe::{Import, PeFile};
use serde_json::Value;
use support::facts;

/// `NTDDI_*` levels of the headers up to Windows 10 2004.
const LEVELS: [&str; 14] = [
    "NTDDI_WIN6",
    "NTDDI_WIN6SP1",
    "NTDDI_WIN7",
    "NTDDI_WIN8",
    "NTDDI_WINBLUE",
    "NTDDI_WIN10",
    "NTDDI_WIN10_TH2",
    "NTDDI_WIN10_RS1",
    "NTDDI_WIN10_RS2",
    "NTDDI_WIN10_RS3",
    "NTDDI_WIN10_RS4",
    "NTDDI_WIN10_RS5",
    "NTDDI_WIN10_19H1",
    "NTDDI_WIN10_VB",
];

/// Windows versions in the documentation up to Windows 10 2004.
const WINDOWS: [&str; 13] = [
    "NDIS 6.0",
    "NDIS 6.20",
    "Windows 2000",
    "Windows XP",
    "Windows Server 2003",
    "Windows Vista",
    "Windows Server 2008",
    "Windows 7",
    "Windows 8",
    "Windows 8.1",
    "Windows 10 1703",
    "Windows 10 1803",
    "Windows 10 2004",
];

#[test]
fn x64_imports_are_documented_and_old_enough() {
    documented_and_old_enough(Target::X64);
}

#[test]
fn arm64_imports_are_documented_and_old_enough() {
    documented_and_old_enough(Target::Arm64);
}

fn documented_and_old_enough(target: Target) {
    let functions = facts("functions");
    let driver = setup::build(target).unwrap();
    let image = std::fs::read(&driver.sys).unwrap();
    let imports = imports(&image);
    assert!(imports.len() > 25, "{target:?}: {imports:?}");
    let faults: Vec<_> =
        imports.iter().filter_map(|(module, name)| fault(&functions, module, name)).collect();
    assert!(faults.is_empty(), "{target:?}: {faults:#?}");
}

#[test]
fn faults_are_found() {
    let functions = facts("functions");
    for (module, name, expected) in [
        ("ntoskrnl.exe", "FwpmEngineOpen0", "exported by"),
        ("fwpkclnt.sys", "ExAllocatePool2", "exported by"),
        ("ntoskrnl.exe", "ExAllocateFromLookasideListEx", "newer"),
        ("ntoskrnl.exe", "NoSuchFunction", "not documented"),
        ("ntoskrnl.exe", "MmGetSystemAddressForMdlSafe", "not an import"),
    ] {
        let fault = fault(&functions, module, name).unwrap_or_default();
        assert!(fault.contains(expected), "{name}: {fault}");
    }
    assert_eq!(fault(&functions, "ntoskrnl.exe", "ExAllocatePool2"), None);
}

/// Module and function of every import by name.
fn imports(image: &[u8]) -> Vec<(String, String)> {
    let file = PeFile::<ImageNtHeaders64>::parse(image).unwrap();
    let table = file.import_table().unwrap().expect("a driver imports");
    let mut descriptors = table.descriptors().unwrap();
    let mut imports = Vec::new();
    while let Some(descriptor) = descriptors.next().unwrap() {
        let module = String::from_utf8_lossy(table.name(descriptor.name.get(LE)).unwrap()).into_owned();
        let mut thunks = table.thunks(descriptor.original_first_thunk.get(LE)).unwrap();
        while let Some(thunk) = thunks.next::<ImageNtHeaders64>().unwrap() {
            match table.import::<ImageNtHeaders64>(thunk).unwrap() {
                Import::Name(_, name) => {
                    imports.push((module.clone(), String::from_utf8_lossy(name).into_owned()));
                }
                Import::Ordinal(ordinal) => panic!("{module}: import by ordinal {ordinal}"),
            }
        }
    }
    imports
}

fn fault(functions: &Value, module: &str, name: &str) -> Option<String> {
    let Some(known) = functions.get(name) else {
        return Some(format!("{module}!{name}: not documented"));
    };
    // This field may differ by target.
    let kinds: Vec<_> = match &known["kind"] {
        Value::Object(by_target) => by_target.values().cloned().collect(),
        kind => vec![kind.clone()],
    };
    if !kinds.iter().any(|kind| kind == "import") {
        return Some(format!("{module}!{name}: not an import"));
    }
    if known["module"] != *module {
        return Some(format!("{module}!{name}: exported by {}", known["module"]));
    }
    let level = known["ntddi"].as_str().is_some_and(|level| !LEVELS.contains(&level));
    let windows = known["min_windows_doc"].as_str().is_some_and(|windows| !WINDOWS.contains(&windows));
    // "Windows 10" alone means its first version.
    let windows = windows && known["min_windows_doc"] != "Windows 10";
    (level || windows).then(|| format!("{module}!{name}: newer than Windows 10 2004"))
}
