//! Signatures and catalog verify, and a changed byte is found.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use lab::package::catalog::{self, Catalog, Description};
use lab::package::signing::Certificate;
use lab::package::{Package, Plan, image};
use lab::setup::Target;
use proptest::prelude::*;
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// 2026-02-03 04:05:06 UTC.
pub const TIME: u64 = 1_770_091_506;

/// An empty folder, and a certificate in it.
pub fn place() -> &'static (PathBuf, Certificate) {
    static PLACE: OnceLock<(PathBuf, Certificate)> = OnceLock::new();
    PLACE.get_or_init(|| {
        // Locked until this process ends.
        let (folder, lock) = lab::setup::exclusive("package-tests").unwrap();
        std::mem::forget(lock);
        let certificate = Certificate::at(&folder.join("certificate")).unwrap();
        (folder, certificate)
    })
}

pub fn make(target: Target, name: &str) -> Package {
    let (folder, certificate) = place();
    Plan::new(target, folder.join(name), TIME).make(certificate).unwrap()
}

/// Runs `test` while one byte of a file is changed.
fn changed<T>(file: &Path, offset: usize, test: impl FnOnce() -> T) -> T {
    let original = std::fs::read(file).unwrap();
    let mut bytes = original.clone();
    bytes[offset] ^= 0x10;
    std::fs::write(file, bytes).unwrap();
    let outcome = test();
    std::fs::write(file, original).unwrap();
    outcome
}

#[test]
fn a_package_for_each_processor_verifies() {
    for target in Target::ALL {
        let package = make(target, target.name());
        package.check().unwrap();
        for name in lab::package::FILES {
            assert!(package.folder.join(name).is_file(), "{name}");
        }
        let readme = std::fs::read_to_string(package.folder.join("README.txt")).unwrap();
        assert!(readme.starts_with("hushport 0.1.0.0\r\n") && !readme.contains('{'), "{readme}");
        let inf = std::fs::read_to_string(package.file("inf")).unwrap();
        assert!(inf.contains("DriverVer   = 02/03/2026,0.1.0.0\n"), "{inf}");
        // The signature is present and not padded.
        let sys = std::fs::read(package.file("sys")).unwrap();
        let unsigned = image::Unsigned::of(&sys).unwrap();
        let built = std::fs::read(&lab::setup::build(target).unwrap().sys).unwrap();
        assert_eq!(unsigned.table.start, built.len());
        assert_eq!(image::digest::<Sha256>(&sys).unwrap(), image::digest::<Sha256>(&built).unwrap());
        assert!(!unsigned.table.is_empty() && image::Unsigned::of(&built).unwrap().table.is_empty());
    }
}

#[test]
fn one_time_and_one_certificate_give_one_package() {
    let (one, other) = (make(Target::X64, "one"), make(Target::X64, "other"));
    for name in lab::package::FILES {
        let read = |package: &Package| std::fs::read(package.folder.join(name)).unwrap();
        assert!(read(&one) == read(&other), "{name}");
    }
}

#[test]
fn a_changed_byte_is_seen() {
    let (_, certificate) = place();
    let package = make(Target::X64, "changed");
    let [sys, inf, cat] = ["sys", "inf", "cat"].map(|extension| package.file(extension));
    let length = |file: &Path| std::fs::metadata(file).unwrap().len() as usize;
    for offset in
        [0x1000, 0x4000, image::Unsigned::of(&std::fs::read(&sys).unwrap()).unwrap().table.start - 1]
    {
        changed(&sys, offset, || {
            certificate.verify(&sys).unwrap_err();
            certificate.verify_member(&cat, &sys).unwrap_err();
            package.check().unwrap_err();
        });
    }
    for offset in [0, 700, length(&inf) - 1] {
        let printed = changed(&inf, offset, || package.check().unwrap_err().to_string());
        assert!(printed.contains("does not list this hushport.inf"), "{printed}");
    }
    // A byte in the middle of the list, and one in the signature at the end.
    for offset in [300, length(&cat) - 1] {
        changed(&cat, offset, || {
            certificate.verify(&cat).unwrap_err();
            package.check().unwrap_err();
        });
    }
    package.check().unwrap();
}

#[test]
fn a_signature_of_another_certificate_does_not_count() {
    let package = make(Target::X64, "foreign");
    let foreign = Certificate::at(&place().0.join("foreign-certificate")).unwrap();
    foreign.verify(&package.file("sys")).unwrap_err();
    foreign.verify(&package.file("cat")).unwrap_err();
}

fn sample() -> Vec<u8> {
    std::fs::read(&lab::setup::build(Target::X64).unwrap().sys).unwrap()
}

fn description() -> Description {
    Description { id: *b"0123456789abcdef", time: TIME, os: "_v100_X64".into() }
}

#[test]
fn the_digest_leaves_out_three_places_and_no_more() {
    let file = sample();
    let unsigned = image::Unsigned::of(&file).unwrap();
    let digest = image::digest::<Sha1>(&file).unwrap();
    for offset in (0..file.len()).step_by(97).chain(unsigned.checksum.clone()).chain([unsigned.entry.end]) {
        let mut other = file.clone();
        other[offset] ^= 1;
        let left_out = unsigned.checksum.contains(&offset);
        let Ok(changed) = image::digest::<Sha1>(&other) else { continue };
        assert_eq!(changed == digest, left_out || unsigned.entry.contains(&offset), "{offset:#x}");
    }
}

/// Bytes that catalogs of Inf2Cat have. [MS-OSHARED] describes SPC_INDIRECT_DATA. The
/// DER library writes lengths and nesting; these bytes are ours.
#[test]
fn the_catalog_has_the_documented_bytes() {
    let bytes = catalog::build(&description(), &[("A.INF", b"text")]).unwrap();
    let has = |wanted: &[u8]| bytes.windows(wanted.len()).filter(|window| *window == wanted).count();
    // SignedData of version 1 without digest algorithms, and a trust list that
    // is not wrapped in an OCTET STRING.
    assert_eq!(has(b"\x02\x01\x01\x31\x00\x30"), 1);
    assert_eq!(has(b"\x06\x09\x2b\x06\x01\x04\x01\x82\x37\x0a\x01\xa0"), 1);
    assert_eq!(has(b"\x17\x0d260203040506Z"), 1);
    // Two members, named by their digests, and the member info of the plain file.
    assert_eq!(has(&[&[0x04, 20], &Sha1::digest(b"text")[..]].concat()), 1);
    assert_eq!(has(&[&[0x04, 32], &Sha256::digest(b"text")[..]].concat()), 2);
    assert_eq!(has(b"\x06\x0a\x2b\x06\x01\x04\x01\x82\x37\x0c\x02\x03\x31\x02\x82\x00"), 2);
    // Names are big-endian without NUL, values little-endian with NUL.
    assert_eq!(has(b"\x1e\x08\0F\0i\0l\0e\x02\x04\x10\x01\x00\x01\x04\x0ca\0.\0i\0n\0f\0\0\0"), 2);
    assert_eq!(
        has(b"\x1e\x04\0O\0S\x02\x04\x10\x01\x00\x01\x04\x14_\0v\x001\x000\x000\0_\0X\x006\x004\0\0\0"),
        1
    );
    assert_eq!(has(b"\x06\x0a\x2b\x06\x01\x04\x01\x82\x37\x02\x01\x19\xa2\x02\x80\x00"), 1);
    // No signer, at the end.
    assert!(bytes.ends_with(b"\x31\x00"));
    // The member of a PE image has its own type.
    let bytes = catalog::build(&description(), &[("a.sys", &sample())]).unwrap();
    let image =
        b"\x06\x0a\x2b\x06\x01\x04\x01\x82\x37\x02\x01\x0f\x30\x0a\x03\x02\x05\xa0\xa0\x04\xa2\x02\x80\x00";
    assert_eq!(bytes.windows(image.len()).filter(|window| *window == image).count(), 1);
}

#[test]
fn a_catalog_lists_what_it_was_given_under_its_name() {
    let bytes = catalog::build(&description(), &[("a.inf", b"one"), ("b.inf", b"two")]).unwrap();
    let catalog = Catalog::parse(&bytes).unwrap();
    assert!(catalog.members() == 4 && !catalog.is_signed());
    catalog.check("a.inf", b"one").unwrap();
    catalog.check("A.INF", b"one").unwrap();
    catalog.check("b.inf", b"one").unwrap_err();
    catalog.check("a.inf", b"One").unwrap_err();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn hostile_bytes_are_refused_in_order(at in 0usize..4096, bit in 0u8..8, end in 0usize..4096) {
        let catalog = catalog::build(&description(), &[("a.inf", b"one")]).unwrap();
        let mut other = catalog.clone();
        let length = other.len();
        other[at % length] ^= 1 << bit;
        if let Ok(read) = Catalog::parse(&other) {
            _ = read.check("a.inf", b"one");
        }
        prop_assert!(Catalog::parse(&catalog[..end % length]).is_err());
        let mut image = sample();
        image[at % 1024] ^= 1 << bit;
        _ = image::checksums(&image);
        _ = image::digest::<Sha256>(&image[..end]);
    }
}
