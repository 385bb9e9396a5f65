//! The linked .sys has no panic path and keeps the rules for images.

use std::sync::Arc;

use lab::setup::{self, Target};
use machine::image::lint::{self, Rule};
use machine::image::{PeFile, Symbols};

fn linked(target: Target) -> Arc<PeFile> {
    Arc::new(PeFile::read(&setup::build(target).unwrap().sys).unwrap())
}

/// `cargo lab mutate` runs only this test to see whether a mutation links.
#[test]
fn the_driver_links() {
    assert!(setup::build(Target::X64).unwrap().sys.is_file());
}

#[test]
fn no_function_that_panics_or_ends_a_failed_allocation_is_left() {
    let file = linked(Target::X64);
    let symbols = Symbols::of(&file).unwrap();
    let names: Vec<&str> = symbols.functions().iter().map(|function| &*function.name).collect();
    // Symbols must be there, or nothing could be found.
    assert!(names.iter().any(|name| name.contains("classify_thunk")), "{names:?}");
    let traces = ["core::panicking", "rust_begin_unwind", "panic_fmt", "panic_bounds", "unwrap_failed"];
    let allocation = ["handle_alloc_error", "alloc_error", "__rust_alloc", "capacity_overflow", "alloc::"];
    let left: Vec<_> = names
        .iter()
        .filter(|name| traces.iter().chain(&allocation).any(|trace| name.contains(trace)))
        .collect();
    assert!(left.is_empty(), "{left:#?}");
}

#[test]
fn the_image_keeps_every_rule() {
    let report = lint::lint(&linked(Target::X64));
    assert!(report.findings.is_empty(), "{:#?}", report.findings);
    assert!(report.functions.len() > 10);
    assert!(report.imports.contains_key("fwpkclnt.sys"));
}

/// docs/PERFORMANCE.md promises this size. The image is nonpaged memory.
#[test]
fn the_image_stays_below_its_limit() {
    for target in [Target::X64, Target::Arm64] {
        let bytes = std::fs::read(&setup::build(target).unwrap().sys).unwrap();
        let file = object::read::pe::PeFile64::parse(&*bytes).unwrap();
        let sizes = file.section_table().iter().map(|section| section.virtual_size.get(object::LittleEndian));
        let size: u32 = sizes.sum();
        assert!((10_000..122 * 1024).contains(&size), "{target:?}: {size} bytes");
    }
}

/// The lint decodes x64 instructions only. Sections, headers and checksum have one
/// format for both targets.
#[test]
fn the_arm64_image_keeps_the_rules_of_the_file() {
    let path = &setup::build(Target::Arm64).unwrap().sys;
    let bytes = std::fs::read(path).unwrap();
    let file = object::read::pe::PeFile64::parse(&*bytes).unwrap();
    let header = file.nt_headers().optional_header;
    let number = |field: object::U32<object::LittleEndian>| field.get(object::LittleEndian);
    assert_eq!(number(header.section_alignment), 4096);
    // Behind the signature, the file header and 64 bytes of the optional one.
    let checksum_at = file.dos_header().nt_headers_offset() as usize + 4 + 20 + 64;
    assert_eq!(number(header.check_sum), lint::checksum(&bytes, checksum_at));
    for section in file.section_table().iter() {
        let flags = section.characteristics.get(object::LittleEndian).0;
        let (execute, write) = (0x2000_0000, 0x8000_0000);
        assert_ne!(flags & (execute | write), execute | write, "{:?}", section.name);
    }
}

#[test]
fn the_checksum_is_set_and_a_changed_byte_breaks_it() {
    let path = &setup::build(Target::X64).unwrap().sys;
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let file = Arc::new(PeFile::parse(path, bytes).unwrap());
    assert!(lint::lint(&file).has(Rule::Checksum));
}
