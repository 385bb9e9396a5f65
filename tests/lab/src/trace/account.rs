//! What is kept of what happened: enough to show, and never more than so much.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::time::Duration;

use machine::host::documented::Comparison;
use machine::host::{Ends, Event, Record};
use machine::wfp::{ActionType, Invocation, RIGHT_ACTION_WRITE};
use serde::Serialize;

use super::timeline::Timeline;
use crate::flows::{Flows, Watched};

/// How much is kept in detail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections, the first ones met.
    pub connections: usize,
    /// Rows of each, the first ones.
    pub rows: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 10_000, rows: 64 }
    }
}

/// The most connections that are told apart beyond the limit.
const TOLD_APART: usize = 1 << 20;
/// The most deviations kept in words.
const DEVIATIONS: usize = 100;

/// One layer, and what was said there.
#[derive(Clone, Debug)]
pub struct Step {
    /// With its family: `INBOUND_TRANSPORT_V4_DISCARD`.
    pub layer: &'static str,
    /// What the driver's callout answered, `None` where it was not asked.
    pub driver: Option<ActionType>,
    /// Whether the engine's decision was to block.
    pub blocked: bool,
}

/// What a row is about.
#[derive(Clone, Debug)]
pub enum Content {
    /// A packet or call.
    Event {
        /// What it was.
        event: Event,
        /// The layers in order.
        steps: Vec<Step>,
        /// How that compares with the documents.
        order: Comparison,
    },
    /// An answer in the capture that the driver has kept back.
    KeptBack,
}

/// One line of a connection.
#[derive(Clone, Debug)]
pub struct Row {
    /// Since the beginning.
    pub at: Duration,
    /// What happened.
    pub content: Content,
}

/// Everything between two sockets, or of a listening one.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct Conversation {
    pub ends: Ends,
    pub rows: Vec<Row>,
    /// Rows there was no room for.
    pub more: u64,
    pub silenced: u64,
    pub kept_back: u64,
    pub deviations: u64,
}

/// How often a layer's callout was asked, and what it said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct Answers {
    pub asked: u64,
    pub blocked: u64,
    pub permitted: u64,
    pub left_alone: u64,
}

/// The account of a run.
pub struct Account {
    watched: Watched,
    everywhere: bool,
    limits: Limits,
    places: HashMap<(u8, SocketAddr, Option<SocketAddr>), usize>,
    others: HashSet<(u8, SocketAddr, Option<SocketAddr>)>,
    /// In detail.
    pub conversations: Vec<Conversation>,
    /// Rows of connections that are not kept in detail.
    pub other_rows: u64,
    /// Every documented event.
    pub flows: Flows,
    /// By layer.
    pub answers: BTreeMap<&'static str, Answers>,
    /// Records, and those in which the driver blocked.
    pub records: u64,
    /// Packets that the driver silenced.
    pub silenced: u64,
    /// Answers of the capture that it kept back.
    pub kept_back: u64,
    /// Departures from the documented order.
    pub deviations: u64,
    /// The first of them in words.
    pub deviating: Vec<String>,
    /// When what was silenced.
    pub timeline: Timeline,
}

impl Account {
    /// An empty one for a run of about this length. `everywhere` says that the
    /// driver is expected at every documented layer, otherwise only where a
    /// filter leads to it.
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
            answers: BTreeMap::new(),
            records: 0,
            silenced: 0,
            kept_back: 0,
            deviations: 0,
            deviating: Vec::new(),
            timeline: Timeline::new(length),
        }
    }

    /// How many connections are not kept in detail, and whether there may have
    /// been more.
    pub fn others(&self) -> (usize, bool) {
        (self.others.len(), self.others.len() >= TOLD_APART)
    }

    /// The layers at which the driver stands.
    pub fn watched(&self) -> &Watched {
        &self.watched
    }

    /// Takes one record in; how it compares with the documents, and what the
    /// driver said at each layer.
    pub fn note(&mut self, record: &Record) -> (Comparison, Vec<Step>) {
        self.records += 1;
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

    /// Takes in an answer that was kept back.
    pub fn note_kept_back(&mut self, at: Duration, ends: Ends) {
        self.kept_back += 1;
        if let Some(conversation) = self.row(ends, Row { at, content: Content::KeptBack }) {
            conversation.kept_back += 1;
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
                    kept_back: 0,
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

/// What a callout answered. Where it had no right to write and wrote nothing,
/// the action that stands there is somebody else's.
fn answer(one: &Invocation) -> ActionType {
    let may_write = one.before.rights & RIGHT_ACTION_WRITE != 0;
    if !may_write && one.after == one.before { ActionType::CONTINUE } else { one.after.action }
}
