//! Shows other processes what a hanging process waits for.
//!
//! A hanging test cannot answer questions. So each process writes to a file where
//! its driver images lie and which thread waits for what. It writes only if the
//! test runner names a folder for such files.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

/// Environment variable that names the folder for notes. Each process writes the
/// file that is named after its process id.
pub const FOLDER: &str = "WFP_MACHINE_NOTES";

/// A line in this process's notes. Dropping it removes the line.
#[derive(Debug)]
pub struct Note(Option<u64>);

static FILE: LazyLock<Option<PathBuf>> =
    LazyLock::new(|| Some(file_of(Path::new(&std::env::var_os(FOLDER)?), std::process::id())));

struct Notes {
    last: u64,
    lines: BTreeMap<u64, String>,
}

static NOTES: Mutex<Notes> = Mutex::new(Notes { last: 0, lines: BTreeMap::new() });

/// Whether a test runner has named a folder for notes.
pub fn are_read() -> bool {
    FILE.is_some()
}

/// Adds a line. Without a folder for notes, the call only reads a static.
pub fn note(line: impl FnOnce() -> String) -> Note {
    if !are_read() {
        return Note(None);
    }
    let line = line();
    change(|notes| {
        notes.last += 1;
        notes.lines.insert(notes.last, line);
        Note(Some(notes.last))
    })
}

impl Drop for Note {
    fn drop(&mut self) {
        if let Some(number) = self.0 {
            change(|notes| notes.lines.remove(&number));
        }
    }
}

fn change<T>(change: impl FnOnce(&mut Notes) -> T) -> T {
    let mut notes = NOTES.lock().unwrap_or_else(PoisonError::into_inner);
    let changed = change(&mut notes);
    if let Some(file) = &*FILE {
        let text: String = notes.lines.values().map(|line| format!("{line}\n")).collect();
        // Missing notes do not fail a test.
        let _best_effort = std::fs::write(file, text);
    }
    changed
}

fn file_of(folder: &Path, process: u32) -> PathBuf {
    folder.join(process.to_string())
}

/// The notes of another process, one line each; empty if it has none.
pub fn of(folder: &Path, process: u32) -> Vec<String> {
    let text = std::fs::read_to_string(file_of(folder, process)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}
