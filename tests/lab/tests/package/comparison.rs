//! `cargo lab verify`: what is equal, what differs and where, and hostile files.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use lab::package::catalog::{self, Description};
use lab::package::image::Unsigned;
use lab::provenance::build_info::BuildInfo;
use lab::provenance::compare::{self, Named};
use lab::provenance::pieces::Pieces;
use lab::provenance::verify::{Finding, Report, verify};
use lab::setup::{self, Target};
use machine::image::{PeFile, Symbols};
use proptest::prelude::*;

use crate::signatures::{TIME, make};

/// A copy of a package, whose files a test may change.
struct Given(tempfile::TempDir);

impl Given {
    fn new() -> Self {
        static PACKAGE: OnceLock<PathBuf> = OnceLock::new();
        let package = PACKAGE.get_or_init(|| make(Target::X64, "given").folder);
        let folder = tempfile::tempdir().unwrap();
        let mut copy = Command::new("cp");
        assert!(copy.arg("-r").arg(package.join(".")).arg(folder.path()).status().unwrap().success());
        Self(folder)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.file(name)).unwrap()
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> Report {
        let mut bytes = self.read(name);
        change(&mut bytes);
        std::fs::write(self.file(name), bytes).unwrap();
        self.verify()
    }

    fn verify(&self) -> Report {
        verify(self.0.path(), 0, TIME).unwrap()
    }
}

/// What is said of a file, if it differs.
fn said(report: &Report, name: &str) -> String {
    assert!(!report.is_same());
    let found = report.files.iter().find(|(other, _)| other == name).expect(name);
    match &found.1 {
        Finding::Different(lines) => lines.join("\n"),
        other => panic!("{name}: {other:?}"),
    }
}

fn ours() -> Vec<u8> {
    std::fs::read(&setup::build(Target::X64).unwrap().sys).unwrap()
}

/// A function of the driver, by a part of its name: its name, and where its middle is in
/// the file.
fn function(part: &str) -> (String, usize) {
    let sys = &setup::build(Target::X64).unwrap().sys;
    let file = std::sync::Arc::new(PeFile::read(sys).unwrap());
    let functions = Symbols::of(&file).unwrap().functions();
    let function = functions.iter().find(|one| one.name.contains(part) && one.range.len() > 40).expect(part);
    let bytes = ours();
    let pieces = Pieces::parse(&bytes).unwrap();
    let middle = function.range.start + function.range.len() as u32 / 2;
    let section = pieces.sections.iter().find(|section| section.is_code).unwrap();
    (function.name.clone(), section.file.start + (middle - section.start) as usize)
}

#[test]
fn a_signature_makes_no_difference() {
    let given = Given::new();
    let report = given.verify();
    assert!(report.is_same(), "{report:?}");
    assert!(report.files.len() >= 10 && report.explanation.is_empty());
    // One driver, signed, and not signed.
    assert!(verify(&given.file("hushport.sys"), 0, TIME).unwrap().is_same());
    assert!(verify(&setup::build(Target::X64).unwrap().sys, 0, TIME).unwrap().is_same());
    // Another signature, another checksum.
    let table = Unsigned::of(&given.read("hushport.sys")).unwrap();
    let report = given.change("hushport.sys", |bytes| {
        bytes[table.table.start + 100] ^= 1;
        bytes[table.checksum.start] ^= 1;
    });
    assert!(report.is_same(), "{report:?}");
    // What a signing service returns, without the rest.
    for name in ["hushport.pdb", "hushport-test.cer", "BUILDINFO.json", "README.txt"] {
        std::fs::remove_file(given.file(name)).unwrap();
    }
    assert!(given.verify().is_same());
}

#[test]
fn a_changed_byte_is_named_by_section_and_function() {
    let given = Given::new();
    let (name, middle) = function("classify_slow");
    let report = given.change("hushport.sys", |bytes| bytes[middle] ^= 1);
    let text = said(&report, "hushport.sys");
    assert!(text.starts_with(".text: 1 bytes differ\n") && text.contains(&name), "{text}");
    assert_eq!(text.lines().count(), 2, "{text}");
    // The inputs are equal, so none explains it. The catalog still lists what we built.
    let explained = report.explanation.join("\n");
    assert!(explained.contains("no input that is recorded explains it"), "{explained}");

    // A field of the header, data, and a byte behind the last section.
    let header = Pieces::parse(&ours()).unwrap().header;
    for (offset, section, detail) in [
        (header + 8, "headers: 1 bytes differ", "TimeDateStamp"),
        (header + 94, "headers", "DllCharacteristics"),
    ] {
        let given = Given::new();
        let text = said(&given.change("hushport.sys", |bytes| bytes[offset] ^= 1), "hushport.sys");
        assert!(text.contains(section) && text.contains(detail), "{text}");
    }
    let longer = [ours(), vec![0; 512]].concat();
    let given = Given::new();
    std::fs::write(given.file("hushport.sys"), longer).unwrap();
    let text = said(&given.verify(), "hushport.sys");
    assert!(text.contains("bytes outside of the sections"), "{text}");
}

#[test]
fn every_byte_but_the_signature_counts() {
    let bytes = ours();
    let pieces = Pieces::parse(&bytes).unwrap();
    let aside = [pieces.unsigned.checksum.clone(), pieces.unsigned.entry.clone()];
    let mut other = bytes.clone();
    for offset in (0..bytes.len()).step_by(61).chain(pieces.header..pieces.header + 400) {
        other[offset] ^= 0x20;
        let is_aside = aside.iter().any(|range| range.contains(&offset));
        if let Ok(changed) = Pieces::parse(&other) {
            assert_eq!(compare::same(&pieces, &changed), is_aside, "{offset:#x}");
        }
        other[offset] ^= 0x20;
    }
}

/// A driver of the same source with other functions in it.
#[test]
fn functions_that_are_elsewhere_are_told_from_others() {
    let sys = &setup::build(Target::X64).unwrap().sys;
    let bytes = ours();
    let ours = Named::read(sys, &bytes).unwrap();
    let conformance = std::fs::read(&setup::build_conformance(Target::X64).unwrap().sys).unwrap();
    let theirs = Pieces::parse(&conformance).unwrap();
    let differences = compare::compare(&ours, &theirs);
    let code = differences.iter().find(|difference| difference.section == ".text").unwrap();
    assert!(code.details.iter().any(|detail| detail.contains("is not in theirs")), "{code:?}");
    // The wrappers are one source, so some functions are in both.
    let section =
        |pieces: &Pieces<'_>| pieces.sections.iter().find(|section| section.is_code).unwrap().clone();
    let of = |pieces: &Pieces<'_>| -> std::collections::HashSet<[u8; 32]> {
        pieces.code(&section(pieces)).iter().map(|function| pieces.fingerprint(function)).collect()
    };
    let (one, other) = (of(&ours.pieces), of(&theirs));
    let both = one.intersection(&other).count();
    assert!(both > 3 && both < one.len(), "{both} of {}", one.len());
    // The code of ours is cut into functions that the PDB knows.
    let cut = ours.pieces.code(&section(&ours.pieces));
    let file = std::sync::Arc::new(PeFile::read(sys).unwrap());
    let starts: Vec<u32> =
        Symbols::of(&file).unwrap().functions().iter().map(|one| one.range.start).collect();
    let known = cut.iter().filter(|piece| starts.contains(&piece.start)).count();
    assert!(known * 10 > cut.len() * 9, "{known} of {}", cut.len());
}

#[test]
fn an_input_that_differs_may_explain_it() {
    let given = Given::new();
    let (_, middle) = function("classify_slow");
    given.change("hushport.sys", |bytes| bytes[middle] ^= 1);
    let change = |name: &str, change: fn(&mut lab::provenance::build_info::Input)| {
        let mut info = BuildInfo::parse(&given.read("BUILDINFO.json")).unwrap();
        change(info.inputs.get_mut(name).unwrap());
        let kept = given.read("BUILDINFO.json");
        std::fs::write(given.file("BUILDINFO.json"), info.to_json().unwrap()).unwrap();
        let report = given.verify();
        std::fs::write(given.file("BUILDINFO.json"), kept).unwrap();
        assert!(!report.is_same());
        report.explanation.join("\n")
    };
    let text = change("compiler", |input| {
        input.version = "rustc 1.0.0\u{1b}[2J".to_owned();
        input.sha256.values_mut().for_each(|digest| *digest = "0".repeat(64));
    });
    assert!(text.contains("explained by the compiler") && text.contains("theirs rustc 1.0.0"), "{text}");
    assert!(!text.contains('\u{1b}'), "{text}");
    let text = change("profile", |input| input.version = input.version.replace("\"z\"", "3"));
    assert!(text.contains("explained by the profile") && text.contains("opt-level=3"), "{text}");
    // Another libclang that has made the same declarations changes nothing. Resources and
    // the time do not reach code.
    for name in ["libclang", "resource compiler", "time", "revision"] {
        let text = change(name, |input| {
            input.version = "7".to_owned();
            input.sha256.clear();
        });
        assert!(text.contains("no input that is recorded"), "{name}: {text}");
    }
    std::fs::remove_file(given.file("BUILDINFO.json")).unwrap();
    let text = given.verify().explanation.join("\n");
    assert!(text.contains("no BUILDINFO.json beside"), "{text}");
}

#[test]
fn inf_catalog_and_other_files_are_compared() {
    let given = Given::new();
    let text = String::from_utf8(given.read("hushport.inf")).unwrap();
    let report = given.change("hushport.inf", |inf| {
        *inf =
            text.replace("DriverVer   = 02/03/2026,0.1.0.0", "DriverVer   = 02/04/2026,0.1.0.0").into_bytes();
    });
    let lines = said(&report, "hushport.inf");
    assert!(
        lines.contains("ours `DriverVer   = 02/03/2026,0.1.0.0`") && lines.lines().count() == 1,
        "{lines}"
    );
    std::fs::write(given.file("hushport.inf"), &text).unwrap();

    // A catalog of other files, and of one file more.
    let description = Description { id: [7; 16], time: TIME, os: "_v100_X64".into() };
    let build = |files: &[(&str, &[u8])]| catalog::build(&description, files).unwrap();
    let (sys, inf) = (given.read("hushport.sys"), text.as_bytes());
    let right = [("hushport.sys", &sys[..]), ("hushport.inf", inf)];
    for (bytes, wanted) in [
        (build(&[right[0], ("hushport.inf", b"other")]), "it does not list our hushport.inf"),
        (build(&[right[1]]), "it does not list our hushport.sys"),
        (build(&[right[0], right[1], ("evil.sys\u{202e}", b"no image")]).clone(), "no file of our build has"),
        (b"0\x03\x02\x01\x05".to_vec(), "not a catalog"),
        (Vec::new(), "not a catalog"),
    ] {
        let kept = given.read("hushport.cat");
        let lines = said(&given.change("hushport.cat", |cat| *cat = bytes), "hushport.cat");
        assert!(lines.contains(wanted) && !lines.contains('\u{202e}'), "{lines}");
        std::fs::write(given.file("hushport.cat"), kept).unwrap();
    }
    // One that is not signed, of ours, is right.
    assert!(given.change("hushport.cat", |cat| *cat = build(&right)).is_same());

    let report = given.change("hushport.cdx.json", |bom| {
        let text = String::from_utf8(bom.clone()).unwrap();
        *bom = text.replacen("\"name\": \"bindgen\"", "\"name\": \"bindgem\"", 1).into_bytes();
    });
    let lines = said(&report, "hushport.cdx.json");
    assert!(lines.contains("only in theirs: bindgem") && lines.contains("only in ours: bindgen"), "{lines}");
    std::fs::write(given.file("more.dll"), "MZ").unwrap();
    assert!(said(&given.verify(), "more.dll").contains("no file of a package"));
    let lines = said(&given.change("README.txt", |text| text.push(b'!')), "README.txt");
    assert!(!lines.is_empty());
}

#[test]
fn what_is_no_driver_is_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("given.sys");
    let refused = |path: &Path| format!("{:#}", verify(path, 0, TIME).expect_err("refused"));
    for (bytes, wanted) in [
        (Vec::new(), "not a PE file"),
        (b"MZ".to_vec(), "not a PE32+ file"),
        (b"\x7fELF and more".to_vec(), "not a PE file"),
        (ours()[..0x800].to_vec(), "cut or damaged"),
        (ours()[..ours().len() - 1].to_vec(), "cut or damaged"),
    ] {
        std::fs::write(&file, bytes).unwrap();
        let error = refused(&file);
        assert!(error.contains(wanted), "{error}");
    }
    let mut other = ours();
    let header = Pieces::parse(&ours()).unwrap().header;
    other[header + 4..header + 6].copy_from_slice(&0x014c_u16.to_le_bytes());
    std::fs::write(&file, other).unwrap();
    assert!(refused(&file).contains("machine 0x014c"), "{}", refused(&file));
    assert!(refused(Path::new("/dev/zero")).contains("not a regular file"));
    assert!(refused(&folder.path().join("none.sys")).contains("cannot read"));
    // A folder without a driver.
    assert!(refused(folder.path()).contains("hushport.sys"));
    // A folder that contains itself.
    std::fs::write(folder.path().join("hushport.sys"), ours()).unwrap();
    std::os::unix::fs::symlink(folder.path(), folder.path().join("again")).unwrap();
    assert!(refused(folder.path()).contains("link to a folder"));
    let large = std::fs::File::create(&file).unwrap();
    large.set_len(1 << 33).unwrap();
    assert!(refused(&file).contains("expected at most"));
}

/// The command's status and its last line.
#[test]
fn the_status_is_0_only_for_the_same() {
    let given = Given::new();
    let run = |path: &Path| {
        let mut command = Command::new(setup::profile_directory().unwrap().join("lab"));
        command.arg("verify").arg(path).current_dir(setup::root()).env("SOURCE_DATE_EPOCH", TIME.to_string());
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (status, text) = run(given.0.path());
    assert!(status == Some(0) && text.ends_with("\nthe same\n"), "{status:?} {text}");
    let mut bytes = given.read("hushport.sys");
    bytes[0x1000] ^= 1;
    std::fs::write(given.file("hushport.sys"), bytes).unwrap();
    let (status, text) = run(&given.file("hushport.sys"));
    assert!(status == Some(1) && text.ends_with("\nnot the same\n"), "{status:?} {text}");
    let (status, text) = run(&given.file("hushport.inf"));
    assert!(status == Some(1) && text.is_empty(), "{status:?} {text}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Damaged files give an error or differences, and never a panic.
    #[test]
    fn hostile_files_are_compared_in_order(
        changes in prop::collection::vec((0usize..0x1000, any::<u8>()), 1..6),
        end in 0usize..200_000,
        tables in any::<bool>(),
    ) {
        let sys = &setup::build(Target::X64).unwrap().sys;
        let bytes = ours();
        let named = Named::read(sys, &bytes).unwrap();
        let mut other = bytes.clone();
        let unwind = named.pieces.sections.iter().find(|section| section.name == ".pdata").unwrap().file.start;
        for (at, byte) in changes {
            // In the headers, or in the unwind tables.
            let at = if tables { unwind + at % 0x400 } else { at % 0x400 };
            other[at] = byte;
        }
        other.truncate(end.max(0x400));
        if let Ok(theirs) = Pieces::parse(&other) {
            let differences = compare::compare(&named, &theirs);
            prop_assert_eq!(differences.is_empty(), compare::same(&named.pieces, &theirs));
        }
        _ = catalog::members(&other);
    }
}
