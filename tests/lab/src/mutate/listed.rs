//! The mutations that cargo-mutants lists for the driver.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::Mutation;
use crate::setup::{self, clean_command};

/// The version of cargo-mutants whose names the data files use.
pub const VERSION: &str = "27.1.0";

/// A mutation in the output of `cargo mutants --list --json`.
#[derive(Debug, Deserialize)]
struct Listed {
    name: String,
    file: String,
    span: Span,
    replacement: String,
}

#[derive(Debug, Deserialize)]
struct Span {
    start: Place,
    end: Place,
}

/// A position. Lines and columns count from 1, columns in characters.
#[derive(Debug, Deserialize)]
struct Place {
    line: usize,
    column: usize,
}

/// Every mutation of `src` that cargo-mutants lists.
///
/// # Errors
/// If cargo-mutants is missing and cannot be installed, or its output cannot be
/// parsed.
pub fn list() -> Result<Vec<Mutation>> {
    let mut command = clean_command("cargo");
    command.env("PATH", path_with(&tool()?)?).current_dir(setup::root());
    command.args(["mutants", "--list", "--json", "--no-config", "--package", "hushport"]);
    let listed: Vec<Listed> =
        serde_json::from_str(&setup::run(&mut command)?).context("cargo mutants --list --json")?;
    let mutations = listed.into_iter().map(|Listed { name, file, span, replacement }| {
        let path = setup::root().join(&file);
        let source = std::fs::read_to_string(&path).with_context(|| format!("cannot read {file}"))?;
        let range = offset(&source, &span.start).zip(offset(&source, &span.end));
        let (start, end) = range.with_context(|| format!("{name}: {file} has no such position"))?;
        Ok(Mutation { name, file, range: start..end, text: replacement, written: false })
    });
    mutations.collect()
}

fn offset(source: &str, place: &Place) -> Option<usize> {
    let mut lines = source.split_inclusive('\n');
    let line = lines.by_ref().take(place.line.checked_sub(1)?).map(str::len).sum::<usize>();
    // The line exists.
    lines.next()?;
    let rest = source.get(line..)?;
    let column =
        rest.char_indices().map(|(at, _)| at).chain([rest.len()]).nth(place.column.checked_sub(1)?)?;
    Some(line + column)
}

/// The folder of cargo-mutants. If the right version is missing, it is installed.
fn tool() -> Result<PathBuf> {
    let own = setup::state().join("tools").join(format!("cargo-mutants-{VERSION}"));
    for folder in [Path::new(""), &own.join("bin")] {
        let program = folder.join("cargo-mutants");
        let mut command = clean_command(&program.to_string_lossy());
        command.arg("mutants").arg("--version").stderr(Stdio::null());
        if command.output().is_ok_and(|output| has_version(&output.stdout)) {
            return Ok(folder.to_owned());
        }
    }
    eprintln!("lab: cargo install cargo-mutants {VERSION} into {} (a few minutes)", own.display());
    let mut install = clean_command("cargo");
    install.args(["install", "--locked", "--version", VERSION, "--root"]).arg(&own).arg("cargo-mutants");
    let status = install.status().context("cannot start cargo")?;
    if !status.success() {
        bail!(
            "cargo-mutants {VERSION} cannot be installed; by hand: cargo install --locked --version {VERSION} cargo-mutants"
        );
    }
    Ok(own.join("bin"))
}

fn has_version(output: &[u8]) -> bool {
    String::from_utf8_lossy(output).trim() == format!("cargo-mutants {VERSION}")
}

fn path_with(folder: &Path) -> Result<std::ffi::OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = [folder.to_owned()].into_iter().chain(std::env::split_paths(&path));
    std::env::join_paths(folders.filter(|folder| !folder.as_os_str().is_empty())).context("PATH")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_in_lines_and_characters() {
        let source = "é = 1;\nlast";
        let at = |line, column| offset(source, &Place { line, column });
        assert_eq!((at(1, 1), at(1, 2), at(1, 7)), (Some(0), Some(2), Some(7)));
        assert_eq!((at(2, 1), at(2, 5), at(2, 6)), (Some(8), Some(12), None));
        assert_eq!((at(0, 1), at(9, 1)), (None, None));
    }
}
