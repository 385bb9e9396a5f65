//! What a run is made of, and the folder that has all of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::accelerator::{Accelerator, SLOWNESS};
use super::images::Image;

/// Where Windows comes from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Source {
    /// An installation medium, and what to install from it.
    #[allow(missing_docs, reason = "the names say it")]
    Medium { iso: PathBuf, image: Image, language: String, keyboard: String, product_key: Option<String> },
    /// A disk on which a system is installed. It is not changed.
    #[allow(missing_docs, reason = "the names say it")]
    Disk { file: PathBuf, language: String, keyboard: String },
}

/// A kernel that is booted instead of the firmware, for other guests than Windows.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are those of QEMU's options")]
pub struct Kernel {
    pub kernel: PathBuf,
    pub initrd: PathBuf,
    pub append: String,
}

/// A run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Config {
    /// Where Windows comes from.
    pub source: Source,
    /// Another kernel.
    pub kernel: Option<Kernel>,
    /// The folder with the package.
    pub package: PathBuf,
    /// Whether the package has a signature that Windows accepts without test mode.
    pub signed: bool,
    /// Memory in MB.
    pub memory: u64,
    /// Processors.
    pub processors: u32,
    /// The size of the disk in GB.
    pub disk: u64,
    /// The size of the disk for results in GB.
    pub results_disk: u64,
    /// UEFI with Microsoft's keys, and a TPM.
    pub secure_boot: bool,
    /// A BIOS instead of UEFI.
    pub bios: bool,
    /// How the machine is run.
    pub accelerator: Accelerator,
    /// Another processor than the accelerator's.
    pub processor: Option<String>,
    /// Whether the guest is scanned.
    pub scan: bool,
    /// How often the driver is loaded and unloaded.
    pub cycles: u32,
    /// The limits of the phases.
    pub limits: Limits,
    /// The folder for the results.
    pub results: PathBuf,
}

impl Config {
    /// Whether the machine has a TPM.
    pub fn tpm(&self) -> bool {
        self.secure_boot
    }
}

/// The kinds of phases, each with a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    /// From power on to the guest's first line.
    Start,
    /// A pass of Windows Setup.
    Setup,
    /// From a restart to the script's first line.
    Boot,
    /// A step of the plan.
    Step,
    /// From the end of the plan until the machine is off.
    Results,
    /// The whole run.
    Whole,
}

/// Kinds, their names for `--limit`, and the minutes that they may take on a processor.
/// No run on Windows has confirmed them.
const KINDS: [(Kind, &str, u64); 6] = [
    (Kind::Start, "start", 15),
    (Kind::Setup, "setup", 60),
    (Kind::Boot, "boot", 30),
    (Kind::Step, "step", 60),
    (Kind::Results, "results", 30),
    (Kind::Whole, "whole", 5 * 60),
];

/// Limits by kind.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Limits(BTreeMap<Kind, Duration>);

impl Limits {
    /// The usual ones, with others for some kinds.
    pub fn new(accelerator: Accelerator, others: &[(Kind, Duration)]) -> Self {
        let factor = if accelerator == Accelerator::Emulation { SLOWNESS } else { 1 };
        let usual = KINDS.map(|(kind, _, minutes)| (kind, Duration::from_secs(60 * minutes) * factor));
        Self(usual.into_iter().chain(others.iter().copied()).collect())
    }

    /// The limit of a kind.
    pub fn of(&self, kind: Kind) -> Duration {
        self.0.get(&kind).copied().unwrap_or(Duration::from_secs(3600))
    }
}

/// Parses `setup=90m`, `step=45s` or `whole=8h`.
pub fn limit(text: &str) -> Result<(Kind, Duration), String> {
    let names: Vec<&str> = KINDS.iter().map(|(_, name, _)| *name).collect();
    let expected =
        format!("{text:?}: expected PHASE=TIME, such as step=90m; PHASE is one of {}", names.join(", "));
    let (name, time) = text.split_once('=').ok_or_else(|| expected.clone())?;
    let (kind, ..) = KINDS.iter().find(|(_, known, _)| *known == name).ok_or_else(|| expected.clone())?;
    let digits = time.trim_end_matches(char::is_alphabetic);
    let unit = match &time[digits.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(format!("{text:?}: the time has no unit s, m or h")),
    };
    let number: u64 = digits.parse().map_err(|_| expected.clone())?;
    let seconds = number.checked_mul(unit).filter(|seconds| (1..=30 * 86_400).contains(seconds));
    let seconds = seconds.ok_or_else(|| format!("{text:?}: expected a time from 1s to 720h"))?;
    Ok((*kind, Duration::from_secs(seconds)))
}

/// The folder of a run. While it exists as a value, no other process uses it.
pub struct Folder {
    path: PathBuf,
    _lock: Flock<File>,
}

/// The part of a run that survives an interruption.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Saved {
    /// What the run is made of.
    pub config: Config,
    /// Where it was.
    pub progress: super::progress::Progress,
}

impl Folder {
    /// Opens a folder, which is made if it does not exist.
    ///
    /// # Errors
    /// If another process uses it.
    pub fn open(path: &Path) -> Result<Self> {
        std::fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
        let path = path.canonicalize()?;
        let file = File::options().write(true).create(true).truncate(false).open(path.join("lock"))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { path, _lock: lock }),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                bail!("a machine runs in {}; --work DIR makes another one", path.display())
            }
            Err((_, error)) => Err(error.into()),
        }
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it has a run that can be resumed.
    pub fn has_run(&self) -> bool {
        self.file(RUN).is_file()
    }

    /// Keeps what is needed to resume. The file is replaced as a whole.
    pub fn save(&self, saved: &Saved) -> Result<()> {
        let fresh = self.file("run.json.new");
        std::fs::write(&fresh, serde_json::to_vec_pretty(saved)?)?;
        std::fs::rename(fresh, self.file(RUN)).with_context(|| format!("cannot write {RUN}"))
    }

    /// What [`Folder::save`] kept.
    ///
    /// # Errors
    /// If there is nothing.
    pub fn load(&self) -> Result<Saved> {
        let path = self.file(RUN);
        let text = std::fs::read(&path)
            .with_context(|| format!("--resume: there is no run in {}", self.path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("--resume: {} is damaged", path.display()))
    }

    /// Deletes everything but the lock.
    pub fn clear(&self) -> Result<()> {
        for entry in std::fs::read_dir(&self.path)? {
            let path = entry?.path();
            if path.is_dir() && !path.is_symlink() {
                std::fs::remove_dir_all(&path)?;
            } else if path.file_name().is_some_and(|name| name != "lock") {
                std::fs::remove_file(&path)?;
            }
        }
        Ok(())
    }
}

const RUN: &str = "run.json";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_parsed_and_others_are_longer_under_emulation() {
        assert_eq!(limit("step=90m"), Ok((Kind::Step, Duration::from_secs(5400))));
        assert_eq!(limit("whole=8h"), Ok((Kind::Whole, Duration::from_secs(28_800))));
        for wrong in
            ["step", "step=", "step=5", "step=5d", "dance=5m", "step=0s", "step=-1m", "step=9999999h", "=5m"]
        {
            limit(wrong).unwrap_err();
        }
        let others = [(Kind::Boot, Duration::from_secs(5))];
        let fast = Limits::new(Accelerator::Kvm { enlightened: true }, &others);
        let slow = Limits::new(Accelerator::Emulation, &others);
        assert_eq!(slow.of(Kind::Step), fast.of(Kind::Step) * SLOWNESS);
        assert_eq!(slow.of(Kind::Boot), Duration::from_secs(5));
    }

    #[test]
    fn a_folder_has_one_user_and_forgets_what_is_cleared() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("vm");
        let folder = Folder::open(&path).unwrap();
        let error = Folder::open(&path).err().unwrap().to_string();
        assert!(error.starts_with("a machine runs in "), "{error}");
        assert!(folder.load().unwrap_err().to_string().starts_with("--resume: there is no run"));
        std::fs::write(folder.file(RUN), "{").unwrap();
        assert!(folder.load().unwrap_err().to_string().ends_with("is damaged"));
        std::fs::create_dir(folder.file("tpm")).unwrap();
        folder.clear().unwrap();
        assert!(!folder.has_run() && !folder.file("tpm").exists());
        drop(folder);
        Folder::open(&path).unwrap();
    }
}
