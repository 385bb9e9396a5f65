//! A run of a machine, from power on to its last line.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::accelerator::Accelerator;
use super::config::{Config, Folder, Kind, Saved, Source};
use super::display::Display;
use super::line::{Counts, Line};
use super::machine::{Processes, SCREEN_SOCKET, STATE, Sockets};
use super::network::{Link, Scan};
use super::progress::{IN_TIME, NO_DUMP, Progress, STAYS_UP, TO_THE_END};
use super::qmp::Qmp;
use super::serial;
use super::verdict::{Check, is_scan};
use crate::printable::printable;

/// What happens to a run.
#[derive(Debug)]
pub enum Event {
    /// The guest said something.
    Line(Line),
    /// QEMU said something.
    Qmp(Value),
    /// A line of the scanner.
    Scan(String),
    /// The scanner has ended; the last line of its errors.
    ScanEnded(Option<String>),
    /// Somebody pressed Ctrl-C.
    Interrupt,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The machine is off.
    Off,
    /// It was interrupted and is saved.
    Interrupted,
}

/// After as many restarts that nobody announced, the machine will not recover.
const MOST_CRASHES: usize = 5;
const TICK: Duration = Duration::from_millis(200);
/// A medium of Windows asks for a key for five seconds after the firmware has started.
/// Until the guest's first line, one is pressed each second, at most so long.
const KEYS: Duration = Duration::from_secs(60);
const KEYS_EMULATED: Duration = Duration::from_secs(300);
/// How long after QEMU's end its last events may take.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Restarts within this time are one.
const ONE_RESET: Duration = Duration::from_secs(2);
/// How long the scanner may go on after the step of the scan.
const SCAN_GRACE: Duration = Duration::from_secs(15);

/// A machine that runs. Dropping ends it.
pub struct Run<'a> {
    config: &'a Config,
    folder: &'a Folder,
    progress: Progress,
    display: Display,
    sender: Sender<Event>,
    events: Receiver<Event>,
    scan: Option<(Scan, String, Vec<String>)>,
    scan_over: Option<Instant>,
    qmp: Qmp,
    processes: Processes,
    link: Link,
    sockets: Sockets,
    /// Since when `progress.took` and `progress.whole` have been added up.
    counted: Instant,
    key: Instant,
    /// The last restart, until the guest says something.
    reset: Option<Instant>,
    /// Since when QEMU is known to have ended.
    gone: Option<Instant>,
}

impl<'a> Run<'a> {
    /// Starts a machine, or continues it where it was saved.
    ///
    /// # Errors
    /// If QEMU or the network cannot be started.
    pub fn start(
        config: &'a Config,
        folder: &'a Folder,
        progress: Progress,
        events: (Sender<Event>, Receiver<Event>),
    ) -> Result<Self> {
        let (sender, events) = events;
        let (link, sockets) = (Link::new()?, Sockets::new()?);
        let mut processes = Processes::start(config, folder, &sockets, &link)?;
        let connected = serial::connect(&sockets, &sender);
        let mut qmp = connected.or_else(|error| {
            // Its last words say more than that it is gone.
            let _running = processes.wait(Duration::from_secs(1));
            match processes.ended()? {
                Some(reason) => bail!("{reason}"),
                None => Err(error),
            }
        })?;
        let link_to = folder.file(SCREEN_SOCKET);
        let _old = std::fs::remove_file(&link_to);
        std::os::unix::fs::symlink(sockets.screen(), link_to)?;
        if folder.file(STATE).is_file() {
            arrive(&mut qmp)?;
            // The disks change from now on, so this state has no more disks.
            std::fs::remove_file(folder.file(STATE))?;
        }
        qmp.run("cont", &json!({}))?;
        let now = Instant::now();
        let display = Display::default();
        display.say(&format!("the machine's screen: a VNC viewer at {}", sockets.vnc().display()));
        Ok(Self {
            config,
            folder,
            progress,
            display,
            sender,
            events,
            scan: None,
            scan_over: None,
            qmp,
            processes,
            link,
            sockets,
            counted: now,
            key: now,
            reset: None,
            gone: None,
        })
    }

    /// Watches the machine to its end. Returns the end, and where the run is.
    ///
    /// # Errors
    /// If this side cannot go on. The machine is gone then.
    pub fn watch(mut self) -> Result<(End, Progress)> {
        self.folder.save(&self.saved())?;
        let progress = &self.progress;
        if is_scan(&progress.phase) && self.config.scan {
            self.start_scan()?;
        }
        let end = loop {
            let event = match self.events.recv_timeout(TICK) {
                Ok(event) => Some(event),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => bail!("no more events"),
            };
            let is_quiet = event.is_none();
            let end = match event {
                Some(event) => self.take(event)?,
                None => None,
            };
            let end = match end {
                Some(end) => Some(end),
                None => self.tick(is_quiet)?,
            };
            if let Some(end) = end {
                break end;
            }
        };
        self.display.ended(&self.progress.phase.clone(), self.progress.took);
        self.display.end();
        if end == End::Off {
            self.end_scan("the machine is off");
            if self.processes.ended()?.is_none() {
                self.qmp.quit();
            }
            // What does not end is killed when it is dropped.
            let _late = self.processes.wait(Duration::from_secs(20));
        }
        self.folder.save(&self.saved())?;
        Ok((end, std::mem::take(&mut self.progress)))
    }

    fn saved(&self) -> Saved {
        Saved { config: self.config.clone(), progress: self.progress.clone() }
    }

    fn count(&mut self) {
        let passed = self.counted.elapsed();
        self.counted += passed;
        self.progress.took += passed;
        self.progress.whole += passed;
    }

    fn enter(&mut self, kind: Kind, phase: String) {
        self.count();
        let phase = printable(&phase);
        if phase != self.progress.phase || kind != self.progress.kind {
            self.display.ended(&self.progress.phase.clone(), self.progress.took);
            self.progress.took = Duration::ZERO;
        }
        (self.progress.kind, self.progress.phase) = (kind, phase);
        // Only an interruption needs it, and that saves it once more.
        let _best_effort = self.folder.save(&self.saved());
    }

    fn take(&mut self, event: Event) -> Result<Option<End>> {
        match event {
            Event::Line(line) => self.hear(line)?,
            Event::Qmp(event) => return self.notice(&event),
            Event::Scan(line) => {
                self.display.line(&line);
                if let Some((_, _, lines)) = &mut self.scan {
                    lines.push(line);
                }
            }
            Event::ScanEnded(error) => self.end_scan(error.as_deref().unwrap_or_default()),
            Event::Interrupt => return self.interrupt(),
        }
        Ok(None)
    }

    /// A line of the guest.
    fn hear(&mut self, line: Line) -> Result<()> {
        self.reset = None;
        match line {
            Line::Setup(pass) => self.enter(Kind::Setup, format!("installing: {pass}")),
            Line::Boot(system) => {
                self.display.line(&system);
                self.enter(Kind::Boot, "the scripts begin".to_owned());
            }
            Line::Step(step) => {
                self.scan_over = self.scan.is_some().then(|| Instant::now() + SCAN_GRACE);
                self.progress.steps.insert(step.clone());
                self.enter(Kind::Step, step.clone());
                if is_scan(&step) && self.config.scan {
                    self.start_scan()?;
                }
            }
            Line::Log(text) => self.display.line(&text),
            Line::Restart => {
                self.progress.announced = true;
                self.enter(Kind::Boot, "restarting".to_owned());
            }
            Line::Dump(name) => self.progress.fail(NO_DUMP, name),
            Line::Lost(what) => self.progress.lose(what),
            Line::Verdict(counts) => {
                if self.progress.verdict.is_some_and(|earlier| earlier != counts) {
                    self.progress.fail(TO_THE_END, "it reported two verdicts");
                }
                self.progress.verdict = Some(counts);
                self.enter(Kind::Results, "writing the results".to_owned());
            }
            Line::End => self.progress.ended = true,
        }
        Ok(())
    }

    /// An event of QEMU (QEMU QMP Reference, "VM run state").
    fn notice(&mut self, event: &Value) -> Result<Option<End>> {
        let data = &event["data"];
        match event["event"].as_str().unwrap_or_default() {
            "RESET" if data["guest"] == true => return Ok(self.restarted()),
            "SHUTDOWN" => {
                if !self.progress.ended {
                    let during = format!("it turned itself off during {:?}", self.progress.phase);
                    self.progress.fail(TO_THE_END, during);
                }
                return Ok(Some(End::Off));
            }
            "GUEST_PANICKED" => {
                let arguments =
                    ["arg1", "arg2", "arg3", "arg4", "arg5"].map(|name| data["info"][name].as_u64());
                let numbers: Vec<String> =
                    arguments.iter().flatten().map(|number| format!("{number:#x}")).collect();
                self.progress.fail(STAYS_UP, format!("Windows stopped with bugcheck {}", numbers.join(", ")));
            }
            "BLOCK_IO_ERROR" => {
                let why = if data["nospace"] == true { "the disk is full" } else { "a disk failed" };
                let said = data["reason"].as_str().unwrap_or_default();
                self.progress.lose(format!("on this computer, {why}: {said}"));
                self.picture("disk")?;
                return Ok(Some(End::Off));
            }
            _ => {}
        }
        Ok(None)
    }

    /// The machine has restarted.
    fn restarted(&mut self) -> Option<End> {
        // A system tries several ways to restart a machine, one after the other.
        let earlier = self.reset.replace(Instant::now());
        if earlier.is_some_and(|earlier| earlier.elapsed() < ONE_RESET) {
            return None;
        }
        // The firmware and Windows Setup restart the machine without a word.
        if matches!(self.progress.kind, Kind::Start | Kind::Setup) {
            return None;
        }
        if std::mem::take(&mut self.progress.announced) {
            self.enter(Kind::Boot, "starting again".to_owned());
            return None;
        }
        let during = format!("it restarted during {:?}", self.progress.phase);
        self.display.say(&format!("the machine crashed: {during}"));
        self.progress.fail(STAYS_UP, during);
        self.progress.crashes += 1;
        if self.progress.crashes > MOST_CRASHES {
            self.progress.fail(TO_THE_END, format!("it crashed {} times", self.progress.crashes));
            return Some(End::Off);
        }
        self.enter(Kind::Boot, "starting again after a crash".to_owned());
        None
    }

    /// `is_quiet`: no event is waiting.
    fn tick(&mut self, is_quiet: bool) -> Result<Option<End>> {
        self.count();
        self.display.tick(&self.progress.phase, self.progress.took);
        // QEMU's last events may come after its end.
        if let Some(reason) = self.processes.ended()? {
            let since = *self.gone.get_or_insert_with(Instant::now);
            if !is_quiet || since.elapsed() < LAST_WORDS {
                return Ok(None);
            }
            if !self.progress.ended {
                self.progress.fail(TO_THE_END, reason);
            }
            return Ok(Some(End::Off));
        }
        if self.scan_over.is_some_and(|over| Instant::now() > over) {
            self.end_scan("it goes on after the step");
        }
        let emulated = self.config.accelerator == Accelerator::Emulation;
        let keys = if emulated { KEYS_EMULATED } else { KEYS };
        let waits_for_key = self.progress.kind == Kind::Start
            && self.config.kernel.is_none()
            && matches!(self.config.source, Source::Medium { .. })
            && self.progress.took < keys;
        if waits_for_key && self.key.elapsed() > Duration::from_secs(1) {
            self.key = Instant::now();
            self.qmp.press("ret")?;
        }
        for (kind, took) in [(self.progress.kind, self.progress.took), (Kind::Whole, self.progress.whole)] {
            let limit = self.config.limits.of(kind);
            if took > limit {
                let phase = self.progress.phase.clone();
                let what = if kind == Kind::Whole { "the whole run" } else { "the phase" };
                self.progress.fail(IN_TIME, format!("in {phase:?}, {what} took more than {limit:?}"));
                self.picture("limit")?;
                return Ok(Some(End::Off));
            }
        }
        Ok(None)
    }

    /// Keeps a picture of the screen with the results.
    fn picture(&mut self, name: &str) -> Result<()> {
        std::fs::create_dir_all(&self.config.results)?;
        let file = self.config.results.join(format!("screen-{name}.png"));
        match self.qmp.screen(&file) {
            Ok(()) => self.display.say(&format!("the screen: {}", file.display())),
            Err(error) => self.display.say(&format!("no picture of the screen: {error:#}")),
        }
        Ok(())
    }

    fn start_scan(&mut self) -> Result<()> {
        let patience = self.config.limits.of(Kind::Step).as_secs();
        let scan = self.link.scan(patience, &self.sender)?;
        self.end_scan("another scan began");
        self.scan = Some((scan, self.progress.phase.clone(), Vec::new()));
        self.scan_over = None;
        Ok(())
    }

    /// Counts the scan as a check. `reason` is for one that has no closing line.
    fn end_scan(&mut self, reason: &str) {
        self.scan_over = None;
        let Some((scan, phase, lines)) = self.scan.take() else { return };
        drop(scan);
        let name = format!("the scan from outside, {phase}");
        let wrong: Vec<&str> = lines.iter().filter_map(|line| line.strip_prefix("FAILED ")).collect();
        let failure = match lines.last().and_then(|line| Counts::parse(line)) {
            Some(counts) if counts.failed == 0 && counts.passed > 0 => String::new(),
            Some(Counts { passed: 0, failed: 0 }) => "the machine asked for no scan".to_owned(),
            Some(_) => wrong.join("; "),
            None => format!("it has no result: {reason}"),
        };
        self.progress.checks.push(Check::new(&name, printable(&failure)));
    }

    /// Saves the machine, so that a later run continues it.
    fn interrupt(&mut self) -> Result<Option<End>> {
        self.display.say("interrupted: the machine is saved; this may take a minute");
        // The scan of this step begins anew.
        self.scan = None;
        self.count();
        let state = self.folder.file(STATE);
        if let Err(error) = self.qmp.save(&state, Duration::from_secs(600)) {
            let _partial = std::fs::remove_file(&state);
            return Err(error.context("the machine is not saved; --resume starts it again from its disk"));
        }
        self.qmp.quit();
        self.processes.wait(Duration::from_secs(20))?;
        Ok(Some(End::Interrupted))
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        let _gone = std::fs::remove_file(self.folder.file(SCREEN_SOCKET));
        let _gone = std::fs::remove_file(self.sockets.vnc());
    }
}

/// Waits until the state of a saved machine is in memory.
fn arrive(qmp: &mut Qmp) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(600);
    while qmp.run("query-status", &json!({}))?["status"] == "inmigrate" {
        if Instant::now() > end {
            bail!("the saved machine is not loaded within ten minutes");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// A channel for the events of a run.
pub fn events() -> (Sender<Event>, Receiver<Event>) {
    mpsc::channel()
}
