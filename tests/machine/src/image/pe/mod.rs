//! Parses a PE32+ file into a flat image and checked tables.
//!
//! This module checks structure, not policy: a file with a writable and executable
//! section parses, so that the lint can report it and the loader can refuse it.
//! Source: "PE Format", Microsoft Learn.
#![forbid(unsafe_code)]

mod tables;

use std::ops::Range;
use std::path::{Path, PathBuf};

use object::LittleEndian as LE;
use object::pe;
use object::read::pe::{ImageNtHeaders, ImageOptionalHeader, optional_header_magic};
use thiserror::Error;

use super::provided;

/// Bytes in a page. Sections are protected in pages.
pub(super) const PAGE: u32 = 4096;
/// A larger image size means a broken header.
const LARGEST_IMAGE: u32 = 64 << 20;
/// Offset of `CheckSum` from the `PE\0\0` signature: signature, file header, and 64
/// bytes of the optional header.
const CHECKSUM_OFFSET: usize = 4 + 20 + 64;

/// Why a file is not a PE32+ driver for x64.
#[derive(Debug, Error)]
pub enum PeError {
    /// The file could not be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// Built for another processor (`IMAGE_FILE_HEADER.Machine`).
    #[error("machine {0:#06x} is not x64 (0x8664)")]
    Machine(u16),
    /// Not PE32+ (`IMAGE_OPTIONAL_HEADER.Magic`).
    #[error("optional header magic {0:#06x} is not PE32+ (0x020b)")]
    NotPe32Plus(u16),
    /// The structure is inconsistent.
    #[error("broken PE file: {0}")]
    Broken(String),
}

/// A row of the section table.
#[derive(Clone, Debug)]
pub struct Section {
    /// Its name, at most eight characters.
    pub name: String,
    /// Its addresses, relative to the image base. The end is not aligned.
    pub range: Range<u32>,
    /// `IMAGE_SCN_*`.
    pub flags: u32,
}

impl Section {
    /// `IMAGE_SCN_MEM_EXECUTE`.
    pub fn is_executable(&self) -> bool {
        self.flags & pe::IMAGE_SCN_MEM_EXECUTE.0 != 0
    }

    /// `IMAGE_SCN_MEM_WRITE`.
    pub fn is_writable(&self) -> bool {
        self.flags & pe::IMAGE_SCN_MEM_WRITE.0 != 0
    }

    /// `IMAGE_SCN_MEM_READ`.
    pub fn is_readable(&self) -> bool {
        self.flags & pe::IMAGE_SCN_MEM_READ.0 != 0
    }

    /// Whether the system may take it out of memory: the name begins with PAGE, and
    /// `IMAGE_SCN_MEM_NOT_PAGED` is not set.
    pub fn is_pageable(&self) -> bool {
        self.name.starts_with("PAGE") && self.flags & pe::IMAGE_SCN_MEM_NOT_PAGED.0 == 0
    }

    /// `IMAGE_SCN_MEM_DISCARDABLE`: freed after DriverEntry returns.
    pub fn is_discardable(&self) -> bool {
        self.flags & pe::IMAGE_SCN_MEM_DISCARDABLE.0 != 0
    }
}

/// One base relocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relocation {
    /// Where to patch, relative to the image base.
    pub rva: u32,
    /// `IMAGE_REL_BASED_*`.
    pub kind: u16,
}

/// How an import names its function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImportName {
    /// By name, the usual case.
    Name(String),
    /// By ordinal.
    Ordinal(u16),
}

/// One imported function or datum.
#[derive(Clone, Debug)]
pub struct Import {
    /// The module's name as in the import descriptor.
    pub module: String,
    /// The name or ordinal.
    pub name: ImportName,
    /// The slot in the import address table, relative to the image base.
    pub slot: u32,
}

/// Identifies the PDB of the image (CodeView `RSDS` record).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PdbId {
    /// The PDB's GUID.
    pub guid: uuid::Uuid,
    /// The PDB's age: the number of times it was written.
    pub age: u32,
    /// The path at which the linker wrote it.
    pub path: String,
}

/// A parsed file.
#[derive(Debug)]
pub struct PeFile {
    /// The path from which it was read.
    pub path: PathBuf,
    /// The bytes of the file.
    pub bytes: Vec<u8>,
    /// The file laid out as in memory, neither relocated nor bound.
    pub image: Vec<u8>,
    /// The address for which it was linked.
    pub linked_base: u64,
    /// `AddressOfEntryPoint`.
    pub entry: u32,
    /// `SectionAlignment`.
    pub section_alignment: u32,
    /// `Subsystem`.
    pub subsystem: u16,
    /// `DllCharacteristics`.
    pub dll_characteristics: u16,
    /// `Characteristics` of the file header.
    pub characteristics: u16,
    /// `CheckSum` as written in the header.
    pub checksum: u32,
    /// Offset of `CheckSum` in the file.
    pub checksum_offset: usize,
    /// Bytes of headers mapped at the image's start.
    pub header_size: u32,
    /// The sections, in table order.
    pub sections: Vec<Section>,
    /// Base relocations without padding.
    pub relocations: Vec<Relocation>,
    /// Imports, in table order.
    pub imports: Vec<Import>,
    /// The PDB that belongs to the image.
    pub pdb: Option<PdbId>,
    directories: Vec<Range<u32>>,
}

fn broken(what: impl std::fmt::Display) -> PeError {
    PeError::Broken(what.to_string())
}

impl PeFile {
    /// Reads and parses a file.
    pub fn read(path: &Path) -> Result<Self, PeError> {
        let bytes = provided::read(path).map_err(|source| PeError::Io { path: path.to_owned(), source })?;
        Self::parse(path, bytes)
    }

    /// Parses the bytes of a file. `path` names the file in reports and leads to
    /// its PDB.
    pub fn parse(path: &Path, bytes: Vec<u8>) -> Result<Self, PeError> {
        let data = bytes.as_slice();
        let magic = optional_header_magic(data).map_err(broken)?;
        let dos = pe::ImageDosHeader::parse(data).map_err(broken)?;
        let nt_offset = u64::from(dos.nt_headers_offset());
        let machine = object::read::ReadRef::read_at::<pe::ImageFileHeader>(data, nt_offset + 4)
            .map_err(|()| broken("no file header"))?
            .machine
            .get(LE);
        if machine != pe::IMAGE_FILE_MACHINE_AMD64 {
            return Err(PeError::Machine(machine.0));
        }
        if magic != pe::IMAGE_NT_OPTIONAL_HDR64_MAGIC {
            return Err(PeError::NotPe32Plus(magic));
        }
        let mut offset = nt_offset;
        let (nt, directories) = pe::ImageNtHeaders64::parse(data, &mut offset).map_err(broken)?;
        let table = nt.sections(data, offset).map_err(broken)?;
        let header = nt.optional_header();
        let header_size = header.size_of_headers();
        let sections: Vec<_> = table.iter().map(section).collect::<Result<_, _>>()?;
        let image = flatten(data, header.size_of_image(), header_size, table.iter(), &sections)?;

        let mut file = Self {
            path: path.to_owned(),
            linked_base: header.image_base(),
            entry: header.address_of_entry_point(),
            section_alignment: header.section_alignment(),
            subsystem: header.subsystem().0,
            dll_characteristics: header.dll_characteristics().0,
            characteristics: nt.file_header().characteristics.get(LE).0,
            checksum: header.check_sum(),
            checksum_offset: nt_offset as usize + CHECKSUM_OFFSET,
            header_size,
            relocations: Vec::new(),
            imports: Vec::new(),
            pdb: None,
            directories: directories
                .iter()
                .map(|entry| {
                    let start = entry.virtual_address.get(LE);
                    start..start.saturating_add(entry.size.get(LE))
                })
                .collect(),
            sections,
            image,
            bytes: Vec::new(),
        };
        file.relocations = tables::relocations(&file)?;
        file.imports = tables::imports(&file)?;
        file.pdb = tables::pdb_id(&file)?;
        file.bytes = bytes;
        Ok(file)
    }

    /// The file's name without its folders.
    pub fn name(&self) -> String {
        self.path
            .file_name()
            .map_or_else(|| self.path.display().to_string(), |name| name.to_string_lossy().into_owned())
    }

    /// A data directory (`IMAGE_DIRECTORY_ENTRY_*`), if it is not empty.
    pub fn directory(&self, index: usize) -> Option<Range<u32>> {
        let range = self.directories.get(index)?;
        (range.start != 0 && !range.is_empty()).then(|| range.clone())
    }

    /// The section that holds `rva`.
    pub fn section_at(&self, rva: u32) -> Option<&Section> {
        self.sections.iter().find(|section| section.range.contains(&rva))
    }

    /// Bytes of the flat image, if all of `range` lies in it.
    pub fn slice(&self, range: Range<u32>) -> Option<&[u8]> {
        self.image.get(range.start as usize..range.end as usize)
    }
}

fn section(header: &pe::ImageSectionHeader) -> Result<Section, PeError> {
    let name = String::from_utf8_lossy(header.raw_name()).into_owned();
    let start = header.virtual_address.get(LE);
    let size = match header.virtual_size.get(LE) {
        0 => header.size_of_raw_data.get(LE),
        size => size,
    };
    let end = start.checked_add(size).ok_or_else(|| broken(format!("section {name} wraps around")))?;
    Ok(Section { name, range: start..end, flags: header.characteristics.get(LE).0 })
}

/// Lays out headers and sections as the loader does.
fn flatten<'a>(
    data: &[u8],
    size: u32,
    header_size: u32,
    headers: impl Iterator<Item = &'a pe::ImageSectionHeader>,
    sections: &[Section],
) -> Result<Vec<u8>, PeError> {
    if size == 0 || size > LARGEST_IMAGE {
        return Err(broken(format!("image size {size:#x}")));
    }
    let mut image = vec![0; size.next_multiple_of(PAGE) as usize];
    let headers_in_file = data
        .get(..header_size as usize)
        .filter(|bytes| bytes.len() <= image.len())
        .ok_or_else(|| broken("headers longer than the file or the image"))?;
    image[..headers_in_file.len()].copy_from_slice(headers_in_file);
    for (header, section) in headers.zip(sections) {
        let range = section.range.start as usize..section.range.end as usize;
        let name = &section.name;
        let target =
            image.get_mut(range).ok_or_else(|| broken(format!("section {name} outside the image")))?;
        let start = header.pointer_to_raw_data.get(LE) as usize;
        let raw = data
            .get(start..start + header.size_of_raw_data.get(LE) as usize)
            .ok_or_else(|| broken(format!("section {name} outside the file")))?;
        let length = raw.len().min(target.len());
        target[..length].copy_from_slice(&raw[..length]);
    }
    Ok(image)
}
