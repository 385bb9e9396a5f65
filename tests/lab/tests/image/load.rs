//! Images are mapped, relocated and bound, and have symbols.
#![expect(unsafe_code, reason = "reads the driver's data")]

use std::sync::Arc;

use machine::image::{Image, LoadError, PeFile, SymbolError};

use crate::exports;
use crate::harness::{DRIVER, Driver, Routine, run, source};

#[test]
fn the_image_is_mapped_relocated_and_bound() {
    let driver = Driver::start();
    let Driver { image, routines } = &driver;
    assert!(image.contains(image.base()) && image.contains(image.base() + image.size() - 1));
    assert!(!image.contains(image.base() + image.size()) && !image.contains(image.base() - 1));
    for &routine in routines {
        let section = image.rva(routine).and_then(|rva| image.file().section_at(rva));
        assert_eq!(section.expect("in a section").name, ".text");
    }
    assert_eq!(driver.run(Routine::Number, 0).expect("a data import"), 4711);
}

#[test]
fn two_images_of_one_file_do_not_share_data() {
    let file = Arc::new(PeFile::read(&DRIVER).expect("the driver parses"));
    let first = Driver::start();
    let second = Image::map(file, &exports::resolve).expect("the driver loads again");
    assert_ne!(first.image.base(), second.base());
    assert_eq!(first.run(Routine::Count, 5).expect("counts"), 0);
    assert_eq!(first.run(Routine::Count, 1).expect("counts"), 5);
    let (counters, symbol) = first.image.data("COUNTERS").expect("in the PDB");
    assert_eq!(symbol.name, "driver::COUNTERS");
    assert_eq!(symbol.size, 32);
    let (others, _) = second.data("driver::COUNTERS").expect("in the PDB");
    let value = |base: u64| {
        let address = std::ptr::with_exposed_provenance::<u64>(base as usize + 16);
        // SAFETY: the third counter, in a mapped section for data.
        unsafe { address.read_volatile() }
    };
    assert_eq!((value(counters), value(others)), (6, 0));
}

/// DriverEntry refuses the compiler's cookie, as in a /GS image.
#[test]
fn an_image_gets_a_cookie_of_its_own() {
    let cookies = [[].as_slice(), &["--cfg", "own_cookie"]].map(|arguments| {
        let file = lab::setup::compile(&source("guarded.rs"), arguments).unwrap();
        [(); 2].map(|()| {
            let image = Image::load(&file, &exports::resolve).expect("the driver loads");
            run(image.entry(), &[0, 0]).expect("DriverEntry")
        })
    });
    let [[first, second], own] = cookies;
    assert_ne!(first, second);
    assert!(first != 0 && first >> 48 == 0, "{first:#x}");
    // Windows replaces only the compiler's value.
    assert_eq!(own, [0x1234_5678; 2]);
}

#[test]
fn missing_imports_are_named_all_at_once() {
    let without = |module: &str, name: &str| {
        let wanted = !matches!(name, "LabTen" | "KeBugCheckEx");
        wanted.then(|| exports::resolve(module, name)).flatten()
    };
    let error = Image::load(&DRIVER, &without).expect_err("two imports are missing");
    let LoadError::Missing(missing) = &error else { panic!("{error}") };
    assert_eq!(missing.len(), 2);
    let text = error.to_string();
    assert!(text.contains("ntoskrnl.exe!KeBugCheckEx"), "{text}");
    assert!(text.contains("fwpkclnt.sys!LabTen"), "{text}");
}

#[test]
fn symbols_come_from_the_matching_pdb_only() {
    let driver = Driver::start();
    let symbols = driver.image.symbols().expect("the PDB matches");
    let named = |name: &str| symbols.functions().iter().any(|function| function.name.contains(name));
    assert!(named("driver::recurse") && named("core::panicking::panic_bounds_check"));
    assert!(matches!(symbols.data("NOTHING"), Err(SymbolError::NotFound(_))));

    let folder = tempfile::tempdir().expect("a folder");
    let moved = folder.path().join("driver.sys");
    std::fs::copy(&*DRIVER, &moved).expect("copies");
    let lonely = Arc::new(PeFile::read(&moved).expect("parses"));
    let error = machine::image::Symbols::of(&lonely).expect_err("no PDB beside it");
    let id = lonely.pdb.clone().expect("a CodeView record");
    assert!(error.to_string().contains(&id.guid.to_string()), "{error}");

    // The right PDB, but the image wants another age.
    let other = folder.path().join("other.sys");
    let mut bytes = lonely.bytes.clone();
    let at = bytes.windows(4).position(|window| window == b"RSDS").expect("a CodeView record");
    bytes[at + 20] ^= 0x40;
    std::fs::write(&other, bytes).expect("writes");
    std::fs::copy(DRIVER.with_extension("pdb"), folder.path().join("other.pdb")).expect("copies");
    let stranger = Arc::new(PeFile::read(&other).expect("parses"));
    let error = machine::image::Symbols::of(&stranger).expect_err("another build's PDB");
    assert!(matches!(error, SymbolError::Mismatch { .. }), "{error}");
}

#[test]
fn discardable_sections_go_away() {
    let mut driver = Driver::start();
    let reloc = driver.image.file().sections.iter().find(|section| section.is_discardable());
    let start = u64::from(reloc.expect(".reloc is discardable").range.start);
    let address = driver.image.base() + start;
    assert!(driver.run(Routine::Read, address).is_ok());
    driver.image.discard().expect("protects");
    let report = driver.fault(Routine::Read, address);
    assert!(report.at.expect("a place").contains(".reloc"));
}
