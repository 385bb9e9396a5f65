//! The disks and media of a machine.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use machine::wire::Network;
use serde_json::json;

use super::answer::{self, Choice, LABEL};
use super::config::{Config, Folder, Source};
use crate::setup;

/// The disk on which Windows is.
pub const DISK: &str = "disk.qcow2";
/// The disk for results.
pub const RESULTS: &str = "results.img";
/// The medium with package, scripts and answer file.
pub const TOOLS: &str = "tools.iso";

/// The label of the disk for results.
const RESULTS_LABEL: &str = "RESULTS";
/// Where its partition begins, in bytes and in sectors.
const PARTITION: u64 = 1 << 20;
const SECTOR: u64 = 512;

/// Makes everything that the machine needs.
pub fn make(config: &Config, folder: &Folder) -> Result<()> {
    disk(config, folder)?;
    results(&folder.file(RESULTS), config.results_disk << 30)?;
    tools(config, folder)
}

/// An empty disk, or one over the disk of an installed machine, which does not change.
fn disk(config: &Config, folder: &Folder) -> Result<()> {
    let mut command = Command::new("qemu-img");
    command.args(["create", "-q", "-f", "qcow2"]);
    match &config.source {
        Source::Medium { .. } => {
            command.arg(folder.file(DISK)).arg(format!("{}G", config.disk));
        }
        Source::Disk { file, .. } => {
            command.arg("-b").arg(file).args(["-F", &format_of(file)?]).arg(folder.file(DISK));
        }
    }
    run(&mut command).map(drop)
}

/// The format of a disk image.
///
/// # Errors
/// If QEMU does not know it, or finds no format but raw bytes.
pub fn format_of(file: &Path) -> Result<String> {
    let mut command = Command::new("qemu-img");
    command.args(["info", "--output=json"]).arg(file);
    let text = run(&mut command).with_context(|| format!("--disk {}", file.display()))?;
    let info: serde_json::Value = serde_json::from_str(&text)?;
    let format = info["format"].as_str().unwrap_or_default();
    let known = ["vhdx", "vpc", "qcow2", "vmdk", "vdi"];
    ensure!(
        known.contains(&format),
        "--disk {}: its format is {format:?}; expected one of {}",
        file.display(),
        known.join(", ")
    );
    Ok(format.to_owned())
}

/// A sparse disk with a FAT32 partition. Windows mounts no fixed disk without a
/// partition table.
fn results(file: &Path, size: u64) -> Result<()> {
    ensure!(size >= 64 << 20, "the disk for results has less than 64 MB");
    let sectors = u32::try_from((size - PARTITION) / SECTOR).context("the disk for results is too large")?;
    let mut image = File::create(file)?;
    image.set_len(size)?;
    image.seek(SeekFrom::Start(0x1b8))?;
    // A signature, from which Windows knows that the disk is in use; and one entry: not
    // bootable, type 0x0c (FAT32, by sector), first sector and number of sectors.
    image.write_all(b"HUSH\0\0")?;
    image.write_all(&[0, 0xfe, 0xff, 0xff, 0x0c, 0xfe, 0xff, 0xff])?;
    image.write_all(&u32::try_from(PARTITION / SECTOR)?.to_le_bytes())?;
    image.write_all(&sectors.to_le_bytes())?;
    image.seek(SeekFrom::Start(0x1fe))?;
    image.write_all(&[0x55, 0xaa])?;
    drop(image);
    let mut command = Command::new("mformat");
    command.arg("-i").arg(partition(file)).args(["-F", "-h", "255", "-s", "63", "-T", &sectors.to_string()]);
    command.args(["-v", RESULTS_LABEL, "::"]).env("MTOOLS_SKIP_CHECK", "1");
    run(&mut command).map(drop)
}

/// The partition, as mtools names it.
fn partition(file: &Path) -> String {
    format!("{}@@{PARTITION}", file.display())
}

/// Copies what the machine left on its disk for results into a folder.
///
/// # Errors
/// If the disk cannot be read, or this computer's disk is full. What was copied stays.
pub fn collect(file: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    let mut list = Command::new("mdir");
    list.arg("-i").arg(partition(file)).args(["-b", "::"]).env("MTOOLS_SKIP_CHECK", "1");
    let names = run(&mut list).context("the disk for results is damaged")?;
    if names.trim().is_empty() {
        bail!("the disk for results is empty");
    }
    let mut copy = Command::new("mcopy");
    copy.arg("-i").arg(partition(file)).args(["-s", "-m", "-n", "-Q", "::*"]).arg(to);
    run(copy.env("MTOOLS_SKIP_CHECK", "1")).context("cannot copy the results").map(drop)
}

/// The medium with package, scripts and answer file.
fn tools(config: &Config, folder: &Folder) -> Result<()> {
    let staging = tempfile::tempdir_in(folder.path())?;
    let at = |name: &str| staging.path().join(name);
    let choice = |version, index, language: &str, keyboard: &str, product_key: Option<&String>| Choice {
        version,
        index,
        language: language.to_owned(),
        keyboard: keyboard.to_owned(),
        product_key: product_key.cloned(),
        tpm: config.tpm(),
        secure_boot: config.secure_boot,
        memory: config.memory,
        disk: config.disk,
    };
    match &config.source {
        Source::Medium { image, language, keyboard, product_key, .. } => {
            let choice = choice(Some(image.version), image.index, language, keyboard, product_key.as_ref());
            std::fs::write(at("autounattend.xml"), answer::autounattend(&choice))?;
        }
        // Its first start looks for a file of this name.
        Source::Disk { language, keyboard, .. } => {
            let choice = choice(None, 1, language, keyboard, None);
            std::fs::write(at("unattend.xml"), answer::unattend(&choice))?;
        }
    }
    copy(&setup::root().join("tests/vm"), &at("vm"), &["ps1", "psm1"])?;
    copy(&config.package, &at("package"), &["sys", "inf", "cat", "cer", "pdb", "json"])?;
    std::fs::write(at("vm/machine.json"), description(config, &Network::default()).to_string())?;
    let mut command = Command::new("xorriso");
    command.args(["-as", "mkisofs", "-quiet", "-J", "-joliet-long", "-r", "-V", LABEL, "-o"]);
    run(command.arg(folder.file(TOOLS)).arg(staging.path())).map(drop)
}

/// What the scripts need to know of the machine.
fn description(config: &Config, network: &Network) -> serde_json::Value {
    json!({
        "format": "hushport-vm 1",
        "addresses": [
            { "address": network.host.0, "prefix": network.prefix.0 },
            { "address": network.host.1, "prefix": network.prefix.1 },
        ],
        "results": RESULTS_LABEL,
        "port": "COM1",
        "cycles": config.cycles,
        "scan": config.scan,
        "signed": config.signed,
    })
}

/// Copies the files of a folder that have one of these extensions, without tests.
fn copy(from: &Path, to: &Path, extensions: &[&str]) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        let extension = path.extension().unwrap_or_default().to_string_lossy();
        if extensions.contains(&&*extension) && !name.to_string_lossy().ends_with(".Tests.ps1") {
            std::fs::copy(&path, to.join(name)).with_context(|| format!("cannot copy {}", path.display()))?;
        }
    }
    Ok(())
}

/// Runs a program that this module needs.
fn run(command: &mut Command) -> Result<String> {
    setup::run(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The disk for results takes files and gives them back, and damage is an error.
    #[test]
    fn results_come_back_from_their_disk() {
        if Command::new("mformat").arg("--version").output().is_err() {
            println!("skipped: mformat (Debian's mtools) is not installed");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join(RESULTS);
        results(&image, 600 << 20).unwrap();
        let table = std::fs::read(&image).unwrap()[..512].to_vec();
        assert_eq!((table[0x1be + 4], &table[0x1fe..]), (0x0c, &[0x55, 0xaa][..]));
        let out = folder.path().join("out");
        assert_eq!(collect(&image, &out).unwrap_err().to_string(), "the disk for results is empty");
        let file = folder.path().join("hushport-standard.etl");
        std::fs::write(&file, vec![7; 100_000]).unwrap();
        let mut put = Command::new("mcopy");
        run(put.arg("-i").arg(partition(&image)).arg(&file).arg("::")).unwrap();
        collect(&image, &out).unwrap();
        assert_eq!(std::fs::read(out.join("hushport-standard.etl")).unwrap(), vec![7; 100_000]);
        File::options().write(true).open(&image).unwrap().set_len(PARTITION).unwrap();
        let error = format!("{:#}", collect(&image, &out).unwrap_err());
        assert!(error.starts_with("the disk for results is damaged"), "{error}");
        results(&image, 1 << 20).unwrap_err();
    }

    #[test]
    fn only_disk_images_are_disks() {
        if Command::new("qemu-img").arg("--version").output().is_err() {
            println!("skipped: qemu-img (Debian's qemu-utils) is not installed");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.vhdx");
        run(Command::new("qemu-img").args(["create", "-q", "-f", "vhdx"]).arg(&file).arg("64M")).unwrap();
        assert_eq!(format_of(&file).unwrap(), "vhdx");
        std::fs::write(&file, "text").unwrap();
        let error = format_of(&file).unwrap_err().to_string();
        assert!(error.contains("its format is \"raw\"; expected one of vhdx"), "{error}");
        format_of(&folder.path().join("none")).unwrap_err();
    }
}
