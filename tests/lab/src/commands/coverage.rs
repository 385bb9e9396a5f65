//! `cargo lab coverage`: measures which driver lines the native tests run.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::setup::native::{self, Built};
use crate::setup::{Need, ensure, state};

/// These versions read the output of this toolchain's LLVM; Debian's default is older.
const PROFDATA: Need = Need::Program("llvm-profdata-19", "llvm-19");
const COV: Need = Need::Program("llvm-cov-19", "llvm-19");

/// Runs the tests and prints the coverage. Returns whether all passed.
pub fn run() -> Result<bool> {
    ensure(&[PROFDATA, COV])?;
    let tests = native::covered_tests()?;
    let folder = state().join("coverage");
    std::fs::create_dir_all(&folder)?;
    let (raw, merged) = (folder.join("raw"), folder.join("merged"));
    let mut command = native::command(&tests.program);
    let passed = command.env("LLVM_PROFILE_FILE", &raw).status().context("cannot start the tests")?.success();
    tool(Command::new("llvm-profdata-19").args(["merge", "--sparse", "-o"]).args([&merged, &raw]))?;
    println!("{}", report(&tests, &merged, "report")?);
    let lines = folder.join("lines.txt");
    std::fs::write(&lines, report(&tests, &merged, "show")?)?;
    println!("line by line: {}", lines.display());
    Ok(passed)
}

/// The coverage of the driver's own source only.
fn report(tests: &Built, merged: &Path, verb: &str) -> Result<String> {
    let mut command = Command::new("llvm-cov-19");
    command.arg(verb).arg(&tests.program).arg("--instr-profile").arg(merged);
    tool(command.arg(&tests.source))
}

fn tool(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
