//! The driver's source built natively, watched by what the compiler can add.
//!
//! The pinned toolchain does it all: the flags are unstable, but its own
//! runtimes lie beside it, so no nightly is wanted.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::toolchain::pinned;
use super::{Need, clean_command, ensure, root, state};

/// The only host whose processor calls as x64 Windows does.
const HOST: &str = "x86_64-unknown-linux-gnu";

/// What watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// libFuzzer's coverage, and AddressSanitizer.
    Fuzzer,
    /// AddressSanitizer.
    Address,
    /// Which lines ran.
    Coverage,
}

impl Watch {
    /// Each has a folder of its own: other flags are another build.
    fn folder(self) -> PathBuf {
        state().join(match self {
            Self::Fuzzer => "native-fuzzer",
            Self::Address => "native-address",
            Self::Coverage => "native-coverage",
        })
    }

    fn flags(self) -> &'static [&'static str] {
        match self {
            // Those of cargo-fuzz.
            Self::Fuzzer => &[
                "-Zsanitizer=address",
                "-Cpasses=sancov-module",
                "-Cllvm-args=-sanitizer-coverage-level=4",
                "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
                "-Cllvm-args=-sanitizer-coverage-pc-table",
                "-Cllvm-args=-sanitizer-coverage-trace-compares",
            ],
            Self::Address => &["-Zsanitizer=address"],
            Self::Coverage => &["-Cinstrument-coverage"],
        }
    }
}

/// What was built.
#[derive(Clone, Debug)]
pub struct Built {
    /// The program.
    pub program: PathBuf,
    /// The driver's source as it was compiled.
    pub source: PathBuf,
}

/// Builds the fuzzer.
pub fn fuzzer() -> Result<Built> {
    ensure(&[Need::Libclang, Need::CXX])?;
    let arguments = ["build", "--bin", "fuzz", "--features", "libfuzzer"];
    build(Watch::Fuzzer, &arguments)
}

/// Builds the native tests.
pub fn tests(watch: Watch) -> Result<Built> {
    ensure(&[Need::Libclang])?;
    build(watch, &["test", "--no-run", "--test", "native"])
}

fn build(watch: Watch, arguments: &[&str]) -> Result<Built> {
    let mut cargo = clean_command("cargo");
    // With a target given, build scripts and macros stay without the flags.
    cargo
        .current_dir(root())
        .env("RUSTUP_TOOLCHAIN", pinned()?)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", watch.flags().join("\u{1f}"))
        .args(arguments)
        .args(["--package", "hushport-native", "--locked", "--profile", "lab", "--target", HOST])
        .arg("--message-format=json-render-diagnostics")
        .arg("--target-dir")
        .arg(watch.folder())
        .stderr(Stdio::inherit());
    let output = cargo.output().with_context(|| format!("cannot start {cargo:?}"))?;
    if !output.status.success() {
        bail!("the native build for {watch:?} fails");
    }
    let output = String::from_utf8_lossy(&output.stdout);
    let messages: Vec<Value> = output.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let path = |value: &Value| value.as_str().map(PathBuf::from);
    let program = messages.iter().rev().find_map(|message| path(&message["executable"]));
    let prepared = messages.iter().find(|message| {
        let package = message["package_id"].as_str().unwrap_or_default();
        message["reason"] == "build-script-executed" && package.contains("tests/native/driver")
    });
    Ok(Built {
        program: program.context("cargo names no executable")?,
        source: prepared
            .and_then(|message| path(&message["out_dir"]))
            .context("cargo names no copy of the source")?
            .join("src"),
    })
}

/// A command for what was built: options of the sanitizers' runtimes are ours.
pub fn command(program: &std::path::Path) -> Command {
    let mut command = Command::new(program);
    // What the driver leaves is the kernel's affair, and it names it; what the
    // lab keeps to the end is none.
    command.env("ASAN_OPTIONS", "detect_leaks=0:abort_on_error=0").current_dir(root());
    command
}
