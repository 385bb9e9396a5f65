//! The part of `cargo lab run` in the driver's process: a host with the driver.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use machine::Machine;
use machine::nt::Kernel;
use machine::wire::{Family, Network};
use serde::{Deserialize, Serialize};

use super::{Verdict, report, show};
use crate::flows::Watched;
use crate::report::Page;
use crate::sandbox::inner;
use crate::trace::{Account, Limits};
use crate::world::{Hosted, Plan, apart};

/// What the outer process asks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Question {
    /// Did the driver start, and what has it registered? Answer: [`Told`].
    Shown,
    /// Does the machine run, and does no program ask for the end? Answer: a bool.
    Runs,
    /// Write the page of layers. Answer: nothing.
    Page(PathBuf),
    /// End the connections of programs, unload, and report. Answer: [`Told`].
    Unload,
    /// The rest of the text. Answer: [`Told`].
    More,
}

/// A part of a text, and a verdict.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Told {
    /// The text.
    pub text: String,
    /// Whether there is more of it.
    pub more: bool,
    /// How it stands with the driver.
    pub verdict: Verdict,
}

/// Most bytes of a part; an answer has a limit.
const PART: usize = 16 << 10;

/// How long the connections of programs may take to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// What uses the driver's devices meanwhile, in the driver's process.
pub trait Companion {
    /// Whether the run should end.
    fn wants_the_end(&self) -> bool;

    /// Closes everything.
    fn end(self: Box<Self>, patience: Duration) -> Ended;
}

/// How the end of a [`Companion`] was.
#[derive(Clone, Debug, Default)]
pub struct Ended {
    /// What it has to say, as lines.
    pub said: String,
    /// What does not close.
    pub held: Option<String>,
}

struct Inside {
    /// The host with the machine; the machine alone if the driver does not run.
    world: World,
    companion: Option<Box<dyn Companion>>,
    text: String,
    verdict: Verdict,
    service: String,
}

enum World {
    Hosted(Box<Hosted>),
    Alone(Box<Machine>),
}

impl World {
    fn machine(&mut self) -> &mut Machine {
        match self {
            Self::Hosted(hosted) => &mut hosted.machine,
            Self::Alone(machine) => machine,
        }
    }
}

/// Plays it, until nothing more is asked. `companion` begins when the driver runs.
///
/// # Errors
/// If the host does not start, or the outer process is gone.
pub fn run(
    plan: &Plan<'_>,
    companion: impl FnOnce(Arc<Kernel>) -> Result<Option<Box<dyn Companion>>>,
) -> Result<bool> {
    let mut companion = Some(companion);
    let mut inside = None;
    // The driver starts with the first question: whoever asks tells how a start ended
    // that does not come back.
    apart::serve(|question| {
        if let Some(companion) = companion.take() {
            inside = Some(Inside::start(plan, companion)?);
        }
        inside.as_mut().context("the host has not started")?.answer(question)
    })?;
    let Some(inside) = inside else { return Ok(false) };
    if let World::Hosted(hosted) = inside.world {
        hosted.host.stop()?;
    }
    Ok(inside.verdict == Verdict::Well)
}

impl Inside {
    fn start(
        plan: &Plan<'_>,
        companion: impl FnOnce(Arc<Kernel>) -> Result<Option<Box<dyn Companion>>>,
    ) -> Result<Self> {
        let sys = plan.driver.context("a driver")?;
        let mut machine = Plan { driver: None, ..plan.clone() }.machine()?;
        let others = machine.engine().inventory();
        let wire = inner::wire(&Network::default().interface)?;
        let service = plan.service.0.to_owned();
        if let Err(error) = machine.start(sys) {
            let verdict = Verdict::of_start(&error, machine.kernel());
            let text = report::text(machine.kernel());
            return Ok(Self {
                world: World::Alone(Box::new(machine)),
                companion: None,
                text,
                verdict,
                service,
            });
        }
        let missing = machine.missing().iter();
        let missing =
            missing.map(|function| format!("not modelled, and reported when it is called: {function}\n"));
        let mut text: String = missing.collect();
        let own = machine.engine().inventory().without(&others);
        text += &show::objects(machine.engine(), &own);
        text += &show::devices(&machine.kernel().devices());
        let hosted = plan.host(machine, wire)?;
        let companion = companion(Arc::clone(hosted.machine.kernel()))?;
        let world = World::Hosted(Box::new(hosted));
        Ok(Self { world, companion, text, verdict: Verdict::Well, service })
    }

    fn answer(&mut self, question: Question) -> Result<serde_json::Value> {
        Ok(match question {
            Question::Shown | Question::More => serde_json::to_value(self.part())?,
            Question::Runs => {
                let is_over = self.companion.as_ref().is_some_and(|one| one.wants_the_end());
                let has_stopped = self.world.machine().kernel().stopped().is_some();
                serde_json::to_value(!is_over && !has_stopped)?
            }
            Question::Page(path) => {
                self.write_page(&path)?;
                serde_json::Value::Null
            }
            Question::Unload => {
                self.unload();
                serde_json::to_value(self.part())?
            }
        })
    }

    /// The next part of the text.
    fn part(&mut self) -> Told {
        let mut end = PART.min(self.text.len());
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        let rest = self.text.split_off(end);
        let text = std::mem::replace(&mut self.text, rest);
        Told { text, more: !self.text.is_empty(), verdict: self.verdict.clone() }
    }

    fn unload(&mut self) {
        let companion = self.companion.take();
        let Ended { said, held } = companion.map(|companion| companion.end(PATIENCE)).unwrap_or_default();
        let World::Hosted(hosted) = &mut self.world else { return };
        let machine = &mut hosted.machine;
        let kernel = Arc::clone(machine.kernel());
        self.verdict = match held {
            _ if kernel.stopped().is_some() => Verdict::of(&kernel),
            Some(held) => Verdict::Stays(held),
            None if !kernel.can_unload(machine.service()) => {
                Verdict::Stays("it has no unload routine".to_owned())
            }
            None => {
                // What a close has left to the driver's worker ends first, as it does on
                // a machine that is not in such a hurry.
                kernel.work().drain(PATIENCE);
                // What stopped the machine, and what was left, is in the kernel.
                let _left = machine.stop();
                Verdict::of(&kernel)
            }
        };
        self.text = said + &report::text(&kernel);
        for line in kernel.log_lines() {
            self.text += &format!("log: {}\n", crate::printable::printable(&line));
        }
    }

    /// Writes a page of all events, as `cargo lab trace` does for a capture.
    fn write_page(&self, path: &std::path::Path) -> Result<()> {
        let World::Hosted(hosted) = &self.world else { return Ok(()) };
        let log = hosted.host.report()?.log;
        let length = log.records().last().map_or(Duration::ZERO, |record| record.at);
        let watched = Watched::of(hosted.machine.engine());
        let mut account = Account::new(watched, false, Limits::default(), length);
        for record in log.records() {
            // The page shows the comparison with the documents.
            let _ = account.note(record);
        }
        let hosts = Family::BOTH.map(|family| hosted.network.host_address(family).to_string());
        let facts = vec![
            ("host", hosts.join(", ")),
            ("events", account.records.to_string()),
            ("blocked", account.silenced.to_string()),
        ];
        let title = format!("cargo lab run {}", self.service);
        Page::new(&title, facts, &account, &[]).of_driver(&self.service).write_to(path)
    }
}
