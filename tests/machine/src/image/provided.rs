//! Files that are given as bytes, for a process without a file system.
//!
//! A process that was given one has no others.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

static FILES: Mutex<BTreeMap<PathBuf, Vec<u8>>> = Mutex::new(BTreeMap::new());

/// Gives the content of a file. From now on this process reads it in place of the
/// file at `path`.
pub fn provide(path: PathBuf, bytes: Vec<u8>) {
    FILES.lock().unwrap_or_else(PoisonError::into_inner).insert(path, bytes);
}

/// Reads a file.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let files = FILES.lock().unwrap_or_else(PoisonError::into_inner);
    match files.get(path) {
        Some(bytes) => Ok(bytes.clone()),
        None if files.is_empty() => std::fs::read(path),
        None => Err(io::ErrorKind::NotFound.into()),
    }
}

/// Whether there is such a file.
pub(super) fn is_file(path: &Path) -> bool {
    let files = FILES.lock().unwrap_or_else(PoisonError::into_inner);
    files.contains_key(path) || files.is_empty() && path.is_file()
}
