//! Runs the Pester tests of the scripts for a test machine (`tests/vm`).

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::setup;

/// The script that runs one test file. It exits with [`NO_PESTER`] if Pester is
/// missing.
const RUNNER: &str = "Invoke-Tests.ps1";
const NO_PESTER: i32 = 3;

/// Runs each test file in a process of its own. Returns whether all passed. Prints
/// that they were skipped if PowerShell 7 or Pester is missing.
pub fn run() -> Result<bool> {
    let Some(pwsh) = powershell() else {
        println!("== Pester: skipped, because no pwsh is on the PATH and HUSHPORT_PWSH is not set");
        println!(
            "   PowerShell 7 with its module Pester: https://learn.microsoft.com/powershell/scripting/install"
        );
        return Ok(true);
    };
    println!("== Pester: the scripts of tests/vm, in {}", pwsh.display());
    let folder = setup::root().join("tests/vm");
    let start = Instant::now();
    let files = test_files(&folder)?;
    let outputs: Vec<Result<Output>> = std::thread::scope(|scope| {
        let runs: Vec<_> = files.iter().map(|file| scope.spawn(|| run_file(&pwsh, &folder, file))).collect();
        runs.into_iter().map(|run| run.join().expect("running a program does not panic")).collect()
    });
    let (mut passed, mut failed) = (0, 0);
    for (file, output) in files.iter().zip(outputs) {
        let output = output?;
        let text = String::from_utf8_lossy(&output.stdout);
        if output.status.code() == Some(NO_PESTER) {
            println!("== Pester: skipped, {}", text.trim());
            return Ok(true);
        }
        if !output.status.success() {
            println!("{text}{}", String::from_utf8_lossy(&output.stderr));
        }
        let (file_passed, file_failed) =
            closing_line(&text).with_context(|| format!("{file}: {RUNNER} ended without a closing line"))?;
        passed += file_passed;
        failed += file_failed + usize::from(!output.status.success() && file_failed == 0);
    }
    println!("== Pester: {passed} passed, {failed} failed, {} s", start.elapsed().as_secs());
    Ok(failed == 0)
}

/// `pwsh` from the PATH, otherwise the program that HUSHPORT_PWSH names.
fn powershell() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut candidates = std::env::split_paths(&path).map(|folder| folder.join("pwsh"));
    candidates.find(|file| file.is_file()).or_else(|| std::env::var_os("HUSHPORT_PWSH").map(PathBuf::from))
}

fn test_files(folder: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let name = entry?.file_name().into_string().unwrap_or_default();
        if name.ends_with(".Tests.ps1") {
            files.push(name);
        }
    }
    if files.is_empty() {
        bail!("{} has no *.Tests.ps1", folder.display());
    }
    files.sort();
    Ok(files)
}

fn run_file(pwsh: &Path, folder: &Path, file: &str) -> Result<Output> {
    let mut command = Command::new(pwsh);
    command.args(["-NoProfile", "-NonInteractive", "-File"]).arg(folder.join(RUNNER)).args(["-Name", file]);
    // The runs are short. Tiered compilation and profiling in .NET take more than
    // half of their time, so both are off.
    command.envs([("DOTNET_TC_CallCounting", "0"), ("DOTNET_TieredPGO", "0"), ("NO_COLOR", "1")]);
    command.output().with_context(|| format!("cannot start {}", pwsh.display()))
}

/// The counts in the last line of the form `N passed, N failed`.
fn closing_line(text: &str) -> Option<(usize, usize)> {
    text.lines().rev().find_map(|line| {
        let (passed, failed) = line.trim().strip_suffix(" failed")?.split_once(" passed, ")?;
        Some((passed.parse().ok()?, failed.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::closing_line;

    #[test]
    fn the_closing_line_is_the_last_one() {
        let text = "Tests Passed: 3, Failed: 1\n1 passed, 9 failed\n34 passed, 1 failed\n";
        assert_eq!(closing_line(text), Some((34, 1)));
        assert_eq!(closing_line("Tests Passed: 3, Failed: 0"), None);
    }
}
