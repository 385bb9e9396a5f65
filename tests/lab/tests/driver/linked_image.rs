//! The linked .sys has no panic path and keeps the rules for images.

use std::sync::Arc;

use lab::setup::{self, Target};
use machine::image::lint::{self, Rule};
use machine::image::{PeFile, Symbols};

/// The shipping driver and the one that measures, as linked for x64.
fn linked() -> [Arc<PeFile>; 2] {
    [setup::build(Target::X64), setup::build_conformance(Target::X64)]
        .map(|driver| Arc::new(PeFile::read(&driver.unwrap().sys).unwrap()))
}

/// `cargo lab mutate` runs only this test to see whether a mutation links.
#[test]
fn the_driver_links() {
    assert!(setup::build(Target::X64).unwrap().sys.is_file());
}

#[test]
fn no_function_that_panics_or_ends_a_failed_allocation_is_left() {
    let traces = ["core::panicking", "rust_begin_unwind", "panic_fmt", "panic_bounds", "unwrap_failed"];
    let allocation = ["handle_alloc_error", "alloc_error", "__rust_alloc", "capacity_overflow", "alloc::"];
    for file in linked() {
        let symbols = Symbols::of(&file).unwrap();
        let names: Vec<&str> = symbols.functions().iter().map(|function| &*function.name).collect();
        // Symbols must be there, or nothing could be found.
        assert!(names.iter().any(|name| name.contains("callout::classify")), "{names:?}");
        let left: Vec<_> = names
            .iter()
            .filter(|name| traces.iter().chain(&allocation).any(|trace| name.contains(trace)))
            .collect();
        assert!(left.is_empty(), "{}: {left:#?}", file.name());
    }
}

#[test]
fn the_image_keeps_every_rule() {
    for file in linked() {
        let report = lint::lint(&file);
        assert!(report.findings.is_empty(), "{}: {:#?}", file.name(), report.findings);
        assert!(report.functions.len() > 10);
        assert!(report.imports.contains_key("fwpkclnt.sys"));
    }
}

/// docs/PERFORMANCE.md promises this size. The image is nonpaged memory. Three kilobytes
/// of it serve processors that are added: memory that grows with them, and a walk over
/// the active ones. Six serve broadcasts, compartments and proven addresses, four the
/// watchdog and what is read again.
#[test]
fn the_image_stays_below_its_limit() {
    for target in [Target::X64, Target::Arm64] {
        let bytes = std::fs::read(&setup::build(target).unwrap().sys).unwrap();
        let file = object::read::pe::PeFile64::parse(&*bytes).unwrap();
        let of_code_or_data = |section: &&object::pe::ImageSectionHeader| {
            [&b".text\0\0\0"[..], b".rdata\0\0", b".data\0\0\0"].contains(&&section.name[..])
        };
        let sections = file.section_table();
        let sections = sections.iter().filter(of_code_or_data);
        let sizes: Vec<u32> =
            sections.map(|section| section.virtual_size.get(object::LittleEndian)).collect();
        assert_eq!(sizes.len(), 3, "{target:?}");
        let size: u32 = sizes.iter().sum();
        assert!((10_000..112 * 1024).contains(&size), "{target:?}: {size} bytes of code and data, {sizes:?}");
    }
}

/// The exception routines that the unwind tables of an image name, and the number of
/// functions in the tables ("x64 exception handling", "ARM64 exception handling").
fn exception_routines(target: Target, bytes: &[u8]) -> (Vec<u32>, usize) {
    let file = object::read::pe::PeFile64::parse(bytes).unwrap();
    let word = |rva: u32| {
        let data = file.section_table().pe_data_at(bytes, rva).unwrap();
        u32::from_le_bytes(data[..4].try_into().unwrap())
    };
    let directory = file.data_directory(object::pe::IMAGE_DIRECTORY_ENTRY_EXCEPTION).unwrap();
    let (first, size) = directory.address_range();
    let (entry, unwind) = if target == Target::X64 { (12, 8) } else { (8, 4) };
    let functions: Vec<_> = (first..first + size).step_by(entry).map(|at| word(at + unwind)).collect();
    let routines = functions.iter().filter_map(|&unwind| match target {
        Target::X64 => {
            // Version and flags, the size of the prolog, the number of codes.
            let (head, has_handler) = (word(unwind), 0x18);
            let codes = head >> 16 & 0xff;
            (head & has_handler != 0).then(|| word(unwind + 4 + 2 * codes.next_multiple_of(2)))
        }
        // The low bits are not 0 if the entry describes the function itself.
        Target::Arm64 if unwind & 3 != 0 => None,
        Target::Arm64 => {
            let head = word(unwind);
            let (epilogs, codes) = (head >> 22 & 0x1f, head >> 27);
            let (head_size, epilogs, codes) = match (epilogs, codes) {
                (0, 0) => (8, word(unwind + 4) & 0xffff, word(unwind + 4) >> 16 & 0xff),
                _ => (4, epilogs, codes),
            };
            let scopes = if head >> 21 & 1 == 0 { epilogs } else { 0 };
            (head >> 20 & 1 != 0).then(|| word(unwind + head_size + 4 * (scopes + codes)))
        }
    });
    (routines.collect(), functions.len())
}

/// ExceptionContinueSearch is 1 (excpt.h). 0 would go on where the exception came from.
#[test]
fn no_exception_routine_continues_the_execution() {
    // mov eax, 1; ret. mov w0, #1; ret.
    let right = [
        (Target::X64, &[0xb8, 1, 0, 0, 0, 0xc3][..]),
        (Target::Arm64, &[0x20, 0, 0x80, 0x52, 0xc0, 3, 0x5f, 0xd6]),
    ];
    for (target, right) in right {
        let bytes = std::fs::read(&setup::build(target).unwrap().sys).unwrap();
        let (routines, functions) = exception_routines(target, &bytes);
        assert!(functions > 50, "{target:?}: {functions}");
        let file = object::read::pe::PeFile64::parse(&*bytes).unwrap();
        for routine in routines {
            let code = file.section_table().pe_data_at(&*bytes, routine).unwrap();
            assert!(code.starts_with(right), "{target:?}: {:x?}", &code[..16]);
        }
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
