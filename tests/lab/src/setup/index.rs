//! Drivers of others that a package index has. Nothing of them is part of this
//! repository.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use super::{run, state};

/// The version of PyPI's package `pydivert` with WinDivert 2.2.
const WHEEL: &str = "pydivert==4.0.1";
/// The driver in its wheel for Windows.
const MEMBER: &str = "pydivert/windivert_dll/WinDivert64.sys";
/// SHA-256 of the driver.
const HASH: &str = "8da085332782708d8767bcace5327a6ec7283c17cfb85e40b03cd2323a90ddc2";

/// WinDivert64.sys, downloaded once with pip.
///
/// # Errors
/// If the index cannot be reached, or has another file.
pub fn windivert() -> Result<PathBuf> {
    let driver = state().join("index").join("WinDivert64.sys");
    if !driver.is_file() {
        let folder = tempfile::tempdir()?;
        download(folder.path(), &driver)
            .context("WinDivert64.sys is not to be had from the package index")?;
    }
    let digest = Sha256::digest(std::fs::read(&driver)?);
    let found: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    ensure!(found == HASH, "{} has the SHA-256 {found}, expected {HASH}", driver.display());
    Ok(driver)
}

fn download(folder: &Path, driver: &Path) -> Result<()> {
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]);
    pip.args(["--retries", "1", "--timeout", "10", "--only-binary=:all:", "--platform", "win_amd64"]);
    run(pip.arg("--dest").arg(folder).arg(WHEEL))?;
    let wheel = std::fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path())).next();
    let Some(wheel) = wheel else { bail!("pip has left no file") };
    run(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(folder))?;
    let parent = driver.parent().context("the driver has a folder")?;
    std::fs::create_dir_all(parent)?;
    // It is renamed at the end, so that the file is always complete.
    let fresh = parent.join(format!("fresh-{}", std::process::id()));
    std::fs::copy(folder.join(MEMBER), &fresh)?;
    Ok(std::fs::rename(fresh, driver)?)
}
