//! QEMU's command line, and its process.
//!
//! The hardware is what every Windows has drivers for: an AHCI controller, an Intel
//! 82574L network card (e1000e), a serial port and a VGA card.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::config::{Config, Folder, Source};
use super::media;
use super::network::{INTERFACE, Link};
use crate::setup::Need;

/// What QEMU is called.
const QEMU: &str = "qemu-system-x86_64";
/// Where Debian and Ubuntu have OVMF's images, by size; both have these names.
const FIRMWARE: &str = "/usr/share/OVMF";
/// UEFI, and its variables: without Secure Boot, and with it and Microsoft's keys.
const PLAIN: [&str; 2] = ["OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"];
const SECURE: [&str; 2] = ["OVMF_CODE_4M.secboot.fd", "OVMF_VARS_4M.ms.fd"];

/// The file with the state of a machine that was interrupted.
pub const STATE: &str = "machine.state";
/// A link to the socket for pictures of the screen.
pub const SCREEN_SOCKET: &str = "screen.socket";

/// What the tests of virtual machines need besides QEMU itself.
pub const TEST_NEEDS: [Need; 10] = [
    Need::QEMU_IMG,
    Need::OVMF,
    Need::SWTPM,
    Need::XORRISO,
    Need::MTOOLS,
    Need::WIMINFO,
    Need::SEVEN_ZIP,
    Need::NMAP,
    Need::IP,
    Need::Program("genisoimage", "genisoimage"),
];

/// The program QEMU.
///
/// # Errors
/// If it is not installed.
pub fn qemu() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut files = std::env::split_paths(&path).map(|folder| folder.join(QEMU));
    files.find(|file| file.is_file()).with_context(|| format!("{QEMU} is not on the PATH"))
}

/// Checks that the firmware for a run is installed.
pub fn check_firmware(config: &Config) -> Result<()> {
    let Some(names) = firmware(config) else { return Ok(()) };
    for name in names {
        let file = Path::new(FIRMWARE).join(name);
        ensure!(file.is_file(), "missing: {} (Debian's and Ubuntu's package ovmf)", file.display());
    }
    Ok(())
}

fn firmware(config: &Config) -> Option<[&'static str; 2]> {
    match (&config.kernel, config.bios, config.secure_boot) {
        (Some(_), ..) | (None, true, _) => None,
        (None, false, true) => Some(SECURE),
        (None, false, false) => Some(PLAIN),
    }
}

/// The sockets of a machine. They are in a folder with a short name, because the name of
/// a socket has at most 107 bytes.
pub struct Sockets(tempfile::TempDir);

impl Sockets {
    /// A new folder.
    pub fn new() -> Result<Self> {
        Ok(Self(tempfile::Builder::new().prefix("hushport-vm-").tempdir_in("/tmp")?))
    }

    /// QMP, for this process.
    pub fn qmp(&self) -> PathBuf {
        self.0.path().join("qmp")
    }

    /// QMP, for pictures.
    pub fn screen(&self) -> PathBuf {
        self.0.path().join("screen")
    }

    /// The serial port.
    pub fn serial(&self) -> PathBuf {
        self.0.path().join("serial")
    }

    /// The screen, for a viewer.
    pub fn vnc(&self) -> PathBuf {
        self.0.path().join("vnc")
    }

    fn tpm(&self) -> PathBuf {
        self.0.path().join("tpm")
    }
}

/// QEMU, and the TPM's process. Dropping ends both.
pub struct Processes {
    qemu: Child,
    tpm: Option<Child>,
    log: PathBuf,
}

impl Processes {
    /// Starts them inside the network. The machine is paused.
    pub fn start(config: &Config, folder: &Folder, sockets: &Sockets, link: &Link) -> Result<Self> {
        let log = folder.file("qemu.log");
        let spawn = |mut command: Command| -> Result<Child> {
            let output = File::options().create(true).append(true).open(&log)?;
            command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
            // Ctrl-C is for this process alone, which then ends the others in order.
            command.process_group(0);
            Ok(link.namespace.spawn(command)?)
        };
        let tpm = match config.tpm() {
            false => None,
            true => {
                std::fs::create_dir_all(folder.file("tpm"))?;
                let mut command = Command::new("swtpm");
                command.args(["socket", "--tpm2", "--terminate", "--tpmstate"]);
                command.arg(format!("dir={}", folder.file("tpm").display())).arg("--ctrl");
                command.arg(format!("type=unixio,path={}", sockets.tpm().display()));
                Some(spawn(command)?)
            }
        };
        let mut started = Self { qemu: spawn(Command::new("true"))?, tpm, log: log.clone() };
        started.qemu.wait()?;
        if started.tpm.is_some() {
            let end = Instant::now() + Duration::from_secs(10);
            while !sockets.tpm().exists() {
                ensure!(Instant::now() < end, "swtpm does not start; see {}", log.display());
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        let mut command = Command::new(qemu()?);
        command.args(arguments(config, folder, sockets)?);
        started.qemu = spawn(command)?;
        Ok(started)
    }

    /// Whether QEMU has ended, and how.
    pub fn ended(&mut self) -> Result<Option<String>> {
        let Some(status) = self.qemu.try_wait()? else { return Ok(None) };
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(3).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        Ok(Some(format!("QEMU ended, {status}: {}", tail.join(" "))))
    }

    /// Waits until QEMU has ended by itself.
    pub fn wait(&mut self, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        while self.qemu.try_wait()?.is_none() {
            if Instant::now() > end {
                bail!("QEMU does not end within {limit:?}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for child in std::iter::once(&mut self.qemu).chain(self.tpm.as_mut()) {
            // It may have ended.
            let _gone = child.kill();
            let _gone = child.wait();
        }
    }
}

/// A file as the value of an option: QEMU ends a value at a comma.
fn value(file: &Path) -> String {
    file.display().to_string().replace(',', ",,")
}

/// QEMU's arguments.
fn arguments(config: &Config, folder: &Folder, sockets: &Sockets) -> Result<Vec<String>> {
    let mut all: Vec<String> = Vec::new();
    let mut add = |words: &[&str]| all.extend(words.iter().map(|word| (*word).to_owned()));
    let secure = if config.secure_boot { ",smm=on" } else { "" };
    let processor = config.processor.clone().unwrap_or_else(|| config.accelerator.processor());
    add(&["-name", "hushport-vm", "-nodefaults", "-no-user-config", "-S"]);
    add(&["-machine", &format!("q35,accel={}{secure}", config.accelerator.name())]);
    add(&["-cpu", &processor, "-smp", &config.processors.to_string(), "-m", &config.memory.to_string()]);
    // The answer file sets the time zone UTC. The machine never sleeps, and after a crash
    // it goes on, so that Windows writes its dump.
    add(&["-rtc", "base=utc", "-action", "panic=none"]);
    add(&["-global", "ICH9-LPC.disable_s3=1", "-global", "ICH9-LPC.disable_s4=1"]);
    if let Some([code, variables]) = firmware(config) {
        // A run that is resumed has its own variables.
        let own = folder.file("variables.fd");
        if !own.is_file() {
            std::fs::copy(Path::new(FIRMWARE).join(variables), &own)
                .with_context(|| format!("cannot copy {FIRMWARE}/{variables}"))?;
        }
        if config.secure_boot {
            add(&["-global", "driver=cfi.pflash01,property=secure,value=on"]);
        }
        add(&["-drive", &format!("if=pflash,unit=0,format=raw,readonly=on,file={FIRMWARE}/{code}")]);
        add(&["-drive", &format!("if=pflash,unit=1,format=raw,file={}", value(&own))]);
    }
    if let Some(kernel) = &config.kernel {
        add(&[
            "-kernel",
            &value(&kernel.kernel),
            "-initrd",
            &value(&kernel.initrd),
            "-append",
            &kernel.append,
        ]);
    }
    let mut drive = |place: usize, id: &str, device: &str, format: &str, file: &Path, more: &str| {
        add(&["-drive", &format!("id={id},if=none,format={format},file={}{more}", value(file))]);
        // QEMU gives the first place to another kernel.
        add(&["-device", &format!("{device},drive={id},bus=ide.{place},bootindex={}", place + 1)]);
    };
    // Without TRIM, the disk of an installation would only grow.
    drive(0, "disk", "ide-hd", "qcow2", &folder.file(media::DISK), ",discard=unmap,detect-zeroes=unmap");
    if let Source::Medium { iso, .. } = &config.source {
        drive(1, "windows", "ide-cd", "raw", iso, ",media=cdrom,readonly=on");
    }
    drive(2, "tools", "ide-cd", "raw", &folder.file(media::TOOLS), ",media=cdrom,readonly=on");
    drive(3, "results", "ide-hd", "raw", &folder.file(media::RESULTS), "");
    add(&["-netdev", &format!("tap,id=net,ifname={INTERFACE},script=no,downscript=no")]);
    // Without a ROM: the machine never starts from the network.
    add(&["-device", "e1000e,netdev=net,mac=52:54:00:68:75:73,romfile="]);
    if config.tpm() {
        add(&["-chardev", &format!("socket,id=tpm,path={}", value(&sockets.tpm()))]);
        add(&["-tpmdev", "emulator,id=tpm,chardev=tpm", "-device", "tpm-crb,tpmdev=tpm"]);
    }
    add(&["-device", "VGA", "-display", "none", "-vnc", &format!("unix:{}", value(&sockets.vnc()))]);
    let log = value(&folder.file("serial.log"));
    let socket = |id: &str, path: &Path| format!("socket,id={id},path={},server=on,wait=off", value(path));
    add(&["-chardev", &format!("{},logfile={log},logappend=on", socket("serial", &sockets.serial()))]);
    add(&["-device", "isa-serial,chardev=serial"]);
    for (id, path) in [("qmp", sockets.qmp()), ("screen", sockets.screen())] {
        add(&["-chardev", &socket(id, &path), "-mon", &format!("chardev={id},mode=control")]);
    }
    let state = folder.file(STATE);
    if state.is_file() {
        add(&["-incoming", &format!("exec:cat < '{}'", state.display())]);
    }
    Ok(all)
}
