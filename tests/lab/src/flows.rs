//! The layers of each documented flow, as the driver's callouts saw them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use machine::host::documented::{self, Comparison, Expected};
use machine::host::{Course, Event, Lifecycle, Lifecycles, Log, Record};
use machine::wfp::{Change, Engine, Guid};
use machine::wire::Family;

/// The layers at which a driver has callouts, by the callout's key.
pub struct Watched {
    callouts: HashMap<Guid, &'static str>,
    /// The layers where a filter calls one of them, by name without family.
    led_to: BTreeSet<String>,
}

impl Watched {
    /// Reads every callout that was added to the engine.
    pub fn of(engine: &Engine) -> Self {
        let mut callouts = HashMap::new();
        let mut led_to = BTreeSet::new();
        for change in engine.journal() {
            match change {
                Change::CalloutAdd { key, layer, .. } => {
                    callouts.extend(engine.layer_by_key(layer).map(|layer| (key, layer.name)));
                }
                Change::FilterAdd { callout: Some(callout), .. } => {
                    led_to.extend(callouts.get(&callout).map(|name: &&str| documented::without_family(name)));
                }
                _ => {}
            }
        }
        Self { callouts, led_to }
    }

    /// Whether a callout is one of these.
    pub fn is_ours(&self, callout: Guid) -> bool {
        self.callouts.contains_key(&callout)
    }

    /// Whether a filter calls a callout at a layer. The layer's name has no family.
    pub fn stands_at(&self, layer: &str) -> bool {
        self.led_to.contains(layer)
    }

    /// How often each callout was called in the whole log.
    pub fn invocations(&self, log: &Log) -> BTreeMap<Guid, u64> {
        let steps = log.records().flat_map(|record| &record.steps);
        let mut counts = BTreeMap::new();
        for invocation in steps.flat_map(|step| &step.decision.invocations) {
            if self.callouts.contains_key(&invocation.callout_key) {
                *counts.entry(invocation.callout_key).or_default() += 1;
            }
        }
        counts
    }

    /// The layers of an event at which callouts ran, in order. A layer has the name
    /// under which its callout was added.
    pub fn seen(&self, record: &Record) -> Vec<&'static str> {
        let invocations = record.steps.iter().flat_map(|step| &step.decision.invocations);
        invocations.filter_map(|invocation| self.callouts.get(&invocation.callout_key).copied()).collect()
    }
}

/// An event that has a documented order, with what was seen of it.
#[derive(Clone, Debug)]
pub struct Flow {
    /// The event.
    pub event: Event,
    /// How often it occurred.
    pub met: usize,
    /// The families in which it occurred.
    pub families: BTreeSet<Family>,
    /// The different sequences of layers that were seen.
    pub seen: BTreeSet<String>,
    /// The first deviation from the documented order.
    pub deviation: Option<String>,
}

/// The events that have a documented order, as they occur.
#[derive(Clone, Debug, Default)]
pub struct Flows(BTreeMap<Event, Flow>);

impl Flows {
    /// Adds a record. `stands` tells whether the driver is expected to see a layer,
    /// named without family.
    pub fn note(&mut self, record: &Record, watched: &Watched, stands: impl Fn(&str) -> bool) -> Comparison {
        let (event, seen) = (record.event, watched.seen(record));
        // The record before this one lists these layers, so they are not expected
        // here.
        let listed = |layer: &str| record.is_rest && layer.starts_with("INBOUND");
        let expected = |layer: &str| stands(layer) && !listed(layer);
        let comparison = documented::compare(event, seen.iter().copied(), record.stopped(), expected);
        if comparison == Comparison::Undocumented {
            return comparison;
        }
        let empty =
            || Flow { event, met: 0, families: BTreeSet::new(), seen: BTreeSet::new(), deviation: None };
        let flow = self.0.entry(event).or_insert_with(empty);
        flow.met += 1;
        flow.families.insert(Family::of(record.ends.local.ip()));
        if flow.seen.len() < SEQUENCES {
            flow.seen.insert(or_no_layer(folded(&seen).join(" ")));
        }
        if comparison != Comparison::Match && flow.deviation.is_none() {
            flow.deviation = Some(format!("{comparison} ({})", record.ends));
        }
        comparison
    }

    /// Iterates in the order of the documents.
    pub fn iter(&self) -> impl Iterator<Item = &Flow> {
        self.0.values()
    }
}

/// The maximum number of different sequences that are stored for an event.
const SEQUENCES: usize = 32;

/// The order of events in every connection and flow of a log.
pub fn lifecycles(log: &Log) -> Lifecycles {
    let mut lifecycles = Lifecycles::default();
    log.records().for_each(|record| lifecycles.note(record));
    lifecycles
}

/// What was seen of a lifecycle, in words.
pub struct CourseText<'a>(pub &'static Lifecycle, pub &'a Course);

impl fmt::Display for CourseText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(lifecycle, course) = self;
        writeln!(f, "  {} ({} begun, {} complete)", lifecycle.name, course.begun, course.complete)?;
        for seen in &course.seen {
            writeln!(f, "    seen        {seen}")?;
        }
        writeln!(f, "    documented  {} [{}]", lifecycle.text(), lifecycle.page.title())?;
        match &course.deviation {
            None => write!(f, "    match"),
            Some(deviation) => write!(f, "    DIFFERS: {deviation}"),
        }
    }
}

/// Every event of a log that has a documented order, in the order of the documents.
pub fn flows(log: &Log, watched: &Watched) -> Vec<Flow> {
    let mut flows = Flows::default();
    for record in log.records() {
        // A deviation is stored with its flow.
        let _ = flows.note(record, watched, |_| true);
    }
    flows.0.into_values().collect()
}

/// The layers, with an ellipsis for all segments after the first.
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
        writeln!(f, "    documented  {} [{}]", sequence(self.event), sources(self.event))?;
        match &self.deviation {
            None => write!(f, "    match"),
            Some(deviation) => write!(f, "    DIFFERS: {deviation}"),
        }
    }
}

/// The documented order in words: optional layers in parentheses, an ellipsis for
/// repetition.
pub fn sequence(event: Event) -> String {
    let Some(layers) = documented::sequence(event) else { return String::new() };
    let layers = layers.iter().map(|expected| match expected {
        Expected::Layer(name) => (*name).to_owned(),
        Expected::Open(name) => format!("({name})"),
        Expected::SomeOf(names) => names.join(" and/or "),
        Expected::Segments(names) => format!("{} …", names.join(" ")),
    });
    or_no_layer(layers.collect::<Vec<_>>().join(" "))
}

/// The documents that list the layers of an event.
pub fn sources(event: Event) -> String {
    documented::pages(event).map(documented::Page::title).collect::<Vec<_>>().join("; ")
}

/// Some events are documented without a layer.
fn or_no_layer(names: String) -> String {
    if names.is_empty() { "no layer".to_owned() } else { names }
}
