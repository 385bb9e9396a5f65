//! Follows TCP connections through a capture, from their first to last packet.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use machine::host::{Direction, Ends, Event, Gate, Layer, Scene};
use machine::wfp::FlowHandle;
use machine::wire::{Parsed, Tcp, protocol};

use super::feed::Item;
use super::progress::{Side, State, end};
use super::replay::{Replay, Witness};
use super::room::make_room;

/// A connection's addresses, local first.
pub(super) type Pair = (SocketAddr, SocketAddr);

/// A connection.
pub(super) struct Connection {
    pub ends: Ends,
    pub state: State,
    pub flow: FlowHandle,
    pub endpoint: u64,
    pub parent: Option<u64>,
    /// A layer has blocked its first packet, so nothing of it is played.
    pub refused: bool,
    pub since: Duration,
}

impl Connection {
    pub fn scene<'a>(&self, packet: Option<(Direction, Parsed<'a>)>) -> Scene<'a> {
        Scene {
            packet,
            flow: Some(self.flow).filter(|_| !self.state.closed),
            endpoint: Some(self.endpoint),
            parent: self.parent,
            ..Scene::call(self.ends, self.state.direction)
        }
    }
}

/// The connections.
#[derive(Default)]
pub(super) struct Connections(pub HashMap<Pair, Connection>);

impl Connections {
    /// Ends the flows of all connections.
    pub fn end(&mut self, gate: &Gate) {
        for (_, connection) in self.0.drain().filter(|(_, connection)| !connection.state.closed) {
            gate.filter.flow_end(connection.flow);
        }
    }

    /// Makes room for one more connection. Returns the number of evicted
    /// connections that were not over.
    fn make_room(&mut self, gate: &Gate) -> u64 {
        let mut alive = 0;
        make_room(
            &mut self.0,
            |connection| connection.since,
            |connection| {
                if !connection.state.closed {
                    gate.filter.flow_end(connection.flow);
                    alive += 1;
                }
            },
        );
        alive
    }
}

impl<W: Witness> Replay<'_, W> {
    /// Whether a SYN from the network asks for another connection than the existing
    /// one. That is not so for a retransmission, for a simultaneous open (RFC 9293,
    /// 3.5), and if the host, still connected, answers with a challenge ACK (RFC
    /// 5961).
    pub(super) fn is_another(&self, state: &State, item: &Item<'_>, tcp: Tcp) -> bool {
        let (local, remote) = (item.parsed.destination, item.parsed.source);
        let accepted = || {
            [tcp.sequence.wrapping_add(1), end(&item.parsed, tcp)]
                .into_iter()
                .any(|before| self.survey.acknowledges(local, remote, before))
        };
        match state.first[Side::There as usize] {
            _ if state.closed => true,
            _ if state.direction == Direction::Outbound && !state.established => false,
            first if first == Some(tcp.sequence) => false,
            _ => accepted() || !self.survey.is_open(protocol::TCP, local, item.index),
        }
    }

    /// Begins to follow a connection.
    pub(super) fn begin(&mut self, pair: Pair, ends: Ends, state: State) {
        self.unplayed.forgotten += self.connections.make_room(&self.gate);
        let connection = Connection {
            ends,
            state,
            flow: self.gate.filter.flow_create(),
            endpoint: self.handle(),
            parent: None,
            refused: false,
            since: self.gate.now,
        };
        self.connections.0.insert(pair, connection);
    }

    /// The state of a connection that began before the capture, when its
    /// authorization was not observed. A side with a listening port is the server,
    /// otherwise the side with the lower port.
    pub(super) fn adopted(&self, pair: Pair, index: u64, established: bool) -> State {
        let listens = self.survey.is_open(protocol::TCP, pair.0, index) || pair.0.port() < pair.1.port();
        State::adopted(if listens { Direction::Inbound } else { Direction::Outbound }, established)
    }

    /// The host connects: the call that comes before its SYN.
    pub(super) fn connect(&mut self, pair: Pair, ends: Ends, flags: u32) {
        let endpoint = self.endpoint(protocol::TCP, pair.0, false);
        self.begin(pair, ends, State::new(Direction::Outbound));
        let Some(connection) = self.connections.0.get_mut(&pair) else {
            return;
        };
        connection.endpoint = endpoint;
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

    /// Indicates the closure of a connection's endpoint and ends its flow.
    pub(super) fn close(&mut self, pair: Pair) {
        let Some(connection) = self.connections.0.get_mut(&pair) else {
            return;
        };
        if std::mem::replace(&mut connection.state.closed, true) {
            return;
        }
        let (flow, outbound) = (connection.flow, connection.state.direction == Direction::Outbound);
        let ends = connection.ends;
        let indicated = connection.state.established || outbound || self.gate.open_points.half_open_closure;
        let scene = Scene { flow: Some(flow), ..connection.scene(None) };
        if indicated {
            let record = self.gate.open(ends, Event::EndpointClosed);
            self.gate.notify(record, Layer::AleEndpointClosure, &scene);
        }
        self.gate.filter.flow_end(flow);
        if outbound {
            self.release(protocol::TCP, pair.0);
        }
    }
}
