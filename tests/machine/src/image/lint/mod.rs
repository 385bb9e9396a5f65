//! Rules that a linked driver keeps, checked on the file.
//!
//! The first three rules are Driver Verifier's code-integrity checks (bugcheck
//! 0xC4, subcodes 0x2003 to 0x2005). Linkers break them without a warning.
#![forbid(unsafe_code)]

mod checksum;
mod code;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use object::pe;

pub use checksum::checksum;

use super::pe::{ImportName, PAGE, PeFile, Section};
use super::symbols::Symbols;

/// A rule for a driver's file; each name is what breaks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// A section both writable and executable (Verifier 0xC4/0x2003).
    WritableAndExecutable,
    /// A section that does not start on a page (Verifier 0xC4/0x2004).
    SectionAlignment,
    /// The import address table in executable memory (Verifier 0xC4/0x2005).
    ExecutableImportTable,
    /// Thread-local storage, which the kernel does not set up.
    ThreadLocalStorage,
    /// Delay-loaded imports, which the kernel does not resolve.
    DelayImport,
    /// An import by ordinal.
    OrdinalImport,
    /// `CheckSum` is zero or wrong; the kernel's loader verifies it.
    Checksum,
    /// `Subsystem` is not `IMAGE_SUBSYSTEM_NATIVE`.
    Subsystem,
    /// No `DYNAMIC_BASE`: the image cannot be placed at a random address.
    DynamicBase,
    /// No `NX_COMPAT`: memory integrity refuses the image.
    NxCompatible,
    /// No `HIGH_ENTROPY_VA`.
    HighEntropy,
    /// No record of a PDB.
    NoPdbRecord,
    /// The PDB could not be read, so findings in code have no names.
    NoSymbols,
    /// An instruction for ring 0 or I/O.
    PrivilegedInstruction,
    /// Uses ymm, zmm or mask registers. A driver must save them first.
    ExtendedVector,
    /// Uses x87 or MMX registers. 64-bit kernel code may not.
    FloatingPointUnit,
    /// Addresses memory through FS or GS.
    SegmentRegister,
    /// Bytes in a function that do not decode.
    Undecodable,
}

/// A broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The rule.
    pub rule: Rule,
    /// Place and values.
    pub detail: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.detail)
    }
}

/// The result of the lint.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Broken rules.
    pub findings: Vec<Finding>,
    /// Imported names by module. Module names are as in the image.
    pub imports: BTreeMap<String, BTreeSet<String>>,
    /// The functions' code, relative to the image base, in ascending order.
    pub functions: Vec<Range<u32>>,
}

impl Report {
    /// Whether a finding breaks `rule`.
    pub fn has(&self, rule: Rule) -> bool {
        self.findings.iter().any(|finding| finding.rule == rule)
    }

    fn add(&mut self, rule: Rule, detail: impl Into<String>) {
        self.findings.push(Finding { rule, detail: detail.into() });
    }
}

/// Checks every rule.
pub fn lint(file: &Arc<PeFile>) -> Report {
    let mut report = Report::default();
    sections(file, &mut report);
    headers(file, &mut report);
    imports(file, &mut report);
    let symbols = if file.pdb.is_none() {
        report.add(Rule::NoPdbRecord, "no CodeView record in the debug directory");
        None
    } else {
        Symbols::of(file).map_err(|error| report.add(Rule::NoSymbols, error.to_string())).ok()
    };
    code::check(file, symbols, &mut report);
    report
}

/// Checks only Driver Verifier's three rules, which need no symbols.
pub fn code_integrity(file: &PeFile) -> Vec<Finding> {
    let mut report = Report::default();
    sections(file, &mut report);
    imports(file, &mut report);
    let verified = [Rule::WritableAndExecutable, Rule::SectionAlignment, Rule::ExecutableImportTable];
    report.findings.retain(|finding| verified.contains(&finding.rule));
    report.findings
}

fn sections(file: &PeFile, report: &mut Report) {
    if file.section_alignment < PAGE {
        let detail = format!("SectionAlignment is {:#x}, less than a page", file.section_alignment);
        report.add(Rule::SectionAlignment, detail);
    }
    for Section { name, range, .. } in &file.sections {
        if !range.start.is_multiple_of(PAGE) {
            let detail = format!("section {name} at {:#x} is not on a page", range.start);
            report.add(Rule::SectionAlignment, detail);
        }
    }
    for section in file.sections.iter().filter(|one| one.is_writable() && one.is_executable()) {
        report.add(Rule::WritableAndExecutable, format!("section {}", section.name));
    }
}

fn headers(file: &PeFile, report: &mut Report) {
    let right = checksum(&file.bytes, file.checksum_offset);
    match file.checksum {
        0 => report.add(Rule::Checksum, "CheckSum is 0: link with /RELEASE"),
        sum if sum != right => {
            report.add(Rule::Checksum, format!("CheckSum is {sum:#x} but should be {right:#x}"));
        }
        _ => {}
    }
    if file.subsystem != pe::IMAGE_SUBSYSTEM_NATIVE.0 {
        let detail = format!("Subsystem is {}, not NATIVE (1)", file.subsystem);
        report.add(Rule::Subsystem, detail);
    }
    for (flag, rule, name) in [
        (pe::IMAGE_DLLCHARACTERISTICS_DYNAMIC_BASE, Rule::DynamicBase, "DYNAMIC_BASE"),
        (pe::IMAGE_DLLCHARACTERISTICS_NX_COMPAT, Rule::NxCompatible, "NX_COMPAT"),
        (pe::IMAGE_DLLCHARACTERISTICS_HIGH_ENTROPY_VA, Rule::HighEntropy, "HIGH_ENTROPY_VA"),
    ] {
        if file.dll_characteristics & flag.0 == 0 {
            report.add(rule, format!("DllCharacteristics lacks {name}"));
        }
    }
    for (index, rule) in [
        (pe::IMAGE_DIRECTORY_ENTRY_TLS, Rule::ThreadLocalStorage),
        (pe::IMAGE_DIRECTORY_ENTRY_DELAY_IMPORT, Rule::DelayImport),
    ] {
        if let Some(range) = file.directory(index) {
            report.add(rule, format!("directory {index} at {:#x}", range.start));
        }
    }
}

fn imports(file: &PeFile, report: &mut Report) {
    let executable = |rva| file.section_at(rva).filter(|section| section.is_executable());
    // The slots count: the directory may be absent or lie elsewhere.
    let table = file.directory(pe::IMAGE_DIRECTORY_ENTRY_IAT).map(|range| range.start);
    let slots = file.imports.iter().map(|import| import.slot);
    let sections: BTreeSet<_> =
        slots.chain(table).filter_map(executable).map(|section| section.name.clone()).collect();
    for section in sections {
        report.add(Rule::ExecutableImportTable, format!("import address table in {section}"));
    }
    for import in &file.imports {
        let name = match &import.name {
            ImportName::Name(name) => name.clone(),
            ImportName::Ordinal(ordinal) => {
                let detail = format!("{} #{ordinal}", import.module);
                report.add(Rule::OrdinalImport, detail);
                format!("#{ordinal}")
            }
        };
        report.imports.entry(import.module.clone()).or_default().insert(name);
    }
}
