//! What `/proc` shows of the process of a driver that runs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::{ATTACKS, Run, number};

/// Looks at the process of a driver that spins.
pub fn inspect() {
    if !nix::unistd::geteuid().is_root() {
        // Nobody else may look at a process that is not dumpable.
        return;
    }
    let spin = ATTACKS[number("spin")];
    let mut command = Run::new().hang_limit(20).set("Attack", number(spin.name)).command();
    let mut outer = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let inner = find(outer.id());
    let checked = std::panic::catch_unwind(|| check(&inner));
    outer.kill().unwrap();
    outer.wait().unwrap();
    checked.unwrap();
    // It dies with the outer process.
    let end = Instant::now() + Duration::from_secs(5);
    while inner.join("status").exists() {
        assert!(Instant::now() < end, "{} outlives its outer process", inner.display());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The process behind the filter, a grandchild.
fn find(outer: u32) -> PathBuf {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let found = children(outer)
            .into_iter()
            .flat_map(children)
            .find(|inner| field(&process(*inner), "Seccomp").is_some_and(|mode| mode == "2"));
        match found {
            Some(inner) => return process(inner),
            None => assert!(Instant::now() < end, "there is no driver's process"),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn process(id: u32) -> PathBuf {
    Path::new("/proc").join(id.to_string())
}

fn children(id: u32) -> Vec<u32> {
    let path = process(id).join(format!("task/{id}/children"));
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().map(|child| child.parse().unwrap()).collect()
}

/// A field of `/proc/PID/status`.
fn field(process: &Path, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(process.join("status")).ok()?;
    let mut lines = text.lines().filter_map(|line| line.split_once(":\t"));
    lines.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
}

fn check(inner: &Path) {
    let is = |name: &str| field(inner, name).unwrap_or_default();
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(is(set), "0000000000000000", "{set}");
    }
    assert_eq!(is("NoNewPrivs"), "1");
    assert_eq!(is("Uid").split('\t').next(), Some("65534"), "not root, as seen from outside");
    assert!(is("NSpid").ends_with("\t1"), "it is the first process of its namespace: {}", is("NSpid"));
    for space in ["user", "mnt", "net", "pid", "ipc"] {
        let [theirs, ours] = [inner, Path::new("/proc/self")]
            .map(|process| std::fs::read_link(process.join("ns").join(space)).unwrap());
        assert_ne!(theirs, ours, "{space}");
    }
    let root: Vec<_> = std::fs::read_dir(inner.join("root")).unwrap().collect();
    assert!(root.is_empty(), "{root:?}");
    let kinds = std::fs::read_dir(inner.join("fd")).unwrap().map(|entry| {
        let target = std::fs::read_link(entry.unwrap().path()).unwrap();
        target.to_string_lossy().split(':').next().unwrap().to_owned()
    });
    let kinds: BTreeSet<String> = kinds.collect();
    let known = |kind: &str| ["pipe", "socket", "/memfd"].contains(&kind) || kind.ends_with("late_dns.pcap");
    assert!(kinds.iter().all(|kind| known(kind)), "{kinds:?}");
    let maps = std::fs::read_to_string(inner.join("maps")).unwrap();
    let mixed: Vec<_> = maps.lines().filter(|line| line.contains(" rwx")).collect();
    assert!(mixed.is_empty(), "{mixed:?}");
}
