//! Stores what happened in a replay, within fixed limits.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::time::Duration;

use machine::host::documented::Comparison;
use machine::host::{Ends, Event, Lifecycles, Record};
use machine::wfp::{ActionType, Invocation, RIGHT_ACTION_WRITE};
use serde::Serialize;

use super::scans::Scans;
use super::timeline::Timeline;
use crate::flows::{Flows, Watched};

/// How much is stored in detail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The number of connections; the first ones are stored.
    pub connections: usize,
    /// The number of rows of each connection; the first ones are stored.
    pub rows: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 10_000, rows: 64 }
    }
}

/// The maximum number of further connections that are counted.
const TOLD_APART: usize = 1 << 20;
/// The maximum number of deviations that are stored in words.
const DEVIATIONS: usize = 100;

/// A layer, and the answers there.
#[derive(Clone, Debug)]
pub struct Step {
    /// With its family: `INBOUND_TRANSPORT_V4_DISCARD`.
    pub layer: &'static str,
    /// The action of the driver's callout; `None` if it was not called.
    pub driver: Option<ActionType>,
    /// Whether the engine's decision was to block.
    pub blocked: bool,
}

/// The content of a row.
#[derive(Clone, Debug)]
pub enum Content {
    /// A packet or a call.
    Event {
        /// What it was.
        event: Event,
        /// The layers in order.
        steps: Vec<Step>,
        /// How that compares with the documents.
        order: Comparison,
    },
    /// An answer in the capture that the driver has suppressed.
    Suppressed,
}

/// One line of a connection.
#[derive(Clone, Debug)]
pub struct Row {
    /// The time since the beginning.
    pub at: Duration,
    /// What happened.
    pub content: Content,
}

/// Everything between two sockets, or on a listening one.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct Conversation {
    pub ends: Ends,
    pub rows: Vec<Row>,
    /// The number of rows that did not fit.
    pub more: u64,
    pub silenced: u64,
    pub suppressed: u64,
    pub deviations: u64,
}

/// How often the callout at a layer was called, and its actions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct Answers {
    pub asked: u64,
    pub blocked: u64,
    pub permitted: u64,
    pub left_alone: u64,
}

/// The account of a replay.
pub struct Account {
    watched: Watched,
    everywhere: bool,
    limits: Limits,
    places: HashMap<(u8, SocketAddr, Option<SocketAddr>), usize>,
    others: HashSet<(u8, SocketAddr, Option<SocketAddr>)>,
    /// The connections that are stored in detail.
    pub conversations: Vec<Conversation>,
    /// Rows of connections that are not stored in detail.
    pub other_rows: u64,
    /// The events that have a documented order.
    pub flows: Flows,
    /// The order of the events of each connection.
    pub lifecycles: Lifecycles,
    /// The driver's answers by layer.
    pub answers: BTreeMap<&'static str, Answers>,
    /// The number of records, and of those in which the driver blocked.
    pub records: u64,
    /// The number of packets that the driver silenced.
    pub silenced: u64,
    /// The number of answers in the capture that the driver suppressed.
    pub suppressed: u64,
    /// The number of deviations from the documented order.
    pub deviations: u64,
    /// The first deviations, in words.
    pub deviating: Vec<String>,
    /// The silenced packets over time.
    pub timeline: Timeline,
    /// The scans that the driver reported.
    pub scans: Scans,
}

impl Account {
    /// An empty account for a replay of about this length. If `everywhere` is set,
    /// the driver is expected at every documented layer, otherwise only where a
    /// filter calls it.
    pub fn new(watched: Watched, everywhere: bool, limits: Limits, length: Duration) -> Self {
        Self {
            watched,
            everywhere,
            limits,
            places: HashMap::new(),
            others: HashSet::new(),
            conversations: Vec::new(),
            other_rows: 0,
            flows: Flows::default(),
            lifecycles: Lifecycles::default(),
            answers: BTreeMap::new(),
            records: 0,
            silenced: 0,
            suppressed: 0,
            deviations: 0,
            deviating: Vec::new(),
            timeline: Timeline::new(length),
            scans: Scans::default(),
        }
    }

    /// The number of connections that are not stored in detail, and whether there
    /// may be more.
    pub fn others(&self) -> (usize, bool) {
        (self.others.len(), self.others.len() >= TOLD_APART)
    }

    /// The layers at which the driver has callouts.
    pub fn watched(&self) -> &Watched {
        &self.watched
    }

    /// Adds a record. Returns how it compares with the documents, and the driver's
    /// answer at each layer.
    pub fn note(&mut self, record: &Record) -> (Comparison, Vec<Step>) {
        self.records += 1;
        self.lifecycles.note(record);
        let (watched, everywhere) = (&self.watched, self.everywhere);
        let stands = |layer: &str| everywhere || watched.stands_at(layer);
        let order = self.flows.note(record, watched, stands);
        let steps = self.steps(record);
        let silenced = steps.iter().any(|step| step.driver == Some(ActionType::BLOCK));
        let deviates = matches!(order, Comparison::Deviation { .. });
        if silenced {
            self.silenced += 1;
            let remote = record.ends.remote.map(|remote| remote.ip());
            self.timeline.note(record.at, record.ends.protocol, record.ends.local.port(), remote);
        }
        if deviates {
            self.deviations += 1;
            if self.deviating.len() < DEVIATIONS {
                self.deviating.push(format!("{}, {}: {order}", record.ends, record.event));
            }
        }
        let content = Content::Event { event: record.event, steps: steps.clone(), order: order.clone() };
        let row = Row { at: record.at, content };
        if let Some(conversation) = self.row(record.ends, row) {
            conversation.silenced += u64::from(silenced);
            conversation.deviations += u64::from(deviates);
        }
        (order, steps)
    }

    /// Adds an answer that was suppressed.
    pub fn note_suppressed(&mut self, at: Duration, ends: Ends) {
        self.suppressed += 1;
        if let Some(conversation) = self.row(ends, Row { at, content: Content::Suppressed }) {
            conversation.suppressed += 1;
        }
    }

    fn steps(&mut self, record: &Record) -> Vec<Step> {
        let mut steps = Vec::with_capacity(record.steps.len());
        for step in &record.steps {
            let ours = step.decision.invocations.iter().filter(|one| self.watched.is_ours(one.callout_key));
            let driver = ours.map(answer).next_back();
            if let Some(action) = driver {
                let answers = self.answers.entry(step.name).or_default();
                answers.asked += 1;
                match action {
                    ActionType::BLOCK => answers.blocked += 1,
                    ActionType::PERMIT => answers.permitted += 1,
                    _ => answers.left_alone += 1,
                }
            }
            steps.push(Step { layer: step.name, driver, blocked: step.decision.blocked() });
        }
        steps
    }

    fn row(&mut self, ends: Ends, row: Row) -> Option<&mut Conversation> {
        let key = (ends.protocol, ends.local, ends.remote);
        let place = match self.places.get(&key) {
            Some(place) => *place,
            None if self.conversations.len() < self.limits.connections => {
                let empty = Conversation {
                    ends,
                    rows: Vec::new(),
                    more: 0,
                    silenced: 0,
                    suppressed: 0,
                    deviations: 0,
                };
                self.conversations.push(empty);
                self.places.insert(key, self.conversations.len() - 1);
                self.conversations.len() - 1
            }
            None => {
                self.other_rows += 1;
                if self.others.len() < TOLD_APART {
                    self.others.insert(key);
                }
                return None;
            }
        };
        let conversation = &mut self.conversations[place];
        if conversation.rows.len() < self.limits.rows {
            conversation.rows.push(row);
        } else {
            conversation.more += 1;
        }
        Some(conversation)
    }
}

/// The action that a callout returned. If it had no right to write and wrote
/// nothing, the action is another callout's.
fn answer(one: &Invocation) -> ActionType {
    let may_write = one.before.rights & RIGHT_ACTION_WRITE != 0;
    if !may_write && one.after == one.before { ActionType::CONTINUE } else { one.after.action }
}
