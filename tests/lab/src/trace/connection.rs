//! A TCP connection as its packets tell of it: how it begins, how it ends.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::replay::{Replay, Witness};
use super::room::make_room;
use crate::host::{Direction, Ends, Event, Gate, Layer, Scene};
use crate::wfp::FlowHandle;
use crate::wire::{Parsed, Tcp, TcpFlags, protocol};

/// A connection's addresses, local first.
pub(super) type Pair = (SocketAddr, SocketAddr);

/// A connection.
pub(super) struct Connection {
    pub ends: Ends,
    pub direction: Direction,
    pub flow: FlowHandle,
    pub endpoint: u64,
    pub parent: Option<u64>,
    /// The sequence number of the SYN that asked for it, if that was seen.
    pub first: Option<u32>,
    /// The end of what each side has sent: this host, the peer.
    pub sent: [Option<u32>; 2],
    pub finished: [bool; 2],
    pub established: bool,
    pub first_ack_sent: bool,
    /// Its endpoint was told to be closed; late segments may still come.
    pub closed: bool,
    /// A layer has blocked what it began with: nothing of it is played.
    pub refused: bool,
    pub since: Duration,
}

impl Connection {
    pub fn scene<'a>(&self, packet: Option<(Direction, Parsed<'a>)>) -> Scene<'a> {
        Scene {
            packet,
            flow: Some(self.flow).filter(|_| !self.closed),
            endpoint: Some(self.endpoint),
            parent: self.parent,
            ..Scene::call(self.ends, self.direction)
        }
    }

    /// Whether a segment brings bytes, or an end, behind all that its side has
    /// sent before. What fills a gap comes late and counts as old.
    pub fn is_news(&mut self, side: Side, parsed: &Parsed<'_>, tcp: Tcp) -> bool {
        let controls = u32::from(tcp.flags.has(TcpFlags::SYN)) + u32::from(tcp.flags.has(TcpFlags::FIN));
        let end = tcp.sequence.wrapping_add(parsed.payload().len() as u32).wrapping_add(controls);
        let sent = &mut self.sent[side as usize];
        // Serial numbers: behind if less than half of all numbers ahead.
        let news = sent.is_none_or(|sent| (1..=i32::MAX as u32).contains(&end.wrapping_sub(sent)));
        if news {
            *sent = Some(end);
        }
        news
    }
}

/// Who sends.
#[derive(Clone, Copy)]
pub(super) enum Side {
    Here = 0,
    There = 1,
}

/// The connections.
#[derive(Default)]
pub(super) struct Connections(pub HashMap<Pair, Connection>);

impl Connections {
    /// Ends every flow.
    pub fn end(&mut self, gate: &Gate) {
        for (_, connection) in self.0.drain().filter(|(_, connection)| !connection.closed) {
            gate.filter.flow_end(connection.flow);
        }
    }

    /// Makes room for one more; how many gave way that were not over.
    fn make_room(&mut self, gate: &Gate) -> u64 {
        let mut alive = 0;
        make_room(
            &mut self.0,
            |connection| connection.since,
            |connection| {
                if !connection.closed {
                    gate.filter.flow_end(connection.flow);
                    alive += 1;
                }
            },
        );
        alive
    }
}

impl<W: Witness> Replay<'_, W> {
    /// Whether a SYN asks for another connection than the one it meets.
    pub(super) fn is_another(&self, connection: &Connection, parsed: &Parsed<'_>) -> bool {
        let sequence = parsed.tcp().map(|tcp| tcp.sequence);
        connection.closed || (connection.first.is_some() && connection.first != sequence)
    }

    /// Begins to follow a connection.
    pub(super) fn begin(&mut self, pair: Pair, ends: Ends, direction: Direction) {
        self.unplayed.forgotten += self.connections.make_room(&self.gate);
        let connection = Connection {
            ends,
            direction,
            flow: self.gate.filter.flow_create(),
            endpoint: self.handle(),
            parent: None,
            first: None,
            sent: [None; 2],
            finished: [false; 2],
            established: false,
            first_ack_sent: false,
            closed: false,
            refused: false,
            since: self.gate.now,
        };
        self.connections.0.insert(pair, connection);
    }

    /// A connection from before the capture, or from before the driver: it was
    /// authorized when nobody looked.
    pub(super) fn adopt(&mut self, pair: Pair, ends: Ends, index: u64, established: bool) {
        let listens = self.survey.is_open(protocol::TCP, pair.0, index) || pair.0.port() < pair.1.port();
        self.begin(pair, ends, if listens { Direction::Inbound } else { Direction::Outbound });
        if let Some(connection) = self.connections.0.get_mut(&pair) {
            connection.established = established;
            connection.first_ack_sent = established;
        }
    }

    /// The host connects: the call before its SYN.
    pub(super) fn connect(&mut self, pair: Pair, ends: Ends, tcp: Tcp, flags: u32) {
        let endpoint = self.endpoint(protocol::TCP, pair.0, false);
        self.begin(pair, ends, Direction::Outbound);
        let Some(connection) = self.connections.0.get_mut(&pair) else {
            return;
        };
        connection.endpoint = endpoint;
        connection.first = Some(tcp.sequence);
        let scene = Scene { flags, ..connection.scene(None) };
        let record = self.gate.open(ends, Event::Connect);
        connection.refused = ![Layer::AleConnectRedirect, Layer::AleAuthConnect]
            .into_iter()
            .all(|layer| self.gate.pass(record, layer, &scene));
    }

    pub(super) fn drop_connection(&mut self, pair: Pair) {
        self.close(pair);
        self.connections.0.remove(&pair);
    }

    /// Tells the layers that a connection's endpoint closes, and ends its flow.
    pub(super) fn close(&mut self, pair: Pair) {
        let Some(connection) = self.connections.0.get_mut(&pair) else {
            return;
        };
        if std::mem::replace(&mut connection.closed, true) {
            return;
        }
        let (flow, outbound) = (connection.flow, connection.direction == Direction::Outbound);
        let (ends, told) = (connection.ends, connection.established || outbound);
        let scene = Scene { flow: Some(flow), ..connection.scene(None) };
        // A half-open one has no endpoint of its own yet.
        if told {
            let record = self.gate.open(ends, Event::EndpointClosed);
            self.gate.tell(record, Layer::AleEndpointClosure, &scene);
        }
        self.gate.filter.flow_end(flow);
        if outbound {
            self.release(protocol::TCP, pair.0);
        }
    }
}
