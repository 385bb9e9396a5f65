//! Set-up, build and scan work in any folder and any environment.
//!
//! Copies of the checkout keep the files' times and share cargo's target directory,
//! so cargo does not rebuild the lab. Each copy builds its own driver.

mod copy;
#[path = "../support/mod.rs"]
mod support;

use std::process::{Child, Command};

use copy::Copied;
use lab::package::Plan;
use lab::provenance::build_info::BuildInfo;
use lab::setup::{self, Target};
use support::eventually;

/// A scan that takes a few seconds.
const SCAN: [&str; 5] = ["scan", "--mode", "2", "--technique", "syn"];

/// The command succeeded, and the scan was as expected.
fn assert_scanned(what: &str, child: Child) {
    let output = child.wait_with_output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {}\n{printed}\n{errors}", output.status);
    assert!(printed.contains("2 scans, all as expected"), "{what}: {printed}\n{errors}");
}

fn scan(what: &str, mut command: Command) {
    assert_scanned(what, command.args(SCAN).spawn().unwrap());
}

/// Two scans start at once, in a folder with the package's name and a path with
/// special characters.
#[test]
fn a_folder_named_as_the_package_builds_and_scans() {
    let top = tempfile::tempdir().unwrap();
    let copied = Copied::to(&top.path().join("an odd ñame #1 100%/hushport"));
    let link = top.path().join("link");
    std::os::unix::fs::symlink(&copied.root, &link).unwrap();
    let wrapper = copy::script(top.path(), "wrapper", "exec \"$@\"");
    let commands = ["", "docs"].map(|folder| {
        // The lab inherits the umask.
        let mut command = Command::new("sh");
        command.args(["-c", "umask 077; exec cargo lab \"$@\"", "sh"]).args(SCAN);
        copied.environment(&mut command);
        command.current_dir(link.join(folder)).env("CARGO_TARGET_DIR", lab::setup::target_directory());
        command.env("CARGO_BUILD_TARGET", "wasm32-unknown-unknown").env("RUSTC_WRAPPER", &wrapper);
        command.spawn().unwrap()
    });
    for child in commands {
        assert_scanned("two at once", child);
    }
    copied.assert_same_driver(Target::X64);
    copied.assert_clean();
}

/// Cargo's configuration may move the target directory out of the checkout.
#[test]
fn a_target_directory_from_cargos_configuration_is_found() {
    let top = tempfile::tempdir().unwrap();
    let copied = Copied::to(&top.path().join("a=b"));
    // The path is relative to the parent of `.cargo`.
    copy::configure(top.path(), "[build]\ntarget-dir = \"elsewhere\"\n");
    std::os::unix::fs::symlink(lab::setup::target_directory(), top.path().join("elsewhere")).unwrap();
    let mut command = Command::new("cargo");
    command.arg("lab");
    copied.environment(&mut command);
    scan("a configured target directory", command);
    assert!(!copied.root.join("target").exists(), "the lab keeps its files beside cargo's");
    copied.assert_clean();
}

/// A checkout with its build files still works after it is moved. The user is not
/// root and has no HOME.
#[test]
fn a_moved_checkout_goes_on() {
    let top = tempfile::tempdir().unwrap();
    let mut copied = Copied::to(&top.path().join("first"));
    copied.keep_program();
    let mut command = Command::new(copied.program());
    copied.environment(&mut command);
    // Flags for other builds. The driver's build has its own.
    command.env("RUSTFLAGS", "-Clinker=/absent --cfg other");
    command.env("CARGO_ENCODED_RUSTFLAGS", "-Clinker=/absent\u{1f}-Cpanic=unwind");
    scan("flags of another build", command);
    copied.assert_same_driver(Target::X64);

    copied.rename(&top.path().join("second % Ordner"));
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-user=1000", "--map-group=1000", "--"]).arg(copied.program());
    copied.environment(&mut command);
    command.env_remove("HOME");
    scan("a moved checkout, not as root", command);
    copied.assert_same_driver(Target::X64);
    let mut command = Command::new(copied.program());
    copied.environment(&mut command);
    command.args(["package", "--arch", "arm64"]).env("SOURCE_DATE_EPOCH", TIME.to_string());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    copied.assert_same_driver(Target::Arm64);
    copied.assert_clean();
}

/// 2026-02-03 04:05:06 UTC.
const TIME: u64 = 1_770_091_506;

/// Another folder, user, HOME, time zone, locale, umask, number of jobs, and a
/// configuration with other flags; without a network. The library is compiled anew from
/// its own copy of the source.
#[test]
fn an_unlike_place_makes_the_same_files() {
    let top = tempfile::tempdir().unwrap();
    let copied = Copied::from_nothing(&top.path().join("ein anderer Ort #2/src"));
    let settings = "[build]\njobs = 1\n[profile.release]\nopt-level = 1\ndebug = false\n\
        [profile.release.package.hushport]\nopt-level = 2\noverflow-checks = true\n";
    copy::configure(top.path(), settings);
    let home = top.path().join("home");
    std::fs::create_dir(&home).unwrap();
    let out = top.path().join("package");
    let mut command = Command::new("unshare");
    command.args(["--user", "--net", "--map-user=1000", "--map-group=1000", "--"]);
    command.args(["sh", "-c", "umask 027; exec \"$@\"", "sh"]).arg(copied.program());
    command.args(["package", "--arch", "x64", "--out"]).arg(&out);
    copied.environment(&mut command);
    command.env("HOME", &home).env("TMPDIR", &home).env("CARGO_NET_OFFLINE", "true");
    command.env("TZ", "Pacific/Kiritimati").env("LC_ALL", "tr_TR.UTF-8").env("LANG", "tr_TR.UTF-8");
    command.env("CFLAGS", "-DOTHER").env("BINDGEN_EXTRA_CLANG_ARGS", "-DOTHER");
    command.env("SOURCE_DATE_EPOCH", TIME.to_string());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    copied.assert_same_driver(Target::X64);
    let plan = Plan::new(Target::X64, "unused".into(), TIME);
    let inf = std::fs::read_to_string(out.join("hushport.inf")).unwrap();
    assert_eq!(inf, plan.stamp().unwrap());
    // The records of both builds name one set of inputs.
    let driver = lab::setup::build(Target::X64).unwrap();
    let ours = BuildInfo::of(driver, Target::X64, TIME, 0, &inf).unwrap();
    let theirs = BuildInfo::parse(&std::fs::read(out.join("BUILDINFO.json")).unwrap()).unwrap();
    assert_eq!(ours.outputs, theirs.outputs);
    assert!(ours.different(&theirs).is_empty(), "{:#?}", ours.different(&theirs));
    // No path of this machine is in any file.
    for file in [
        "hushport.sys",
        "hushport.pdb",
        "hushport.inf",
        "hushport.cat",
        "BUILDINFO.json",
        "hushport.cdx.json",
    ] {
        let bytes = std::fs::read(out.join(file)).unwrap();
        for place in [top.path(), lab::setup::root(), &lab::setup::target_directory(), &home_of_rust()] {
            let place = place.to_str().unwrap().as_bytes();
            assert!(!bytes.windows(place.len()).any(|window| window == place), "{file}: {place:?}");
        }
    }
    copied.assert_clean();
}

/// The folder in which toolchains and crates are.
fn home_of_rust() -> std::path::PathBuf {
    let cargo = std::env::var_os("CARGO_HOME").map(std::path::PathBuf::from);
    cargo.unwrap_or_else(|| std::path::PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cargo"))
}

/// Outside a checkout the lab prints one line.
#[test]
fn without_a_checkout_the_lab_says_so() {
    let top = tempfile::tempdir().unwrap();
    let program = top.path().join("lab");
    std::fs::copy(copy::built_program(), &program).unwrap();
    let mut command = Command::new(&program);
    command.arg("demo").current_dir(top.path()).env_remove("CARGO_MANIFEST_DIR");
    let output = command.output().unwrap();
    let printed = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{printed}");
    assert!(printed.contains("no checkout of hushport") && printed.lines().count() == 1, "{printed}");
}

/// Hosts of two target directories have different names.
#[test]
fn two_hosts_have_two_names() {
    let top = tempfile::tempdir().unwrap();
    let up = |name: &str| {
        let mut copied = Copied::empty_state(&top.path().join(name));
        copied.keep_program();
        let mut command = Command::new(copied.program());
        copied.environment(&mut command);
        command.args(["up", "--no-driver"]);
        copy::Up::start(command)
    };
    let (one, two) = (up("one"), up("two"));
    assert_ne!(one.enter, two.enter);
    for host in [&one, &two] {
        assert_eq!(host.fetch(), "200", "{}", host.enter);
    }
    one.stop();
    assert_eq!(two.fetch(), "200", "the second host keeps its name");
    two.stop();
}

/// `up --event-log` writes each entry when it comes, as Event Viewer shows it.
#[test]
fn a_host_writes_the_entries_of_the_event_log() {
    let top = tempfile::tempdir().unwrap();
    let mut copied = Copied::empty_state(&top.path().join("one"));
    copied.keep_program();
    let log = top.path().join("entries.txt");
    let lab = |arguments: &[&str]| {
        let mut command = Command::new(copied.program());
        copied.environment(&mut command);
        command.args(arguments);
        command
    };
    let sys = setup::build(Target::X64).unwrap().sys.to_str().unwrap();
    let up = copy::Up::start(lab(&["up", "--driver", sys, "--event-log", log.to_str().unwrap()]));
    let refused = lab(&["reg", "Mode=3"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let read = || std::fs::read_to_string(&log).unwrap();
    eventually("the entry about the refused value", || read().lines().count() >= 2);
    up.stop();
    let lines = read();
    let beginnings = [
        "Information  hushport  event 1 (Service)  hushport ",
        "Warning  hushport  event 3 (Policy)  hushport refuses the value Mode ",
        "Information  hushport  event 2 (Service)  hushport has stopped.",
    ];
    assert_eq!(lines.lines().count(), beginnings.len(), "{lines}");
    for (line, beginning) in lines.lines().zip(beginnings) {
        assert!(line.starts_with(beginning), "{line}");
    }
}
