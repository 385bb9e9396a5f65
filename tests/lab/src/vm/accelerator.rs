//! Whether this computer runs a machine on its processor (KVM) or must emulate one.
//!
//! /dev/kvm alone does not tell: in a container or a nested machine it may be there and
//! not work. So a program of a few bytes is booted.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// How a machine is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Accelerator {
    /// On the processor. With `enlightened`, the machine sees Hyper-V's interface.
    #[allow(missing_docs, reason = "said above")]
    Kvm { enlightened: bool },
    /// By software.
    Emulation,
}

/// The parts of Hyper-V's interface that QEMU recommends for Windows (QEMU, "Hyper-V
/// Enlightenments"). With `hv-crash`, Windows tells the code of a bugcheck.
pub const ENLIGHTENMENTS: &str = "hv-relaxed,hv-vapic,hv-spinlocks=0x1fff,hv-vpindex,hv-runtime,hv-time,hv-synic,\
    hv-stimer,hv-frequencies,hv-crash";

/// How much longer a machine takes under emulation. A guess from Linux guests.
pub const SLOWNESS: u32 = 12;

/// A boot sector that writes 16 to the port of `isa-debug-exit`, and then waits:
/// `mov al, 16; mov dx, 0xf4; out dx, al; hlt; jmp $-1`.
const PROGRAM: [u8; 9] = [0xb0, 0x10, 0xba, 0xf4, 0x00, 0xee, 0xf4, 0xeb, 0xfd];
/// The BIOS starts no smaller disk at an AHCI controller.
const DISK: usize = 1 << 20;
/// What QEMU then ends with: twice the number, plus one.
const EXPECTED: i32 = 33;
const PATIENCE: Duration = Duration::from_secs(20);

impl Accelerator {
    /// The best that works here.
    ///
    /// # Errors
    /// If QEMU runs the program in no way.
    pub fn probe(qemu: &Path) -> Result<Self> {
        if Path::new("/dev/kvm").exists() {
            let enlightened = format!("host,{ENLIGHTENMENTS}");
            if boots(qemu, "kvm", &enlightened, &PROGRAM, PATIENCE).is_ok() {
                return Ok(Self::Kvm { enlightened: true });
            }
            if boots(qemu, "kvm", "host", &PROGRAM, PATIENCE).is_ok() {
                return Ok(Self::Kvm { enlightened: false });
            }
        }
        boots(qemu, "tcg", "max", &PROGRAM, PATIENCE).context("QEMU runs no machine here")?;
        Ok(Self::Emulation)
    }

    /// Its name for QEMU.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm { .. } => "kvm",
            Self::Emulation => "tcg",
        }
    }

    /// The processor that the machine sees.
    pub fn processor(self) -> String {
        match self {
            Self::Kvm { enlightened: true } => format!("host,{ENLIGHTENMENTS}"),
            Self::Kvm { enlightened: false } => "host".to_owned(),
            // Emulation of tables with five levels is slower, and Windows needs none.
            Self::Emulation => "max,la57=off".to_owned(),
        }
    }

    /// What a person should know.
    pub fn notice(self) -> Option<String> {
        let hours = "a run takes hours, perhaps more than a day";
        let why = if Path::new("/dev/kvm").exists() {
            "a test program does not run with /dev/kvm"
        } else {
            "there is no /dev/kvm"
        };
        (self == Self::Emulation).then(|| format!("warning: the machine is emulated, because {why}: {hours}"))
    }
}

/// Boots a program; an error says how that failed.
fn boots(qemu: &Path, accelerator: &str, processor: &str, program: &[u8], patience: Duration) -> Result<()> {
    let mut disk = vec![0; DISK];
    disk[..program.len()].copy_from_slice(program);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(&disk)?;
    let mut command = Command::new(qemu);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-m", "64", "-no-reboot"]);
    command.args(["-machine", &format!("q35,accel={accelerator}"), "-cpu", processor]);
    command.arg("-drive").arg(format!("id=probe,if=none,format=raw,file={}", file.path().display()));
    command.args(["-device", "ide-hd,drive=probe", "-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {}", qemu.display()))?;
    let end = Instant::now() + patience;
    while child.try_wait()?.is_none() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20));
    }
    let hangs = child.try_wait()?.is_none();
    if hangs {
        child.kill()?;
    }
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(!hangs, "a test program does not end within {patience:?}");
    anyhow::ensure!(
        output.status.code() == Some(EXPECTED),
        "a test program ended with {}: {}",
        output.status,
        said.trim()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::machine;

    #[test]
    fn a_program_that_hangs_or_fails_is_no_success() {
        let Ok(qemu) = machine::qemu() else {
            println!("skipped: qemu-system-x86_64 (Debian's qemu-system-x86) is not installed");
            return;
        };
        let long = PATIENCE;
        boots(&qemu, "tcg", "max", &PROGRAM, long).unwrap();
        let error = boots(&qemu, "tcg", "max", &[0xeb, 0xfe], Duration::from_secs(3)).unwrap_err();
        assert!(error.to_string().starts_with("a test program does not end"), "{error}");
        // Another number.
        let error =
            boots(&qemu, "tcg", "max", &[0xb0, 1, 0xba, 0xf4, 0, 0xee, 0xeb, 0xfe], long).unwrap_err();
        assert!(error.to_string().contains("exit status: 3"), "{error}");
        // An option that QEMU does not know.
        boots(&qemu, "tcg", "max,hv-dance", &PROGRAM, long).unwrap_err();
        // Whichever it is, it is one that runs.
        let best = Accelerator::probe(&qemu).unwrap();
        boots(&qemu, best.name(), &best.processor(), &PROGRAM, long).unwrap();
        assert_eq!(best.notice().is_some(), best == Accelerator::Emulation);
    }
}
