//! Two drivers byte by byte, without signature, certificate table and checksum; and where
//! they differ.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result};
use machine::image::{PdbId, Symbols};
use object::read::pe::PeFile64;

use super::pieces::{Pieces, Section};

/// Most details that are named of one section.
const MOST: usize = 20;

/// A part of an image that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The section, or `headers`.
    pub section: String,
    /// How much of it differs.
    pub summary: String,
    /// Functions, data or fields that differ.
    pub details: Vec<String>,
}

/// An image whose functions have names.
pub struct Named<'a> {
    /// The image.
    pub pieces: Pieces<'a>,
    symbols: Option<&'static Symbols>,
}

impl<'a> Named<'a> {
    /// Parses our own build. The PDB is beside it.
    pub fn read(path: &Path, bytes: &'a [u8]) -> Result<Self> {
        let pieces = Pieces::parse(bytes).with_context(|| format!("{}", path.display()))?;
        let symbols = identity(bytes).and_then(|id| Symbols::beside(path, id).ok());
        Ok(Self { pieces, symbols })
    }

    /// A function for people: its name, address and size.
    fn function(&self, function: &Range<u32>) -> String {
        let functions = self.symbols.map_or(&[][..], Symbols::functions);
        let before = functions.partition_point(|other| other.range.start <= function.start);
        let found = before.checked_sub(1).and_then(|index| functions.get(index));
        let found = found
            .filter(|found| found.range.contains(&function.start) || found.range.start == function.start);
        let name = found.map_or("code without a name", |found| &*found.name);
        format!("{name} ({:#x}, {} bytes)", function.start, function.len())
    }

    /// What lies at an address.
    fn place(&self, rva: u32) -> String {
        let datum = self.symbols.and_then(|symbols| symbols.data_at(rva)).map(|datum| datum.name.clone());
        let directories = self.pieces.directories.iter().rev();
        let directory = directories.filter(|(_, range)| range.contains(&rva)).map(|(name, _)| *name).next();
        datum
            .or_else(|| directory.map(|name| format!("the {name}")))
            .unwrap_or_else(|| format!("data at {rva:#x}"))
    }
}

/// The identity of an image's PDB.
fn identity(bytes: &[u8]) -> Option<PdbId> {
    let file = PeFile64::parse(bytes).ok()?;
    let view = object::Object::pdb_info(&file).ok()??;
    let guid = uuid::Uuid::from_bytes_le(view.guid());
    let name = String::from_utf8_lossy(view.path()).into_owned();
    Some(PdbId { guid, age: view.age(), path: name })
}

/// Whether two images are equal but for signature, certificate table and checksum.
pub fn same(ours: &Pieces<'_>, theirs: &Pieces<'_>) -> bool {
    masked(ours) == masked(theirs)
}

/// The image with zeros where a signature changes it.
fn masked(pieces: &Pieces<'_>) -> Vec<u8> {
    let mut bytes = pieces.content().to_vec();
    for range in [&pieces.unsigned.checksum, &pieces.unsigned.entry] {
        bytes[range.clone()].fill(0);
    }
    bytes
}

/// Where two images differ. Empty only if they are the [`same`].
pub fn compare(ours: &Named<'_>, theirs: &Pieces<'_>) -> Vec<Difference> {
    if same(&ours.pieces, theirs) {
        return Vec::new();
    }
    let mut differences: Vec<Difference> = headers(&ours.pieces, theirs).into_iter().collect();
    for section in &ours.pieces.sections {
        match theirs.sections.iter().find(|other| other.name == section.name) {
            Some(other) => differences.extend(contents(ours, section, theirs, other)),
            None => differences.push(whole(&section.name, "only in our build")),
        }
    }
    for section in &theirs.sections {
        if !ours.pieces.sections.iter().any(|other| other.name == section.name) {
            differences.push(whole(&section.name, "not in our build"));
        }
    }
    if differences.is_empty() {
        let lengths = [ours.pieces.content().len(), theirs.content().len()];
        let summary =
            format!("differ; our file has {} bytes without signature, theirs {}", lengths[0], lengths[1]);
        differences.push(whole("bytes outside of the sections", &summary));
    }
    differences
}

fn whole(section: &str, summary: &str) -> Difference {
    Difference { section: section.to_owned(), summary: summary.to_owned(), details: Vec::new() }
}

/// Fields by their offsets from the PE signature ("Optional header (image only)").
const FIELDS: [(usize, &str); 26] = [
    (0, "the signature"),
    (4, "Machine"),
    (6, "NumberOfSections"),
    (8, "TimeDateStamp"),
    (12, "the table of symbols"),
    (20, "SizeOfOptionalHeader"),
    (22, "Characteristics"),
    (24, "Magic"),
    (26, "the linker's version"),
    (28, "SizeOfCode"),
    (32, "SizeOfInitializedData"),
    (36, "SizeOfUninitializedData"),
    (40, "AddressOfEntryPoint"),
    (44, "BaseOfCode"),
    (48, "ImageBase"),
    (56, "SectionAlignment"),
    (60, "FileAlignment"),
    (64, "versions of system, image and subsystem"),
    (80, "SizeOfImage"),
    (84, "SizeOfHeaders"),
    (88, "CheckSum"),
    (92, "Subsystem"),
    (94, "DllCharacteristics"),
    (96, "sizes of stack and heap"),
    (136, "the data directories"),
    (264, "the section table"),
];

fn headers(ours: &Pieces<'_>, theirs: &Pieces<'_>) -> Option<Difference> {
    let end = |pieces: &Pieces<'_>| {
        let first = pieces.sections.iter().map(|section| section.file.start).filter(|start| *start > 0).min();
        first.unwrap_or(pieces.content().len())
    };
    let [one, other] = [ours, theirs].map(|pieces| {
        let mut bytes = masked(pieces);
        bytes.truncate(end(pieces));
        bytes
    });
    let places = different(&one, &other);
    let mut details: Vec<String> = Vec::new();
    for place in &places {
        let name = match place.checked_sub(ours.header) {
            None => "the DOS header",
            Some(offset) => {
                FIELDS.iter().rev().find(|(from, _)| *from <= offset).map_or("", |(_, name)| name)
            }
        };
        if details.last().is_none_or(|last| last != name) {
            details.push(name.to_owned());
        }
    }
    let summary = format!("{} bytes differ", places.len());
    (!places.is_empty()).then(|| Difference { section: "headers".to_owned(), summary, details })
}

/// The offsets at which two texts differ, as far as either goes.
fn different(one: &[u8], other: &[u8]) -> Vec<usize> {
    (0..one.len().max(other.len())).filter(|&at| one.get(at) != other.get(at)).collect()
}

fn contents(ours: &Named<'_>, section: &Section, theirs: &Pieces<'_>, other: &Section) -> Option<Difference> {
    let [one, two] = [&ours.pieces.bytes[section.file.clone()], &theirs.bytes[other.file.clone()]];
    let places = different(one, two);
    if places.is_empty() {
        return None;
    }
    let sizes = match one.len() == two.len() {
        true => String::new(),
        false => format!("; {} bytes in our build, {} in theirs", one.len(), two.len()),
    };
    let summary = format!("{} bytes differ{sizes}", places.len());
    let details = match section.is_code && other.is_code && ours.pieces.target == theirs.target {
        true => functions(ours, section, theirs, other, &places),
        false => data(ours, section, &places, one.len() == two.len()),
    };
    Some(Difference { section: section.name.clone(), summary, details })
}

/// Names what differs in a section of data, if it has one layout in both.
fn data(ours: &Named<'_>, section: &Section, places: &[usize], has_one_size: bool) -> Vec<String> {
    let mut details: Vec<String> = Vec::new();
    for place in places.iter().filter(|_| has_one_size) {
        let name = ours.place(section.start.saturating_add(*place as u32));
        let near =
            name.starts_with("data at") && details.last().is_some_and(|last| last.starts_with("data at"));
        if !near && !details.contains(&name) {
            details.push(name);
        }
    }
    shortened(details)
}

/// Names the functions that differ. Functions that are equal but for addresses have only
/// moved, or name something that has.
fn functions(
    ours: &Named<'_>,
    section: &Section,
    theirs: &Pieces<'_>,
    other: &Section,
    places: &[usize],
) -> Vec<String> {
    let (one, two) = (ours.pieces.code(section), theirs.code(other));
    let mut there: HashMap<[u8; 32], Vec<usize>> = HashMap::new();
    for (index, function) in two.iter().enumerate().rev() {
        there.entry(theirs.fingerprint(function)).or_default().push(index);
    }
    let mut details = Vec::new();
    let mut taken = vec![false; two.len()];
    let mut only_ours = Vec::new();
    for function in &one {
        match there.get_mut(&ours.pieces.fingerprint(function)).and_then(Vec::pop) {
            Some(index) => taken[index] = true,
            None => only_ours.push(function),
        }
    }
    for function in only_ours {
        let here = two.iter().position(|other| other == function).filter(|&index| !taken[index]);
        let what = if here.is_some() { "differs" } else { "is not in theirs" };
        here.into_iter().for_each(|index| taken[index] = true);
        details.push(format!("{} {what}", ours.function(function)));
    }
    for (function, _) in two.iter().zip(&taken).filter(|(_, taken)| !**taken) {
        let (start, length) = (function.start, function.len());
        details.push(format!("code at {start:#x} of theirs, {length} bytes, is not in our build"));
    }
    if details.is_empty() {
        let touched = one.iter().filter(|function| {
            let from = (function.start - section.start) as usize;
            let first = places.partition_point(|&place| place < from);
            places.get(first).is_some_and(|&place| place < from + function.len())
        });
        details.extend(
            touched.map(|function| {
                format!("{} lies elsewhere or names another address", ours.function(function))
            }),
        );
    }
    if details.is_empty() {
        details.push("the padding between functions".to_owned());
    }
    shortened(details)
}

fn shortened(mut details: Vec<String>) -> Vec<String> {
    if details.len() > MOST {
        let more = details.len() - MOST;
        details.truncate(MOST);
        details.push(format!("and {more} more"));
    }
    details
}

/// Where two drivers differ, as lines of text: section, then function, datum or field.
pub fn lines(differences: &[Difference]) -> Vec<String> {
    let mut lines = Vec::new();
    for difference in differences {
        lines.push(format!("{}: {}", difference.section, difference.summary));
        lines.extend(difference.details.iter().map(|detail| format!("  {detail}")));
    }
    lines
}

/// Compares two builds of this machine: where they differ, section and function.
///
/// # Errors
/// If a file cannot be read.
pub fn builds(one: &Path, other: &Path) -> Result<Vec<String>> {
    let read = |path: &Path| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let (ours, theirs) = (read(one)?, read(other)?);
    let named = Named::read(one, &ours)?;
    let mut lines = lines(&compare(&named, &Pieces::parse(&theirs)?));
    let pdbs = [one, other].map(|path| read(&path.with_extension("pdb")));
    let [ours, theirs] = pdbs;
    let places = different(&ours?, &theirs?);
    if let Some(first) = places.first() {
        lines.push(format!(
            "{}: {} bytes differ, the first at {first:#x}",
            one.with_extension("pdb").display(),
            places.len()
        ));
    }
    Ok(lines)
}
