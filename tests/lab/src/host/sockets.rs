//! Socket calls: bind, listen, connect, close; and what sockets are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp;

use super::application::{Application, Session};
use super::layers::Layer;
use super::log::{Ends, Event, RecordId};
use super::scene::{Direction, Scene, flag};
use super::{Host, Pair};
use crate::wfp::FlowHandle;
use crate::wire::{Family, Parsed};

/// The first port of the dynamic range (RFC 6335; Windows' default).
pub(super) const FIRST_EPHEMERAL_PORT: u16 = 49_152;

const TCP: u8 = 6;

/// A connection the host made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(u64);

/// How far a connection the host made has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The handshake is not over.
    Connecting,
    /// Established.
    Open,
    /// Both sides closed in order.
    Closed,
    /// It ended by a RST, a timeout or a filter.
    Aborted,
}

/// A connection the host made: its state and what it has read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct Outcome {
    pub state: State,
    pub received: Vec<u8>,
}

/// Why a socket call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SocketError {
    /// A filter blocked it.
    #[error("{0} is blocked at {1}")]
    Blocked(Ends, &'static str),
    /// The address has a listener.
    #[error("{0} is in use")]
    InUse(SocketAddr),
    /// The address is none of the host's, or cannot be used so.
    #[error("{0} is not usable here")]
    Unusable(SocketAddr),
    /// Nobody listens there.
    #[error("{0} has no listener")]
    NotListening(SocketAddr),
}

/// A port with an application behind it.
pub(super) struct Listener {
    pub application: Application,
    pub endpoint: u64,
}

/// A TCP connection.
pub(super) struct Connection {
    pub id: ConnectionId,
    pub handle: SocketHandle,
    pub ends: Ends,
    pub direction: Direction,
    pub endpoint: u64,
    /// The listener's address and endpoint, for an accepted one.
    pub parent: Option<(SocketAddr, u64)>,
    pub flow: FlowHandle,
    /// The authorizing layer's generation when it was last authorized.
    pub generation: u64,
    pub established: bool,
    pub peer_closed: bool,
    /// ENDPOINT_CLOSURE was told and the flow has ended.
    pub closed: bool,
    pub first_ack_sent: bool,
    pub close_sent: bool,
    pub aborted: bool,
    /// The record of the bytes, or of the FIN, being sent.
    pub sending: Option<RecordId>,
    pub session: Session,
}

impl Connection {
    /// The layer that authorized it.
    pub fn authorizing(&self) -> Layer {
        match self.direction {
            Direction::Inbound => Layer::AleAuthRecvAccept,
            Direction::Outbound => Layer::AleAuthConnect,
        }
    }

    /// The scene of a packet or call of this connection.
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
    /// Binds and listens. An unspecified address takes every address of its
    /// family.
    ///
    /// # Errors
    /// If a filter blocks, or the address is taken or not the host's.
    pub fn listen(
        &mut self,
        local: SocketAddr,
        application: Application,
    ) -> Result<(), SocketError> {
        if !local.ip().is_unspecified() && local.ip() != self.own(Family::of(local.ip())) {
            return Err(SocketError::Unusable(local));
        }
        if self.listeners.contains_key(&local) {
            return Err(SocketError::InUse(local));
        }
        let scene = Scene {
            endpoint: Some(self.handle()),
            ..Scene::call(ends(local, None), Direction::Inbound)
        };
        self.bind(&scene)?;
        let record = self.gate.open(scene.ends, Event::Listen);
        if !self.gate.pass(record, Layer::AleAuthListen, &scene) {
            self.release(&scene);
            return Err(SocketError::Blocked(
                scene.ends,
                Layer::AleAuthListen.name(),
            ));
        }
        let endpoint = scene.endpoint.unwrap_or_default();
        let listener = Listener {
            application,
            endpoint,
        };
        self.listeners.insert(local, listener);
        Ok(())
    }

    /// Closes a listener. Its half-open connections are reset, its accepted
    /// ones stay.
    ///
    /// # Errors
    /// If nobody listens there.
    pub fn unlisten(&mut self, local: SocketAddr) -> Result<(), SocketError> {
        let listener = self
            .listeners
            .remove(&local)
            .ok_or(SocketError::NotListening(local))?;
        for connection in self.connections.values_mut() {
            if connection.parent == Some((local, listener.endpoint)) && !connection.established {
                connection.aborted = true;
                self.stack.socket(connection.handle).abort();
            }
        }
        self.turn();
        let scene = Scene {
            endpoint: Some(listener.endpoint),
            ..Scene::call(ends(local, None), Direction::Inbound)
        };
        let record = self.gate.open(scene.ends, Event::EndpointClosed);
        self.gate.tell(record, Layer::AleEndpointClosure, &scene);
        self.release(&scene);
        Ok(())
    }

    /// Connects from a port of the dynamic range, sends `request` and reads
    /// until the peer closes; [`Host::outcome`] tells how it goes.
    ///
    /// # Errors
    /// If a filter blocks.
    pub fn connect(
        &mut self,
        remote: SocketAddr,
        request: Vec<u8>,
    ) -> Result<ConnectionId, SocketError> {
        let family = Family::of(remote.ip());
        let endpoint = self.handle();
        let binding = Scene {
            endpoint: Some(endpoint),
            flags: flag::IS_WILDCARD_BIND,
            ..Scene::call(
                ends(SocketAddr::new(unspecified(family), 0), None),
                Direction::Outbound,
            )
        };
        self.bind(&binding)?;
        let local = SocketAddr::new(self.own(family), self.free_port(remote));
        let flow = self.gate.filter.flow_create();
        let scene = Scene {
            endpoint: Some(endpoint),
            flow: Some(flow),
            ..Scene::call(ends(local, Some(remote)), Direction::Outbound)
        };
        let bound = Scene {
            ends: ends(local, None),
            ..scene
        };
        let generation = self.gate.generation(Layer::AleAuthConnect, &scene);
        let record = self.gate.open(scene.ends, Event::Connect);
        for layer in [Layer::AleConnectRedirect, Layer::AleAuthConnect] {
            if !self.gate.pass(record, layer, &scene) {
                self.gate.filter.flow_end(flow);
                self.release(&bound);
                return Err(SocketError::Blocked(scene.ends, layer.name()));
            }
        }
        let Some(handle) = self.stack.connect(local, remote) else {
            self.gate.filter.flow_end(flow);
            self.release(&bound);
            return Err(SocketError::Unusable(remote));
        };
        let id = ConnectionId(endpoint);
        let connection = Connection {
            id,
            handle,
            ends: scene.ends,
            direction: Direction::Outbound,
            endpoint,
            parent: None,
            flow,
            generation,
            established: false,
            peer_closed: false,
            closed: false,
            first_ack_sent: false,
            close_sent: false,
            aborted: false,
            sending: None,
            session: Session::client(request),
        };
        self.connections.insert((local, remote), connection);
        self.turn();
        Ok(id)
    }

    /// How a connection the host made goes; `None` if it made none such.
    pub fn outcome(&self, id: ConnectionId) -> Option<Outcome> {
        if let Some(outcome) = self.outcomes.get(&id) {
            return Some(outcome.clone());
        }
        let connection = self.connections.values().find(|c| c.id == id)?;
        let state = if connection.established {
            State::Open
        } else {
            State::Connecting
        };
        let received = connection.session.received().to_vec();
        Some(Outcome { state, received })
    }

    /// Takes over a connection that a listener's SYN has begun.
    pub(super) fn accepted(
        &mut self,
        handle: SocketHandle,
        scene: &Scene<'_>,
        flow: FlowHandle,
        generation: u64,
        listener: (SocketAddr, Application),
    ) {
        let Some(remote) = scene.ends.remote else {
            return;
        };
        let endpoint = scene.endpoint.unwrap_or_default();
        let connection = Connection {
            id: ConnectionId(endpoint),
            handle,
            ends: scene.ends,
            direction: Direction::Inbound,
            endpoint,
            parent: scene.parent.map(|endpoint| (listener.0, endpoint)),
            flow,
            generation,
            established: false,
            peer_closed: false,
            closed: false,
            first_ack_sent: false,
            close_sent: false,
            aborted: false,
            sending: None,
            session: Session::server(listener.1),
        };
        self.connections
            .insert((scene.ends.local, remote), connection);
    }

    /// Ends what TCP has ended: told at TIME-WAIT, forgotten when that is over.
    pub(super) fn reap(&mut self) {
        let pairs: Vec<Pair> = self.connections.keys().copied().collect();
        for pair in pairs {
            let Some(connection) = self.connections.get(&pair) else {
                continue;
            };
            match self.stack.state(connection.handle) {
                // From SYN-RECEIVED a RST leads back to LISTEN; the next SYN
                // gets a socket of its own.
                tcp::State::Closed | tcp::State::Listen => self.forget(pair),
                tcp::State::TimeWait => self.close(pair),
                _ => {}
            }
        }
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

    /// Tells the layers that a connection's endpoint closes, and ends its flow.
    fn close(&mut self, pair: Pair) {
        let Some(connection) = self.connections.get_mut(&pair) else {
            return;
        };
        if std::mem::replace(&mut connection.closed, true) {
            return;
        }
        let (flow, outbound) = (connection.flow, connection.direction == Direction::Outbound);
        let scene = Scene {
            flow: Some(flow),
            ..connection.scene(None)
        };
        // A half-open one has no endpoint of its own yet.
        if connection.established || outbound {
            let record = self.gate.open(scene.ends, Event::EndpointClosed);
            self.gate.tell(record, Layer::AleEndpointClosure, &scene);
        }
        self.gate.filter.flow_end(flow);
        if outbound {
            self.release(&Scene {
                ends: ends(scene.ends.local, None),
                ..scene
            });
        }
    }

    fn bind(&mut self, scene: &Scene<'_>) -> Result<(), SocketError> {
        let record = self.gate.open(scene.ends, Event::Bind);
        for layer in [Layer::AleBindRedirect, Layer::AleResourceAssignment] {
            if !self.gate.pass(record, layer, scene) {
                return Err(SocketError::Blocked(scene.ends, layer.name()));
            }
        }
        Ok(())
    }

    fn release(&mut self, scene: &Scene<'_>) {
        let record = self.gate.open(scene.ends, Event::PortFreed);
        self.gate.tell(record, Layer::AleResourceRelease, scene);
    }

    /// The host's address of a family.
    pub(super) fn own(&self, family: Family) -> IpAddr {
        self.gate.options.network.host_address(family)
    }

    fn free_port(&mut self, remote: SocketAddr) -> u16 {
        let own = self.own(Family::of(remote.ip()));
        loop {
            self.last_port = self
                .last_port
                .checked_add(1)
                .unwrap_or(FIRST_EPHEMERAL_PORT);
            let local = SocketAddr::new(own, self.last_port);
            if !self.connections.contains_key(&(local, remote)) {
                return self.last_port;
            }
        }
    }
}

fn ends(local: SocketAddr, remote: Option<SocketAddr>) -> Ends {
    Ends {
        protocol: TCP,
        local,
        remote,
    }
}

pub(super) fn unspecified(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    }
}
