//! The outer process: starts the inner one, reads what it says, and judges the run.
//!
//! The inner process is not believed once it has read a driver. Its messages can only
//! make a run fail, or say that it ended well; then it must also have ended by itself,
//! in time, with the code that it announced, and nothing may follow.
#![forbid(unsafe_code)]

use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{stderr, stdout};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use tempfile::NamedTempFile;

use super::message::{Event, Missing, Order, Reader, Start};
use super::output::{Copy, copy_file, copy_text, shown, temporary};
use super::{STAGE, WITHOUT, channel, privileges};

/// What the inner process gets, and how long it may take.
#[derive(Debug)]
pub struct Job {
    /// The driver of the command.
    pub driver: Option<PathBuf>,
    /// Whether somebody else made it. It runs only behind every wall.
    pub is_foreign: bool,
    /// Whether a foreign driver runs even if walls are missing.
    pub without_box: bool,
    /// Files that are read whole: drivers. Their symbols are added.
    pub images: Vec<PathBuf>,
    /// The symbols of the driver, if they are not beside it.
    pub symbols: Option<PathBuf>,
    /// Other files that it reads.
    pub inputs: Vec<PathBuf>,
    /// Files that it writes, and how.
    pub outputs: Vec<(PathBuf, Mode)>,
    /// The host's end of a TUN device.
    pub wire: Option<OwnedFd>,
    /// The inner process's end of a stream for the requests of programs.
    pub programs: Option<OwnedFd>,
    /// Which part of the command's work it does, for a command that starts several.
    pub task: usize,
    /// Whether this process starts no other one after it.
    pub is_last: bool,
    /// How long a thread may stay in the driver's code, and how long the process may
    /// give no sign of life.
    pub hang_limit: Duration,
}

impl Job {
    /// Runs no driver.
    pub fn without_driver() -> Self {
        Self { driver: None, images: Vec::new(), ..Self::of(PathBuf::new()) }
    }

    /// Runs a driver of this checkout, with the default limit.
    pub fn of(sys: PathBuf) -> Self {
        Self {
            driver: Some(sys.clone()),
            is_foreign: false,
            without_box: false,
            images: vec![sys],
            symbols: None,
            inputs: Vec::new(),
            outputs: Vec::new(),
            wire: None,
            programs: None,
            task: 0,
            is_last: true,
            hang_limit: HANG_LIMIT,
        }
    }
}

/// How long a driver may run without a call or a return.
pub const HANG_LIMIT: Duration = Duration::from_secs(60);

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Completely, at the end of a run without a fault, or not at all.
    Whole,
    /// As the run goes on.
    Stream,
    /// Behind what is in the file.
    Append,
}

/// The most text in bytes that a run prints, and the most bytes of a file.
const MOST_TEXT: u64 = 4 << 30;
/// The most text in bytes besides the results.
const MOST_ERRORS: u64 = 64 << 20;

/// What an outer process does beside the run.
pub trait Wish {
    /// The host runs.
    fn ready(&mut self) -> Result<()> {
        Ok(())
    }

    /// The next order for the inner process.
    fn order(&mut self) -> Option<Order> {
        None
    }

    /// The answer to [`Order::Ask`]. It is not to be trusted.
    fn answered(&mut self, _reply: String) {}

    /// How much of the work is done.
    fn progress(&mut self, _done: u64) {}
}

/// Wishes nothing.
pub struct Nothing;

impl Wish for Nothing {}

/// How a run ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the command said that all was well.
    pub well: bool,
    /// What the outer process found. A run with a fault has failed.
    pub faults: Vec<String>,
}

impl Verdict {
    /// Whether the run is good.
    pub fn holds(&self) -> bool {
        self.well && self.faults.is_empty()
    }
}

/// Runs this command again as the inner process. Prints what it prints, and the
/// faults.
///
/// # Errors
/// If it cannot be started, or if walls are missing that a foreign driver needs.
pub fn run(job: Job, wish: &mut dyn Wish) -> Result<bool> {
    Ok(judge(job, wish)?.tell())
}

impl Verdict {
    /// Prints the faults. Returns whether the run is good.
    pub fn tell(&self) -> bool {
        for fault in &self.faults {
            eprintln!("lab: FAILED: {}", shown(fault));
        }
        if !self.faults.is_empty() {
            eprintln!("lab: what the driver's process printed before is no result");
        }
        self.holds()
    }
}

/// As [`run`], but leaves it to the caller to tell the faults.
///
/// # Errors
/// As [`run`].
pub fn judge(mut job: Job, wish: &mut dyn Wish) -> Result<Verdict> {
    let (socket, theirs) = channel::pair()?;
    let opened = Opened::of(&mut job)?;
    let kept: &[_] = if job.wire.is_some() { &privileges::NETWORK } else { &privileges::ALONE };
    let mut inner = Command::new("/proc/self/exe");
    inner.args(std::env::args_os().skip(1)).env_clear().env(STAGE, "first");
    // Without this, freeing much memory makes the C library read a file of /proc, which
    // the filter refuses in the middle of the allocator.
    inner.env("MALLOC_TRIM_THRESHOLD_", isize::MAX.to_string());
    inner.envs(std::env::var_os(WITHOUT).map(|walls| (WITHOUT, walls)));
    inner.stdin(theirs).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = inner.spawn().context("cannot start the driver's process")?;
    // Its socket is a part of the command.
    drop(inner);
    if job.is_last {
        // The inner process needed the rights to make namespaces; now they can go.
        privileges::keep_only(kept)?;
    }
    let mut copies: Vec<_> = opened.copies;
    copies.extend(child.stdout.take().map(|text| copy_text(text, stdout(), MOST_TEXT)));
    copies.extend(child.stderr.take().map(|text| copy_text(text, stderr(), MOST_ERRORS)));
    let descriptors: Vec<_> = opened.descriptors.iter().map(AsFd::as_fd).collect();
    let start = serde_json::to_vec(&Order::Start(opened.start))?;
    channel::send(socket.as_fd(), &start, &descriptors).context("the start of the driver's process")?;
    drop(descriptors);
    drop(opened.descriptors);
    drop(job.wire.take());
    drop(job.programs.take());
    let mut run = Run {
        socket,
        reader: Reader::default(),
        verdict: Verdict::default(),
        is_finished: false,
        // A random number that is not 0.
        token: RandomState::new().build_hasher().finish() | 1,
        heard: Instant::now(),
        begun: Instant::now(),
        job,
    };
    let talked = run.talk(wish, &copies);
    if talked.is_err() || !run.verdict.faults.is_empty() {
        let _may_have_ended = child.kill();
    }
    let status = run.wait(&mut child)?;
    let flooded = copies.into_iter().map(Copy::end).fold(false, |one, other| one | other);
    talked?;
    run.end(status, flooded);
    for (file, path) in opened.whole {
        // An empty one was never begun.
        if run.verdict.faults.is_empty() && file.as_file().metadata()?.len() > 0 {
            file.persist(&path).with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    Ok(run.verdict)
}

/// What is opened for the inner process.
struct Opened {
    start: Start,
    descriptors: Vec<OwnedFd>,
    copies: Vec<Copy>,
    whole: Vec<(NamedTempFile, PathBuf)>,
}

impl Opened {
    fn of(job: &mut Job) -> Result<Self> {
        // Each file under the name by which the inner process finds it.
        let mut images = Vec::new();
        for image in &job.images {
            let beside = image.with_extension("pdb");
            images.push((image.clone(), image.clone()));
            let given = job.symbols.clone().filter(|_| job.driver.as_ref() == Some(image));
            let symbols = given.or_else(|| beside.is_file().then(|| beside.clone()));
            images.extend(symbols.map(|symbols| (beside, symbols)));
        }
        let open = |path: &Path| File::open(path).with_context(|| format!("cannot read {}", path.display()));
        let mut descriptors = Vec::new();
        for path in images.iter().map(|(_, file)| file).chain(&job.inputs) {
            descriptors.push(OwnedFd::from(open(path)?));
        }
        let images = images.into_iter().map(|(name, _)| name).collect();
        let (mut copies, mut whole) = (Vec::new(), Vec::new());
        for (path, mode) in &job.outputs {
            let cannot = || format!("cannot write {}", path.display());
            let file = match mode {
                Mode::Stream => File::create(path).with_context(cannot)?,
                Mode::Append => File::options().create(true).append(true).open(path).with_context(cannot)?,
                Mode::Whole => {
                    let temporary = temporary(path)?;
                    let file = temporary.reopen()?;
                    whole.push((temporary, path.clone()));
                    file
                }
            };
            let (reader, writer) = std::io::pipe()?;
            copies.push(copy_file(reader, file, MOST_TEXT));
            descriptors.push(writer.into());
        }
        for descriptor in job.wire.iter().chain(&job.programs) {
            descriptors.push(descriptor.try_clone()?);
        }
        let start = Start {
            driver: job.driver.clone(),
            images,
            inputs: job.inputs.clone(),
            outputs: job.outputs.iter().map(|(path, _)| path.clone()).collect(),
            wire: job.wire.is_some(),
            programs: job.programs.is_some(),
            task: job.task,
        };
        Ok(Self { start, descriptors, copies, whole })
    }
}

/// A run of the inner process.
struct Run {
    socket: OwnedFd,
    reader: Reader,
    verdict: Verdict,
    is_finished: bool,
    /// Names the lab's own last message.
    token: u64,
    heard: Instant,
    begun: Instant,
    job: Job,
}

impl Run {
    /// Reads messages until there are no more, or until one is a fault.
    fn talk(&mut self, wish: &mut dyn Wish, copies: &[Copy]) -> Result<()> {
        const TICK: Duration = Duration::from_millis(50);
        while self.verdict.faults.is_empty() {
            while let Some(order) = wish.order() {
                if matches!(order, Order::Ask(_)) {
                    self.reader.asked();
                }
                // If it is gone, the next message says so.
                let _sent = self.send(&order);
            }
            if copies.iter().any(Copy::is_flooded) {
                self.fault("the driver's process writes without an end");
            }
            if self.reader.is_flooded(self.begun.elapsed()) {
                self.fault("the driver's process sends messages without an end");
            }
            let silent = self.heard.elapsed();
            if silent >= self.job.hang_limit {
                self.fault(format!("the driver's process gave no sign of life for {} s", silent.as_secs()));
            }
            if !channel::is_ready(self.socket.as_fd(), TICK)? {
                continue;
            }
            // A reset connection ends as a closed one.
            let Some(bytes) = channel::receive(self.socket.as_fd()).unwrap_or(None) else { break };
            self.heard = Instant::now();
            match self.reader.read(&bytes) {
                Ok(event) => self.hear(event, wish)?,
                Err(error) => {
                    self.fault(format!("the driver's process said what the lab does not say: {error:#}"));
                }
            }
        }
        Ok(())
    }

    fn hear(&mut self, event: Event, wish: &mut dyn Wish) -> Result<()> {
        match event {
            Event::Walls(missing) => self.walls(&missing)?,
            Event::Ready => wish.ready()?,
            Event::Alive(done) => wish.progress(done),
            Event::Spinning(seconds) if seconds >= self.job.hang_limit.as_secs() => {
                self.fault(format!("the driver did not come back for {seconds} s"));
            }
            Event::Spinning(_) => {}
            Event::Answer(reply) => wish.answered(reply),
            Event::Finished { token, .. } if token != self.token => {
                self.fault("the driver's process sent a last message that the lab did not write");
            }
            Event::Finished { well, refused, .. } => {
                self.is_finished = true;
                self.verdict.well = well;
                if !refused.is_empty() {
                    let calls = refused.join(", ");
                    self.fault(format!("the driver's process made system calls that are forbidden: {calls}"));
                }
            }
        }
        Ok(())
    }

    /// Lets the command run, if enough walls stand.
    fn walls(&mut self, missing: &[Missing]) -> Result<()> {
        if !missing.is_empty() {
            let all: Vec<_> = missing.iter().map(ToString::to_string).collect();
            eprintln!(
                "lab: this machine does not offer these walls of the sandbox: {}",
                shown(&all.join("; "))
            );
            if self.job.is_foreign && !self.job.without_box {
                anyhow::bail!(
                    "a driver that others made runs only behind all walls; \
                     --without-box runs it behind those that are left"
                );
            }
        }
        self.send(&Order::Go(self.token))
    }

    fn send(&self, order: &Order) -> Result<()> {
        Ok(channel::send(self.socket.as_fd(), &serde_json::to_vec(order)?, &[])?)
    }

    fn fault(&mut self, text: impl Into<String>) {
        self.verdict.faults.push(text.into());
    }

    /// Waits for the end of the process, which has closed its socket or was killed.
    fn wait(&mut self, child: &mut Child) -> Result<ExitStatus> {
        let end = Instant::now() + self.job.hang_limit;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > end {
                self.fault("the driver's process did not end");
                child.kill()?;
                return Ok(child.wait()?);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Compares the end with what was said.
    fn end(&mut self, status: ExitStatus, flooded: bool) {
        if flooded && self.verdict.faults.is_empty() {
            self.fault("the driver's process writes without an end");
        }
        if !self.verdict.faults.is_empty() {
            return;
        }
        let how = ending(status);
        if !self.is_finished {
            self.fault(format!("the driver's process {how} before the command was over"));
        } else if self.verdict.well != status.success() {
            let said = if self.verdict.well { "well" } else { "not well" };
            self.fault(format!("the driver's process said that all was {said}, and then {how}"));
        }
    }
}

/// How a process ended, in words. The process between says so with a code, as shells do.
fn ending(status: ExitStatus) -> String {
    let between = status.code().filter(|code| *code > 128).map(|code| code - 128);
    match status.signal().or(between).map(Signal::try_from) {
        Some(Ok(signal)) => format!("was ended by {signal}"),
        Some(Err(_)) => "was ended by a signal".to_owned(),
        None => format!("ended with code {}", status.code().unwrap_or(-1)),
    }
}
