//! The walls around the inner process, and how it puts them up.
#![forbid(unsafe_code)]

use std::fmt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus, Stdio};

use anyhow::{Context, Result, bail, ensure};
use caps::CapSet;
use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetStatus, Scope,
};
use machine::image::Arena;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Gid, Uid, getegid, geteuid, pivot_root, setgroups, setresgid, setresuid};
use serde::{Deserialize, Serialize};

use super::STAGE;
use super::filter::{self, Writable};
use super::message::Missing;

/// A wall around the inner process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs, reason = "`what` says it")]
pub enum Wall {
    UserNamespace,
    MountNamespace,
    NetworkNamespace,
    PidNamespace,
    IpcNamespace,
    EmptyRoot,
    Landlock,
    NoCapabilities,
    NoNewPrivileges,
    Limits,
    Filter,
    CaughtCalls,
}

impl Wall {
    /// Every wall, in the order in which they are put up.
    pub const ALL: [Self; 12] = [
        Self::UserNamespace,
        Self::MountNamespace,
        Self::NetworkNamespace,
        Self::PidNamespace,
        Self::IpcNamespace,
        Self::EmptyRoot,
        Self::Landlock,
        Self::NoCapabilities,
        Self::NoNewPrivileges,
        Self::Limits,
        Self::Filter,
        Self::CaughtCalls,
    ];

    /// The namespaces that one call makes.
    const NAMESPACES: [(Self, CloneFlags); 5] = [
        (Self::UserNamespace, CloneFlags::CLONE_NEWUSER),
        (Self::MountNamespace, CloneFlags::CLONE_NEWNS),
        (Self::NetworkNamespace, CloneFlags::CLONE_NEWNET),
        (Self::PidNamespace, CloneFlags::CLONE_NEWPID),
        (Self::IpcNamespace, CloneFlags::CLONE_NEWIPC),
    ];

    /// What it is, for people.
    pub fn what(self) -> &'static str {
        match self {
            Self::UserNamespace => "a user namespace",
            Self::MountNamespace => "a mount namespace",
            Self::NetworkNamespace => "a network namespace",
            Self::PidNamespace => "a PID namespace",
            Self::IpcNamespace => "an IPC namespace",
            Self::EmptyRoot => "an empty root folder",
            Self::Landlock => "Landlock without any rule",
            Self::NoCapabilities => "no capabilities",
            Self::NoNewPrivileges => "no new privileges",
            Self::Limits => "limits of memory, processes and descriptors",
            Self::Filter => "a filter of system calls",
            Self::CaughtCalls => "system calls of driver code are caught",
        }
    }

    /// The walls in a list of their names, separated by commas.
    ///
    /// # Errors
    /// If a name is unknown.
    pub fn list(names: &str) -> Result<Vec<Self>> {
        let names = names.split(',').filter(|name| !name.is_empty());
        let found = names.map(|name| {
            let wall = Self::ALL.into_iter().find(|wall| format!("{wall:?}") == name);
            wall.with_context(|| format!("{name:?}: expected some of {:?}", Self::ALL))
        });
        found.collect()
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.wall.what(), self.reason)
    }
}

/// The user that the inner process is, where root starts it: nobody.
const NOBODY: u32 = 65_534;
/// Private memory in bytes that can be written.
const MOST_MEMORY: u64 = 4 << 30;
const MOST_THREADS: u64 = 512;
const MOST_DESCRIPTORS: u64 = 128;

/// Walls that are put up, one after the other.
#[derive(Debug)]
pub(super) struct Builder {
    without: Vec<Wall>,
    /// Those that could not be.
    pub missing: Vec<Missing>,
}

impl Builder {
    pub fn new(without: Vec<Wall>) -> Self {
        let missing = without.iter();
        let missing =
            missing.map(|&wall| Missing { wall, reason: "left out by request".to_owned() }).collect();
        Self { without, missing }
    }

    fn wants(&self, wall: Wall) -> bool {
        !self.without.contains(&wall)
    }

    fn build(&mut self, wall: Wall, put_up: impl FnOnce() -> Result<()>) {
        if self.wants(wall)
            && let Err(error) = put_up()
        {
            self.missing.push(Missing { wall, reason: format!("{error:#}") });
        }
    }

    /// Namespaces, as a process that keeps nothing. Returns what the second process,
    /// the first one of its PID namespace, ended with.
    pub fn first_stage(mut self) -> Result<ExitCode> {
        nix::unistd::setsid().context("setsid")?;
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        let wanted = Wall::NAMESPACES.into_iter().filter(|(wall, _)| self.wants(*wall));
        let wanted: Vec<_> = wanted.collect();
        let root = is_root();
        let users = self.wants(Wall::UserNamespace) && (!root || nobody_can_unshare());
        if root && users {
            become_nobody()?;
        }
        // The process must be able to write its own maps.
        prctl::set_dumpable(true)?;
        let (user, group) = (geteuid(), getegid());
        if users {
            self.build(Wall::UserNamespace, || {
                unshare(CloneFlags::CLONE_NEWUSER).context("unshare")?;
                map_users(user, group)
            });
        } else if self.wants(Wall::UserNamespace) {
            let reason = "unshare: not for this user".to_owned();
            self.missing.push(Missing { wall: Wall::UserNamespace, reason });
        }
        for (wall, flag) in wanted.into_iter().filter(|(wall, _)| *wall != Wall::UserNamespace) {
            self.build(wall, || unshare(flag).context("unshare"));
        }
        let missing = serde_json::to_string(&self.missing)?;
        let mut second = Command::new("/proc/self/exe");
        second.args(std::env::args_os().skip(1)).env(STAGE, missing);
        // Standard input is the socket to the outer process.
        let mut child = second.arg0("lab").stdin(Stdio::inherit()).spawn().context("the second start")?;
        drop_capabilities()?;
        Ok(mirror(child.wait()?))
    }

    fn lacks(&self, wall: Wall) -> bool {
        self.missing.iter().any(|missing| missing.wall == wall)
    }

    /// The rest, in the process that runs the driver.
    pub fn second_stage(&mut self, writable: &Writable) -> Result<()> {
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        // The outer process decides what Ctrl-C does.
        SigSet::all().thread_block()?;
        let faults = [
            Signal::SIGSEGV,
            Signal::SIGBUS,
            Signal::SIGILL,
            Signal::SIGFPE,
            Signal::SIGTRAP,
            Signal::SIGSYS,
        ];
        faults.into_iter().collect::<SigSet>().thread_unblock()?;
        match self.lacks(Wall::MountNamespace) {
            true if self.wants(Wall::EmptyRoot) => {
                let reason = "it needs a mount namespace".to_owned();
                self.missing.push(Missing { wall: Wall::EmptyRoot, reason });
            }
            _ => self.build(Wall::EmptyRoot, empty_root),
        }
        if is_root() {
            become_nobody()?;
        }
        self.build(Wall::NoCapabilities, drop_capabilities);
        self.build(Wall::NoNewPrivileges, || Ok(prctl::set_no_new_privs()?));
        self.build(Wall::Landlock, landlock);
        // The C library installs a signal handler with the first thread.
        std::thread::spawn(|| ()).join().ok().context("a thread")?;
        let arena = machine::image::confine(ARENA).context("addresses for images")?;
        self.build(Wall::Limits, limits);
        prctl::set_dumpable(false)?;
        if !self.wants(Wall::CaughtCalls) {
            machine::image::let_system_calls_pass();
        }
        self.build(Wall::CaughtCalls, || {
            ensure!(machine::image::catches_system_calls(), "Syscall User Dispatch needs Linux 5.11");
            Ok(())
        });
        self.build(Wall::Filter, || arm(arena, writable));
        self.missing.sort_by_key(|missing| missing.wall);
        Ok(())
    }
}

/// Addresses for images: enough for a hundred thousand loads of one of half a megabyte.
const ARENA: usize = 64 << 30;

fn arm(arena: Arena, writable: &Writable) -> Result<()> {
    ensure!(prctl::get_no_new_privs()?, "it needs no_new_privs");
    filter::arm(arena, writable)
}

/// Whether this process has root's user id on the machine, or a range of ids.
fn is_root() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let users = map.lines().filter_map(|line| line.split_whitespace().nth(2)?.parse::<u32>().ok());
    geteuid().is_root() && users.fold(0_u32, u32::saturating_add) > 1
}

/// Becomes the user nobody, without groups.
fn become_nobody() -> Result<()> {
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    setgroups(&[]).context("setgroups")?;
    setresgid(group, group, group).context("setresgid")?;
    setresuid(user, user, user).context("setresuid")
}

/// Tries, in another process, whether nobody may make a user namespace.
fn nobody_can_unshare() -> bool {
    let mut probe = Command::new("/proc/self/exe");
    probe.env(STAGE, PROBE).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    probe.status().is_ok_and(|status| status.success())
}

/// The value of [`STAGE`] for the process that tries it.
pub(super) const PROBE: &str = "probe";

/// That process.
pub(super) fn probe() -> Result<()> {
    become_nobody()?;
    Ok(unshare(CloneFlags::CLONE_NEWUSER)?)
}

/// Maps one user and one group, as root, so that the second start keeps the
/// capabilities of the namespace.
fn map_users(user: Uid, group: Gid) -> Result<()> {
    let write = |file: &str, text: String| {
        let path = Path::new("/proc/self").join(file);
        std::fs::write(&path, text).with_context(|| path.display().to_string())
    };
    write("setgroups", "deny".to_owned())?;
    write("uid_map", format!("0 {user} 1"))?;
    write("gid_map", format!("0 {group} 1"))
}

/// Ends this process as the other one ended.
fn mirror(status: ExitStatus) -> ExitCode {
    match (status.code(), status.signal()) {
        (Some(code), _) => ExitCode::from(code as u8),
        // As shells do.
        (None, signal) => ExitCode::from((128 + signal.unwrap_or(0)) as u8),
    }
}

/// Makes an empty file system the root.
fn empty_root() -> Result<()> {
    const NONE: Option<&str> = None;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).context("private mounts")?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("none"), "/tmp", Some("tmpfs"), flags, Some("size=4k,nr_inodes=1,mode=0555"))
        .context("tmpfs")?;
    std::env::set_current_dir("/tmp")?;
    pivot_root(".", ".").context("pivot_root")?;
    umount2(".", MntFlags::MNT_DETACH).context("umount")?;
    std::env::set_current_dir("/")?;
    let again = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | flags;
    mount(NONE, "/", NONE, again, NONE).context("read-only root")
}

fn drop_capabilities() -> Result<()> {
    // Those of the bounding set need a capability, so they are first.
    for capability in caps::read(None, CapSet::Bounding)? {
        // In a process that never had one, no file can give one either: no_new_privs.
        let _tried = caps::drop(None, CapSet::Bounding, capability);
    }
    for set in [CapSet::Ambient, CapSet::Effective, CapSet::Inheritable, CapSet::Permitted] {
        caps::clear(None, set)?;
    }
    for set in [CapSet::Effective, CapSet::Permitted] {
        ensure!(caps::read(None, set)?.is_empty(), "capabilities are left");
    }
    Ok(())
}

/// Access to no file and no port, and no signal or socket to a process outside.
fn landlock() -> Result<()> {
    let abi = ABI::V6;
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::BestEffort);
    let ruleset = ruleset.handle_access(AccessFs::from_all(abi))?.handle_access(AccessNet::from_all(abi))?;
    let status = ruleset.scope(Scope::from_all(abi))?.create()?.restrict_self()?;
    match status.ruleset {
        RulesetStatus::NotEnforced => bail!("it needs Linux 5.13 with Landlock"),
        // An older one knows fewer kinds of access. The others have walls of their own.
        RulesetStatus::PartiallyEnforced | RulesetStatus::FullyEnforced => Ok(()),
    }
}

fn limits() -> Result<()> {
    for (resource, most) in [
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_DATA, MOST_MEMORY),
        (Resource::RLIMIT_NPROC, MOST_THREADS),
        (Resource::RLIMIT_NOFILE, MOST_DESCRIPTORS),
        (Resource::RLIMIT_MEMLOCK, 0),
        (Resource::RLIMIT_MSGQUEUE, 0),
    ] {
        setrlimit(resource, most, most).with_context(|| format!("{resource:?}"))?;
    }
    Ok(())
}
