//! The driver's values from outside: a socket that a running host serves.
//!
//! `cargo lab up` serves it, `cargo lab reg` asks. A change goes the way that
//! any change of the registry goes: whoever watches the key is told.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::machine::SERVICE;
use crate::nt::registry::{REG_DWORD, REG_MULTI_SZ, REG_SZ, RegistryValue};
use crate::nt::{Kernel, parameters_key};
use crate::setup;

/// Values of the driver's policy that are lists of strings.
const LISTS: [&str; 3] = ["ExemptPorts", "ExemptPrefixes", "ExemptInterfaces"];

/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(5);

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Every value.
    List,
    /// Set one.
    Set(String, RegistryValue),
    /// Delete one.
    Delete(String),
}

/// What is answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Every value, after what was asked.
    pub values: Vec<(String, RegistryValue)>,
    /// Whether there was such a value before.
    pub found: bool,
    /// How many of the driver's watches fired.
    pub told: usize,
}

impl Reply {
    /// A value by its name, which is compared without case.
    pub fn value(&self, name: &str) -> Option<&RegistryValue> {
        self.values.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// A registry that can be asked; dropped, it cannot any more.
pub struct Served {
    path: PathBuf,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Served {
    /// Serves a machine's registry where [`ask`] looks for it.
    pub fn start(kernel: Arc<Kernel>) -> Result<Self> {
        Self::at(setup::state().join("registry.sock"), kernel)
    }

    /// Serves it at a path.
    pub fn at(path: PathBuf, kernel: Arc<Kernel>) -> Result<Self> {
        if UnixStream::connect(&path).is_ok() {
            bail!("another host is up already: it serves {}", path.display());
        }
        // Of an earlier run that was killed.
        let _was_there = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).with_context(|| path.display().to_string())?;
        let over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&over);
        let thread = std::thread::Builder::new().name("registry".to_owned()).spawn(move || {
            for stream in listener.incoming() {
                if told.load(Ordering::SeqCst) {
                    return;
                }
                // Whoever asks and breaks off does no harm.
                let _answered_or_not = stream.map_err(Into::into).and_then(|stream| answer(&kernel, stream));
            }
        })?;
        Ok(Self { path, over, thread: Some(thread) })
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        let woken = UnixStream::connect(&self.path).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            let _ended = thread.join();
        }
        let _gone = std::fs::remove_file(&self.path);
    }
}

fn answer(kernel: &Kernel, mut stream: UnixStream) -> Result<()> {
    let request = read(&stream)?;
    let key = parameters_key(SERVICE);
    let there = |name: &str| kernel.registry().value(&key, name).is_some();
    let (found, told) = match request {
        Request::List => (false, 0),
        Request::Set(name, value) => (there(&name), kernel.set_value(&key, &name, value)),
        Request::Delete(name) => (there(&name), kernel.delete_value(&key, &name)),
    };
    let reply = Reply { values: kernel.registry().values(&key), found, told };
    write(&mut stream, &reply)
}

/// Asks the host that is up.
pub fn ask(request: &Request) -> Result<Reply> {
    ask_at(&setup::state().join("registry.sock"), request)
}

/// Asks at a path.
pub fn ask_at(path: &Path, request: &Request) -> Result<Reply> {
    let mut stream = UnixStream::connect(path)
        .map_err(|error| anyhow::anyhow!("no host is up (start one with cargo lab up): {error}"))?;
    write(&mut stream, request)?;
    read(&stream)
}

/// One line of JSON.
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

/// A value as people read it, with its type.
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

/// `NAME=VALUE`, or `NAME:TYPE=VALUE` with `dword`, `sz` or `multi_sz`.
pub fn assignment(text: &str) -> Result<(String, RegistryValue), String> {
    let (name, value) = text.split_once('=').ok_or("NAME=VALUE is wanted")?;
    let (name, kind) = match name.split_once(':') {
        Some((name, kind)) => (name, kind),
        None if LISTS.iter().any(|list| list.eq_ignore_ascii_case(name)) => (name, "multi_sz"),
        None => (name, "dword"),
    };
    if name.is_empty() {
        return Err("a name is wanted before =".to_owned());
    }
    let value = match kind {
        "multi_sz" => {
            RegistryValue::multi_sz(value.split(',').map(str::trim).filter(|string| !string.is_empty()))
        }
        "sz" => RegistryValue::sz(value),
        "dword" => {
            let number = match value.strip_prefix("0x") {
                Some(digits) => u32::from_str_radix(digits, 16),
                None => value.parse(),
            };
            let number =
                number.map_err(|_| format!("{value:?}: a number from 0 to {} is wanted", u32::MAX))?;
            RegistryValue::dword(number)
        }
        other => return Err(format!("{other:?}: dword, sz or multi_sz is wanted")),
    };
    Ok((name.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Machine;
    use crate::nt::Options;

    #[test]
    fn values_are_read_as_they_are_shown() {
        for (given, shown) in [
            ("Mode=1", "1 (REG_DWORD)"),
            ("Mode=0x10", "16 (REG_DWORD)"),
            ("ExemptPorts=113,8000-8100", "113,8000-8100 (REG_MULTI_SZ)"),
            ("exemptports=113", "113 (REG_MULTI_SZ)"),
            ("ExemptPorts=", " (REG_MULTI_SZ)"),
            ("ExemptPorts:dword=113", "113 (REG_DWORD)"),
            ("Mode:sz=off", "off (REG_SZ)"),
            ("Mode:multi_sz=a, b", "a,b (REG_MULTI_SZ)"),
        ] {
            assert_eq!(text(&assignment(given).unwrap().1), shown, "{given}");
        }
        for wrong in ["Mode", "=1", "Mode=", "Mode=off", "Mode=4294967296", "Mode:qword=1"] {
            assert!(assignment(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_served_registry_is_read_changed_and_gone_at_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registry.sock");
        let machine = Machine::new(Options::default());
        machine.set("Mode", 2);
        assert!(ask_at(&path, &Request::List).unwrap_err().to_string().contains("no host is up"));
        let served = Served::at(path.clone(), Arc::clone(machine.kernel())).unwrap();
        let another = Served::at(path.clone(), Arc::clone(machine.kernel()));
        assert!(another.err().unwrap().to_string().contains("another host is up"));

        let (name, value) = assignment("ExemptPorts=113").unwrap();
        let reply = ask_at(&path, &Request::Set(name, value.clone())).unwrap();
        assert!(!reply.found);
        let listed = ask_at(&path, &Request::List).unwrap();
        assert_eq!(listed.value("mode"), Some(&RegistryValue::dword(2)));
        assert_eq!(listed.value("ExemptPorts"), Some(&value));
        assert!(ask_at(&path, &Request::Delete("mode".to_owned())).unwrap().found);
        assert!(!ask_at(&path, &Request::Delete("Mode".to_owned())).unwrap().found);
        assert_eq!(machine.kernel().registry().values(&parameters_key(SERVICE)).len(), 1);

        // Whoever talks nonsense is not answered, and does no harm.
        let mut nonsense = UnixStream::connect(&path).unwrap();
        nonsense.write_all(b"nonsense\n").unwrap();
        assert_eq!(ask_at(&path, &Request::List).unwrap().values.len(), 1);
        drop(served);
        assert!(!path.exists());
    }
}
