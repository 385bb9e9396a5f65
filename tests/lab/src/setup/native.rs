//! The driver's source built natively, watched by what the compiler can add.
//!
//! The pinned toolchain does nearly all: its sanitizers' flags are unstable, but
//! their runtimes lie beside it, so no nightly is wanted. ThreadSanitizer has to
//! see into the library, too, or it takes locks for nothing; so for it the
//! library is built from the nightly's source.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::driver::built;
use super::toolchain::{host_sysroot, pinned};
use super::{Need, clean_command, ensure, root, source, state, target_directory};

/// The only host whose processor calls as x64 Windows does.
const HOST: &str = "x86_64-unknown-linux-gnu";

/// AddressSanitizer, and what libFuzzer wants: the flags of cargo-fuzz.
const FUZZER: [&str; 6] = [
    "-Zsanitizer=address",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// Stands before rustc, so that nothing but the driver is counted and what it
/// needs is not built again. The tests pull in the runtime that writes the
/// counts, as rustc would for a program counted as a whole.
const COUNT_THE_DRIVER: &str = r#"#!/bin/sh
case " $* " in
*" --crate-name hushport_native_driver "*) exec "$@" -Cinstrument-coverage ;;
*" --crate-name native "*) exec "$@" -Clink-arg=-Wl,-u,__llvm_profile_runtime ;;
*) exec "$@" ;;
esac
"#;

/// Stands before rustc, so that the driver is compiled as it ships, as far as
/// its own crate goes (`profile.release` of the workspace), and what it needs
/// is not built again.
const AS_IT_SHIPS: &str = r#"#!/bin/sh
case " $* " in
*" --crate-name hushport_native_driver "*)
    exec "$@" -Copt-level=s -Ccodegen-units=1 -Cdebug-assertions=off -Coverflow-checks=off ;;
*) exec "$@" ;;
esac
"#;

/// Watches every access to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Sanitizer {
    /// Whether what is accessed is there.
    Address,
    /// Whether another thread accesses it at the same time.
    Thread,
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
    let mut cargo = cargo(&["build", "--bin", "fuzz", "--features", "libfuzzer"])?;
    // With a target given, build scripts and macros stay without the flags.
    cargo.args(["--target", HOST]).arg("--target-dir").arg(state().join("native-fuzzer"));
    cargo.env("RUSTC_BOOTSTRAP", "1").env("CARGO_ENCODED_RUSTFLAGS", FUZZER.join("\u{1f}"));
    build(&mut cargo)
}

/// Builds the native tests so that they count the driver's lines.
pub fn covered_tests() -> Result<Built> {
    ensure(&[Need::Libclang])?;
    wrapped(&["test", "--no-run", "--test", "native"], "count-the-driver", COUNT_THE_DRIVER)
}

/// Builds the program that classifies for callgrind, the driver in it as it
/// ships.
pub fn counted() -> Result<Built> {
    ensure(&[Need::Libclang])?;
    wrapped(&["build", "--bin", "count"], "as-it-ships", AS_IT_SHIPS)
}

/// Builds with a script before rustc, beside what is built without.
fn wrapped(arguments: &[&str], name: &str, script: &str) -> Result<Built> {
    let wrapper = state().join(name);
    std::fs::write(&wrapper, script)?;
    std::fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755))?;
    // For the target that the alias `lab` names, whose folder has the dependencies.
    let mut cargo = cargo(arguments)?;
    cargo.args(["--target", "host-tuple"]);
    build(cargo.arg("--target-dir").arg(target_directory()).env("RUSTC_WORKSPACE_WRAPPER", &wrapper))
}

/// Builds the native tests under a sanitizer; with a fault in the copy of the
/// source where one is named.
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

/// Has the model checker try every interleaving of processors that count and end
/// flows; says whether all came out right.
///
/// # Errors
/// If cargo cannot be started.
pub fn model_checked() -> Result<bool> {
    let mut cargo = clean_command("cargo");
    cargo.current_dir(root()).env("RUSTUP_TOOLCHAIN", pinned()?).env("RUSTFLAGS", "--cfg loom");
    cargo.args(["test", "--package", "hushport", "--lib", "--no-default-features", "--release", "--locked"]);
    cargo.arg("--target-dir").arg(state().join("loom")).args(["flow::model"]);
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

/// A command for what was built: options of the sanitizers' runtimes are ours.
pub fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    // What the driver leaves is the kernel's affair, and it names it; what the
    // lab keeps to the end is none.
    command.env("ASAN_OPTIONS", "detect_leaks=0").env("TSAN_OPTIONS", "halt_on_error=1");
    command.current_dir(root().join("tests/native"));
    command
}
