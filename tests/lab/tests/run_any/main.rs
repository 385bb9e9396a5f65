//! `cargo lab run` and `cargo lab divert`: what they print, and their exit status.
#![allow(missing_docs, reason = "a test has no interface")]

mod devices;
mod divert;
mod verdicts;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lab::setup;

/// A command of the lab.
fn lab(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// How a command ended.
#[derive(Debug)]
struct Outcome {
    succeeded: bool,
    text: String,
}

impl Outcome {
    fn of(mut command: Command) -> Self {
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        Self { succeeded: output.status.success(), text }
    }

    /// Asserts the verdict, and the exit status that belongs to it.
    fn expect(&self, verdict: &str) -> &Self {
        let last = self.text.lines().find(|line| line.starts_with("verdict: ")).unwrap_or_default();
        assert!(last.starts_with(&format!("verdict: {verdict}")), "{verdict}\n{}", self.text);
        assert_eq!(self.succeeded, verdict == "well", "{}", self.text);
        self
    }

    fn contains(&self, parts: &[&str]) -> &Self {
        for part in parts {
            assert!(self.text.contains(part), "no {part:?} in\n{}", self.text);
        }
        self
    }
}

/// `cargo lab run` with a driver.
fn run(driver: &Path, arguments: &[&str]) -> Outcome {
    let mut command = lab(&["run"]);
    command.arg(driver).arg("--without-box").args(arguments);
    Outcome::of(command)
}

fn compiled(source: &str, arguments: &[&str]) -> PathBuf {
    let source = setup::root().join("tests/lab/tests").join(source);
    setup::compile(&source, arguments).unwrap_or_else(|error| panic!("{error:#}"))
}

/// A driver with a device that answers requests.
fn wdm() -> PathBuf {
    compiled("foreign/drivers/wdm.rs", &[])
}

/// A driver with one bug for each rule. The value `Bug` chooses it.
fn planted() -> PathBuf {
    compiled("planted_faults/driver.rs", &[])
}

/// The number of a bug in the planted driver: FNV-1a of the rule's name.
fn bug(rule: &str) -> u32 {
    rule.bytes().fold(0x811C_9DC5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}
