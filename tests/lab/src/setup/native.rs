//! Builds the driver's source natively, with sanitizers, fuzzer or coverage.
//!
//! The pinned toolchain does nearly everything. The flags of its sanitizers are
//! unstable, but their runtimes are included, so no nightly is needed. Only
//! ThreadSanitizer must instrument the library, too, because otherwise it does not
//! see its locks. For it the library is built from the nightly's source.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::driver::built;
use super::toolchain::{host_sysroot, pinned};
use super::{Need, clean_command, ensure, profile, root, source, state, target_directory};

/// The only host whose processor has the calling convention of x64 Windows.
const HOST: &str = "x86_64-unknown-linux-gnu";

/// The flags of cargo-fuzz: AddressSanitizer, and coverage for libFuzzer.
const FUZZER: [&str; 6] = [
    "-Zsanitizer=address",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// A script that runs instead of rustc, so that only the driver is instrumented and
/// its dependencies are not built again. The tests link the runtime that writes the
/// counts, as rustc does for an instrumented program.
const COUNT_THE_DRIVER: &str = r#"#!/bin/sh
case " $* " in
*" --crate-name hushport_native_driver "*) exec "$@" -Cinstrument-coverage ;;
*" --crate-name native "*) exec "$@" -Clink-arg=-Wl,-u,__llvm_profile_runtime ;;
*) exec "$@" ;;
esac
"#;

/// The keys of the workspace's `profile.release` with which the driver's crate is compiled as
/// it ships. Nothing else that the lab has built changes.
const AS_IT_SHIPS: [&str; 4] = ["opt-level", "codegen-units", "debug-assertions", "overflow-checks"];

/// A sanitizer, which checks every access to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Sanitizer {
    /// Whether the memory is valid.
    Address,
    /// Whether another thread accesses it at the same time.
    Thread,
}

/// The result of a build.
#[derive(Clone, Debug)]
pub struct Built {
    /// The program.
    pub program: PathBuf,
    /// The driver's source that was compiled.
    pub source: PathBuf,
}

/// Builds the fuzzer.
pub fn fuzzer() -> Result<Built> {
    ensure(&[Need::Libclang, Need::CXX])?;
    let mut cargo = cargo(&["build", "--bin", "fuzz", "--features", "libfuzzer"])?;
    // With `--target`, build scripts and macros are built without these flags.
    cargo.args(["--target", HOST]).arg("--target-dir").arg(state().join("native-fuzzer"));
    cargo.env("RUSTC_BOOTSTRAP", "1").env("CARGO_ENCODED_RUSTFLAGS", FUZZER.join("\u{1f}"));
    build(&mut cargo)
}

/// Builds the native tests with coverage of the driver.
pub fn covered_tests() -> Result<Built> {
    ensure(&[Need::Libclang])?;
    let wrapper = state().join("count-the-driver");
    std::fs::write(&wrapper, COUNT_THE_DRIVER)?;
    std::fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755))?;
    let mut cargo = cargo(&["test", "--no-run", "--test", "native"])?;
    build(in_lab_target(&mut cargo).env("RUSTC_WORKSPACE_WRAPPER", &wrapper))
}

/// Builds the program that classifies under callgrind, with the driver as it ships.
pub fn counted() -> Result<Built> {
    as_it_ships("count")
}

/// Builds the program that measures what grows with the number of processors, with the
/// driver as it ships.
pub fn measured() -> Result<Built> {
    as_it_ships("processors")
}

/// Builds a program with the driver as it ships, next to the normal build.
fn as_it_ships(program: &str) -> Result<Built> {
    ensure(&[Need::Libclang])?;
    let mut cargo = cargo(&["build", "--bin", program])?;
    for (key, value) in profile::release() {
        if AS_IT_SHIPS.contains(&&*key) {
            cargo.args(["--config", &format!("profile.lab.package.hushport-native-driver.{key}={value}")]);
        }
    }
    build(in_lab_target(&mut cargo))
}

/// Lets cargo build in the folder of the alias `lab`, which has the dependencies.
fn in_lab_target(cargo: &mut Command) -> &mut Command {
    cargo.args(["--target", "host-tuple"]).arg("--target-dir").arg(target_directory())
}

/// Builds the native tests with a sanitizer; with a fault in the copy of the
/// source, if one is named.
pub fn sanitized_tests(sanitizer: Sanitizer, planted: Option<&str>) -> Result<Built> {
    ensure(&[Need::Libclang])?;
    let mut cargo = cargo(&["test", "--no-run", "--test", "native", "--target", HOST])?;
    let (flags, folder) = match sanitizer {
        Sanitizer::Address => (vec!["-Zsanitizer=address".to_owned()], "native-address"),
        Sanitizer::Thread => {
            let flag = "-Zsanitizer=thread";
            let source = source::find()?;
            let sysroot = state().join("sysroot-thread").join(&source.channel);
            host_sysroot(&source, &sysroot, HOST, flag)?;
            cargo.env("RUSTUP_TOOLCHAIN", &source.channel);
            (vec![flag.to_owned(), format!("--sysroot={}", sysroot.display())], "native-thread")
        }
    };
    cargo.env("RUSTC_BOOTSTRAP", "1").env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    cargo.envs(planted.map(|name| ("HUSHPORT_PLANTED", name)));
    build(cargo.arg("--target-dir").arg(state().join(folder)))
}

/// Runs the model checker over every interleaving of the driver's concurrent
/// structures. Each model also runs without what it shows to be needed, and must fail
/// then. Returns whether all results were right.
///
/// # Errors
/// If cargo cannot be started.
pub fn model_checked() -> Result<bool> {
    let mut cargo = clean_command("cargo");
    cargo.current_dir(root()).env("RUSTUP_TOOLCHAIN", pinned()?).env("RUSTFLAGS", "--cfg loom");
    cargo.args(["test", "--package", "hushport", "--lib", "--no-default-features", "--locked"]);
    let cargo = in_lab_target(cargo.args(["--profile", "lab"])).args(["model"]);
    Ok(cargo.status().with_context(|| format!("cannot start {cargo:?}"))?.success())
}

fn cargo(arguments: &[&str]) -> Result<Command> {
    let mut cargo = clean_command("cargo");
    cargo.current_dir(root()).env("RUSTUP_TOOLCHAIN", pinned()?).args(arguments);
    cargo.args(["--package", "hushport-native", "--locked", "--profile", "lab"]);
    cargo.arg("--message-format=json-render-diagnostics").stderr(Stdio::inherit());
    Ok(cargo)
}

fn build(cargo: &mut Command) -> Result<Built> {
    let output = cargo.output().with_context(|| format!("cannot start {cargo:?}"))?;
    if !output.status.success() {
        bail!("the native build fails");
    }
    let output = String::from_utf8_lossy(&output.stdout);
    let messages: Vec<Value> = output.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let path = |value: &Value| value.as_str().map(PathBuf::from);
    let program = messages.iter().rev().find_map(|message| path(&message["executable"]));
    let (_, out) = built(&messages, "hushport_native_driver")?;
    Ok(Built { program: program.context("cargo names no executable")?, source: out.join("src") })
}

/// A command for a built program, with the options of the sanitizers' runtimes.
pub fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    // The simulated kernel reports what the driver leaks. What the lab keeps until
    // its end is no leak.
    command.env("ASAN_OPTIONS", "detect_leaks=0").env("TSAN_OPTIONS", "halt_on_error=1");
    command.current_dir(root().join("tests/native"));
    command
}
