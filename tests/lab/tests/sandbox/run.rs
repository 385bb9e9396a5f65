//! One run of `cargo lab trace` with the attacker.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use lab::sandbox::{WITHOUT, Wall};
use lab::setup;

/// The attacker's source.
pub fn source() -> PathBuf {
    setup::root().join("tests/lab/tests/sandbox/attacker.rs")
}

/// A run to come.
#[derive(Clone, Debug)]
pub struct Run {
    set: Vec<String>,
    without: Vec<Wall>,
    without_box: bool,
    hang_limit: u64,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Whether the command said that all was well.
    pub succeeded: bool,
    /// Whether the attack did: the driver was loaded, or is another program now.
    pub reached: bool,
    /// What the command printed.
    pub text: String,
}

impl Run {
    /// A run behind all walls.
    pub fn new() -> Self {
        Self { set: Vec::new(), without: Vec::new(), without_box: true, hang_limit: 3 }
    }

    /// Sets a registry value of the driver.
    pub fn set(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        self.set.push(format!("{name}={value}"));
        self
    }

    /// Leaves walls out.
    pub fn without(mut self, walls: &[Wall]) -> Self {
        self.without = walls.to_vec();
        self
    }

    /// Does not say `--without-box`.
    pub fn without_flag(mut self) -> Self {
        self.without_box = false;
        self
    }

    /// Sets the seconds after which a driver hangs.
    pub fn hang_limit(mut self, seconds: u64) -> Self {
        self.hang_limit = seconds;
        self
    }

    /// The command.
    pub fn command(&self) -> Command {
        let driver = setup::compile(&source(), &[]).unwrap_or_else(|error| panic!("{error:#}"));
        let capture = setup::root().join("tests/lab/tests/driver/captures/late_dns.pcap");
        let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
        command.arg("trace").arg(capture).arg("--driver").arg(driver);
        command.args(["--hang-limit", &self.hang_limit.to_string()]);
        command.args(self.set.iter().flat_map(|value| ["--set", value]));
        command.args(self.without_box.then_some("--without-box"));
        let without: Vec<_> = self.without.iter().map(|wall| format!("{wall:?}")).collect();
        command.env(WITHOUT, without.join(",")).stdin(Stdio::null());
        command
    }

    /// Plays it.
    pub fn play(self) -> Outcome {
        let output = self.command().output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        let replaced = text.contains("ended with code 0 before the command was over");
        Outcome { succeeded: output.status.success(), reached: output.status.success() || replaced, text }
    }
}
