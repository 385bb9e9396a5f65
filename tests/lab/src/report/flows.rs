//! Each documented flow as the driver's callouts saw it, beside the documents.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use crate::host::documented::{self, Comparison, Expected};
use crate::host::{Event, Log, Record};
use crate::wfp::{Change, Engine, Guid};

/// The layers at which a driver's callouts stand, by the callout's key.
pub struct Watched(HashMap<Guid, &'static str>);

impl Watched {
    /// Every callout that was added to the engine.
    pub fn of(engine: &Engine) -> Self {
        let callouts = engine.journal().into_iter().filter_map(|change| match change {
            Change::CalloutAdd { key, layer, .. } => Some((key, engine.layer_by_key(layer)?.name)),
            _ => None,
        });
        Self(callouts.collect())
    }

    /// How often each of the callouts was called in all that is logged.
    pub fn invocations(&self, log: &Log) -> BTreeMap<Guid, u64> {
        let steps = log.records().flat_map(|record| &record.steps);
        let mut counts = BTreeMap::new();
        for invocation in steps.flat_map(|step| &step.decision.invocations) {
            if self.0.contains_key(&invocation.callout_key) {
                *counts.entry(invocation.callout_key).or_default() += 1;
            }
        }
        counts
    }

    /// The layers of an event as the callouts saw them, in order. A layer
    /// counts where its callout ran, under the name for which it was added.
    pub fn seen(&self, record: &Record) -> Vec<&'static str> {
        let invocations = record.steps.iter().flat_map(|step| &step.decision.invocations);
        invocations.filter_map(|invocation| self.0.get(&invocation.callout_key).copied()).collect()
    }
}

/// An event of the flows, and what was seen of it.
#[derive(Clone, Debug)]
pub struct Flow {
    /// The event.
    pub event: Event,
    /// How often it was met.
    pub met: usize,
    /// The different sequences seen.
    pub seen: BTreeSet<String>,
    /// The first that is not as documented.
    pub deviation: Option<String>,
}

/// Every event of a log for which there is a documented order, in the order of
/// the page.
pub fn flows(log: &Log, watched: &Watched) -> Vec<Flow> {
    let mut flows = Vec::new();
    for event in Event::ALL {
        let mut flow = Flow { event: *event, met: 0, seen: BTreeSet::new(), deviation: None };
        for record in log.records().filter(|record| record.event == *event) {
            let seen = watched.seen(record);
            let comparison = documented::compare(*event, seen.iter().copied(), record.stopped(), |_| true);
            if comparison == Comparison::Undocumented {
                continue;
            }
            flow.met += 1;
            flow.seen.insert(folded(&seen).join(" "));
            if comparison != Comparison::Match && flow.deviation.is_none() {
                flow.deviation = Some(format!("{comparison} ({})", record.ends));
            }
        }
        if flow.met > 0 {
            flows.push(flow);
        }
    }
    flows
}

/// The same with the segments behind the first as an ellipsis.
fn folded(seen: &[&'static str]) -> Vec<&'static str> {
    const SEGMENT: usize = 2;
    let mut folded = seen.to_vec();
    while let [.., a, b, c, d] = folded[..]
        && (a, b) == (c, d)
    {
        folded.truncate(folded.len() - SEGMENT);
    }
    if folded.len() < seen.len() {
        folded.push("…");
    }
    folded
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let times = if self.met == 1 { "once".to_owned() } else { format!("{} times", self.met) };
        writeln!(f, "  {} ({times})", self.event)?;
        for seen in &self.seen {
            writeln!(f, "    seen        {seen}")?;
        }
        writeln!(f, "    documented  {}", sequence(self.event))?;
        match &self.deviation {
            None => write!(f, "    match"),
            Some(deviation) => write!(f, "    DIFFERS: {deviation}"),
        }
    }
}

/// The documented order in words: what is open in parentheses, what may repeat
/// with an ellipsis.
fn sequence(event: Event) -> String {
    let layers = documented::sequence(event).unwrap_or_default().iter().map(|expected| match expected {
        Expected::Layer(name) => (*name).to_owned(),
        Expected::Open(name) => format!("({name})"),
        Expected::Segments(names) => format!("{} …", names.join(" ")),
    });
    layers.collect::<Vec<_>>().join(" ")
}
