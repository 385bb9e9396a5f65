//! The Windows build on Linux, against the headers of an existing WDK.
//!
//! The driver's source, its manifest, its build script and the crates are those of
//! a build on Windows. `patch` makes the only changes, text by text, in copies
//! under `target/lab/wdk`; nothing else is written.

mod mirror;
mod patch;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::driver::{Driver, collect, lock, replace, toolchain};
use super::toolchain::quoted;
use super::{Target, Toolchain, root, run, state};

/// The headers under `Include/VERSION` that a kit must have. Kits without
/// `ndis/nbl.h` define NET_BUFFER in `ndis.h`, which only Microsoft's compiler can
/// read.
const WANTED: [&str; 5] =
    ["km/fwpsk.h", "km/fwpmk.h", "km/ndis/nbl.h", "km/crt/string.h", "shared/fwptypes.h"];

/// The headers of one version of a kit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kit {
    /// `Include/VERSION`, with the folders `km` and `shared`.
    pub include: PathBuf,
    /// `Lib/VERSION/km`, if it exists, with a folder for each target.
    pub libraries: Option<PathBuf>,
    /// `10.0.22621.0`.
    pub version: String,
}

impl Kit {
    /// Finds a version, or the newest one, under a content root.
    ///
    /// # Errors
    /// If the content root lacks anything; the error names it in one line.
    pub fn find(content_root: &Path, version: Option<&str>) -> Result<Self> {
        let shown = content_root.display();
        let Some(include) = entry(content_root, "Include") else {
            bail!("{shown} is no content root of a WDK: it has no folder Include");
        };
        let versions: Vec<String> = match version {
            Some(version) => vec![version.to_owned()],
            None => newest_first(&include)?,
        };
        let Some(version) = versions.iter().find(|version| lacks(&include, version).is_none()) else {
            let lacking = versions.iter().map(|version| {
                format!("{version} has no {}", lacks(&include, version).unwrap_or("header at all"))
            });
            let lacking: Vec<String> = lacking.collect();
            let lacking = if lacking.is_empty() { "it is empty".into() } else { lacking.join(", ") };
            bail!("{} holds no headers that the driver can be built with: {lacking}", include.display());
        };
        Ok(Self {
            libraries: entry(content_root, "Lib").and_then(|lib| at(&lib, &format!("{version}/km"))),
            include: at(&include, version).context("a version that was found")?,
            version: version.clone(),
        })
    }

    /// Builds the driver with the feature `wdk`. The files are in
    /// `target/lab/wdk/x64` or `arm64`.
    pub fn build(&self, target: Target) -> Result<Driver> {
        let toolchain = toolchain(target)?;
        let _guard = lock()?;
        let mut cargo = self.cargo(toolchain, "build", target)?;
        cargo.arg("--message-format=json-render-diagnostics");
        let folder = place().join(target.name());
        let driver = collect(cargo, super::driver::HUSHPORT, target, &folder)?;
        let built = tree().join("target").join(target.triple()).join("release/build");
        keep_bindings(driver, of_wdk_sys(&built)?, &folder)
    }

    /// Runs clippy over the code that only this build compiles; warnings are
    /// errors.
    pub fn lint(&self, target: Target) -> Result<()> {
        let toolchain = toolchain(target)?;
        let _guard = lock()?;
        let mut cargo = self.cargo(toolchain, "clippy", target)?;
        run(cargo.args(["--quiet", "--", "--deny", "warnings"])).map(drop)
    }

    fn cargo(&self, toolchain: &Toolchain, verb: &str, target: Target) -> Result<Command> {
        let content_root = mirror::make(self, target, &toolchain.linker)?;
        plant(toolchain, &tree())?;
        let mut cargo = toolchain.command("cargo");
        cargo
            .current_dir(tree())
            .args([verb, "--lib", "--release", "--target", target.triple()])
            .arg("--target-dir")
            .arg(tree().join("target"))
            // wdk-build requires it; on Windows .cargo/config.toml sets it.
            .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static")
            .env("WDKContentRoot", content_root)
            .env("Version_Number", &self.version)
            .env(
                "BINDGEN_EXTRA_CLANG_ARGS",
                format!("-ivfsoverlay {}", quoted(&mirror::overlay(self).display().to_string())),
            );
        Ok(cargo)
    }
}

/// The folder for all of this.
pub fn place() -> PathBuf {
    state().join("wdk")
}

/// The package that is built. Cargo's folder `target` is inside, because wdk-build
/// looks for the manifest above its output.
fn tree() -> PathBuf {
    place().join("tree")
}

/// The first header that a version lacks.
fn lacks(include: &Path, version: &str) -> Option<&'static str> {
    WANTED.into_iter().find(|header| at(include, &format!("{version}/{header}")).is_none())
}

fn newest_first(include: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(include).with_context(|| format!("cannot read {}", include.display()))?;
    let mut versions: Vec<(Vec<u32>, String)> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let numbers: Option<Vec<u32>> = name.split('.').map(|part| part.parse().ok()).collect();
            Some((numbers?, name))
        })
        .collect();
    versions.sort();
    Ok(versions.into_iter().rev().map(|(_, name)| name).collect())
}

/// Finds a file by its name in any case, as Windows does.
fn entry(directory: &Path, name: &str) -> Option<PathBuf> {
    let exact = directory.join(name);
    if exact.exists() {
        return Some(exact);
    }
    std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().eq_ignore_ascii_case(name))
        .map(|entry| entry.path())
}

fn at(directory: &Path, path: &str) -> Option<PathBuf> {
    path.split('/').try_fold(directory.to_path_buf(), |directory, name| entry(&directory, name))
}

/// Creates the package for cargo: its own files with the changes of [`patch`], and
/// no workspace around it, because its Cargo.lock would change.
fn plant(toolchain: &Toolchain, tree: &Path) -> Result<()> {
    std::fs::create_dir_all(tree)?;
    for folder in ["src", "build"] {
        link(&root().join(folder), &tree.join(folder))?;
    }
    let wdk_build = place().join("wdk-build");
    copy_wdk_build(&registered(toolchain)?, &wdk_build)?;
    let read = |name: &str| {
        let path = root().join(name);
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    write(&tree.join("build.rs"), &patch::build_script(&read("build.rs")?)?)?;
    write(&tree.join("Cargo.toml"), &patch::manifest(&read("Cargo.toml")?, &wdk_build)?)?;
    // Cargo adds the patched crate to it, so it is only replaced if the original
    // changes.
    let lock = read("Cargo.lock")?;
    if write(&tree.join("Cargo.lock.original"), &lock)? || !tree.join("Cargo.lock").is_file() {
        std::fs::write(tree.join("Cargo.lock"), lock)?;
    }
    Ok(())
}

/// The folder with the source of the wdk-build that Cargo.lock names.
fn registered(toolchain: &Toolchain) -> Result<PathBuf> {
    let mut cargo = toolchain.command("cargo");
    cargo.current_dir(root()).args(["metadata", "--format-version", "1", "--locked"]);
    let metadata: Value = serde_json::from_str(&run(&mut cargo)?)?;
    let packages = metadata["packages"].as_array().context("cargo metadata names no packages")?;
    let package = packages.iter().find(|package| package["name"] == "wdk-build");
    let manifest = package.and_then(|package| package["manifest_path"].as_str());
    let manifest = Path::new(manifest.context("Cargo.lock names no wdk-build")?);
    Ok(manifest.parent().context("the manifest has no folder")?.to_path_buf())
}

fn copy_wdk_build(from: &Path, to: &Path) -> Result<()> {
    let entries = std::fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))?;
    std::fs::create_dir_all(to)?;
    for entry in entries {
        let from = entry?.path();
        let name = from.file_name().context("an entry has a name")?;
        if from.is_dir() {
            copy_wdk_build(&from, &to.join(name))?;
        } else if from.extension().is_some_and(|extension| extension == "rs") || from.ends_with("Cargo.toml")
        {
            // Some of its files have Windows line endings.
            let text = std::fs::read_to_string(&from)?.replace("\r\n", "\n");
            let text = patch::wdk_build(&from, &text)?;
            write(&to.join(name), &text)?;
        }
    }
    Ok(())
}

/// Copies the bindings next to the driver, where the tests look for them: the
/// driver's own, and the private ones of wdk-sys.
fn keep_bindings(driver: Driver, of_wdk_sys: Vec<PathBuf>, folder: &Path) -> Result<Driver> {
    let bindings = driver.bindings.into_iter().chain(of_wdk_sys).map(|from| {
        let to = folder.join(from.file_name().context("the path of the bindings has no file name")?);
        replace(&from, &to)?;
        Ok(to)
    });
    Ok(Driver { bindings: bindings.collect::<Result<_>>()?, ..driver })
}

/// The newest output of wdk-sys's build script.
fn of_wdk_sys(built: &Path) -> Result<Vec<PathBuf>> {
    let outputs = std::fs::read_dir(built)?.flatten().map(|entry| entry.path().join("out"));
    let outputs = outputs.filter(|out| out.join("ntddk.rs").is_file());
    let newest =
        outputs.max_by_key(|out| out.join("ntddk.rs").metadata().and_then(|file| file.modified()).ok());
    let newest = newest.context("wdk-sys wrote no bindings")?;
    Ok(["constants.rs", "types.rs", "ntddk.rs"].map(|file| newest.join(file)).to_vec())
}

/// Writes a file unless it already has this text, so that cargo sees no change.
/// Returns whether it wrote.
fn write(path: &Path, text: &str) -> Result<bool> {
    if std::fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(false);
    }
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(true)
}

/// Creates a symbolic link. A file or another link at that place is replaced.
fn link(to: &Path, at: &Path) -> Result<()> {
    if std::fs::read_link(at).is_ok_and(|old| old == to) {
        return Ok(());
    }
    if at.is_symlink() || at.is_file() {
        std::fs::remove_file(at)?;
    }
    std::os::unix::fs::symlink(to, at).with_context(|| format!("cannot link {}", at.display()))
}

#[cfg(test)]
mod tests;
