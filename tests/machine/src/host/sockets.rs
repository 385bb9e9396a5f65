//! Socket calls: bind, listen, connect, close; and the state of sockets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Host;
use super::application::{Application, Session};
use super::authorization::{Authorization, reauthorize_reason};
use super::connection::Connection;
use super::gate::Passage;
use super::layers::Layer;
use super::log::{Ends, Event};
use super::scene::{Direction, Scene, flag};
use crate::wfp::FlowHandle;
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
    /// No UDP socket is bound there.
    #[error("{0} is not bound")]
    NotBound(SocketAddr),
    /// No such connect waits for its completion.
    #[error("the connect is not pended")]
    NotPended,
}

/// A connect that a callout has pended.
pub(super) struct Pended {
    ends: Ends,
    flow: FlowHandle,
    request: Vec<u8>,
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
        let endpoint = self.handle();
        let local = self.bind_any(TCP, endpoint, remote)?;
        let flow = self.gate.filter.flow_create();
        let scene = Scene {
            endpoint: Some(endpoint),
            flow: Some(flow),
            ..Scene::call(ends(local, Some(remote)), Direction::Outbound)
        };
        let record = self.gate.open(scene.ends, Event::Connect);
        let id = ConnectionId(endpoint);
        for layer in [Layer::AleConnectRedirect, Layer::AleAuthConnect] {
            match self.gate.passage(record, layer, &scene) {
                Passage::Open => {}
                Passage::Absorbed if layer == Layer::AleAuthConnect => {
                    self.pended.insert(id, Pended { ends: scene.ends, flow, request });
                    return Ok(id);
                }
                Passage::Blocked | Passage::Absorbed => {
                    self.gate.filter.flow_end(flow);
                    self.release(&Scene { ends: ends(local, None), ..scene });
                    return Err(SocketError::Blocked(scene.ends, layer.name()));
                }
            }
        }
        self.begin(&scene, request)?;
        Ok(id)
    }

    /// Goes on with a connect that a callout pended, as `FwpsCompleteOperation0` does:
    /// it is authorized again.
    ///
    /// # Errors
    /// If a filter blocks, or no such connect is pended.
    pub fn complete(&mut self, id: ConnectionId) -> Result<(), SocketError> {
        let Pended { ends, flow, request } = self.pended.remove(&id).ok_or(SocketError::NotPended)?;
        let scene =
            Scene { endpoint: Some(id.0), flow: Some(flow), ..Scene::call(ends, Direction::Outbound) };
        let again = Scene {
            flags: flag::IS_REAUTHORIZE,
            reauthorize_reason: reauthorize_reason::CLASSIFY_COMPLETION,
            ..scene
        };
        let record = self.gate.open(ends, Event::CompletionPasses);
        if self.gate.pass(record, Layer::AleAuthConnect, &again) {
            return self.begin(&scene, request);
        }
        self.gate.log.rename(record, Event::CompletionFails);
        self.gate.filter.flow_end(flow);
        self.release(&Scene { ends: Ends { remote: None, ..ends }, ..scene });
        self.outcomes.insert(id, Outcome { state: State::Aborted, received: Vec::new() });
        Err(SocketError::Blocked(ends, Layer::AleAuthConnect.name()))
    }

    /// Sends the SYN of a connection that is authorized.
    fn begin(&mut self, scene: &Scene<'_>, request: Vec<u8>) -> Result<(), SocketError> {
        let Scene { ends: Ends { local, remote: Some(remote), .. }, flow: Some(flow), .. } = *scene else {
            return Ok(());
        };
        let Some(handle) = self.stack.connect(local, remote) else {
            self.gate.filter.flow_end(flow);
            self.release(&Scene { ends: ends(local, None), ..*scene });
            return Err(SocketError::Unusable(remote));
        };
        let generation = self.gate.generation(Layer::AleAuthConnect, scene);
        let authorized = (flow, Authorization::new(generation, self.gate.options.interface.luid));
        let session = Session::client(request);
        let connection = Connection::new(handle, scene, authorized, self.gate.now, session);
        self.connections.insert((local, remote), connection);
        self.turn();
        Ok(())
    }

    /// The state of a connection that the host has made; `None` if the id is
    /// unknown.
    pub fn outcome(&self, id: ConnectionId) -> Option<Outcome> {
        if let Some(outcome) = self.outcomes.get(&id) {
            return Some(outcome.clone());
        }
        if self.pended.contains_key(&id) {
            return Some(Outcome { state: State::Connecting, received: Vec::new() });
        }
        let connection = self.connections.values().find(|c| c.id == id)?;
        let state = if connection.established { State::Open } else { State::Connecting };
        let received = connection.session.received().to_vec();
        Some(Outcome { state, received })
    }

    pub(super) fn bind(&mut self, scene: &Scene<'_>) -> Result<(), SocketError> {
        self.bind_at([scene, scene])
    }

    /// Binds a socket to port 0 of every address. The stack selects a port of the
    /// dynamic range. Returns the address from which it sends to `remote`.
    pub(super) fn bind_any(
        &mut self,
        protocol: u8,
        endpoint: u64,
        remote: SocketAddr,
    ) -> Result<SocketAddr, SocketError> {
        let family = Family::of(remote.ip());
        let port = self.free_port(remote);
        let any = |port| {
            let ends = Ends { protocol, local: SocketAddr::new(unspecified(family), port), remote: None };
            let flags = flag::IS_WILDCARD_BIND;
            Scene { endpoint: Some(endpoint), flags, ..Scene::call(ends, Direction::Outbound) }
        };
        let shown = if self.gate.open_points.selected_port_at_assignment { port } else { 0 };
        self.bind_at([&any(0), &any(shown)])?;
        Ok(SocketAddr::new(self.own(family), port))
    }

    /// Binds; the scenes are those of the two layers.
    fn bind_at(&mut self, [redirect, assignment]: [&Scene<'_>; 2]) -> Result<(), SocketError> {
        let record = self.gate.open(assignment.ends, Event::Bind);
        for (layer, scene) in [(Layer::AleBindRedirect, redirect), (Layer::AleResourceAssignment, assignment)]
        {
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
