//! An image in pieces: headers, sections, functions.
//!
//! Source: "PE Format", "x64 exception handling", "ARM64 exception handling", Microsoft
//! Learn. Hostile files give errors.

use std::ops::Range;

use anyhow::{Context, Result, bail, ensure};
use iced_x86::{Decoder, DecoderOptions, Instruction, OpKind};
use object::LittleEndian as LE;
use object::pe;
use object::read::pe::PeFile64;
use sha2::{Digest, Sha256};

use crate::package::image::Unsigned;
use crate::setup::Target;

/// A parsed image of a driver for either processor.
pub struct Pieces<'a> {
    /// The file.
    pub bytes: &'a [u8],
    /// The processor that it is for.
    pub target: Target,
    /// What a signature does not cover.
    pub unsigned: Unsigned,
    /// Where the PE header begins.
    pub header: usize,
    /// The sections, in the order of their table.
    pub sections: Vec<Section>,
    /// Names of data directories and of what they lead to, by addresses relative to the
    /// image base.
    pub directories: Vec<(&'static str, Range<u32>)>,
    /// Functions of the unwind tables, ascending.
    functions: Vec<Range<u32>>,
}

/// A section of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Its name.
    pub name: String,
    /// Its first address, relative to the image base.
    pub start: u32,
    /// Its bytes in the file.
    pub file: Range<usize>,
    /// `IMAGE_SCN_MEM_EXECUTE`.
    pub is_code: bool,
}

/// The most that Windows loads ("COFF file header").
const MOST_SECTIONS: usize = 96;

/// The directories that get a name ("Optional header data directories").
const DIRECTORIES: [(usize, &str); 7] = [
    (pe::IMAGE_DIRECTORY_ENTRY_EXPORT, "exports"),
    (pe::IMAGE_DIRECTORY_ENTRY_IMPORT, "imports"),
    (pe::IMAGE_DIRECTORY_ENTRY_RESOURCE, "resources"),
    (pe::IMAGE_DIRECTORY_ENTRY_EXCEPTION, "unwind tables"),
    (pe::IMAGE_DIRECTORY_ENTRY_BASERELOC, "relocations"),
    (pe::IMAGE_DIRECTORY_ENTRY_DEBUG, "debug directory"),
    (pe::IMAGE_DIRECTORY_ENTRY_IAT, "import addresses"),
];

impl<'a> Pieces<'a> {
    /// Parses a driver.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        ensure!(bytes.starts_with(b"MZ"), "not a PE file: it does not begin with MZ");
        let file = PeFile64::parse(bytes).context("not a PE32+ file for 64-bit Windows")?;
        let target = match file.nt_headers().file_header.machine.get(LE) {
            pe::IMAGE_FILE_MACHINE_AMD64 => Target::X64,
            pe::IMAGE_FILE_MACHINE_ARM64 => Target::Arm64,
            other => bail!("built for machine {:#06x}, expected x64 (0x8664) or arm64 (0xaa64)", other.0),
        };
        let unsigned = Unsigned::of(bytes)?;
        let count = file.section_table().len();
        ensure!(count <= MOST_SECTIONS, "{count} sections, expected at most {MOST_SECTIONS}");
        let sections = file.section_table().iter().map(|header| section(header, &unsigned));
        let mut pieces = Self {
            bytes,
            target,
            header: file.dos_header().nt_headers_offset() as usize,
            sections: sections.collect::<Result<_>>()?,
            directories: Vec::new(),
            functions: Vec::new(),
            unsigned,
        };
        let range = |index| {
            let (start, size) = file.data_directory(index)?.address_range();
            (size != 0).then(|| start..start.saturating_add(size))
        };
        for (index, name) in DIRECTORIES {
            pieces.directories.extend(range(index).map(|range| (name, range)));
        }
        if let Some(debug) = range(pe::IMAGE_DIRECTORY_ENTRY_DEBUG) {
            pieces.add_debug_data(debug);
        }
        if let Some(table) = range(pe::IMAGE_DIRECTORY_ENTRY_EXCEPTION) {
            pieces.functions = pieces.in_unwind_tables(table);
        }
        Ok(pieces)
    }

    /// The file without its certificate table.
    pub fn content(&self) -> &'a [u8] {
        &self.bytes[..self.unsigned.table.start]
    }

    /// Bytes at an address, up to the end of their section in the file.
    pub fn at(&self, rva: u32) -> Option<&'a [u8]> {
        self.sections.iter().find_map(|section| {
            let offset = rva.checked_sub(section.start)? as usize;
            self.bytes.get(section.file.clone())?.get(offset..).filter(|rest| !rest.is_empty())
        })
    }

    fn word(&self, rva: u32) -> Option<u32> {
        self.at(rva)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
    }

    /// What the entries of the debug directory lead to. An entry has 28 bytes; the type is
    /// at 12, the size at 16, the address at 20 (IMAGE_DEBUG_DIRECTORY).
    fn add_debug_data(&mut self, directory: Range<u32>) {
        for entry in directory.step_by(28).take(16) {
            let [kind, size, start] = [12, 16, 20].map(|offset| self.word(entry + offset).unwrap_or(0));
            let name = match kind {
                2 => "identity of the PDB",
                16 => "hash of the build",
                _ => "debug data",
            };
            self.directories.push((name, start..start.saturating_add(size)));
        }
    }

    /// The functions of the unwind tables.
    fn in_unwind_tables(&self, table: Range<u32>) -> Vec<Range<u32>> {
        let size = if self.target == Target::X64 { 12 } else { 8 };
        let table = self.at(table.start).map_or(&[][..], |rest| &rest[..rest.len().min(table.len())]);
        let mut functions: Vec<Range<u32>> = table
            .chunks_exact(size)
            .filter_map(|entry| {
                let [begin, second] =
                    [0, 4].map(|at| entry[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes)));
                let end = match (self.target, second & 3) {
                    (Target::X64, _) => second,
                    // The length in instructions: 18 bits of the record, 11 of a packed one.
                    (Target::Arm64, 0) => begin.checked_add(4 * (self.word(second)? & 0x3_ffff))?,
                    (Target::Arm64, _) => begin.checked_add(4 * (second >> 2 & 0x7ff))?,
                };
                (begin < end).then_some(begin..end)
            })
            .collect();
        functions.sort_by_key(|function| (function.start, function.end));
        functions
    }

    /// A section of code as functions and what lies between them, without padding. They do
    /// not overlap.
    pub fn code(&self, section: &Section) -> Vec<Range<u32>> {
        let end = section.start.saturating_add(section.file.len() as u32);
        let mut code = Vec::new();
        let mut at = section.start;
        let inside = |function: &&Range<u32>| function.start >= section.start && function.end <= end;
        for function in self.functions.iter().filter(inside) {
            if function.start < at {
                continue;
            }
            code.extend(self.between(at..function.start));
            code.push(function.clone());
            at = function.end;
        }
        code.extend(self.between(at..end));
        code
    }

    /// Code outside of the unwind tables: leaf functions, between padding.
    fn between(&self, range: Range<u32>) -> Vec<Range<u32>> {
        let Some(bytes) = self.at(range.start).and_then(|rest| rest.get(..range.len())) else {
            return Vec::new();
        };
        // The last section of code is filled up with zeros.
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let bytes = &bytes[..end];
        let mut found = Vec::new();
        let mut start = 0;
        let mut at = 0;
        while at < bytes.len() {
            match padding(self.target, &bytes[at..], range.start + at as u32) {
                0 => at += if self.target == Target::X64 { 1 } else { 4 },
                length => {
                    found.push(start..at);
                    at += length;
                    start = at;
                }
            }
        }
        found.push(start..bytes.len().max(start));
        let ranges = found.into_iter().filter(|piece| !piece.is_empty());
        ranges.map(|piece| range.start + piece.start as u32..range.start + piece.end as u32).collect()
    }

    /// A digest of a function that does not depend on where it and its targets lie.
    pub fn fingerprint(&self, function: &Range<u32>) -> [u8; 32] {
        let code = self.at(function.start).map_or(&[][..], |rest| &rest[..rest.len().min(function.len())]);
        let mut code = code.to_vec();
        match self.target {
            Target::X64 => without_addresses_x64(&mut code, function),
            Target::Arm64 => without_addresses_arm64(&mut code, function),
        }
        Sha256::digest(code).into()
    }
}

/// The length of padding at the start of this code, which lies at `rva`: `int3` up to a
/// multiple of 16 on x64, a word of 0 on arm64.
fn padding(target: Target, code: &[u8], rva: u32) -> usize {
    let (length, byte) = match target {
        Target::X64 => ((rva.next_multiple_of(16) - rva) as usize, 0xcc),
        Target::Arm64 => (4, 0),
    };
    let is_padding = code.get(..length).is_some_and(|code| code.iter().all(|other| *other == byte));
    if is_padding { length } else { 0 }
}

fn section(header: &pe::ImageSectionHeader, unsigned: &Unsigned) -> Result<Section> {
    let name = crate::printable::printable(&String::from_utf8_lossy(header.raw_name()));
    let (start, size) =
        (header.pointer_to_raw_data.get(LE) as usize, header.size_of_raw_data.get(LE) as usize);
    let file = start..start.saturating_add(size);
    ensure!(
        file.end <= unsigned.table.start,
        "section {name} is not in the file: the file is cut or damaged"
    );
    let is_code = header.characteristics.get(LE).0 & pe::IMAGE_SCN_MEM_EXECUTE.0 != 0;
    Ok(Section { name, start: header.virtual_address.get(LE), file, is_code })
}

/// Clears displacements that are relative to the instruction, and targets of calls and
/// jumps that leave the function.
fn without_addresses_x64(code: &mut [u8], function: &Range<u32>) {
    let original = code.to_vec();
    let mut decoder = Decoder::with_ip(64, &original, u64::from(function.start), DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    while decoder.can_decode() {
        let at = decoder.position();
        decoder.decode_out(&mut instruction);
        let offsets = decoder.get_constant_offsets(&instruction);
        if instruction.is_ip_rel_memory_operand() {
            code[at + offsets.displacement_offset()..][..offsets.displacement_size()].fill(0);
        }
        let leaves = instruction.op0_kind() == OpKind::NearBranch64
            && !(u64::from(function.start)..u64::from(function.end)).contains(&instruction.near_branch64());
        if leaves {
            code[at + offsets.immediate_offset()..][..offsets.immediate_size()].fill(0);
        }
    }
}

/// Clears pages and offsets in pages, and targets of branches that leave the function
/// ("A64 instruction set", Arm). A register holds a page after ADRP.
fn without_addresses_arm64(code: &mut [u8], function: &Range<u32>) {
    let mut has_page = [false; 32];
    for (index, word) in code.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let instruction = u32::from_le_bytes(*word);
        let [to, from] = [instruction & 31, instruction >> 5 & 31].map(|register| register as usize);
        let cleared = match instruction {
            // B, BL.
            _ if instruction & 0x7c00_0000 == 0x1400_0000 => {
                let distance = ((instruction << 6).cast_signed() >> 6) * 4;
                let target = i64::from(function.start) + 4 * index as i64 + i64::from(distance);
                let stays = (i64::from(function.start)..i64::from(function.end)).contains(&target);
                if stays { instruction } else { instruction & 0xfc00_0000 }
            }
            // ADR, ADRP.
            _ if instruction & 0x1f00_0000 == 0x1000_0000 => {
                has_page[to] = true;
                instruction & 0x9f00_001f
            }
            // ADD with an immediate; loads and stores with an unsigned offset.
            _ if instruction & 0xff80_0000 == 0x9100_0000 || instruction & 0x3b00_0000 == 0x3900_0000 => {
                if has_page[from] {
                    instruction & 0xffc0_03ff
                } else {
                    instruction
                }
            }
            _ => instruction,
        };
        *word = cleared.to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_no_part_of_a_function() {
        // jmp [rip + 0x10]: its displacement has zeros.
        let jump = [0xff, 0x25, 0x10, 0, 0, 0, 0xcc, 0xcc];
        assert_eq!(padding(Target::X64, &jump, 0x1008), 0);
        assert_eq!(padding(Target::X64, &jump[3..], 0x100b), 0);
        assert_eq!(padding(Target::X64, &jump[6..], 0x100e), 2);
        assert_eq!(padding(Target::X64, &[0xcc, 0xc3], 0x100e), 0);
        assert_eq!(padding(Target::Arm64, &[0, 0, 0, 0, 0xc0, 3, 0x5f, 0xd6], 0x1000), 4);
        assert_eq!(padding(Target::Arm64, &[0, 3, 0x5f, 0xd6], 0x1000), 0);
    }

    #[test]
    fn functions_of_x64_are_compared_without_addresses() {
        // mov rax, [rip + 0x11]; call +0x22; je +0 (inside); mov ecx, 5; ret.
        let code = |address: u8, call: u8, number: u8| {
            let mut code = vec![0x48, 0x8b, 0x05, address, 0, 0, 0, 0xe8, call, 1, 0, 0, 0x74, 0];
            code.extend([0xb9, number, 0, 0, 0, 0xc3]);
            without_addresses_x64(&mut code, &(0x1000..0x1014));
            code
        };
        assert_eq!(code(0x11, 0x22, 5), code(0x44, 0x55, 5));
        assert_ne!(code(0x11, 0x22, 5), code(0x11, 0x22, 6));
    }

    #[test]
    fn functions_of_arm64_are_compared_without_addresses() {
        // adrp x8; ldr x9, [x8, #n]; add x1, x1, #m; bl; b +8 (inside); ret.
        let code = |page: u32, offset: u32, number: u32, call: u32| {
            let words = [
                0x9000_0008 | page << 5,
                0xf940_0109 | offset << 10,
                0x9100_0021 | number << 10,
                0x9400_0000 | call,
                0x1400_0002,
                0xd65f_03c0,
            ];
            let mut code: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            without_addresses_arm64(&mut code, &(0x1000..0x1018));
            code
        };
        assert_eq!(code(1, 2, 3, 0x100), code(4, 5, 3, 0x200));
        assert_ne!(code(1, 2, 3, 0x100), code(1, 2, 4, 0x100));
        assert_ne!(code(1, 2, 3, 1), code(1, 2, 3, 2), "a call inside the function stays");
    }
}
