//! A bounded log of what happened, event by event.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use crate::wfp::{Decision, LayerId};

macro_rules! events {
    ($($(#[$meta:meta])* $variant:ident = $text:literal),+ $(,)?) => {
        /// A socket call or a packet, named by its role in the connection.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Event { $(#[doc = $text] $(#[$meta])* $variant),+ }

        impl Event {
            /// Every event.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name of the event in plain words.
            pub fn text(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }
    };
}

events! {
    Bind = "bind",
    Listen = "listen",
    Connect = "connect",
    SynOut = "SYN out",
    SynIn = "SYN in",
    SynAckOut = "SYN-ACK out",
    SynAckIn = "SYN-ACK in",
    AckOut = "ACK out",
    AckOutWithData = "ACK out with data",
    AckIn = "ACK in",
    AckInWithData = "ACK in with data",
    Accept = "the server can accept",
    SynNobodyListening = "SYN, nobody listening",
    RstOut = "RST out",
    DataSent = "data sent",
    DataReceived = "data received",
    ReauthorizationPasses = "reauthorization passes",
    ReauthorizationFails = "reauthorization fails",
    CompletionPasses = "completed connect passes",
    CompletionFails = "completed connect fails",
    FinOut = "FIN out",
    FinIn = "FIN in",
    RstIn = "RST in",
    FirstDatagramOut = "first datagram out",
    DatagramIn = "first datagram in",
    DatagramOut = "later datagram out",
    LaterDatagramIn = "later datagram in",
    EndpointlessDatagram = "datagram without endpoint",
    IcmpErrorOut = "ICMP error out",
    IcmpErrorIn = "ICMP error in",
    DatagramReauthorizationPasses = "reauthorization by a datagram passes",
    DatagramReauthorizationFails = "reauthorization by a datagram fails",
    EchoRequestIn = "echo request in",
    EchoReplyOut = "echo reply out",
    EndpointClosed = "endpoint closed",
    PortFreed = "port freed",
    LaterAckOut = "later ACK out",
    LaterAckIn = "later ACK in",
    ReauthorizationPassesElsewhere = "reauthorization passes, not with data received",
    ReauthorizationFailsElsewhere = "reauthorization fails, not at the receiver",
    SynAgain = "SYN in again",
    NothingNew = "segment with nothing new",
    NotForListener = "segment a listener cannot use",
    NoConnection = "segment without connection",
    BacklogFull = "SYN, backlog full",
    LaterEchoRequestIn = "later echo request in",
    FragmentIn = "fragment in",
    Unusable = "unusable packet",
    OtherIn = "other packet in",
    OtherOut = "other packet out",
    InjectedOut = "injected packet out",
    Forwarded = "packet forwarded",
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// The addresses of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct Ends {
    pub protocol: u8,
    pub local: SocketAddr,
    /// `None` for a listener or a bound socket.
    pub remote: Option<SocketAddr>,
}

impl fmt::Display for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.remote {
            Some(remote) => write!(f, "{}/{} <-> {remote}", self.local, self.protocol),
            None => write!(f, "{}/{}", self.local, self.protocol),
        }
    }
}

/// A layer that was classified.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct Step {
    pub layer: LayerId,
    /// The number of the indication among all of its host, counted from 1.
    pub number: u64,
    /// Without prefix: `INBOUND_TRANSPORT_V4_DISCARD`.
    pub name: &'static str,
    pub decision: Decision,
}

/// A block by a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// The layer, with or without family.
    pub layer: &'static str,
    /// Whether the block has ABSORB set, so that the discard layer is not indicated.
    pub absorbed: bool,
}

/// The id of a record while it is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RecordId(u64);

/// An event with the layers that it passed, in order.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct Record {
    /// The time since the host's start.
    pub at: Duration,
    pub ends: Ends,
    pub event: Event,
    pub steps: Vec<Step>,
    /// It is the second event of a packet. The record before it has the layers that
    /// the packet passed before STREAM.
    pub is_rest: bool,
}

impl Record {
    /// The names of the layers.
    pub fn layers(&self) -> impl Iterator<Item = &'static str> {
        self.steps.iter().map(|step| step.name)
    }

    /// The last block at a layer that is not a discard layer.
    pub fn stopped(&self) -> Option<Block> {
        let blocked = |step: &&Step| step.decision.blocked() && !step.name.ends_with("_DISCARD");
        let step = self.steps.iter().rfind(blocked)?;
        Some(Block { layer: step.name, absorbed: step.decision.absorbed })
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.at.as_secs_f64();
        write!(f, "{seconds:10.6} {} {}:", self.ends, self.event)?;
        for step in &self.steps {
            let verdict = if step.decision.blocked() { " BLOCK" } else { "" };
            write!(f, " {}{verdict}", step.name)?;
        }
        Ok(())
    }
}

/// The latest events.
#[derive(Clone, Debug)]
pub struct Log {
    records: VecDeque<Record>,
    first: u64,
    limit: usize,
}

/// The maximum number of layers in a record. The segments of one data indication,
/// with retransmissions, stay far below it.
const STEPS_LIMIT: usize = 1024;

impl Log {
    /// A log of at most `limit` records.
    pub fn new(limit: usize) -> Self {
        Self { records: VecDeque::new(), first: 0, limit: limit.max(1) }
    }

    /// The records, oldest first.
    pub fn records(&self) -> impl ExactSizeIterator<Item = &Record> {
        self.records.iter()
    }

    /// Removes the records and returns them, oldest first.
    pub fn take(&mut self) -> VecDeque<Record> {
        self.first += self.records.len() as u64;
        std::mem::take(&mut self.records)
    }

    /// The number of records that were dropped for later ones.
    pub fn forgotten(&self) -> u64 {
        self.first
    }

    /// Opens a record.
    pub fn open(&mut self, at: Duration, ends: Ends, event: Event) -> RecordId {
        self.add(Record { at, ends, event, steps: Vec::new(), is_rest: false })
    }

    /// Opens a record for a packet's second event.
    pub fn open_rest(&mut self, at: Duration, ends: Ends, event: Event) -> RecordId {
        self.add(Record { at, ends, event, steps: Vec::new(), is_rest: true })
    }

    fn add(&mut self, record: Record) -> RecordId {
        if self.records.len() == self.limit {
            self.records.pop_front();
            self.first += 1;
        }
        self.records.push_back(record);
        RecordId(self.first + self.records.len() as u64 - 1)
    }

    pub(super) fn push(&mut self, id: RecordId, step: Step) {
        if let Some(record) = self.record_mut(id)
            && record.steps.len() < STEPS_LIMIT
        {
            record.steps.push(step);
        }
    }

    /// Changes the event of a record, when it is known.
    pub fn rename(&mut self, id: RecordId, event: Event) {
        if let Some(record) = self.record_mut(id) {
            record.event = event;
        }
    }

    pub(super) fn event(&self, id: RecordId) -> Option<Event> {
        let index = usize::try_from(id.0.checked_sub(self.first)?).ok()?;
        self.records.get(index).map(|record| record.event)
    }

    fn record_mut(&mut self, id: RecordId) -> Option<&mut Record> {
        let index = usize::try_from(id.0.checked_sub(self.first)?).ok()?;
        self.records.get_mut(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_bounded_and_late_steps_of_forgotten_records_go_nowhere() {
        let mut log = Log::new(2);
        let ends = Ends { protocol: 6, local: ([10, 77, 0, 2], 80).into(), remote: None };
        let ids: Vec<_> = [Event::Bind, Event::Listen, Event::SynIn]
            .map(|event| log.open(Duration::ZERO, ends, event))
            .into();
        log.rename(ids[0], Event::RstIn);
        log.rename(ids[2], Event::BacklogFull);
        let events: Vec<_> = log.records().map(|record| record.event).collect();
        assert_eq!(events, [Event::Listen, Event::BacklogFull]);
        assert_eq!(log.forgotten(), 1);
        assert_eq!((log.event(ids[0]), log.event(ids[1])), (None, Some(Event::Listen)));
    }
}
