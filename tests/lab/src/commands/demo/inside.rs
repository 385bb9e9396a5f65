//! The demo's part in the driver's process: the host, and what the driver tells.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use machine::etw::{Enable, Event as DriverEvent, Value as Field};
use machine::host::documented::FLOWS;
use machine::host::{Event, HostHandle, LIFECYCLES, State};
use machine::image::KERNEL_STACK_SIZE;
use machine::nt::Trace;
use machine::wfp::{ActionType, DisplayData, Engine, Filter, Session, SessionId, Value};
use machine::wire::{Family, Network};
use serde::{Deserialize, Serialize};

use super::{CLOSED, PATIENCE};
use crate::counters::Counters;
use crate::flows::{CourseText, Watched, flows, lifecycles};
use crate::hushport::EVENT_PROVIDER;
use crate::report::{Check, Page};
use crate::sandbox::inner;
use crate::trace::{Account, Limits};
use crate::world::{Hosted, Plan, apart};

/// What the demo asks of the driver's process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Question {
    /// Listen to the driver's events.
    Listen,
    /// What did the driver silence since then? Answer: [`Told`].
    Silenced,
    /// Connect, send this, and wait for the end. Answer: [`Outcome`].
    Connect(SocketAddr, Vec<u8>),
    /// Send a datagram, from this socket or a new one. Answer: the socket.
    SendDatagram(Option<SocketAddr>, SocketAddr, Vec<u8>),
    /// Close a socket of datagrams.
    CloseDatagrams(SocketAddr),
    /// Close a listener.
    Unlisten(SocketAddr),
    /// Change the filters of somebody else.
    Filter {
        /// The family of their layer.
        is_v6: bool,
        /// The change.
        foreign: Foreign,
    },
    /// Set `Mode`.
    Mode(u32),
    /// Show the flows, and write the page. Answer: [`Told`].
    Show {
        /// Whether closed ports answer without the driver.
        answers: bool,
        /// The file of the page.
        page: PathBuf,
    },
    /// Unload the driver. Answer: [`Told`].
    Unload,
}

/// A change of the filters of somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Foreign {
    /// Add one that permits.
    Permit,
    /// Add one that blocks.
    Block,
    /// Remove both.
    Remove,
}

/// How a connection ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// Its state.
    pub state: String,
    /// What was received.
    pub received: Vec<u8>,
}

/// Text, and comparisons.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Told {
    /// The text.
    pub text: String,
    /// The comparisons.
    pub checks: Vec<Check>,
}

impl Told {
    fn note(&mut self, what: impl Into<String>, expected: impl ToString, seen: impl ToString) {
        let (expected, seen) = (expected.to_string(), seen.to_string());
        self.checks.push(Check { what: what.into(), expected, seen });
    }
}

/// Documented events that the demo does not play. Linux sends the handshake's ACK
/// alone; no driver here pends a connect; and the demo needs no `ping`.
const NOT_PLAYED: [Event; 5] = [
    Event::AckInWithData,
    Event::CompletionPasses,
    Event::CompletionFails,
    Event::EchoRequestIn,
    Event::EchoReplyOut,
];

/// The host of a world of the demo.
struct Inside {
    world: Hosted,
    events: Option<Trace>,
    foreign: Option<SessionId>,
}

/// Plays it, until nothing more is asked.
///
/// # Errors
/// If it does not start, or the outer process is gone.
pub fn run(plan: &Plan<'_>) -> Result<bool> {
    let world = plan.hosted(inner::wire(&Network::default().interface)?)?;
    let mut inside = Inside { world, events: None, foreign: None };
    apart::serve(|question| inside.answer(question))?;
    inside.world.host.stop()?;
    Ok(true)
}

impl Inside {
    fn answer(&mut self, question: Question) -> Result<serde_json::Value> {
        let host = &self.world.host;
        let mut told = Told::default();
        Ok(match question {
            Question::Listen => {
                self.events = Some(self.world.machine.kernel().trace(Enable::all(EVENT_PROVIDER), None));
                serde_json::Value::Null
            }
            Question::Silenced => {
                silenced(&self.events()?.take(), &mut told)?;
                serde_json::to_value(told)?
            }
            Question::Connect(address, request) => serde_json::to_value(outcome(host, address, request)?)?,
            Question::SendDatagram(Some(local), to, payload) => {
                host.send_datagram_from(local, to, payload)??;
                serde_json::to_value(local)?
            }
            Question::SendDatagram(None, to, payload) => {
                serde_json::to_value(host.send_datagram(to, payload)??)?
            }
            Question::CloseDatagrams(local) => serde_json::to_value(host.close_datagrams(local)??)?,
            Question::Unlisten(local) => serde_json::to_value(host.unlisten(local)??)?,
            Question::Filter { is_v6, foreign } => {
                let family = if is_v6 { Family::V6 } else { Family::V4 };
                change(self.world.machine.engine(), &mut self.foreign, family, foreign)?;
                serde_json::Value::Null
            }
            Question::Mode(mode) => {
                self.world.machine.set("Mode", mode);
                serde_json::Value::Null
            }
            Question::Show { answers, page } => {
                show_flows(&self.world, answers, &mut told)?;
                policies(&self.events()?.events(), &mut told)?;
                write_page(&self.world, &page)?;
                serde_json::to_value(told)?
            }
            Question::Unload => {
                unload(&mut self.world, &mut told)?;
                let events = self.events()?;
                let last = events.take().pop().map(|event| event.name);
                let lost = events.lost();
                told.note("the driver's last event", "Stopped", last.unwrap_or_default());
                told.note("events lost by the session", 0, lost);
                serde_json::to_value(told)?
            }
        })
    }

    fn events(&self) -> Result<&Trace> {
        self.events.as_ref().context("no session receives the driver's events")
    }
}

/// Adds or removes the filters of an administrator, in a session of their own.
fn change(engine: &Engine, session: &mut Option<SessionId>, family: Family, foreign: Foreign) -> Result<()> {
    let layer = engine.layer_by_name(&format!("ALE_AUTH_RECV_ACCEPT_{family:?}"));
    let layer = layer.context("the engine lacks a layer")?.key;
    let name = DisplayData { name: Some("an administrator's".into()), description: None };
    let (action, weight) = match foreign {
        Foreign::Permit => (ActionType::PERMIT, 1),
        Foreign::Block => (ActionType::BLOCK, 2),
        Foreign::Remove => {
            let session = session.take().context("there are no such filters")?;
            return Ok(engine.close(session).to_result()?);
        }
    };
    let opened = match *session {
        Some(opened) => opened,
        None => engine.open(Session { display: name.clone(), flags: DYNAMIC, ..Session::default() })?,
    };
    *session = Some(opened);
    let filter = Filter { display: name, weight: Value::Uint8(weight), ..Filter::new(layer, action) };
    engine.filter_add(opened, filter)?;
    Ok(())
}

/// `FWPM_SESSION_FLAG_DYNAMIC`.
const DYNAMIC: u32 = 1;

/// The ports that the driver's events report as silenced, by family and technique.
fn silenced(events: &[DriverEvent], told: &mut Told) -> Result<()> {
    let mut ports: BTreeMap<(Family, String), BTreeSet<u16>> = BTreeMap::new();
    for event in events.iter().filter(|event| event.name == "Silenced") {
        if let Some(Field::Socket(local)) = event.field("Local") {
            let family = if local.is_ipv4() { Family::V4 } else { Family::V6 };
            let technique = event.text("Technique").to_owned();
            ports.entry((family, technique)).or_default().insert(local.port());
        }
    }
    for ((family, technique), ports) in &ports {
        writeln!(
            told.text,
            "  {family}: the driver reports {} ports silent to {technique} probes",
            ports.len()
        )?;
    }
    for family in Family::BOTH {
        let asked = ports.get(&(family, "Syn".to_owned())).map_or(0, BTreeSet::len);
        told.note(format!("{family} with driver: ports that its events report silenced"), CLOSED, asked);
    }
    let dropped: u64 = events.iter().map(|event| event.number("Dropped")).sum();
    writeln!(told.text, "  {dropped} more events were suppressed")?;
    Ok(())
}

/// The modes that the driver's events report as applied.
fn policies(events: &[DriverEvent], told: &mut Told) -> Result<()> {
    let applied = events.iter().filter(|event| event.name == "PolicyApplied");
    let changed = applied.filter(|event| event.text("Occasion") == "Change");
    let mut modes: Vec<_> = changed.map(|event| event.number("Mode").to_string()).collect();
    // The driver reports each reading of the registry, even if nothing has changed.
    modes.dedup();
    let modes = modes.join(", ");
    writeln!(told.text, "  the driver reports that Mode became {modes}")?;
    told.note("Mode by the driver's events", "0, 2, 0, 2", modes);
    Ok(())
}

/// Connects, sends the request, and waits until the connection ends.
fn outcome(host: &HostHandle, address: SocketAddr, request: Vec<u8>) -> Result<Outcome> {
    let connection = host.connect(address, request)??;
    let end = Instant::now() + PATIENCE;
    loop {
        match host.outcome(connection)? {
            Some(outcome) if [State::Closed, State::Aborted].contains(&outcome.state) => {
                return Ok(Outcome { state: format!("{:?}", outcome.state), received: outcome.received });
            }
            _ if Instant::now() > end => bail!("the connection to {address} does not end in time"),
            _ => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn show_flows(world: &Hosted, answers: bool, told: &mut Told) -> Result<()> {
    let report = world.host.report()?;
    let watched = Watched::of(world.machine.engine());
    let flows = flows(&report.log, &watched);
    let may_be_absent = |event: Event| {
        let is_answer = matches!(event, Event::RstOut | Event::IcmpErrorOut);
        NOT_PLAYED.contains(&event) || is_answer && !answers
    };
    for flow in &flows {
        writeln!(told.text, "{flow}")?;
        let families: Vec<_> = flow.families.iter().map(Family::to_string).collect();
        let in_any_family = may_be_absent(flow.event);
        let expected = if in_any_family { "match" } else { "match, IPv4 and IPv6" };
        let seen = match &flow.deviation {
            Some(deviation) => deviation.clone(),
            None if in_any_family => "match".to_owned(),
            None => format!("match, {}", families.join(" and ")),
        };
        told.note(format!("layers of: {}", flow.event), expected, seen);
    }
    for event in FLOWS.iter().map(|documented| documented.event) {
        if !may_be_absent(event) && !flows.iter().any(|flow| flow.event == event) {
            told.note(format!("layers of: {event}"), "match", "never met");
        }
    }
    writeln!(told.text, "\n  the events of each connection, in order")?;
    let courses = lifecycles(&report.log).courses();
    for (lifecycle, course) in &courses {
        writeln!(told.text, "{}", CourseText(lifecycle, course))?;
    }
    for lifecycle in &LIFECYCLES {
        let course = courses.iter().find(|(other, _)| other.name == lifecycle.name);
        let seen = match course {
            Some((_, course)) if course.complete > 0 => course.deviation.as_deref().unwrap_or("match"),
            _ => "never complete",
        };
        told.note(format!("order of events: {}", lifecycle.name), "match", seen);
    }
    let counters = Counters::read(world.machine.kernel(), world.machine.engine())?;
    let invoked = watched.invocations(&report.log);
    let asked: BTreeMap<_, _> = invoked.keys().map(|key| (*key, counters.asked(*key))).collect();
    let total: u64 = asked.values().sum();
    writeln!(told.text, "  the driver reports {total} indications at {} layers", asked.len())?;
    let agree = if asked == invoked { "the engine's" } else { "different" };
    told.note("the driver's own counters", "the engine's", agree);
    let forgotten = report.log.forgotten();
    told.note("events lost by the log", 0, forgotten);
    Ok(())
}

/// Writes a page of all events, as `cargo lab trace` does for a capture.
fn write_page(world: &Hosted, path: &Path) -> Result<()> {
    let log = world.host.report()?.log;
    let length = log.records().last().map_or(Duration::ZERO, |record| record.at);
    let mut account = Account::new(Watched::of(world.machine.engine()), true, Limits::default(), length);
    for record in log.records() {
        // The demo's own checks compare the records.
        let _ = account.note(record);
    }
    let hosts = Family::BOTH.map(|family| world.network.host_address(family).to_string());
    let facts = vec![
        ("host", hosts.join(", ")),
        ("packets", world.recorder.packets().len().to_string()),
        ("events", account.records.to_string()),
        ("silenced", account.silenced.to_string()),
        ("deviations", account.deviations.to_string()),
    ];
    Page::new("cargo lab demo", facts, &account, &[]).write_to(path)
}

fn unload(world: &mut Hosted, told: &mut Told) -> Result<()> {
    let left = match world.machine.stop() {
        Ok(left) if left.is_empty() => "nothing".to_owned(),
        Ok(left) => left.to_string(),
        Err(stop) => stop.to_string(),
    };
    writeln!(told.text, "  pool, handles and WFP objects left: {left}")?;
    told.note("left behind by the driver", "nothing", left);
    let marks = world.machine.kernel().stack_marks();
    let marks: Vec<_> = marks.iter().map(|(what, bytes)| format!("{what} {bytes}")).collect();
    writeln!(
        told.text,
        "  kernel stack used, at most, in bytes of {KERNEL_STACK_SIZE}: {}",
        marks.join(", ")
    )?;
    Ok(())
}
