//! Socket calls: bind, listen, connect, close; and the state of sockets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Host;
use super::application::{Application, Session};
use super::connection::Connection;
use super::layers::Layer;
use super::log::{Ends, Event};
use super::scene::{Direction, Scene, flag};
use crate::wire::Family;

/// The first port of the dynamic range (RFC 6335; Windows' default).
pub(super) const FIRST_EPHEMERAL_PORT: u16 = 49_152;

const TCP: u8 = 6;

/// A connection that the host has made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub(super) u64);

/// The state of a connection that the host has made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The handshake is not complete.
    Connecting,
    /// Established.
    Open,
    /// Both sides closed it in order.
    Closed,
    /// It ended by a RST, a timeout or a filter.
    Aborted,
}

/// A connection that the host has made: its state, and what it has read.
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
    /// A listener uses the address.
    #[error("{0} is in use")]
    InUse(SocketAddr),
    /// The address is not the host's, or cannot be used this way.
    #[error("{0} is not usable here")]
    Unusable(SocketAddr),
    /// Nobody listens there.
    #[error("{0} has no listener")]
    NotListening(SocketAddr),
}

/// A port with its application.
pub(super) struct Listener {
    pub application: Application,
    pub endpoint: u64,
}

impl Host {
    /// Binds and listens. An unspecified address stands for every address of its
    /// family.
    ///
    /// # Errors
    /// If a filter blocks, or the address is in use or not the host's.
    pub fn listen(&mut self, local: SocketAddr, application: Application) -> Result<(), SocketError> {
        if !local.ip().is_unspecified() && local.ip() != self.own(Family::of(local.ip())) {
            return Err(SocketError::Unusable(local));
        }
        if self.listeners.contains_key(&local) {
            return Err(SocketError::InUse(local));
        }
        let scene =
            Scene { endpoint: Some(self.handle()), ..Scene::call(ends(local, None), Direction::Inbound) };
        self.bind(&scene)?;
        let record = self.gate.open(scene.ends, Event::Listen);
        if !self.gate.pass(record, Layer::AleAuthListen, &scene) {
            self.release(&scene);
            return Err(SocketError::Blocked(scene.ends, Layer::AleAuthListen.name()));
        }
        let endpoint = scene.endpoint.unwrap_or_default();
        let listener = Listener { application, endpoint };
        self.listeners.insert(local, listener);
        Ok(())
    }

    /// Closes a listener. Its half-open connections are reset, the accepted ones
    /// stay.
    ///
    /// # Errors
    /// If nobody listens there.
    pub fn unlisten(&mut self, local: SocketAddr) -> Result<(), SocketError> {
        let listener = self.listeners.remove(&local).ok_or(SocketError::NotListening(local))?;
        for connection in self.connections.values_mut() {
            if connection.parent == Some((local, listener.endpoint)) && !connection.established {
                connection.aborted = true;
                self.stack.socket(connection.handle).abort();
            }
        }
        self.turn();
        let scene =
            Scene { endpoint: Some(listener.endpoint), ..Scene::call(ends(local, None), Direction::Inbound) };
        let record = self.gate.open(scene.ends, Event::EndpointClosed);
        self.gate.notify(record, Layer::AleEndpointClosure, &scene);
        self.release(&scene);
        Ok(())
    }

    /// Connects from a port of the dynamic range, sends `request` and reads until
    /// the peer closes; [`Host::outcome`] returns the result.
    ///
    /// # Errors
    /// If a filter blocks.
    pub fn connect(&mut self, remote: SocketAddr, request: Vec<u8>) -> Result<ConnectionId, SocketError> {
        let family = Family::of(remote.ip());
        let endpoint = self.handle();
        let binding = Scene {
            endpoint: Some(endpoint),
            flags: flag::IS_WILDCARD_BIND,
            ..Scene::call(ends(SocketAddr::new(unspecified(family), 0), None), Direction::Outbound)
        };
        self.bind(&binding)?;
        let local = SocketAddr::new(self.own(family), self.free_port(remote));
        let flow = self.gate.filter.flow_create();
        let scene = Scene {
            endpoint: Some(endpoint),
            flow: Some(flow),
            ..Scene::call(ends(local, Some(remote)), Direction::Outbound)
        };
        let bound = Scene { ends: ends(local, None), ..scene };
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
        let session = Session::client(request);
        let connection = Connection::new(handle, &scene, (flow, generation), self.gate.now, session);
        self.connections.insert((local, remote), connection);
        self.turn();
        Ok(ConnectionId(endpoint))
    }

    /// The state of a connection that the host has made; `None` if the id is
    /// unknown.
    pub fn outcome(&self, id: ConnectionId) -> Option<Outcome> {
        if let Some(outcome) = self.outcomes.get(&id) {
            return Some(outcome.clone());
        }
        let connection = self.connections.values().find(|c| c.id == id)?;
        let state = if connection.established { State::Open } else { State::Connecting };
        let received = connection.session.received().to_vec();
        Some(Outcome { state, received })
    }

    pub(super) fn bind(&mut self, scene: &Scene<'_>) -> Result<(), SocketError> {
        let record = self.gate.open(scene.ends, Event::Bind);
        for layer in [Layer::AleBindRedirect, Layer::AleResourceAssignment] {
            if !self.gate.pass(record, layer, scene) {
                return Err(SocketError::Blocked(scene.ends, layer.name()));
            }
        }
        Ok(())
    }

    pub(super) fn release(&mut self, scene: &Scene<'_>) {
        let record = self.gate.open(scene.ends, Event::PortFreed);
        self.gate.notify(record, Layer::AleResourceRelease, scene);
    }

    /// The host's address of a family.
    pub(super) fn own(&self, family: Family) -> IpAddr {
        self.gate.options.network.host_address(family)
    }

    pub(super) fn free_port(&mut self, remote: SocketAddr) -> u16 {
        let own = self.own(Family::of(remote.ip()));
        loop {
            self.last_port = self.last_port.checked_add(1).unwrap_or(FIRST_EPHEMERAL_PORT);
            let local = SocketAddr::new(own, self.last_port);
            if !self.connections.contains_key(&(local, remote)) {
                return self.last_port;
            }
        }
    }
}

pub(super) fn ends(local: SocketAddr, remote: Option<SocketAddr>) -> Ends {
    Ends { protocol: TCP, local, remote }
}

pub(super) fn unspecified(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    }
}
