//! The Windows build where there is no Windows: over the headers of a WDK that
//! somebody has.
//!
//! The driver's source, its manifest, its build script and the ecosystem's crates
//! are the ones that a build on Windows uses. What differs is in [`patch`], text
//! by text, and is made under `target/lab/wdk`; nothing else is written.

mod mirror;
mod patch;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::driver::{Driver, collect, lock, replace, toolchain};
use super::toolchain::quoted;
use super::{Target, Toolchain, root, run, state};

/// Headers whose presence makes a folder a kit that the driver can be built with,
/// beneath `Include/VERSION`. Kits without `ndis/nbl.h` have their NET_BUFFER in
/// `ndis.h`, which only Microsoft's compiler reads.
const WANTED: [&str; 5] =
    ["km/fwpsk.h", "km/fwpmk.h", "km/ndis/nbl.h", "km/crt/string.h", "shared/fwptypes.h"];

/// The headers of one version of a kit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kit {
    /// `Include/VERSION`, with the folders `km` and `shared` in it.
    pub include: PathBuf,
    /// `Lib/VERSION/km`, where there is one: a folder for each target in it.
    pub libraries: Option<PathBuf>,
    /// `10.0.22621.0`.
    pub version: String,
}

impl Kit {
    /// Looks for the version asked for, or else the newest, under a content root.
    ///
    /// # Errors
    /// One line that says what the content root lacks.
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

    /// Builds the driver with the feature `wdk`; the files lie in
    /// `target/lab/wdk/x64` or `arm64`.
    pub fn build(&self, target: Target) -> Result<Driver> {
        let toolchain = toolchain(target)?;
        let _guard = lock()?;
        let mut cargo = self.cargo(toolchain, "build", target)?;
        cargo.arg("--message-format=json-render-diagnostics");
        let folder = place().join(target.name());
        let driver = collect(cargo, target, &folder)?;
        let built = tree().join("target").join(target.triple()).join("release/build");
        keep_bindings(driver, of_wdk_sys(&built)?, &folder)
    }

    /// Clippy over what only this build compiles, warnings denied.
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
            // wdk-build asks for it, and .cargo/config.toml sets it on Windows.
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

/// Where all of it lies.
pub fn place() -> PathBuf {
    state().join("wdk")
}

/// The package as it is built: cargo's own folder `target` lies in it, for
/// wdk-build looks above its output for the manifest.
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

/// A file by its name in any case, as Windows finds it.
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

/// The package as cargo is to see it: its own files, but for what [`patch`] says,
/// and no workspace around it, whose Cargo.lock would change.
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
    // Cargo writes the patched crate into it: begun anew only when the original
    // is another.
    let lock = read("Cargo.lock")?;
    if write(&tree.join("Cargo.lock.original"), &lock)? || !tree.join("Cargo.lock").is_file() {
        std::fs::write(tree.join("Cargo.lock"), lock)?;
    }
    Ok(())
}

/// Where cargo keeps the source of the wdk-build that Cargo.lock names.
fn registered(toolchain: &Toolchain) -> Result<PathBuf> {
    let mut cargo = toolchain.command("cargo");
    cargo.current_dir(root()).args(["metadata", "--format-version", "1", "--locked"]);
    let metadata: Value = serde_json::from_str(&run(&mut cargo)?)?;
    let packages = metadata["packages"].as_array().context("cargo metadata names no packages")?;
    let package = packages.iter().find(|package| package["name"] == "wdk-build");
    let manifest = package.and_then(|package| package["manifest_path"].as_str());
    let manifest = Path::new(manifest.context("Cargo.lock names no wdk-build")?);
    Ok(manifest.parent().context("a manifest lies in a folder")?.to_path_buf())
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
            // Some of its files have Windows' line ends.
            let text = std::fs::read_to_string(&from)?.replace("\r\n", "\n");
            let text = patch::wdk_build(&from, &text)?;
            write(&to.join(name), &text)?;
        }
    }
    Ok(())
}

/// Puts the bindings beside the driver, where the tests look for them: the
/// driver's own, and those of wdk-sys, which it keeps to itself.
fn keep_bindings(driver: Driver, of_wdk_sys: Vec<PathBuf>, folder: &Path) -> Result<Driver> {
    let bindings = driver.bindings.into_iter().chain(of_wdk_sys).map(|from| {
        let to = folder.join(from.file_name().context("bindings are a file")?);
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
    let newest = newest.context("wdk-sys left no bindings")?;
    Ok(["constants.rs", "types.rs", "ntddk.rs"].map(|file| newest.join(file)).to_vec())
}

/// Writes a file where it does not say so already, so that cargo sees no change
/// where there is none; whether it wrote.
fn write(path: &Path, text: &str) -> Result<bool> {
    if std::fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(false);
    }
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(true)
}

/// Makes a symbolic link, in place of a file or of a link that leads elsewhere.
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
