//! What somebody from outside needs to know of a process that hangs.
//!
//! A test that hangs cannot be asked. So the lab notes in a file, while a runner of
//! tests names one, where the images of drivers lie and who waits for what.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

/// Names, in the environment, the folder in which each process keeps its notes, in a
/// file of its process id.
pub const FOLDER: &str = "WFP_MACHINE_NOTES";

/// A note of this process; dropped, it is taken back.
#[derive(Debug)]
pub struct Note(Option<u64>);

static FILE: LazyLock<Option<PathBuf>> =
    LazyLock::new(|| Some(file_of(Path::new(&std::env::var_os(FOLDER)?), std::process::id())));

struct Notes {
    last: u64,
    lines: BTreeMap<u64, String>,
}

static NOTES: Mutex<Notes> = Mutex::new(Notes { last: 0, lines: BTreeMap::new() });

/// Whether anybody reads notes.
pub fn are_read() -> bool {
    FILE.is_some()
}

/// Notes a line. Without a reader it costs a look at a static.
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
        // A test does not fail for want of notes.
        let _best_effort = std::fs::write(file, text);
    }
    changed
}

fn file_of(folder: &Path, process: u32) -> PathBuf {
    folder.join(process.to_string())
}

/// The notes of a process.
pub fn of(folder: &Path, process: u32) -> Vec<String> {
    let text = std::fs::read_to_string(file_of(folder, process)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}
