//! What a signature covers of a PE file.
//!
//! Source: "Windows Authenticode Portable Executable Signature Format",
//! Microsoft: the whole file but the checksum, the directory entry of the
//! certificate table, and that table.

use std::ops::Range;

use anyhow::{Context, Result, bail, ensure};
use object::LittleEndian as LE;
use object::pe::{IMAGE_DIRECTORY_ENTRY_SECURITY, ImageDosHeader, ImageNtHeaders64};
use object::read::pe::ImageNtHeaders;
use sha2::Digest;

/// Offsets from the `PE\0\0` signature: signature and file header are 24 bytes;
/// `CheckSum` is at 64 of the optional header, the directories begin at 112.
const CHECKSUM: usize = 24 + 64;
const DIRECTORIES: usize = 24 + 112;

/// Where the parts of a PE32+ file lie that a signature leaves out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsigned {
    /// `CheckSum`.
    pub checksum: Range<usize>,
    /// The directory entry of the certificate table.
    pub entry: Range<usize>,
    /// The certificate table, at the file's end; empty where there is none.
    pub table: Range<usize>,
}

impl Unsigned {
    /// Finds them.
    pub fn of(file: &[u8]) -> Result<Self> {
        let dos = ImageDosHeader::parse(file)?;
        let at = dos.nt_headers_offset();
        let (_, directories) = ImageNtHeaders64::parse(file, &mut u64::from(at))?;
        let at = at as usize;
        let entry = at + DIRECTORIES + 8 * IMAGE_DIRECTORY_ENTRY_SECURITY;
        let directory =
            directories.iter().nth(IMAGE_DIRECTORY_ENTRY_SECURITY).context("no room for a signature")?;
        // Of this directory alone the "virtual address" is an offset in the file.
        let (from, size) = (directory.virtual_address.get(LE) as usize, directory.size.get(LE) as usize);
        let table = match size {
            0 => file.len()..file.len(),
            _ => from..from.checked_add(size).context("the certificate table has no end")?,
        };
        ensure!(
            table.end == file.len() && table.start >= entry + 8,
            "the certificate table is not at the end"
        );
        Ok(Self { checksum: at + CHECKSUM..at + CHECKSUM + 4, entry: entry..entry + 8, table })
    }
}

/// The digest that a signature and a catalog carry.
pub fn digest<D: Digest>(file: &[u8]) -> Result<Vec<u8>> {
    let unsigned = Unsigned::of(file)?;
    // Signing pads to this, and the padding is covered: another digest.
    if !unsigned.table.start.is_multiple_of(8) {
        bail!("{} bytes are not a multiple of 8", unsigned.table.start);
    }
    let mut digest = D::new();
    digest.update(&file[..unsigned.checksum.start]);
    digest.update(&file[unsigned.checksum.end..unsigned.entry.start]);
    digest.update(&file[unsigned.entry.end..unsigned.table.start]);
    Ok(digest.finalize().to_vec())
}

/// The checksum in the header, and what it should be.
pub fn checksums(file: &[u8]) -> Result<(u32, u32)> {
    let field = Unsigned::of(file)?.checksum;
    let written = file[field.clone()].as_array::<4>().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    Ok((written, machine::image::lint::checksum(file, field.start)))
}
