//! JSON lines: one object for each event, and a summary as the last one.
//!
//! Nothing is stored, so the length of a capture is not limited.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::Result;
use machine::host::Ends;
use machine::host::documented::Comparison;
use machine::wfp::ActionType;
use serde::Serialize;

use super::{Answers, Entry, Played, Scan, Scans, Step, Tally, Traffic, Unplayed};

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
enum Object<'a> {
    Event {
        /// Seconds since the first packet.
        at: f64,
        #[serde(flatten)]
        between: Between,
        event: &'static str,
        /// `match`, `deviation`, or `undocumented`.
        order: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        deviation: Option<String>,
        layers: Vec<Layer>,
    },
    Suppressed {
        at: f64,
        #[serde(flatten)]
        between: Between,
    },
    Scan(&'a Scan),
    Summary(Summary<'a>),
}

#[derive(Serialize)]
struct Between {
    protocol: u8,
    local: String,
    remote: Option<String>,
}

impl From<Ends> for Between {
    fn from(ends: Ends) -> Self {
        let remote = ends.remote.map(|remote| remote.to_string());
        Self { protocol: ends.protocol, local: ends.local.to_string(), remote }
    }
}

#[derive(Serialize)]
struct Layer {
    layer: &'static str,
    /// The action of the driver's callout; `null` if it was not called.
    driver: Option<String>,
    blocked: bool,
}

/// An action in a word.
pub fn word(action: ActionType) -> String {
    match action {
        ActionType::BLOCK => "block".into(),
        ActionType::PERMIT => "permit".into(),
        ActionType::CONTINUE => "continue".into(),
        ActionType(other) => format!("{other:#x}"),
    }
}

/// The counts of a run.
#[derive(Serialize)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct Summary<'a> {
    pub capture: &'a Tally,
    pub local: Vec<String>,
    /// How the local addresses are known.
    pub local_how: &'static str,
    pub indications: u64,
    pub events: u64,
    pub silenced: u64,
    pub suppressed: u64,
    pub deviations: u64,
    pub deviating: &'a [String],
    /// The driver's reports.
    pub scans: &'a Scans,
    /// The host's packets by protocol.
    pub traffic: Traffic,
    pub not_played: Unplayed,
    /// The number of conversations and sockets that did not fit into the first
    /// pass.
    pub not_surveyed: u64,
    pub layers: &'a BTreeMap<&'static str, Answers>,
}

impl<'a> Summary<'a> {
    /// The summary of a played capture.
    pub fn of(played: &'a Played) -> Self {
        let (local, local_how) = played.roles.text();
        let account = &played.account;
        Self {
            capture: &played.tally,
            local,
            local_how,
            indications: played.counters.classified,
            events: account.records,
            silenced: account.silenced,
            suppressed: account.suppressed,
            deviations: account.deviations,
            deviating: &account.deviating,
            scans: &account.scans,
            traffic: played.traffic,
            not_played: played.unplayed,
            not_surveyed: played.unsurveyed,
            layers: &account.answers,
        }
    }
}

/// Writes lines.
pub struct Lines<W>(W);

impl<W: Write> Lines<W> {
    /// Writes to a writer.
    pub fn new(writer: W) -> Self {
        Self(writer)
    }

    /// Writes one line for an entry.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write(&mut self, entry: &Entry<'_>) -> Result<()> {
        let object = match entry {
            Entry::Suppressed(at, ends) => {
                Object::Suppressed { at: at.as_secs_f64(), between: (*ends).into() }
            }
            Entry::Scan(scan) => Object::Scan(scan),
            Entry::Record(record, order, steps) => {
                let (order, deviation) = match order {
                    Comparison::Match => ("match", None),
                    Comparison::Undocumented => ("undocumented", None),
                    deviation @ Comparison::Deviation { .. } => ("deviation", Some(deviation.to_string())),
                };
                Object::Event {
                    at: record.at.as_secs_f64(),
                    between: record.ends.into(),
                    event: record.event.text(),
                    order,
                    deviation,
                    layers: steps.iter().map(layer).collect(),
                }
            }
        };
        self.line(&object)
    }

    /// Writes the last line.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn finish(mut self, played: &Played) -> Result<()> {
        self.line(&Object::Summary(Summary::of(played)))?;
        Ok(self.0.flush()?)
    }

    fn line(&mut self, object: &Object<'_>) -> Result<()> {
        serde_json::to_writer(&mut self.0, object)?;
        Ok(self.0.write_all(b"\n")?)
    }
}

fn layer(step: &Step) -> Layer {
    Layer { layer: step.layer, driver: step.driver.map(word), blocked: step.blocked }
}
