//! Builds the driver: the source of the Windows build, linked by rust-lld.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{Need, Toolchain, ensure, profile, root, state};
use crate::sandbox::inner;

/// A Windows target of the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// x86_64-pc-windows-msvc, which the lab runs.
    X64,
    /// aarch64-pc-windows-msvc, compiled and linked only.
    Arm64,
}

impl Target {
    /// Both targets; the one that the lab runs comes first.
    pub const ALL: [Self; 2] = [Self::X64, Self::Arm64];

    /// The name of the target in Rust.
    pub fn triple(self) -> &'static str {
        match self {
            Self::X64 => "x86_64-pc-windows-msvc",
            Self::Arm64 => "aarch64-pc-windows-msvc",
        }
    }

    /// The name of the target in the driver kit.
    pub fn name(self) -> &'static str {
        match self {
            Self::X64 => "x64",
            Self::Arm64 => "arm64",
        }
    }
}

/// A linked driver.
#[derive(Clone, Debug)]
pub struct Driver {
    /// `hushport.sys`; `hushport.pdb` is next to it.
    pub sys: PathBuf,
    /// The files that bindgen wrote for this build.
    pub bindings: Vec<PathBuf>,
    /// The output folder of the build script, if the driver was built here.
    pub out: Option<PathBuf>,
    /// The crates that the build compiled, if the driver was built here.
    pub crates: Vec<Crate>,
}

/// A crate that a build compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crate {
    /// Its manifest.
    pub manifest: PathBuf,
    /// Whether it was compiled for Windows. Otherwise it ran during the build.
    pub is_linked: bool,
}

/// An environment variable: a folder of drivers that replaces the build, with
/// `x64/hushport.sys` and so on. `cargo lab wdk` sets it for the tests of its
/// build.
pub const DRIVERS: &str = "HUSHPORT_LAB_DRIVERS";

/// The package of the shipping driver.
pub(super) const HUSHPORT: &str = "hushport";
/// The package of the driver that measures, in `tests/conformance`.
const CONFORMANCE: &str = "hushport-conformance";

/// The outcome of a build in this process, for each target.
type Built = [OnceLock<Result<Driver, String>>; 2];

/// Builds the shipping driver, once per process. Cargo decides what is up to date.
pub fn build(target: Target) -> Result<&'static Driver> {
    static BUILT: Built = [const { OnceLock::new() }; 2];
    static GIVEN: OnceLock<Driver> = OnceLock::new();
    // A driver's process can build nothing.
    if let Some(sys) = inner::driver() {
        return Ok(GIVEN.get_or_init(|| Driver {
            sys: sys.to_owned(),
            bindings: Vec::new(),
            out: None,
            crates: Vec::new(),
        }));
    }
    build_once(&BUILT, HUSHPORT, target)
}

/// Builds the driver that measures, as [`build`] builds the shipping one.
pub fn build_conformance(target: Target) -> Result<&'static Driver> {
    static BUILT: Built = [const { OnceLock::new() }; 2];
    build_once(&BUILT, CONFORMANCE, target)
}

fn build_once(built: &'static Built, package: &str, target: Target) -> Result<&'static Driver> {
    let built = built[target as usize].get_or_init(|| {
        let driver = match std::env::var_os(DRIVERS) {
            Some(folder) => given(&Path::new(&folder).join(target.name()), package),
            None => link(package, target),
        };
        driver.map_err(|error| format!("{error:#}"))
    });
    built.as_ref().map_err(|error| anyhow::anyhow!("{error}"))
}

/// An existing driver, with the bindings that it was built from.
fn given(folder: &Path, package: &str) -> Result<Driver> {
    let sys = folder.join(package).with_extension("sys");
    if !sys.is_file() {
        bail!("{DRIVERS}: there is no {}", sys.display());
    }
    let files = std::fs::read_dir(folder)?.flatten().map(|entry| entry.path());
    let bindings = files.filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect();
    Ok(Driver { sys, bindings, out: None, crates: Vec::new() })
}

/// Runs clippy over both drivers for one Windows target; warnings are errors.
pub fn lint(target: Target) -> Result<()> {
    let toolchain = toolchain(target)?;
    for package in [HUSHPORT, CONFORMANCE] {
        let status = cargo(toolchain, "clippy", package, target)
            .args(["--", "--deny", "warnings"])
            .status()
            .context("cannot start cargo clippy")?;
        if !status.success() {
            bail!("clippy reports problems in {package} for {}", target.triple());
        }
    }
    Ok(())
}

/// The toolchain for a target, found or installed once per process.
pub fn toolchain(target: Target) -> Result<&'static Toolchain> {
    static TOOLCHAINS: [OnceLock<Result<Toolchain, String>>; 2] = [const { OnceLock::new() }; 2];
    let found = TOOLCHAINS[target as usize].get_or_init(|| {
        // Test processes run concurrently; one of them does the set-up.
        let _guard = lock().map_err(|error| format!("{error:#}"))?;
        ensure(&[Need::Libclang, Need::LLVM_RC])
            .and_then(|()| Toolchain::ensure(target))
            .map_err(|error| format!("{error:#}"))
    });
    found.as_ref().map_err(|error| anyhow::anyhow!("{error}"))
}

fn cargo(toolchain: &Toolchain, verb: &str, package: &str, target: Target) -> Command {
    let mut command = toolchain.command("cargo");
    command
        .current_dir(root())
        .args([verb, "--package", package, "--lib", "--release", "--locked", "--no-default-features"])
        .args(profile::arguments(package))
        .args(["--target", target.triple()])
        .arg("--target-dir")
        .arg(state().join("driver"));
    command
}

fn link(package: &str, target: Target) -> Result<Driver> {
    let toolchain = toolchain(target)?;
    let _guard = lock()?;
    let mut command = cargo(toolchain, "build", package, target);
    command.arg("--message-format=json-render-diagnostics");
    collect(command, package, target, &state().join(target.name()))
}

/// Runs a build with JSON messages and copies its results into a folder.
pub(super) fn collect(
    mut command: Command,
    package: &str,
    target: Target,
    directory: &Path,
) -> Result<Driver> {
    let output =
        command.stderr(Stdio::piped()).output().with_context(|| format!("cannot start {command:?}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("{package} does not build for {}:\n{stderr}", target.triple());
    }
    let messages: Vec<Value> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let (linked, out_dir) = built(&messages, &package.replace('-', "_"))?;
    let linked = linked.with_context(|| format!("cargo names no library of {package}"))?;
    std::fs::create_dir_all(directory)?;
    let sys = directory.join(package).with_extension("sys");
    replace(&linked, &sys)?;
    replace(&linked.with_extension("pdb"), &sys.with_extension("pdb"))?;
    let crates = compiled(&messages, target);
    Ok(Driver { sys, bindings: vec![out_dir.join("bindings.rs")], out: Some(out_dir), crates })
}

/// The library that cargo built from the target with this name, and the output
/// folder of its package's build script, from cargo's messages.
///
/// The messages are matched by package id only. The format of an id is up to cargo:
/// it is the location, with or without the name.
pub(super) fn built(messages: &[Value], target: &str) -> Result<(Option<PathBuf>, PathBuf)> {
    let artifact = messages.iter().rev().find(|message| {
        let kinds = message["target"]["kind"].as_array();
        let library = kinds.is_some_and(|kinds| kinds.iter().any(|kind| kind == "lib" || kind == "cdylib"));
        message["reason"] == "compiler-artifact" && message["target"]["name"] == target && library
    });
    let artifact = artifact.with_context(|| format!("cargo reports no artifact {target}"))?;
    let files = artifact["filenames"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let library = files.filter(|name| name.ends_with(".dll")).map(PathBuf::from).next();
    let script = messages.iter().rev().find(|message| {
        message["reason"] == "build-script-executed" && message["package_id"] == artifact["package_id"]
    });
    let out = script.and_then(|message| message["out_dir"].as_str());
    Ok((library, out.with_context(|| format!("cargo names no output of {target}'s build.rs"))?.into()))
}

/// The crates in cargo's messages. What is for the target is in a folder with its name.
fn compiled(messages: &[Value], target: Target) -> Vec<Crate> {
    let artifacts = messages.iter().filter(|message| message["reason"] == "compiler-artifact");
    let crates = artifacts.filter_map(|artifact| {
        let manifest = PathBuf::from(artifact["manifest_path"].as_str()?);
        let mut files = artifact["filenames"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let is_linked = files.any(|file| Path::new(file).iter().any(|part| part == target.triple()));
        Some(Crate { manifest, is_linked })
    });
    crates.collect()
}

/// Replaces a file in one step, so that a process that has mapped the old file
/// keeps it.
pub(super) fn replace(from: &Path, to: &Path) -> Result<()> {
    let fresh = to.with_extension("new");
    std::fs::copy(from, &fresh).with_context(|| format!("cannot copy {}", from.display()))?;
    std::fs::rename(&fresh, to).with_context(|| format!("cannot write {}", to.display()))
}

/// A lock between processes. Dropping it unlocks.
pub type Lock = nix::fcntl::Flock<std::fs::File>;

/// Locks the build, so that one process builds at a time.
pub(super) fn lock() -> Result<Lock> {
    lock_file(&state().join("lock"))
}

pub(super) fn lock_file(path: &Path) -> Result<Lock> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let file = std::fs::File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusive)
        .map_err(|(_, error)| anyhow::anyhow!("cannot lock {}: {error}", path.display()))
}

/// An empty folder under `target/lab` that no other process uses while the lock is
/// held.
pub fn exclusive(name: &str) -> Result<(PathBuf, Lock)> {
    let folder = state().join(name);
    let lock = lock_file(&folder.with_extension("lock"))?;
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    std::fs::create_dir_all(&folder)?;
    Ok((folder, lock))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_matched_for_any_name_of_the_checkouts_folder() {
        let message = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        // The formats of cargo: the name is left out if the folder has that name.
        for id in [
            "path+file:///home/me/hushport#0.1.0",
            "path+file:///home/me/checkout#hushport@0.1.0",
            "path+file:///home/me/a%20%23b%25/hushport%23#hushport@0.1.0",
        ] {
            let script = |id: &str, out: &str| {
                message(&format!(
                    r#"{{"reason":"build-script-executed","package_id":"{id}","out_dir":"{out}"}}"#
                ))
            };
            let artifact = message(&format!(
                r#"{{"reason":"compiler-artifact","package_id":"{id}","target":{{"kind":["cdylib"],"name":"hushport"}},"filenames":["/t/hushport.dll.lib","/t/hushport.dll"]}}"#
            ));
            let build = message(&format!(
                r#"{{"reason":"compiler-artifact","package_id":"{id}","target":{{"kind":["custom-build"],"name":"build-script-build"}},"filenames":[]}}"#
            ));
            let other = script("registry+https://github.com/rust-lang/crates.io-index#hushport@1.0.0", "/no");
            let messages = [other.clone(), build, script(id, "/out"), artifact, other];
            let found = built(&messages, "hushport").unwrap();
            assert_eq!(found, (Some("/t/hushport.dll".into()), "/out".into()), "{id}");
        }
        let error = built(&[], "hushport").unwrap_err().to_string();
        assert!(error.contains("hushport"), "{error}");
    }

    #[test]
    fn a_given_driver_has_its_bindings() {
        let folder = tempfile::tempdir().unwrap();
        let error = given(folder.path(), HUSHPORT).unwrap_err().to_string();
        assert!(error.contains(DRIVERS) && error.contains("hushport.sys"), "{error}");
        for file in ["hushport.sys", "hushport.pdb", "bindings.rs", "types.rs"] {
            std::fs::write(folder.path().join(file), "").unwrap();
        }
        let driver = given(folder.path(), HUSHPORT).unwrap();
        assert_eq!(driver.sys, folder.path().join("hushport.sys"));
        assert_eq!(driver.bindings.len(), 2, "{:?}", driver.bindings);
    }
}
