//! What the driver tells of a documented flow in which a step is missing, doubled
//! or exchanged with the next one.
//!
//! The host plays every flow of the pages "TCP packet flows" and "UDP packet flows"
//! ([`machine::host::documented::FLOWS`]). Each run has one change at one step. The
//! driver of the run is told nothing: it sees what its callouts are shown.

mod play;
mod reasons;

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use machine::etw::Enable;
use machine::host::documented::{FLOWS, Flow, Page, without_family};
use machine::host::{
    Application, Disorder, Disordered, Fault, Filter, Host, OpenPoints, Options, Record, Step,
};
use machine::wire::{Family, Network};
use machine::{Machine, nt};

use crate::hushport::{self, EVENT_PROVIDER};
pub use play::play;
pub use reasons::reason;

/// A change of one step of a documented flow.
#[derive(Clone, Debug)]
pub struct Change {
    /// The family of the flow.
    pub family: Family,
    /// The documented flow.
    pub flow: &'static Flow,
    /// The layer of the step, without family.
    pub layer: String,
    /// The number of the step in its flow.
    pub step: usize,
    /// The change.
    pub fault: Fault,
    disorder: Disorder,
}

/// What the driver told of a change.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The change.
    pub change: Change,
    /// The first OrderDeviation, if there was one.
    pub told: Option<Told>,
}

/// An OrderDeviation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are the event's")]
pub struct Told {
    pub layer: String,
    pub expected: String,
    pub seen: String,
}

impl Outcome {
    /// Why no callout at these layers can tell, if it was not told and there is a
    /// known reason.
    pub fn reason(&self) -> Option<&'static str> {
        reason(self.change.flow, &self.change.layer, self.change.fault)
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let page = match self.flow.page {
            Page::Tcp => "TCP",
            Page::Udp => "UDP",
            _ => "other",
        };
        let fault = match self.fault {
            Fault::Dropped => "left out",
            Fault::Doubled => "doubled",
            Fault::Exchanged => "exchanged with the next",
        };
        let (family, event) = (self.family, self.flow.event);
        write!(f, "{page} {family:?} {event}, {}: {} {fault}", self.step + 1, self.layer)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.change)?;
        match &self.told {
            Some(Told { layer, expected, seen }) => {
                let or_none = |name: &str| if name.is_empty() { "none".to_owned() } else { name.to_owned() };
                write!(f, "told at {layer}: expected {}, seen {}", or_none(expected), or_none(seen))
            }
            None => write!(f, "not told: {}", self.reason().unwrap_or("NO REASON IS KNOWN")),
        }
    }
}

/// Plays the flows without a change; returns what the driver told.
///
/// # Errors
/// If the driver does not start, or if the play does not go on.
pub fn unchanged(sys: &Path, family: Family) -> Result<Vec<Told>> {
    Ok(run(sys, family, None)?.1)
}

/// Every change of a family: each step of each page is left out, doubled, and
/// exchanged with the next one.
///
/// # Errors
/// If the driver does not start, or if the play lacks a flow.
pub fn changes(sys: &Path, family: Family) -> Result<Vec<Change>> {
    let (records, _) = run(sys, family, None)?;
    let mut changes = Vec::new();
    for flow in &FLOWS {
        let Some(protocol) = flow.page.protocol() else { continue };
        let is_of_page = |record: &&Record| {
            let protocols = [protocol, 1, 58];
            record.event == flow.event && protocols.contains(&record.ends.protocol) && !record.is_rest
        };
        let record = records.iter().find(is_of_page);
        let record = record.with_context(|| format!("{}: not in the play", flow.event))?;
        // The first segments are those of the page.
        let steps = record.steps.iter().take(flow.layers.len().max(3));
        let steps: Vec<&Step> = match flow.event {
            machine::host::Event::DataSent => steps.take(3).collect(),
            _ => steps.collect(),
        };
        for (step, at) in steps.iter().enumerate() {
            let earlier = records.iter().flat_map(|record| &record.steps);
            let earlier = earlier.filter(|other| other.layer == at.layer && other.number < at.number);
            let place = earlier.count() as u32;
            let has_next = step + 1 < steps.len();
            for fault in [Fault::Dropped, Fault::Doubled, Fault::Exchanged] {
                if fault == Fault::Exchanged && !has_next {
                    continue;
                }
                let disorder = Disorder { layer: at.layer, fault, at: place };
                let layer = without_family(at.name);
                changes.push(Change { family, flow, layer, step, fault, disorder });
            }
        }
    }
    Ok(changes)
}

/// Plays the flows with a change.
///
/// # Errors
/// If the driver does not start, or if the play does not go on.
pub fn outcome(sys: &Path, change: &Change) -> Result<Outcome> {
    let (_, told) = run(sys, change.family, Some(change.disorder)).with_context(|| change.to_string())?;
    Ok(Outcome { change: change.clone(), told: told.into_iter().next() })
}

/// Lets the order check of a running driver settle. The check begins with the first
/// call that it sees. What was in progress then is over after two minutes.
///
/// # Errors
/// If a filter blocks the call.
pub fn settle(machine: &Machine) -> Result<()> {
    let engine: Arc<dyn Filter> = Arc::clone(machine.engine()) as _;
    let mut before = Host::new(engine, Options::default(), OpenPoints::default());
    before.listen(SocketAddr::new(Network::default().host.0.into(), 1), Application::Hold)?;
    machine.kernel().clock().advance(Duration::from_secs(120));
    Ok(())
}

/// Starts the driver with `CheckOrder` 1 and without decisions, plays, and returns
/// the host's log and the driver's OrderDeviations.
fn run(sys: &Path, family: Family, disorder: Option<Disorder>) -> Result<(Vec<Record>, Vec<Told>)> {
    let mut machine = hushport::machine(nt::Options::default());
    machine.set("CheckOrder", 1);
    machine.set("Mode", 0);
    machine.start(sys)?;
    settle(&machine)?;
    let engine: Arc<dyn Filter> = Arc::clone(machine.engine()) as _;
    let trace = machine.kernel().trace(Enable::all(EVENT_PROVIDER), None);
    let filter: Arc<dyn Filter> = match disorder {
        Some(disorder) => Arc::new(Disordered::new(engine, disorder)),
        None => engine,
    };
    let records = play::play(filter, family);
    let deviations = trace.take().into_iter().filter(|event| event.name == "OrderDeviation");
    let told = deviations.map(|event| Told {
        layer: event.text("Layer").to_owned(),
        expected: event.text("Expected").to_owned(),
        seen: event.text("Seen").to_owned(),
    });
    let told = told.collect();
    drop(trace);
    machine.stop().map_err(|stop| anyhow::anyhow!("the driver does not stop: {stop:?}"))?;
    Ok((records?, told))
}
