//! The parts of a PE file that an Authenticode signature covers.
//!
//! Source: "Windows Authenticode Portable Executable Signature Format", Microsoft:
//! the whole file except the checksum, the directory entry of the certificate
//! table, and that table.

use std::ops::Range;

use anyhow::{Context, Result, bail, ensure};
use object::LittleEndian as LE;
use object::pe::{IMAGE_DIRECTORY_ENTRY_SECURITY, ImageDosHeader, ImageNtHeaders64};
use object::read::pe::ImageNtHeaders;
use sha2::Digest;

/// Offsets from the `PE\0\0` signature. Signature and file header take 24 bytes; in
/// the optional header `CheckSum` is at 64, and the directories begin at 112.
const CHECKSUM: usize = 24 + 64;
const DIRECTORIES: usize = 24 + 112;

/// The parts of a PE32+ file that a signature does not cover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsigned {
    /// `CheckSum`.
    pub checksum: Range<usize>,
    /// The directory entry of the certificate table.
    pub entry: Range<usize>,
    /// The certificate table at the end of the file; empty if there is none.
    pub table: Range<usize>,
}

impl Unsigned {
    /// Finds the parts.
    pub fn of(file: &[u8]) -> Result<Self> {
        let dos = ImageDosHeader::parse(file)?;
        let at = dos.nt_headers_offset();
        let (_, directories) = ImageNtHeaders64::parse(file, &mut u64::from(at))?;
        let at = at as usize;
        let entry = at + DIRECTORIES + 8 * IMAGE_DIRECTORY_ENTRY_SECURITY;
        let directory = directories
            .iter()
            .nth(IMAGE_DIRECTORY_ENTRY_SECURITY)
            .context("the file has no directory entry for a signature")?;
        // Only in this directory the "virtual address" is a file offset.
        let (from, size) = (directory.virtual_address.get(LE) as usize, directory.size.get(LE) as usize);
        let table = match size {
            0 => file.len()..file.len(),
            _ => from..from.checked_add(size).context("the certificate table is too large")?,
        };
        ensure!(
            table.end == file.len() && table.start >= entry + 8,
            "the certificate table is not at the end of the file"
        );
        Ok(Self { checksum: at + CHECKSUM..at + CHECKSUM + 4, entry: entry..entry + 8, table })
    }
}

/// The digest in a signature and in a catalog.
pub fn digest<D: Digest>(file: &[u8]) -> Result<Vec<u8>> {
    let unsigned = Unsigned::of(file)?;
    // Signing pads the file to 8 bytes and covers the padding, which would change
    // the digest.
    if !unsigned.table.start.is_multiple_of(8) {
        bail!("{} bytes are not a multiple of 8", unsigned.table.start);
    }
    let mut digest = D::new();
    digest.update(&file[..unsigned.checksum.start]);
    digest.update(&file[unsigned.checksum.end..unsigned.entry.start]);
    digest.update(&file[unsigned.entry.end..unsigned.table.start]);
    Ok(digest.finalize().to_vec())
}

/// The checksum in the header, and the correct one.
pub fn checksums(file: &[u8]) -> Result<(u32, u32)> {
    let field = Unsigned::of(file)?.checksum;
    let written = file[field.clone()].as_array::<4>().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    Ok((written, machine::image::lint::checksum(file, field.start)))
}
