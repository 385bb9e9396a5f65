//! Maps an image, relocates it, binds its imports and protects it as Windows does.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use object::pe;
use thiserror::Error;

use super::cookie;
use super::map::{Protection, Reservation};
use super::pe::{ImportName, PAGE, PeError, PeFile, Section};
use super::places;
use super::symbols::{DataSymbol, SymbolError, Symbols};
use super::thunk::{Export, bind};
use crate::notes::{self, Note};

/// An import that the lab does not provide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingImport {
    /// The module's name as in the image.
    pub module: String,
    /// The function or datum.
    pub name: String,
}

impl fmt::Display for MissingImport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}!{}", self.module, self.name)
    }
}

/// Why an image was not loaded.
#[derive(Debug, Error)]
pub enum LoadError {
    /// Not a PE32+ file for x64.
    #[error(transparent)]
    File(#[from] PeError),
    /// A section is not on pages of its own or not in ascending order (Verifier
    /// 0xC4 subcode 0x2004).
    #[error("sections do not lie on pages of their own in ascending order: {0}")]
    Alignment(String),
    /// The code is linked for one address and has no relocations.
    #[error("the relocations were stripped")]
    NotRelocatable,
    /// A relocation other than `IMAGE_REL_BASED_DIR64`.
    #[error("unsupported relocation type {kind} at {rva:#x}")]
    Relocation {
        /// `IMAGE_REL_BASED_*`.
        kind: u16,
        /// Where, relative to the image base.
        rva: u32,
    },
    /// The kernel has neither thread-local storage nor delayed loading.
    #[error("the image has a {0} directory, which the kernel does not serve")]
    Directory(&'static str),
    /// Kernel modules export no ordinals.
    #[error("import by ordinal: {module} #{ordinal}")]
    Ordinal {
        /// The module.
        module: String,
        /// The ordinal.
        ordinal: u16,
    },
    /// The entry point is not in executable code.
    #[error("the entry point {0:#x} is not in an executable section")]
    Entry(u32),
    /// All imports that the lab does not provide.
    #[error("missing imports: {}", list(.0))]
    Missing(Vec<MissingImport>),
    /// The system refused memory.
    #[error("cannot map the image: {0}")]
    Map(#[from] io::Error),
}

fn list(missing: &[MissingImport]) -> String {
    missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// A driver image in memory. Dropping it unloads it. Its addresses stay reserved
/// without access for many more loads, so that a late call faults and the report
/// names the image.
#[derive(Debug)]
pub struct Image {
    file: Arc<PeFile>,
    memory: Reservation,
    /// Notes where the image lies, for a process that hangs.
    _note: Note,
}

impl Image {
    /// Reads, checks and maps a driver. Calls `resolve` with module (as named in
    /// the image) and name of each import.
    pub fn load(path: &Path, resolve: &dyn Fn(&str, &str) -> Option<Export>) -> Result<Self, LoadError> {
        Self::map(Arc::new(PeFile::read(path)?), resolve)
    }

    /// Maps a parsed file. A file can be mapped many times.
    pub fn map(file: Arc<PeFile>, resolve: &dyn Fn(&str, &str) -> Option<Export>) -> Result<Self, LoadError> {
        check(&file)?;
        let imports = resolve_imports(&file, resolve)?;
        let mut memory = Reservation::new(file.image.len())?;
        let mut content = file.image.clone();
        relocate(&file, memory.base(), &mut content);
        cookie::set(&file, memory.base(), &mut content);
        for (slot, address) in imports {
            put(&mut content, slot, address);
        }
        memory.fill(&content)?;
        memory.protect(0..pages(&(0..file.header_size)).end, Protection::Read)?;
        for section in &file.sections {
            memory.protect(pages(&section.range), protection(section))?;
        }
        places::loaded(memory.base(), Arc::clone(&file));
        let note = notes::note(|| format!("image {:#x} {}", memory.base(), file.path.display()));
        Ok(Self { file, memory, _note: note })
    }

    /// The address of `DriverEntry`.
    pub fn entry(&self) -> u64 {
        self.base() + u64::from(self.file.entry)
    }

    /// The address of the image's first byte.
    pub fn base(&self) -> u64 {
        self.memory.base()
    }

    /// Bytes of address space the image takes.
    pub fn size(&self) -> u64 {
        self.file.image.len() as u64
    }

    /// Whether the image takes this address.
    pub fn contains(&self, address: u64) -> bool {
        self.rva(address).is_some()
    }

    /// An address relative to the image's base, if the image takes it.
    pub fn rva(&self, address: u64) -> Option<u32> {
        let offset = address.checked_sub(self.base())?;
        (offset < self.size()).then_some(offset as u32)
    }

    /// The file from which the image was mapped.
    pub fn file(&self) -> &Arc<PeFile> {
        &self.file
    }

    /// The symbols of the PDB beside the file.
    pub fn symbols(&self) -> Result<&'static Symbols, SymbolError> {
        Symbols::of(&self.file)
    }

    /// Address and symbol of a global variable. `name` is a full name such as
    /// `sample::driver::COUNTERS`, or its end, such as `COUNTERS`.
    pub fn data(&self, name: &str) -> Result<(u64, &'static DataSymbol), SymbolError> {
        let symbol = self.symbols()?.data(name)?;
        Ok((self.base() + u64::from(symbol.rva), symbol))
    }

    /// The addresses of the sections that are pageable: those whose names begin with PAGE
    /// and that are not marked as resident. The flags say whether one is writable, and
    /// whether it is executable.
    pub fn pageable(&self) -> Vec<(Range<u64>, bool, bool)> {
        let pageable = self.file.sections.iter().filter(|section| section.is_pageable());
        let place = |section: &Section| {
            let at = pages(&section.range);
            let range = self.base() + at.start as u64..self.base() + at.end as u64;
            (range, section.is_writable(), section.is_executable())
        };
        pageable.map(place).collect()
    }

    /// Removes the discardable sections, as Windows does after DriverEntry returns.
    pub fn discard(&mut self) -> io::Result<()> {
        for section in self.file.sections.iter().filter(|section| section.is_discardable()) {
            self.memory.protect(pages(&section.range), Protection::None)?;
        }
        Ok(())
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        match self.memory.revoke() {
            Ok(addresses) => places::unloaded(addresses),
            Err(error) => {
                // Late calls would not be detected: abort rather than give wrong
                // results.
                eprintln!("cannot unmap {}: {error}", self.file.name());
                std::process::abort();
            }
        }
    }
}

/// The pages of a range, as offsets.
fn pages(range: &Range<u32>) -> Range<usize> {
    range.start as usize..range.end.next_multiple_of(PAGE) as usize
}

fn protection(section: &Section) -> Protection {
    if section.is_executable() && section.is_writable() {
        Protection::All
    } else if section.is_executable() {
        Protection::ReadExecute
    } else if section.is_writable() {
        Protection::ReadWrite
    } else if section.is_readable() {
        Protection::Read
    } else {
        Protection::None
    }
}

/// Refuses a file that the kernel would not load.
fn check(file: &PeFile) -> Result<(), LoadError> {
    for (index, what) in [
        (pe::IMAGE_DIRECTORY_ENTRY_TLS, "TLS"),
        (pe::IMAGE_DIRECTORY_ENTRY_DELAY_IMPORT, "delay-load import"),
    ] {
        if file.directory(index).is_some() {
            return Err(LoadError::Directory(what));
        }
    }
    if file.section_alignment < PAGE {
        return Err(LoadError::Alignment(format!("alignment {:#x}", file.section_alignment)));
    }
    let mut free = file.header_size.next_multiple_of(PAGE);
    for section in &file.sections {
        if !section.range.start.is_multiple_of(PAGE) || section.range.start < free {
            return Err(LoadError::Alignment(section.name.clone()));
        }
        free = section.range.end.next_multiple_of(PAGE);
    }
    if !file.section_at(file.entry).is_some_and(Section::is_executable) {
        return Err(LoadError::Entry(file.entry));
    }
    if file.characteristics & pe::IMAGE_FILE_RELOCS_STRIPPED.0 != 0 {
        return Err(LoadError::NotRelocatable);
    }
    match file.relocations.iter().find(|one| one.kind != pe::IMAGE_REL_BASED_DIR64.0) {
        Some(&super::Relocation { rva, kind }) => Err(LoadError::Relocation { rva, kind }),
        None => Ok(()),
    }
}

/// The address for each slot of the import address table.
fn resolve_imports(
    file: &PeFile,
    resolve: &dyn Fn(&str, &str) -> Option<Export>,
) -> Result<Vec<(u32, u64)>, LoadError> {
    let mut bound = Vec::with_capacity(file.imports.len());
    let mut missing = Vec::new();
    for import in &file.imports {
        let module = &import.module;
        let name = match &import.name {
            ImportName::Name(name) => name,
            &ImportName::Ordinal(ordinal) => {
                return Err(LoadError::Ordinal { module: module.clone(), ordinal });
            }
        };
        match resolve(module, name) {
            Some(export) => bound.push((import.slot, bind(module, name, export)?)),
            None => missing.push(MissingImport { module: module.clone(), name: name.clone() }),
        }
    }
    if missing.is_empty() { Ok(bound) } else { Err(LoadError::Missing(missing)) }
}

fn relocate(file: &PeFile, base: u64, content: &mut [u8]) {
    let delta = base.wrapping_sub(file.linked_base);
    for relocation in &file.relocations {
        let at = relocation.rva as usize;
        if let Some(place) = content[at..].first_chunk_mut::<8>() {
            *place = u64::from_le_bytes(*place).wrapping_add(delta).to_le_bytes();
        }
    }
}

fn put(content: &mut [u8], slot: u32, address: u64) {
    if let Some(place) = content[slot as usize..].first_chunk_mut::<8>() {
        *place = address.to_le_bytes();
    }
}
