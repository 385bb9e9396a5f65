//! Reads and changes the driver's values through a socket of a running host.
//!
//! `cargo lab up` serves the socket, `cargo lab reg` is the client. A change takes
//! the way of any registry change: the driver watches the key. The reply comes
//! after the driver has read the change, and holds what it accepted and refused.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use machine::nt::registry::{REG_DWORD, REG_MULTI_SZ, REG_SZ, RegistryValue};
use machine::nt::{Kernel, parameters_key};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::policy::{Refusal, State, state, table};
use crate::setup;

/// How long either side waits for the other; longer than the wait for the driver.
const PATIENCE: Duration = Duration::from_secs(20);

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Every value.
    List,
    /// Sets values; deletes those that are `None` here.
    Change(Vec<(String, Option<RegistryValue>)>),
}

/// A reply.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Every value of the registry, after the request.
    pub values: Vec<(String, RegistryValue)>,
    /// Names that were to be deleted but did not exist.
    pub missing: Vec<String>,
    /// The policy that the driver reports; `None` if no driver reports one.
    pub policy: Option<Policy>,
    /// Why the driver could not be asked.
    pub failure: Option<String>,
}

/// What the driver accepted and refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// The values that are refused now.
    pub refused: Vec<Refusal>,
    /// What is in force for every value that the driver knows.
    pub in_force: BTreeMap<String, RegistryValue>,
}

impl Reply {
    /// Finds a value by its name. Case is ignored.
    pub fn value(&self, name: &str) -> Option<&RegistryValue> {
        self.values.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// A served registry; it is served until this is dropped.
pub struct Served {
    path: PathBuf,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    _lock: Flock<File>,
}

impl Served {
    /// Serves values where [`ask`] looks for them.
    pub fn start(answer: Answer) -> Result<Self> {
        Self::with(setup::state().join("registry.sock"), answer)
    }

    /// Serves the values of a kernel in this process at a path.
    pub fn at(path: PathBuf, kernel: Arc<Kernel>, service: &str, driver: Option<&Path>) -> Result<Self> {
        let mut registry = Registry::new(kernel, service, driver)?;
        Self::with(path, Box::new(move |request| Ok(registry.reply(request))))
    }

    fn with(path: PathBuf, mut answer: Answer) -> Result<Self> {
        let lock = serve_alone(&path)?;
        // An earlier run that was killed may have left a socket.
        let _was_there = std::fs::remove_file(&path);
        let listener = short(&path)
            .and_then(|(_folder, short)| UnixListener::bind(short))
            .with_context(|| path.display().to_string())?;
        let over = Arc::new(AtomicBool::new(false));
        let closing = Arc::clone(&over);
        let thread = std::thread::Builder::new().name("registry".to_owned()).spawn(move || {
            for stream in listener.incoming() {
                if closing.load(Ordering::SeqCst) {
                    return;
                }
                // A client that disconnects early does no harm.
                let _answered_or_not = stream.map_err(Into::into).and_then(|mut stream| {
                    let reply = answer(read(&stream)?)?;
                    write(&mut stream, &reply)
                });
            }
        })?;
        Ok(Self { path, over, thread: Some(thread), _lock: lock })
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        let woken = connect(&self.path).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            let _ended = thread.join();
        }
        let _gone = std::fs::remove_file(&self.path);
    }
}

/// A lock that shows that a path is served. It is held as long as this file is
/// open.
fn serve_alone(path: &Path) -> Result<Flock<File>> {
    let lock = path.with_extension("lock");
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let file = File::create(&lock).with_context(|| format!("cannot write {}", lock.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|_| anyhow::anyhow!("another host is up already: it serves {}", path.display()))
}

/// A path to the socket that fits into a socket address, which holds 108 bytes. It
/// leads through the descriptor of the folder, which must stay open until the path
/// was used.
pub(crate) fn short(path: &Path) -> io::Result<(File, PathBuf)> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
    let folder = File::open(path.parent().ok_or_else(invalid)?)?;
    let name = path.file_name().ok_or_else(invalid)?;
    let through = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
    Ok((folder, through))
}

fn connect(path: &Path) -> io::Result<UnixStream> {
    let (_folder, short) = short(path)?;
    UnixStream::connect(short)
}

/// Gives the reply to a request.
pub type Answer = Box<dyn FnMut(Request) -> Result<Reply> + Send>;

/// The values of a driver that runs in this process.
pub struct Registry {
    kernel: Arc<Kernel>,
    /// The key of the values.
    key: String,
    driver: Option<PathBuf>,
    /// The values that are in force; an absent one means its default.
    good: Vec<(String, RegistryValue)>,
}

impl Registry {
    /// The values of `service`. With the path of the driver, replies hold its policy.
    /// Reads what is in force before anything is changed.
    ///
    /// # Errors
    /// If the driver does not report its policy.
    pub fn new(kernel: Arc<Kernel>, service: &str, driver: Option<&Path>) -> Result<Self> {
        let key = parameters_key(service);
        let mut registry = Self { kernel, key, driver: driver.map(Path::to_owned), good: Vec::new() };
        registry.good = registry.values();
        if let Some(sys) = &registry.driver {
            let refused = State::of(&registry.kernel, sys, &registry.good)?.refused;
            registry.good.retain(|(name, _)| !refused.iter().any(|one| one.value.eq_ignore_ascii_case(name)));
        }
        Ok(registry)
    }

    fn values(&self) -> Vec<(String, RegistryValue)> {
        self.kernel.registry().values(&self.key)
    }

    /// Does what a request asks for. A failure to ask the driver is in the
    /// reply.
    pub fn reply(&mut self, request: Request) -> Reply {
        let mut reply = Reply::default();
        let mut last = None;
        if let Request::Change(changes) = request {
            let key = self.key.clone();
            for (name, value) in changes {
                let was_there = self.kernel.registry().value(&key, &name).is_some();
                // The number of watches that fired does not matter; the reading
                // counts.
                let _fired = match value {
                    Some(value) => self.kernel.set_value(&key, &name, value),
                    None if was_there => self.kernel.delete_value(&key, &name),
                    None => {
                        reply.missing.push(name);
                        continue;
                    }
                };
                last = Some((name, self.kernel.registry().changes()));
            }
        }
        reply.values = self.values();
        if let Some(sys) = self.driver.clone() {
            match self.policy(&sys, last, &reply.values) {
                Ok(policy) => reply.policy = Some(policy),
                Err(error) => reply.failure = Some(format!("{error:#}")),
            }
        }
        reply
    }

    /// The driver's policy after the last change.
    fn policy(&mut self, sys: &Path, last: Option<(String, u64)>, values: &state::Values) -> Result<Policy> {
        let changed = last.is_some();
        if let Some((name, change)) = last {
            state::await_reading(&self.kernel, &name, change)?;
        }
        let state = State::of(&self.kernel, sys, values)?;
        if changed && state.refused.is_empty() {
            self.good = values.to_vec();
        } else if changed {
            self.switch(values);
        }
        let in_force = table::known().iter().map(|known| {
            let good = self.good.iter().find(|(name, _)| name.eq_ignore_ascii_case(known.name));
            let number = state.numbers.get(known.name).copied();
            let value = number.map(RegistryValue::dword).or_else(|| good.map(|(_, value)| value.clone()));
            (known.name.to_owned(), value.unwrap_or_else(|| default(known)))
        });
        Ok(Policy { in_force: in_force.collect(), refused: state.refused })
    }

    /// While another value is refused, only `Mode` 0 or 1 takes effect.
    fn switch(&mut self, values: &state::Values) {
        const MODE: &str = "Mode";
        let mode = values.iter().find(|(name, _)| name.eq_ignore_ascii_case(MODE)).map(|(_, value)| value);
        let off = [0, 1].map(RegistryValue::dword);
        if let Some(mode) = mode.filter(|mode| off.contains(mode)) {
            self.good.retain(|(name, _)| !name.eq_ignore_ascii_case(MODE));
            self.good.push((MODE.to_owned(), mode.clone()));
        }
    }
}

/// What is in force if a value is absent.
pub fn default(known: &table::Known) -> RegistryValue {
    match known.default.parse() {
        Ok(number) => RegistryValue::dword(number),
        Err(_) => RegistryValue::multi_sz([""; 0]),
    }
}

/// Asks the running host.
pub fn ask(request: &Request) -> Result<Reply> {
    ask_at(&setup::state().join("registry.sock"), request)
}

/// Asks at a path.
pub fn ask_at(path: &Path, request: &Request) -> Result<Reply> {
    let mut stream = connect(path)
        .map_err(|error| anyhow::anyhow!("no host is up (start one with cargo lab up): {error}"))?;
    write(&mut stream, request)?;
    read(&stream)
}

/// Writes one line of JSON.
fn write(stream: &mut UnixStream, message: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(stream.write_all(&line)?)
}

fn read<T: for<'a> Deserialize<'a>>(stream: &UnixStream) -> Result<T> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

/// A value in plain text, with its type.
pub fn text(value: &RegistryValue) -> String {
    let wide = || {
        let units = value.data.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]]));
        String::from_utf16_lossy(&units.collect::<Vec<_>>())
    };
    match (value.kind, &value.data[..]) {
        (REG_DWORD, &[a, b, c, d]) => format!("{} (REG_DWORD)", u32::from_le_bytes([a, b, c, d])),
        (REG_SZ, _) => format!("{} (REG_SZ)", wide().trim_end_matches('\0')),
        (REG_MULTI_SZ, _) => {
            let strings = wide();
            let strings: Vec<_> = strings.split('\0').filter(|string| !string.is_empty()).collect();
            format!("{} (REG_MULTI_SZ)", strings.join(","))
        }
        (kind, data) => format!("{data:02x?} (type {kind})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hushport;
    use machine::nt::Options;

    #[test]
    fn a_served_registry_is_read_changed_and_gone_at_the_end() {
        let directory = tempfile::tempdir().unwrap();
        // A checkout's path may be longer than a socket address allows; this one
        // is.
        let folder = directory.path().join("a".repeat(100)).join("b".repeat(100));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("registry.sock");
        let machine = hushport::machine(Options::default());
        machine.set("Mode", 2);
        assert!(ask_at(&path, &Request::List).unwrap_err().to_string().contains("no host is up"));
        let served = Served::at(path.clone(), Arc::clone(machine.kernel()), hushport::SERVICE, None).unwrap();
        let another = Served::at(path.clone(), Arc::clone(machine.kernel()), hushport::SERVICE, None);
        assert!(another.err().unwrap().to_string().contains("another host is up"));

        let value = RegistryValue::multi_sz(["113"]);
        let change = |name: &str, value: Option<RegistryValue>| {
            ask_at(&path, &Request::Change(vec![(name.to_owned(), value)])).unwrap()
        };
        let reply = change("ExemptPorts", Some(value.clone()));
        assert!(reply.missing.is_empty() && reply.policy.is_none() && reply.failure.is_none());
        let listed = ask_at(&path, &Request::List).unwrap();
        assert_eq!(listed.value("mode"), Some(&RegistryValue::dword(2)));
        assert_eq!(listed.value("ExemptPorts"), Some(&value));
        assert!(change("mode", None).missing.is_empty());
        assert_eq!(change("Mode", None).missing, ["Mode"]);
        assert_eq!(machine.kernel().registry().values(&parameters_key(hushport::SERVICE)).len(), 1);

        // An invalid request gets no reply and does no harm.
        let mut nonsense = connect(&path).unwrap();
        nonsense.write_all(b"nonsense\n").unwrap();
        assert_eq!(ask_at(&path, &Request::List).unwrap().values.len(), 1);
        drop(served);
        assert!(!path.exists());
    }
}
