//! A network namespace with the lifetime of one thread of this process.
#![expect(
    unsafe_code,
    reason = "prctl between fork and exec makes a child die with its parent; \
              std offers that hook only as an unsafe function"
)]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output};
use std::sync::mpsc;
use std::thread;

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::unistd::gettid;

use super::Tun;

/// The addresses on the link, and the name of the interface.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct Network {
    pub interface: String,
    pub mtu: u16,
    /// The addresses of the network's side, where scanners and clients run.
    pub near: (Ipv4Addr, Ipv6Addr),
    /// The host's addresses.
    pub host: (Ipv4Addr, Ipv6Addr),
    pub prefix: (u8, u8),
}

impl Default for Network {
    fn default() -> Self {
        let v6 = |last| Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, last);
        Self {
            interface: "wfp0".to_owned(),
            mtu: 1500,
            near: (Ipv4Addr::new(10, 77, 0, 1), v6(1)),
            host: (Ipv4Addr::new(10, 77, 0, 2), v6(2)),
            prefix: (24, 64),
        }
    }
}

impl Network {
    /// The host's address of a family.
    pub fn host_address(&self, family: super::Family) -> IpAddr {
        match family {
            super::Family::V4 => self.host.0.into(),
            super::Family::V6 => self.host.1.into(),
        }
    }

    /// The broadcast addresses of the host's subnet: all host bits 1, or all 0 (RFC 1122,
    /// 3.2.1.3 and 3.3.6). None if two addresses are all that it has (RFC 3021).
    pub fn broadcasts(&self) -> impl Iterator<Item = IpAddr> {
        let host = u32::MAX.checked_shr(self.prefix.0.into()).unwrap_or(0);
        let subnet = self.host.0.to_bits() & !host;
        [subnet | host, subnet]
            .into_iter()
            .filter(move |_| host > 1)
            .map(|bits| Ipv4Addr::from_bits(bits).into())
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace that belongs to this process.
///
/// One thread runs in it, and everything that this thread starts does, too. The
/// kernel deletes the namespace with the last thread, child and descriptor in it.
/// So a killed process leaves nothing behind: its children are killed with it.
pub struct Namespace {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<thread::JoinHandle<()>>,
    tid: i32,
}

impl Namespace {
    /// Creates a namespace whose loopback interface is up.
    ///
    /// # Errors
    /// Without root or `unshare --user --map-root-user`, or without iproute2.
    pub fn new() -> io::Result<Self> {
        let (jobs, receiver) = mpsc::channel::<Job>();
        let (ready, started) = mpsc::channel();
        let thread = thread::Builder::new().name("network-namespace".to_owned()).spawn(move || {
            let entered = unshare(CloneFlags::CLONE_NEWNET).map(|()| gettid().as_raw());
            let failed = entered.is_err();
            if ready.send(entered).is_err() || failed {
                return;
            }
            for job in receiver {
                job();
            }
        })?;
        let tid = started.recv().map_err(io::Error::other)?.map_err(|error| {
            let error = io::Error::from(error);
            io::Error::new(
                error.kind(),
                format!(
                    "network namespace: unshare: {error}; it wants root, or user \
                         namespaces (unshare --user --map-root-user)"
                ),
            )
        })?;
        let namespace = Self { jobs: Some(jobs), thread: Some(thread), tid };
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Creates a TUN interface inside, with its addresses; it is up.
    ///
    /// # Errors
    /// Those of [`Tun::open`] and of `ip`.
    pub fn tun(&self, network: &Network) -> io::Result<Tun> {
        let name = network.interface.clone();
        let tun = self.run(move || Tun::open(&name))??;
        let name = network.interface.as_str();
        let mtu = network.mtu.to_string();
        let v4 = format!("{}/{}", network.near.0, network.prefix.0);
        let v6 = format!("{}/{}", network.near.1, network.prefix.1);
        // Without a link-local address the kernel sends no router solicitations and
        // multicast reports to the host.
        self.ip(&["link", "set", "dev", name, "addrgenmode", "none"])?;
        self.ip(&["link", "set", "dev", name, "mtu", &mtu, "up"])?;
        self.ip(&["address", "add", &v4, "dev", name])?;
        self.ip(&["-6", "address", "add", &v6, "dev", name, "nodad"])?;
        Ok(tun)
    }

    /// Runs a closure on the namespace's thread and waits for it.
    ///
    /// # Errors
    /// If the closure panicked.
    pub fn run<T: Send + 'static>(&self, closure: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        let (sender, result) = mpsc::channel();
        let job: Job = Box::new(move || {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(closure));
            // The receiver waits in this function, so it exists.
            let _ = sender.send(outcome);
        });
        let lost = || io::Error::other("the network namespace's thread is gone");
        let jobs = self.jobs.as_ref().ok_or_else(lost)?;
        jobs.send(job).map_err(|_| lost())?;
        result
            .recv()
            .map_err(|_| lost())?
            .map_err(|_| io::Error::other("the closure in the network namespace panicked"))
    }

    /// Starts a thread inside, such as a server.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn thread<T: Send + 'static>(
        &self,
        closure: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<thread::JoinHandle<T>> {
        self.run(move || thread::Builder::new().spawn(closure))?
    }

    /// Starts a command inside. It is killed when the namespace is dropped or this
    /// process dies.
    ///
    /// # Errors
    /// If it cannot be started; the error names it.
    pub fn spawn(&self, mut command: Command) -> io::Result<Child> {
        // SAFETY: the hook only calls prctl, which is async-signal-safe.
        unsafe {
            command.pre_exec(|| nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from));
        }
        let name = command.get_program().to_string_lossy().into_owned();
        self.run(move || command.spawn())?
            .map_err(|error| io::Error::new(error.kind(), format!("{name}: {error}")))
    }

    /// Runs a command inside to its end and returns its output.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn output(&self, mut command: Command) -> io::Result<Output> {
        command
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        self.spawn(command)?.wait_with_output()
    }

    /// A path to the namespace for `nsenter --net=`, valid while this exists.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/task/{}/ns/net", std::process::id(), self.tid).into()
    }

    /// The id of the thread inside, for `ip netns attach NAME TID`.
    pub fn tid(&self) -> i32 {
        self.tid
    }

    fn ip(&self, arguments: &[&str]) -> io::Result<()> {
        let mut command = Command::new("ip");
        command.args(arguments);
        let output = self.output(command)?;
        if output.status.success() {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "ip {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        )))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Dropping the sender ends the thread's loop.
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // The thread cannot have panicked, because it catches the panics of
            // jobs.
            let _ = thread.join();
        }
    }
}
