//! `cargo lab test`: what a person and a machine run before they trust it.

use std::process::Command;

use anyhow::{Context, Result};

use super::{as_root, pester};
use crate::setup::{self, Need, Target};

/// What to run.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Passed to `cargo test`, such as a test's name
    arguments: Vec<String>,
}

/// Lints and tests; whether all of it passed.
pub fn run(arguments: &Arguments) -> Result<bool> {
    setup::ensure(&[Need::Libclang, Need::NMAP, Need::IP, Need::CURL, Need::CHROMIUM])?;
    setup::ensure(&[Need::OPENSSL, Need::OSSLSIGNCODE, Need::PYTHON, Need::VALGRIND])?;
    for target in Target::ALL {
        step(&format!("build the driver for {}", target.triple()));
        setup::build(target)?;
        step(&format!("clippy over the driver for {}", target.triple()));
        setup::lint(target)?;
    }
    // After the set-up, which may have to download.
    as_root()?;
    // In the tests' own profile, so that macros and build scripts are built once.
    let of_workspace = ["--workspace", "--locked", "--profile", "lab"];
    let mut clippy = vec!["clippy"];
    clippy.extend(of_workspace.iter().chain(&["--all-targets", "--", "--deny", "warnings"]));
    let mut test = vec!["test"];
    test.extend(of_workspace);
    test.extend(arguments.arguments.iter().map(String::as_str));
    // The Pester tests are a part of the whole only: a name is one of cargo's tests.
    Ok(cargo(&clippy)? && cargo(&test)? && (!arguments.arguments.is_empty() || pester::run()?))
}

fn cargo(arguments: &[&str]) -> Result<bool> {
    step(&format!("cargo {}", arguments.join(" ")));
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let status = cargo.args(arguments).current_dir(setup::root()).status().context("cannot start cargo")?;
    Ok(status.success())
}

fn step(what: &str) {
    println!("== {what}");
}
