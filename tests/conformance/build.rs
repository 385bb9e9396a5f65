//! Generates the declarations and sets the linker's options, as hushport's build does.

#[path = "../../build.rs"]
#[allow(dead_code, reason = "its main and its other functions are for other builds")]
mod hushport;

use std::path::Path;

/// What this driver imports besides hushport's imports.
const IMPORTS: (&str, &[&str]) =
    ("ntoskrnl.exe", &["KeQueryActiveProcessorCountEx", "ZwCreateKey", "ZwSetValueKey"]);

/// Declarations that it uses besides hushport's.
const ITEMS: &[&str] = &["KEY_CREATE_SUB_KEY", "KEY_SET_VALUE"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let imports: Vec<_> = hushport::IMPORTS.iter().copied().chain([IMPORTS]).collect();
    let items: Vec<_> = hushport::ITEMS.iter().chain(ITEMS).copied().collect();
    let names = hushport::Names { imports: &imports, items: &items };
    hushport::build(Path::new("../.."), "hushport-conformance", &names, false);
}
