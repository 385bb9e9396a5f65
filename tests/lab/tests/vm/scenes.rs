//! Runs of `cargo lab vm` with a stand-in guest. It plays well-behaved machines, and
//! machines that crash, hang, lie or end.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::guest::{Guest, guest};
use super::medium;

/// A run's folders, and how it is started.
struct Stage {
    folder: tempfile::TempDir,
    guest: Guest,
}

/// How a run ended, and what it printed.
struct Played {
    success: bool,
    output: String,
}

impl Played {
    /// The counts of the closing line.
    fn last(&self) -> &str {
        self.output.lines().next_back().unwrap_or_default()
    }

    /// Lines of failed checks.
    fn failed(&self) -> Vec<&str> {
        self.output.lines().filter_map(|line| line.strip_prefix("FAILED ")).collect()
    }
}

impl Stage {
    /// A stage; `None`, with a notice, where it cannot be played.
    fn new() -> Option<Self> {
        let guest = guest().map_err(|reason| println!("skipped: {reason}")).ok()?;
        let folder = tempfile::tempdir().unwrap();
        let package = folder.path().join("package");
        std::fs::create_dir(&package).unwrap();
        for name in ["hushport.sys", "hushport.inf", "hushport.cat", "hushport-test.cer"] {
            std::fs::write(package.join(name), name).unwrap();
        }
        let disk = folder.path().join("disk.qcow2");
        let made =
            Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(disk).arg("16M").status();
        assert!(made.unwrap().success());
        Some(Self { folder, guest })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The command without its source.
    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
        command.arg("vm").arg("--work").arg(self.path("work"));
        command
    }

    /// A run that installs from `medium`, or else uses the disk.
    fn run(&self, scene: &str, medium: Option<&Path>, more: &[&str]) -> Command {
        let mut command = self.firmware(medium, more);
        command.arg("--kernel").arg(&self.guest.kernel).arg("--initrd").arg(&self.guest.initrd);
        command.args(["--append", &format!("quiet nokaslr mitigations=off scene={scene}")]);
        command
    }

    /// A run that starts from the firmware.
    fn firmware(&self, medium: Option<&Path>, more: &[&str]) -> Command {
        let mut command = self.command();
        match medium {
            Some(medium) => command.arg("--iso").arg(medium),
            None => command.arg("--disk").arg(self.path("disk.qcow2")),
        };
        command.arg("--package").arg(self.path("package")).arg("--results").arg(self.path("results"));
        command.args(["--emulate", "--memory", "256", "--processors", "1", "--results-size", "1"]);
        command.args(["--limit", "whole=170s"]).args(more);
        command
    }

    fn play(&self, scene: &str, more: &[&str]) -> Played {
        let played = play(&mut self.run(scene, None, more));
        self.assert_gone();
        played
    }

    /// Nothing runs any more, and the machine's folder is empty.
    fn assert_gone(&self) {
        assert_eq!(self.processes(), Vec::<String>::new());
        let left = std::fs::read_dir(self.path("work")).unwrap().flatten();
        let left: Vec<_> = left.map(|entry| entry.file_name()).filter(|name| name != "lock").collect();
        assert!(left.is_empty(), "{left:?}");
    }

    /// The command lines of processes that use the stage.
    fn processes(&self) -> Vec<String> {
        let own = self.folder.path().display().to_string();
        let lines = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            line.contains(&own).then_some(line)
        });
        lines.collect()
    }

    fn result(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path("results").join(name)).unwrap_or_default()
    }
}

fn play(command: &mut Command) -> Played {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    println!("{text}");
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    Played { success: output.status.success(), output: stdout }
}

/// From a medium: the installation, its restarts, the plan, two scans over IPv4 and IPv6,
/// the verdict.
#[test]
fn a_machine_is_installed_tested_and_gone() {
    let Some(stage) = Stage::new() else { return };
    let Some(iso) = medium::windows(stage.folder.path(), &[("Windows 11 Enterprise Evaluation", "26100")])
    else {
        return;
    };
    lab::setup::ensure(&[lab::setup::Need::PYTHON]).unwrap();
    let played = play(&mut stage.run("all", Some(&iso), &[]));
    assert_eq!(played.failed(), Vec::<&str>::new());
    assert!(played.success);
    // 24 of the guest, two scans, and what this side checks in every run.
    assert_eq!(played.last(), "33 passed, 0 failed");
    for phase in [
        "installing: windowsPE",
        "installing: specialize",
        "installing: first-logon",
        "starting again",
        "Scan-standard",
    ] {
        assert!(played.output.lines().any(|line| line.ends_with(&format!(" s  {phase}"))), "{phase}");
    }
    assert_eq!(stage.result("verdict.txt"), b"24 passed, 0 failed\n");
    assert!(!stage.result("host-checks.jsonl").is_empty() && !stage.result("serial.log").is_empty());
    stage.assert_gone();
}

#[test]
fn a_crash_is_reported_and_its_dump_kept() {
    let Some(stage) = Stage::new() else { return };
    let played = stage.play("crash", &["--no-scan"]);
    assert_eq!(
        played.failed(),
        [
            "the machine restarts only when it says so: it restarted during \"Start\"",
            "there is no crash dump: MEMORY.DMP of today",
        ]
    );
    assert!(!played.success);
    assert_eq!(played.last(), "28 passed, 3 failed");
    assert_eq!(stage.result("MEMORY.DMP"), b"dump\n");
}

#[test]
fn a_machine_that_hangs_leaves_a_picture_and_its_results_so_far() {
    let Some(stage) = Stage::new() else { return };
    let played = stage.play("hang", &["--no-scan", "--limit", "step=4s"]);
    let failed = played.failed();
    let late = "every phase ends within its limit: in \"Start\", the phase took more than 4s";
    assert!(failed.contains(&late), "{failed:?}");
    assert!(
        failed
            .iter()
            .any(|line| line.starts_with("every step of the plan ran: not tested: Start, Conformance")),
        "{failed:?}"
    );
    assert!(!played.success);
    assert_eq!(&stage.result("screen-limit.png")[..8], b"\x89PNG\r\n\x1a\n");
    assert!(stage.result("checks.jsonl").starts_with(b"{\"Step\":\"Prepare\""));
}

#[test]
fn garbage_on_the_serial_line_is_not_heard() {
    let Some(stage) = Stage::new() else { return };
    let played = stage.play("garbage", &["--no-scan"]);
    assert_eq!(played.failed(), Vec::<&str>::new());
    assert_eq!(played.last(), "31 passed, 0 failed");
    assert!(played.success);
}

/// It leaves out a step, hides a failure, and says that its ports are silent.
#[test]
fn a_machine_that_lies_is_not_believed() {
    let Some(stage) = Stage::new() else { return };
    lab::setup::ensure(&[lab::setup::Need::PYTHON]).unwrap();
    let played = stage.play("lie", &[]);
    let failed = played.failed();
    let agrees = "the machine's verdict agrees with its results: it reported 99 passed, 0 failed, and \
                  checks.jsonl has 23 passed, 1 failed; verdict.txt has 99 passed, 0 failed, and \
                  checks.jsonl has 23 passed, 1 failed";
    assert!(failed.contains(&agrees), "{failed:?}");
    assert!(failed.contains(&"every step of the plan ran: not tested: Conformance"), "{failed:?}");
    for scan in ["Scan", "Scan-standard"] {
        let start = format!(
            "the scan from outside, {scan}: silent tcp=113: tcp 113 is answered, not silent; nmap calls tcp 113 closed, not filtered"
        );
        assert!(failed.iter().any(|line| line.starts_with(&start)), "{failed:?}");
    }
    assert_eq!((played.success, failed.len()), (false, 4));
}

#[test]
fn a_full_disk_is_named_and_the_rest_is_kept() {
    let Some(stage) = Stage::new() else { return };
    let played = stage.play("full", &["--no-scan"]);
    assert_eq!(played.failed(), ["every result was kept: MEMORY.DMP: No space left on device"]);
    assert_eq!(played.last(), "30 passed, 1 failed");
    assert_eq!(stage.result("verdict.txt"), b"24 passed, 0 failed\n");
}

#[test]
fn a_machine_that_turns_itself_off_has_failed() {
    let Some(stage) = Stage::new() else { return };
    let played = stage.play("off", &["--no-scan"]);
    let failed = played.failed();
    assert!(
        failed.contains(&"the machine runs to the end of its plan: it turned itself off during \"Trace\""),
        "{failed:?}"
    );
    assert!(!played.success);
}

#[test]
fn a_machine_that_only_crashes_is_given_up() {
    let Some(stage) = Stage::new() else { return };
    let played = stage.play("loop", &["--no-scan"]);
    let failed = played.failed();
    assert!(failed.contains(&"the machine runs to the end of its plan: it crashed 6 times"), "{failed:?}");
    assert!(!played.success);
}

/// Ctrl-C saves the machine; `--resume` continues it, and the guest does not notice.
#[test]
fn a_run_that_is_interrupted_goes_on() {
    let Some(stage) = Stage::new() else { return };
    let mut command = stage.run("pause", None, &["--no-scan"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut output = String::new();
    // The phase before the one that waits has ended.
    while !output.ends_with("  Trace\n") {
        assert_ne!(lines.read_line(&mut output).unwrap(), 0, "{output}");
    }
    // A picture on request.
    let picture = stage.path("asked.png");
    assert!(stage.command().arg("--screen").arg(&picture).output().unwrap().status.success());
    assert!(std::fs::read(&picture).unwrap().starts_with(b"\x89PNG"));
    // A second run in the folder is refused.
    let second = stage.run("pause", None, &["--no-scan"]).output().unwrap();
    assert!(String::from_utf8_lossy(&second.stderr).contains("a machine runs in "), "{second:?}");
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    lines.read_to_string(&mut output).unwrap();
    assert!(!child.wait().unwrap().success());
    assert!(output.contains("nothing runs any more. To continue: cargo lab vm --resume --work "), "{output}");
    assert_eq!(stage.processes(), Vec::<String>::new());
    // A new run would drop the machine.
    let new = stage.run("pause", None, &["--no-scan"]).output().unwrap();
    assert!(String::from_utf8_lossy(&new.stderr).contains("--resume continues it"), "{new:?}");
    let played = play(stage.command().arg("--resume"));
    assert_eq!(played.failed(), Vec::<&str>::new());
    assert_eq!(played.last(), "31 passed, 0 failed");
    assert!(played.success);
    stage.assert_gone();
    let nothing = stage.command().arg("--resume").output().unwrap();
    assert!(String::from_utf8_lossy(&nothing.stderr).contains("--resume: there is no run"), "{nothing:?}");
}

/// QEMU starts with each firmware and with the TPM, and the keys for a medium are pressed.
/// There is nothing to boot, so the limit passes, with a picture.
#[test]
fn every_firmware_starts() {
    let Some(stage) = Stage::new() else { return };
    let Some(iso) = medium::windows(stage.folder.path(), &[("Windows 10 Enterprise", "19045")]) else {
        return;
    };
    for (medium, more) in [(Some(&*iso), &["--secure-boot"][..]), (None, &["--bios"]), (None, &[])] {
        let limit = ["--no-scan", "--limit", "start=5s"];
        let played = play(&mut stage.firmware(medium, &[more, &limit].concat()));
        let failed = played.failed();
        let late = "every phase ends within its limit: in \"power on\", the phase took more than 5s";
        assert!(failed.contains(&late), "{more:?}: {failed:?}");
        assert!(!stage.result("screen-limit.png").is_empty(), "{more:?}");
        assert!(!played.output.contains("QEMU ended"), "{more:?}: {}", played.output);
        stage.assert_gone();
        std::fs::remove_dir_all(stage.path("results")).unwrap();
    }
}

/// Wrong options are named before anything starts.
#[test]
fn options_that_make_no_run_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text");
    std::fs::write(&text, "no disk").unwrap();
    let text = text.display().to_string();
    for (words, error) in [
        (&[][..], "expected --iso FILE.iso, --disk FILE or --resume"),
        (&["--iso", "/none.iso"], "/none.iso: there is no such file"),
        (&["--iso", &text, "--disk", &text], "cannot be used with"),
        (&["--iso", &text, "--secure-boot"], "--package"),
        (&["--iso", &text, "--bios"], "cannot be used with"),
        (&["--disk", &text, "--limit", "dance=5m"], "expected PHASE=TIME"),
        (&["--disk", &text, "--memory", "16"], "16 is not in 256.."),
        (&["--screen", "x.png"], "no machine runs there"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
        let output =
            command.arg("vm").arg("--work").arg(folder.path().join("work")).args(words).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(error), "{words:?}: {said}");
    }
}
