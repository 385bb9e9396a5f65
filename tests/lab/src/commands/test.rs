//! `cargo lab test`: runs all lints and tests.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{as_root, pester};
use crate::setup::{self, Need, Target};
use crate::suites::{self, Children, Limits};
use crate::vm::machine;

/// What to run.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Part of a test's name, package/program::module::test. Only tests whose name
    /// contains one of these run, without lints
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Only the tests of this package; may be repeated
    #[arg(long, value_name = "PACKAGE")]
    package: Vec<String>,
    /// Seconds after which a test fails
    #[arg(long, value_name = "SECONDS", default_value_t = Limits::default().test.as_secs())]
    test_limit: u64,
    /// Minutes after which the whole run fails
    #[arg(long, value_name = "MINUTES", default_value_t = Limits::default().whole.as_secs() / 60)]
    limit: u64,
}

/// Runs lints and tests. Returns whether all passed.
pub fn run(arguments: &Arguments) -> Result<bool> {
    let limits = Limits {
        test: Duration::from_secs(arguments.test_limit),
        whole: Duration::from_secs(arguments.limit.saturating_mul(60)),
    };
    let children = Children::new(limits.whole);
    children.guard();
    let all = arguments.names.is_empty() && arguments.package.is_empty();
    setup::ensure(&[Need::Libclang, Need::NMAP, Need::IP, Need::CURL, Need::CHROMIUM])?;
    setup::ensure(&[Need::OPENSSL, Need::OSSLSIGNCODE, Need::PYTHON, Need::PEFILE, Need::VALGRIND])?;
    virtual_machines();
    if all {
        for target in Target::ALL {
            children.step(&format!("build the driver for {}", target.triple()));
            setup::build(target)?;
            children.step(&format!("clippy over the driver for {}", target.triple()));
            setup::lint(target)?;
        }
    }
    // As root only after the set-up, which may have to download.
    as_root()?;
    if all {
        children.step("clippy over the workspace");
        let mut clippy = setup::workspace_cargo("clippy");
        clippy.args(["--workspace", "--all-targets", "--", "--deny", "warnings"]);
        if !children.status(&mut clippy)?.success() {
            bail!("clippy reports problems in the workspace");
        }
    }
    if all {
        dependencies(&children)?;
        children.step("the documentation of the workspace");
        let mut doc = setup::workspace_cargo("doc");
        doc.args(["--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "--deny warnings");
        if !children.status(&mut doc)?.success() {
            bail!("cargo doc reports problems in the workspace");
        }
    }
    children.step("build the tests");
    let packages: Vec<&str> = arguments.package.iter().map(String::as_str).collect();
    let programs = suites::chosen(suites::build(&packages, &children)?, &arguments.names);
    let count: usize = programs.iter().map(|program| program.tests.len()).sum();
    if count == 0 {
        bail!("no test has a name that contains {}", arguments.names.join(" or "));
    }
    children.step(&format!("{count} tests"));
    let summary = suites::run(&programs, &limits, &children)?;
    let documented = !all || summary.is_over() || doc_tests(&children)?;
    let scripted = !all || summary.is_over() || pester::run()?;
    println!("\n{summary}");
    Ok(summary.passed() && documented && scripted)
}

/// Checks licences, versions and sources of all crates by .cargo/deny.toml, where
/// cargo-deny is installed. The workflow linux.yml always does, and checks advisories.
fn dependencies(children: &Children) -> Result<()> {
    children.step("licences, versions and sources of all crates");
    if !setup::is_present("cargo-deny") {
        println!("skipped: cargo-deny is not installed (cargo install --locked cargo-deny)");
        return Ok(());
    }
    let mut deny = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    deny.current_dir(setup::root()).args(["deny", "--workspace", "check", "--hide-inclusion-graph"]);
    if !children.status(deny.args(["licenses", "bans", "sources"]))?.success() {
        bail!("cargo deny reports problems");
    }
    Ok(())
}

/// Makes ready for the tests that run virtual machines, or says that they are skipped.
fn virtual_machines() {
    // QEMU is large, so it is used only where somebody has installed it.
    let ready = machine::qemu().and_then(|_| setup::ensure(&machine::TEST_NEEDS));
    if let Err(reason) = ready {
        println!("== virtual machines: their tests are skipped: {reason:#}");
    }
}

/// Runs the examples in the documentation, which are not programs of their own.
/// Prints their number, and cargo's output only if one fails.
fn doc_tests(children: &Children) -> Result<bool> {
    children.step("the examples in the documentation");
    let mut cargo = setup::workspace_cargo("test");
    cargo.args(["--workspace", "--doc", "--quiet"]);
    let (status, output) = children.output(&mut cargo).context("the examples in the documentation")?;
    if !status.success() {
        println!("{output}");
    }
    println!("{} examples passed", passed(&output));
    Ok(status.success())
}

/// The number of passed tests in cargo's output, which has a line of counts for
/// each package.
fn passed(output: &str) -> usize {
    let counts = output.lines().filter_map(|line| line.strip_prefix("test result: "));
    let counts = counts.filter_map(|counts| counts.split_once(". ")?.1.split_once(" passed"));
    counts.filter_map(|(count, _)| count.parse::<usize>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passed_examples_of_all_packages_are_counted() {
        let output = "
running 2 tests
..
test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.31s

running 0 tests

test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s

test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.20s
";
        assert_eq!(passed(output), 5);
        assert_eq!(passed("error: could not compile"), 0);
    }
}
