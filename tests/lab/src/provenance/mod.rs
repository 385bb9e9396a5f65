//! Where the driver comes from: what it is made from, and whether a file is the same.
//!
//! | module | what it does |
//! |---|---|
//! | [`source`] | the commit, its time, and a digest of the files that the driver is built from |
//! | [`build_info`] | `BUILDINFO.json`: everything that a build depends on |
//! | [`sbom`] | the crates of a driver, in CycloneDX |
//! | [`pieces`] | an image in pieces: headers, functions, data |
//! | [`compare`] | two images byte by byte, and where they differ |
//! | [`mod@verify`] | a file or a package from elsewhere beside one's own build |
#![forbid(unsafe_code)]

pub mod build_info;
pub mod compare;
pub mod pieces;
pub mod sbom;
pub mod source;
pub mod verify;

use std::path::Path;

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

/// No file of a package is larger. The limit keeps a hostile file from filling the memory.
const LARGEST: u64 = 16 << 20;

/// Reads a file from elsewhere.
///
/// # Errors
/// If it is not a regular file, is too large, or cannot be read.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let name = crate::printable::printable(&path.display().to_string());
    let metadata = std::fs::metadata(path).with_context(|| format!("cannot read {name}"))?;
    ensure!(metadata.is_file(), "{name} is not a regular file");
    ensure!(metadata.len() <= LARGEST, "{name} has {} bytes, expected at most {LARGEST}", metadata.len());
    std::fs::read(path).with_context(|| format!("cannot read {name}"))
}

/// SHA-256 in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// SHA-256 of a large file of this machine.
fn sha256_of(path: &Path) -> Result<String> {
    let mut file = std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let length = std::io::Read::read(&mut file, &mut buffer)?;
        if length == 0 {
            return Ok(hexadecimal(&digest.finalize()));
        }
        digest.update(&buffer[..length]);
    }
}

/// SHA-256 over the names and contents of files and of all files in folders, which are
/// named relative to `top`.
fn sha256_of_all(top: &Path, names: &[&str]) -> Result<String> {
    let mut files = Vec::new();
    for name in names {
        match top.join(name).is_dir() {
            true => list(&top.join(name), name, &mut files)?,
            false => files.push((*name).to_owned()),
        }
    }
    files.sort();
    let mut digest = Sha256::new();
    for name in files {
        let contents = std::fs::read(top.join(&name)).with_context(|| format!("cannot read {name}"))?;
        for bytes in [name.as_bytes(), &contents] {
            digest.update((bytes.len() as u64).to_le_bytes());
            digest.update(bytes);
        }
    }
    Ok(hexadecimal(&digest.finalize()))
}

fn list(folder: &Path, within: &str, names: &mut Vec<String>) -> Result<()> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_str().context("the name of a file is not UTF-8")?;
        let name = format!("{within}/{name}");
        let is_folder = entry.path().is_dir();
        // A link to a folder could lead to this one.
        let is_link = entry.file_type()?.is_symlink();
        ensure!(!(is_folder && is_link), "{} is a link to a folder", crate::printable::printable(&name));
        match is_folder {
            true => list(&entry.path(), &name, names)?,
            false => names.push(name),
        }
    }
    Ok(())
}
