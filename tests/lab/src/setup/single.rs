//! Builds drivers of a single crate without dependencies, for tests.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::driver::{lock, toolchain};
use super::{Target, state};

/// Compiles and links a driver for x64 from a source file and its modules, which
/// are in a folder with the file's name. The PDB is written next to the driver. An
/// unchanged driver is not compiled again.
pub fn compile(source: &Path, arguments: &[&str]) -> Result<PathBuf> {
    let toolchain = toolchain(Target::X64)?;
    let text = std::fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
    let name = source.file_stem().with_context(|| format!("{} is no source file", source.display()))?;
    let mut modules = modules(&source.with_extension(""))?;
    modules.sort();
    let mut hasher = DefaultHasher::new();
    (&text, &modules, arguments, &toolchain.channel).hash(&mut hasher);
    let folder = format!("{}-{:016x}", name.to_string_lossy(), hasher.finish());
    let folder = state().join("single").join(folder);
    let driver = folder.join(name).with_extension("sys");
    let _guard = lock()?;
    if driver.is_file() {
        return Ok(driver);
    }
    std::fs::create_dir_all(&folder)?;
    // It is renamed at the end, so that the file is always complete.
    let fresh = folder.join("fresh.dll");
    let mut rustc = toolchain.command("rustc");
    rustc.args(["--edition=2024", "--crate-type=cdylib", "-O", "-g", "-Cpanic=abort"]);
    rustc.args(["--target", Target::X64.triple(), "-Clinker-flavor=lld-link"]);
    rustc.arg(format!("-Clinker={}", toolchain.linker.display()));
    if let Some(sysroot) = &toolchain.sysroot {
        rustc.arg("--sysroot").arg(sysroot);
    }
    for argument in ["/ENTRY:DriverEntry", "/NODEFAULTLIB", "/SUBSYSTEM:NATIVE", "/DRIVER:WDM", "/RELEASE"] {
        rustc.arg(format!("-Clink-arg={argument}"));
    }
    rustc.arg(format!("-Clink-arg=/PDB:{}", driver.with_extension("pdb").display()));
    let output =
        rustc.args(arguments).arg("-o").arg(&fresh).arg(source).output().context("cannot start rustc")?;
    if !output.status.success() {
        bail!("cannot compile {}:\n{}", source.display(), String::from_utf8_lossy(&output.stderr));
    }
    std::fs::rename(&fresh, &driver)?;
    Ok(driver)
}

/// The paths and texts of the files in a folder; none if it does not exist.
fn modules(folder: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut modules = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        modules.push((path, text));
    }
    Ok(modules)
}
