//! The host's TCP connections, and how they end.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp;

use super::application::Session;
use super::authorization::Authorization;
use super::layers::Layer;
use super::log::{Ends, Event, RecordId};
use super::scene::{Direction, Scene};
use super::sockets::{ConnectionId, Outcome, State, ends};
use super::stream::Injected;
use super::{Host, Pair};
use crate::wfp::FlowHandle;
use crate::wire::Parsed;

/// The time limit of a handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(20);
/// The time limit for the peer to answer data or a FIN. smoltcp's own timeout
/// cannot be used, because it resets idle connections.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// A TCP connection.
pub(super) struct Connection {
    pub id: ConnectionId,
    /// When the peer was last heard, or was last sent something to answer; since
    /// the host's start.
    pub since: Duration,
    pub handle: SocketHandle,
    pub ends: Ends,
    pub direction: Direction,
    pub endpoint: u64,
    /// The listener's address and endpoint, for an accepted connection.
    pub parent: Option<(SocketAddr, u64)>,
    pub flow: FlowHandle,
    pub authorization: Authorization,
    pub established: bool,
    pub peer_closed: bool,
    /// ENDPOINT_CLOSURE was indicated, and the flow has ended.
    pub closed: bool,
    pub first_ack_sent: bool,
    /// The end of the application's output was shown to the callouts, or injected.
    pub close_sent: bool,
    pub aborted: bool,
    /// The record of the data or FIN that is being sent.
    pub sending: Option<RecordId>,
    pub session: Session,
    /// Data to send that drivers have injected. Other callouts have not seen them.
    pub injected: VecDeque<Injected>,
    /// Injected bytes that callouts have let pass, to be sent before those of the
    /// application.
    pub cleared: Vec<u8>,
    /// Injected data on their way to the application that wait for a callout, and what comes
    /// behind them.
    pub held: VecDeque<Injected>,
    /// A driver has injected the end of the stream.
    pub disconnect: bool,
    /// Received bytes that a callout has deferred.
    pub deferred: Option<Vec<u8>>,
    /// Received bytes that a callout will see with so many more.
    pub waiting: Option<(Vec<u8>, usize)>,
    /// Bytes to send that a callout wants to see at once.
    pub send_least: usize,
}

impl Connection {
    /// A connection whose first SYN has just passed.
    pub fn new(
        handle: SocketHandle,
        scene: &Scene<'_>,
        (flow, authorization): (FlowHandle, Authorization),
        since: Duration,
        session: Session,
    ) -> Self {
        let endpoint = scene.endpoint.unwrap_or_default();
        Self {
            id: ConnectionId(endpoint),
            since,
            handle,
            ends: scene.ends,
            direction: scene.direction,
            endpoint,
            parent: None,
            flow,
            authorization,
            established: false,
            peer_closed: false,
            closed: false,
            first_ack_sent: false,
            close_sent: false,
            aborted: false,
            sending: None,
            session,
            injected: VecDeque::new(),
            cleared: Vec::new(),
            held: VecDeque::new(),
            disconnect: false,
            deferred: None,
            waiting: None,
            send_least: 0,
        }
    }

    /// The layer that authorized the connection.
    pub fn authorizing(&self) -> Layer {
        match self.direction {
            Direction::Inbound => Layer::AleAuthRecvAccept,
            Direction::Outbound => Layer::AleAuthConnect,
        }
    }

    /// The scene of a packet or call of the connection.
    pub fn scene<'a>(&self, packet: Option<(Direction, Parsed<'a>)>) -> Scene<'a> {
        Scene {
            packet,
            flow: Some(self.flow).filter(|_| !self.closed),
            endpoint: Some(self.endpoint),
            parent: self.parent.map(|(_, endpoint)| endpoint),
            ..Scene::call(self.ends, self.direction)
        }
    }
}

impl Host {
    /// Ends connections that TCP has ended: ALE_ENDPOINT_CLOSURE is indicated at
    /// TIME-WAIT, and the connection is removed after it.
    pub(super) fn reap(&mut self) {
        let pairs: Vec<Pair> = self.connections.keys().copied().collect();
        for pair in pairs {
            let Some(connection) = self.connections.get(&pair) else {
                continue;
            };
            let state = self.stack.state(connection.handle);
            let unanswered = connection.close_sent || self.stack.socket(connection.handle).send_queue() > 0;
            let limit = match connection.established {
                false => HANDSHAKE_LIMIT,
                true if unanswered => ANSWER_LIMIT,
                true => Duration::MAX,
            };
            match state {
                _ if self.gate.now.saturating_sub(connection.since) > limit => self.forget(pair),
                // In SYN-RECEIVED a RST leads back to LISTEN; the next SYN gets a
                // socket of its own.
                tcp::State::Closed | tcp::State::Listen => self.forget(pair),
                tcp::State::TimeWait => self.close(pair),
                _ => {}
            }
        }
    }

    /// Removes all connections, as when the network has gone while the machine slept. Nothing
    /// is sent.
    pub fn lose_connections(&mut self) {
        let pairs: Vec<Pair> = self.connections.keys().copied().collect();
        pairs.into_iter().for_each(|pair| self.forget(pair));
    }

    /// Removes a connection at once; TCP sends nothing more for it.
    pub(super) fn forget(&mut self, pair: Pair) {
        self.close(pair);
        let Some(connection) = self.connections.remove(&pair) else {
            return;
        };
        self.stack.remove(connection.handle);
        if connection.direction == Direction::Outbound {
            let clean = connection.peer_closed && connection.close_sent && !connection.aborted;
            let outcome = Outcome {
                state: if clean { State::Closed } else { State::Aborted },
                received: connection.session.into_received(),
            };
            self.outcomes.insert(connection.id, outcome);
        }
    }

    /// Indicates the closure of a connection's endpoint, and ends its flow.
    fn close(&mut self, pair: Pair) {
        let Some(connection) = self.connections.get_mut(&pair) else {
            return;
        };
        if std::mem::replace(&mut connection.closed, true) {
            return;
        }
        let (flow, outbound) = (connection.flow, connection.direction == Direction::Outbound);
        let scene = Scene { flow: Some(flow), ..connection.scene(None) };
        if connection.established || outbound || self.gate.open_points.half_open_closure {
            let record = self.gate.open(scene.ends, Event::EndpointClosed);
            self.gate.notify(record, Layer::AleEndpointClosure, &scene);
        }
        self.gate.filter.flow_end(flow);
        if outbound {
            self.release(&Scene { ends: ends(scene.ends.local, None), ..scene });
        }
    }
}
