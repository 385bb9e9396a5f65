//! Tests of documents, PowerShell scripts, workflows, cargo-make tasks and dependencies.

mod actionlint;
mod dependencies;
mod documents;
mod events;
mod flows;
mod powershell;
mod recording;
mod scanner;
mod scripts;
mod workflows;

use std::path::PathBuf;

/// Reads a file of the checkout.
fn read(path: &str) -> String {
    let file = lab::setup::root().join(path);
    std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// The files of a folder of the checkout with an extension.
fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(lab::setup::root().join(folder)).unwrap();
    let mut files: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|other| other == extension))
        .collect();
    files.sort();
    files
}
