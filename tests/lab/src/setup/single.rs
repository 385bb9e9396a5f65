//! Drivers of one source file, for tests.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::driver::{lock, toolchain};
use super::{Target, state};

/// Compiles and links a driver from one file for x64; its PDB lies beside it.
/// What was compiled before is not compiled again.
pub fn compile(source: &Path, arguments: &[&str]) -> Result<PathBuf> {
    let toolchain = toolchain()?;
    let text = std::fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
    let name = source.file_stem().with_context(|| format!("{} is no source file", source.display()))?;
    let mut hasher = DefaultHasher::new();
    (&text, arguments, &toolchain.channel).hash(&mut hasher);
    let folder = format!("{}-{:016x}", name.to_string_lossy(), hasher.finish());
    let folder = state().join("single").join(folder);
    let driver = folder.join(name).with_extension("sys");
    let _guard = lock()?;
    if driver.is_file() {
        return Ok(driver);
    }
    std::fs::create_dir_all(&folder)?;
    // Renamed at the end, so that what is there is whole.
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
