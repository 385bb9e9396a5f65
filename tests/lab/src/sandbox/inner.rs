//! The inner process: what a command uses of it.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use machine::image;
use machine::nt::SYSTEM_THREAD;
use machine::wire::Tun;

use super::message::{self, Event, Missing, Order, Start};
use super::walls::{self, Builder, Wall};
use super::{STAGE, WITHOUT, channel, filter, output};
use crate::mutex::lock;

/// The inner process.
struct Inner {
    driver: Option<PathBuf>,
    task: usize,
    files: Mutex<Files>,
    sent: Mutex<u64>,
    orders: Mutex<Option<Receiver<Order>>>,
    done: AtomicU64,
    /// The number of [`Order::Go`].
    token: AtomicU64,
}

/// What is left of the descriptors that it was given.
struct Files {
    inputs: BTreeMap<PathBuf, File>,
    outputs: BTreeMap<PathBuf, File>,
    wire: Option<Tun>,
    programs: Option<File>,
}

static INNER: OnceLock<Inner> = OnceLock::new();

/// How this process began.
pub enum Began {
    /// As the outer process, by a user.
    Outer,
    /// As the inner process; its walls stand.
    Inner,
    /// As a process that only makes the inner one. It has ended with this code.
    Between(ExitCode),
}

/// Finds out how this process began, and puts up the walls of the inner process. The
/// first call of a program: it must have one thread.
///
/// # Errors
/// If the inner process cannot be made.
pub fn begin() -> Result<Began> {
    let Some(stage) = std::env::var_os(STAGE) else { return Ok(Began::Outer) };
    let stage = stage.into_string().unwrap_or_default();
    let without = std::env::var(WITHOUT).unwrap_or_default();
    let mut builder = Builder::new(Wall::list(&without).context(WITHOUT)?);
    match &*stage {
        "first" => {
            channel::close_others()?;
            return builder.first_stage().map(Began::Between);
        }
        walls::PROBE => return walls::probe().map(|()| Began::Between(ExitCode::SUCCESS)),
        missing => builder.missing = serde_json::from_str(missing).context(STAGE)?,
    }
    second_stage(builder)?;
    Ok(Began::Inner)
}

fn second_stage(mut builder: Builder) -> Result<()> {
    let socket = io::stdin();
    let (bytes, descriptors) = channel::receive_with_descriptors(socket.as_fd())?;
    let Order::Start(start) = serde_json::from_slice(&bytes)? else { bail!("the first message is no start") };
    ensure!(descriptors.len() == start.descriptors(), "descriptors are missing");
    let files = Files::sort(&start, descriptors)?;
    let others = files.outputs.values().map(AsRawFd::as_raw_fd);
    let others = others.chain(files.programs.as_ref().map(AsRawFd::as_raw_fd));
    let others = others.chain(files.wire.iter().flat_map(Tun::written)).collect();
    builder.second_stage(&filter::Writable { socket: socket.as_raw_fd(), others })?;
    let inner = Inner {
        driver: start.driver,
        task: start.task,
        files: Mutex::new(files),
        sent: Mutex::new(0),
        orders: Mutex::new(None),
        done: AtomicU64::new(0),
        token: AtomicU64::new(0),
    };
    ensure!(INNER.set(inner).is_ok(), "begun twice");
    begin_talk(builder.missing)
}

/// Names the missing walls and waits for the order to go.
fn begin_talk(missing: Vec<Missing>) -> Result<()> {
    let inner = inner().context("not begun")?;
    inner.send(&Event::Walls(missing))?;
    match receive()? {
        Some(Order::Go(token)) => inner.token.store(token, Ordering::Relaxed),
        _ => std::process::exit(1),
    }
    let (sender, orders) = mpsc::channel();
    *lock(&inner.orders) = Some(orders);
    std::thread::Builder::new().name("orders".to_owned()).spawn(move || {
        while let Ok(Some(order)) = receive() {
            if sender.send(order).is_err() {
                return;
            }
        }
        // The outer process is gone.
        std::process::exit(1);
    })?;
    std::thread::Builder::new().name("watch".to_owned()).spawn(watch)?;
    Ok(())
}

fn receive() -> Result<Option<Order>> {
    let bytes = channel::receive(io::stdin().as_fd())?;
    bytes.map(|bytes| Ok(serde_json::from_slice(&bytes)?)).transpose()
}

impl Files {
    /// Reads the images, and keeps the other descriptors under their names.
    fn sort(start: &Start, descriptors: Vec<OwnedFd>) -> Result<Self> {
        let mut descriptors = descriptors.into_iter();
        for path in &start.images {
            let mut bytes = Vec::new();
            let file = descriptors.next().context("a descriptor")?;
            File::from(file).read_to_end(&mut bytes).with_context(|| path.display().to_string())?;
            image::provide(path.clone(), bytes);
        }
        let mut named = |paths: &[PathBuf]| -> BTreeMap<PathBuf, File> {
            paths.iter().cloned().zip(descriptors.by_ref().map(File::from)).collect()
        };
        let (inputs, outputs) = (named(&start.inputs), named(&start.outputs));
        let wire = start.wire.then(|| descriptors.next()).flatten();
        let wire = wire.map(|wire| Tun::from_descriptor("", wire)).transpose()?;
        let programs = start.programs.then(|| descriptors.next()).flatten().map(File::from);
        Ok(Self { inputs, outputs, wire, programs })
    }
}

fn inner() -> Option<&'static Inner> {
    INNER.get()
}

impl Inner {
    fn send(&self, event: &Event) -> Result<()> {
        let mut sent = lock(&self.sent);
        channel::send(io::stdin().as_fd(), &message::write(*sent, event)?, &[])?;
        *sent += 1;
        Ok(())
    }
}

/// Whether this is the inner process.
pub fn is_inner() -> bool {
    inner().is_some()
}

/// The driver of the command, which the outer process has built or found.
pub fn driver() -> Option<&'static Path> {
    inner()?.driver.as_deref()
}

/// Which part of the command's work is this process's.
pub fn task() -> Option<usize> {
    Some(inner()?.task)
}

/// Opens a file for reading. The inner process has those that the outer one opened.
///
/// # Errors
/// As [`File::open`].
pub fn open(path: &Path) -> io::Result<File> {
    let Some(inner) = inner() else { return File::open(path) };
    let files = lock(&inner.files);
    let mut file = files.inputs.get(path).ok_or(io::ErrorKind::NotFound)?.try_clone()?;
    // All clones have one position. A file is read by one reader at a time.
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

/// Reads a file of text.
///
/// # Errors
/// As [`std::fs::read_to_string`].
pub fn read_to_string(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    open(path)?.read_to_string(&mut text)?;
    Ok(text)
}

/// Writes a file, completely or not at all.
///
/// # Errors
/// Those of the file system.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    if is_inner() {
        return Ok(create(path)?.write_all(bytes)?);
    }
    let mut file = output::temporary(path)?;
    file.write_all(bytes)?;
    file.persist(path)?;
    Ok(())
}

/// Creates a file, once. The inner process has pipes to those that the outer one
/// created.
///
/// # Errors
/// As [`File::create`].
pub fn create(path: &Path) -> io::Result<File> {
    let Some(inner) = inner() else { return File::create(path) };
    Ok(lock(&inner.files).outputs.remove(path).ok_or(io::ErrorKind::NotFound)?)
}

/// The host's end of the TUN device that the outer process opened.
///
/// # Errors
/// If it opened none.
pub fn wire(name: &str) -> Result<Tun> {
    let wire = inner().and_then(|inner| lock(&inner.files).wire.take());
    Ok(wire.context("no TUN device was opened")?.named(name))
}

/// The stream for the requests of programs; once.
///
/// # Errors
/// If the outer process gave none.
pub fn programs() -> Result<File> {
    let programs = inner().and_then(|inner| lock(&inner.files).programs.take());
    programs.context("no stream for programs was opened")
}

/// Says that the host runs.
///
/// # Errors
/// If the outer process is gone.
pub fn ready() -> Result<()> {
    inner().map_or(Ok(()), |inner| inner.send(&Event::Ready))
}

/// Answers [`Order::Ask`].
///
/// # Errors
/// If the answer is too large, or the outer process is gone.
pub fn answer(reply: String) -> Result<()> {
    inner().map_or(Ok(()), |inner| inner.send(&Event::Answer(reply)))
}

/// Notes how much of the work is done, in a unit of the command's.
pub fn progress(done: u64) {
    if let Some(inner) = inner() {
        inner.done.store(done, Ordering::Relaxed);
    }
}

/// The orders that come while the command runs; once.
pub fn orders() -> Option<Receiver<Order>> {
    lock(&inner()?.orders).take()
}

/// Says that the command has ended, and how. Returns the code of this process.
pub fn finish(well: bool) -> ExitCode {
    let refused = image::refused_calls().iter().map(ToString::to_string).collect();
    let said = inner().is_some_and(|inner| {
        let token = inner.token.load(Ordering::Relaxed);
        inner.send(&Event::Finished { well, token, refused }).is_ok()
    });
    if well && said { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Gives a sign of life each second, and says which thread stays in the driver.
fn watch() {
    /// Shorter stays are not mentioned.
    const SHORT: Duration = Duration::from_secs(2);
    let Some(inner) = inner() else { return };
    let mut stays = BTreeMap::new();
    loop {
        let longest = longest_stay(&mut stays);
        let spins = longest.filter(|stay| *stay >= SHORT).map(|stay| Event::Spinning(stay.as_secs()));
        let alive = Event::Alive(inner.done.load(Ordering::Relaxed));
        for event in spins.into_iter().chain([alive]) {
            if inner.send(&event).is_err() {
                return;
            }
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// A thread in the driver since a time, with its counts at that time.
type Stays = BTreeMap<(u64, Kind), (u64, Instant)>;

/// How a thread stays in the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// It makes no call of the kernel.
    Code,
    /// It does not return from a routine.
    Routine,
}

/// The longest stay of a thread in the driver. Routines of the driver's own threads may
/// run as long as they like.
fn longest_stay(stays: &mut Stays) -> Option<Duration> {
    let now = Instant::now();
    let mut seen = BTreeMap::new();
    for thread in image::running() {
        let code = thread.in_driver.then_some((Kind::Code, thread.crossings));
        let endless = thread.name == SYSTEM_THREAD;
        // A routine may wait a while. One that loops makes calls without an end.
        let routine = (thread.in_call && !endless).then_some((Kind::Routine, thread.calls));
        for (kind, count) in code.into_iter().chain(routine) {
            let key = (thread.thread, kind);
            let same = stays.get(&key).filter(|(before, _)| *before == count);
            seen.insert(key, same.copied().unwrap_or((count, now)));
        }
    }
    *stays = seen;
    let length = |((_, kind), (_, since)): (&(u64, Kind), &(u64, Instant))| match kind {
        Kind::Code => now.duration_since(*since),
        Kind::Routine => now.duration_since(*since) / 4,
    };
    stays.iter().map(length).max()
}
