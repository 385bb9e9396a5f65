//! The loader refuses bad files, and the lint names each broken rule.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use machine::image::lint::{Report, Rule, lint};
use machine::image::{Image, LoadError, PeError, PeFile};

use crate::exports;
use crate::harness::compile;
use crate::patch::Patch;

static CLEAN: LazyLock<PathBuf> = LazyLock::new(|| compile("clean.rs"));

/// Makes a good file bad.
type Plant = fn(&mut Patch);

const WRITE: u32 = 0x8000_0000;
const EXECUTE: u32 = 0x2000_0000;
const TLS: usize = 9;
const DELAY_IMPORT: usize = 13;
const DEBUG: usize = 6;

fn clean() -> Patch {
    Patch::of(std::fs::read(&*CLEAN).expect("the driver"))
}

/// Parses a patched copy. The PDB is that of the good file.
fn parse(patch: Patch) -> Result<Arc<PeFile>, PeError> {
    PeFile::parse(&CLEAN, patch.bytes).map(Arc::new)
}

fn lint_of(patch: Patch) -> Report {
    lint(&parse(patch).expect("parses"))
}

fn load(patch: Patch) -> Result<Image, LoadError> {
    Image::map(parse(patch)?, &exports::resolve)
}

/// The broken rules, without the checksum, which every patch breaks.
fn rules(patch: Patch) -> BTreeSet<Rule> {
    let findings = lint_of(patch).findings.into_iter();
    findings.map(|finding| finding.rule).filter(|&rule| rule != Rule::Checksum).collect()
}

#[test]
fn a_good_driver_has_no_finding() {
    let report = lint_of(clean());
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    let modules: Vec<_> = report.imports.keys().map(String::as_str).collect();
    assert_eq!(modules, ["ndis.sys", "ntoskrnl.exe"]);
    assert!(report.imports["ndis.sys"].contains("LabNdis"));
    assert!(report.functions.len() == 3, "{:?}", report.functions);
    assert!(load(clean()).is_ok());
}

#[test]
fn the_checksum_is_recomputed() {
    let mut zero = clean();
    zero.set_u32(zero.optional + 64, 0);
    let report = lint_of(zero);
    assert!(report.has(Rule::Checksum) && report.findings[0].detail.contains("/RELEASE"));
    let mut wrong = clean();
    let last = wrong.bytes.len() - 1;
    wrong.bytes[last] ^= 1;
    let report = lint_of(wrong);
    assert_eq!(report.findings.len(), 1);
    assert!(report.has(Rule::Checksum));
}

#[test]
fn each_header_rule_has_a_planted_break() {
    let plants: [(Rule, Plant); 11] = [
        (Rule::WritableAndExecutable, |patch| patch.set_section_flags(".text", WRITE)),
        (Rule::SectionAlignment, |patch| patch.set_u32(patch.optional + 32, 512)),
        (Rule::SectionAlignment, |patch| patch.move_section(".pdata", 0x200)),
        (Rule::ExecutableImportTable, |patch| patch.set_section_flags(".rdata", EXECUTE)),
        (Rule::ThreadLocalStorage, |patch| patch.set_directory(TLS, 0x1000, 40)),
        (Rule::DelayImport, |patch| patch.set_directory(DELAY_IMPORT, 0x1000, 32)),
        (Rule::Subsystem, |patch| patch.bytes[patch.optional + 68] = 2),
        (Rule::DynamicBase, |patch| patch.bytes[patch.optional + 70] &= !0x40),
        (Rule::NxCompatible, |patch| patch.bytes[patch.optional + 71] &= !0x01),
        (Rule::HighEntropy, |patch| patch.bytes[patch.optional + 70] &= !0x20),
        (Rule::NoPdbRecord, |patch| patch.set_directory(DEBUG, 0, 0)),
    ];
    for (rule, plant) in plants {
        let mut patch = clean();
        plant(&mut patch);
        assert!(rules(patch).contains(&rule), "{rule:?}");
    }
    // These patches break one rule only.
    let mut patch = clean();
    patch.bytes[patch.optional + 68] = 2;
    assert_eq!(rules(patch), BTreeSet::from([Rule::Subsystem]));
}

#[test]
fn an_import_by_ordinal_is_named() {
    let ordinal = || {
        let mut patch = clean();
        patch.make_first_import_ordinal(7);
        patch
    };
    assert_eq!(rules(ordinal()), BTreeSet::from([Rule::OrdinalImport]));
    let error = load(ordinal()).expect_err("by ordinal");
    assert!(matches!(error, LoadError::Ordinal { ordinal: 7, .. }), "{error}");
}

#[test]
fn each_instruction_rule_has_a_planted_break() {
    let plants: [(Rule, &[u8]); 17] = [
        (Rule::PrivilegedInstruction, &[0x44, 0x0F, 0x20, 0xC0]), // mov rax, cr8
        (Rule::PrivilegedInstruction, &[0xFA]),                   // cli
        (Rule::PrivilegedInstruction, &[0xEC]),                   // in al, dx
        (Rule::PrivilegedInstruction, &[0xEE]),                   // out dx, al
        (Rule::PrivilegedInstruction, &[0x0F, 0x32]),             // rdmsr
        (Rule::PrivilegedInstruction, &[0xF4]),                   // hlt
        (Rule::PrivilegedInstruction, &[0x0F, 0x01, 0xF8]),       // swapgs
        (Rule::ExtendedVector, &[0xC5, 0xFC, 0x28, 0xC1]),        // vmovaps ymm0, ymm1
        (Rule::ExtendedVector, &[0xC5, 0xF8, 0x28, 0xC1]),        // vmovaps xmm0, xmm1
        (Rule::ExtendedVector, &[0xC5, 0xF8, 0x92, 0xC0]),        // kmovw k0, eax
        (Rule::ExtendedVector, &[0xC5, 0xF9, 0x7E, 0xC0]),        // vmovd eax, xmm0
        (Rule::FloatingPointUnit, &[0xD9, 0xE8]),                 // fld1
        (Rule::FloatingPointUnit, &[0x0F, 0x6E, 0xC0]),           // movd mm0, eax
        (Rule::SegmentRegister, &[0x65, 0x48, 0x8B, 0x00]),       // mov rax, gs:[rax]
        (Rule::SegmentRegister, &[0x64, 0x48, 0x8B, 0x00]),       // mov rax, fs:[rax]
        (Rule::SegmentRegister, &[0xF3, 0x48, 0x0F, 0xAE, 0xC8]), // rdgsbase rax
        (Rule::Undecodable, &[0x06]),                             // none in 64-bit mode
    ];
    for (rule, bytes) in plants {
        let mut patch = clean();
        patch.plant_code(bytes);
        assert_eq!(rules(patch), BTreeSet::from([rule]), "{bytes:x?}");
    }
    let mut patch = clean();
    patch.plant_code(&[0xF4]);
    let report = lint_of(patch);
    let finding = report.findings.iter().find(|one| one.rule == Rule::PrivilegedInstruction);
    let detail = &finding.expect("found").detail;
    assert!(detail.contains("clean::leaf at ") && detail.contains("clean.rs:"), "{detail}");
}

#[test]
fn without_the_pdb_code_is_still_checked() {
    let folder = tempfile::tempdir().expect("a folder");
    let lonely = folder.path().join("clean.sys");
    let mut patch = clean();
    patch.plant_code(&[0xF4]);
    std::fs::write(&lonely, &patch.bytes).expect("writes");
    let report = lint(&Arc::new(PeFile::read(&lonely).expect("parses")));
    assert!(report.has(Rule::NoSymbols) && report.has(Rule::PrivilegedInstruction));
}

/// The standard flags of Driver Verifier lack the option that refuses it.
#[test]
fn the_loader_maps_a_section_that_is_writable_and_executable() {
    let mut patch = clean();
    patch.set_section_flags(".text", WRITE);
    assert!(load(patch).is_ok());
}

#[test]
fn the_loader_refuses_what_windows_would() {
    let refused = |plant: Plant| {
        let mut patch = clean();
        plant(&mut patch);
        load(patch).expect_err("refused").to_string()
    };
    let cases: [(&str, Plant); 12] = [
        ("machine 0xaa64", |patch| patch.set_u16(patch.nt + 4, 0xAA64)),
        ("magic 0x010b", |patch| patch.set_u16(patch.optional, 0x10B)),
        ("broken PE", |patch| patch.bytes.truncate(0x300)),
        ("alignment 0x200", |patch| patch.set_u32(patch.optional + 32, 512)),
        (".pdata", |patch| patch.move_section(".pdata", 0x200)),
        ("TLS", |patch| patch.set_directory(TLS, 0x1000, 40)),
        ("delay-load", |patch| patch.set_directory(DELAY_IMPORT, 0x1000, 32)),
        ("relocation type 3", |patch| patch.set_first_relocation_type(3)),
        ("stripped", |patch| patch.bytes[patch.nt + 22] |= 1),
        ("entry point", |patch| patch.set_u32(patch.optional + 16, 0)),
        ("headers longer", |patch| {
            patch.bytes.resize(0x3000, 0);
            patch.set_u32(patch.optional + 56, 0x1000);
            patch.set_u32(patch.optional + 60, 0x1800);
        }),
        ("image size", |patch| patch.set_u32(patch.optional + 56, 0xFFFF_F000)),
    ];
    for (text, plant) in cases {
        let error = refused(plant);
        assert!(error.contains(text), "expected {text}, got {error}");
    }
}

#[test]
fn hostile_files_give_errors_and_no_panics() {
    let good = clean().bytes;
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) as usize % below
    };
    let (mut parsed, mut mapped) = (0, 0);
    for round in 0..6000 {
        let mut bytes = good.clone();
        for _ in 0..1 + random(6) {
            // Change headers and the tables in .rdata.
            let within = if round % 2 == 0 { 0x400 } else { bytes.len() };
            let at = random(within);
            bytes[at] = [0, 0xFF, 0x7F, 0x80, random(256) as u8][random(5)];
        }
        if round % 16 == 0 {
            bytes.truncate(random(bytes.len()));
        }
        let Ok(file) = PeFile::parse(&CLEAN, bytes).map(Arc::new) else {
            continue;
        };
        parsed += 1;
        lint(&file);
        mapped += usize::from(Image::map(file, &exports::resolve).is_ok());
    }
    // Enough files must reach the later steps.
    assert!(parsed > 1000 && mapped > 500, "{parsed} parsed, {mapped} mapped");
}
