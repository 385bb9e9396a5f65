//! Socket calls: bind, listen, connect, close; and the state of sockets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Host;
use super::application::{Application, Session};
use super::authorization::reauthorize_reason;
use super::connection::Connection;
use super::gate::Passage;
use super::layers::Layer;
use super::log::{Ends, Event, RecordId};
use super::scene::{Direction, Scene, flag};
use crate::wfp::{FlowHandle, Redirect};
use crate::wire::Family;

/// The first port of the dynamic range (RFC 6335; Windows' default).
pub(super) const FIRST_EPHEMERAL_PORT: u16 = 49_152;

const TCP: u8 = 6;

/// The layer at which a bind is authorized.
const ASSIGNMENT: Layer = Layer::AleResourceAssignment;

/// The result of a bind that no filter has blocked.
enum Bound {
    /// To the address that was asked for, or to the one that a callout has chosen.
    To(Option<SocketAddr>),
    /// A callout has pended the bind to this address.
    Pended(SocketAddr),
}

fn local_of(scene: &Scene<'_>) -> SocketAddr {
    scene.ends.local
}

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
    /// The layer, and what a redirection has changed.
    at: Layer,
    redirected: Option<(SocketAddr, u32)>,
}

/// A listen call that a callout has pended.
pub(super) struct PendedListen {
    ends: Ends,
    application: Application,
    at: Layer,
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
        let endpoint = Some(self.handle());
        let asked = Scene { endpoint, ..Scene::call(ends(local, None), Direction::Inbound) };
        let local = match self.bind_at([&asked, &asked])? {
            Bound::To(local) => local.unwrap_or(local_of(&asked)),
            Bound::Pended(at) => {
                self.pend_listen(&Scene { ends: ends(at, None), ..asked }, application, ASSIGNMENT);
                return Ok(());
            }
        };
        self.listen_at(&Scene { ends: ends(local, None), ..asked }, application)
    }

    /// Indicates a listen call of a bound socket, and goes on with it.
    fn listen_at(&mut self, scene: &Scene<'_>, application: Application) -> Result<(), SocketError> {
        let local = scene.ends.local;
        if self.listeners.contains_key(&local) {
            self.release(scene);
            return Err(SocketError::InUse(local));
        }
        let record = self.gate.open(scene.ends, Event::Listen);
        match self.gate.passage(record, Layer::AleAuthListen, scene) {
            Passage::Open => {
                let endpoint = scene.endpoint.unwrap_or_default();
                self.listeners.insert(local, Listener { application, endpoint });
                Ok(())
            }
            Passage::Pended => {
                self.pend_listen(scene, application, Layer::AleAuthListen);
                Ok(())
            }
            Passage::Blocked => {
                self.release(scene);
                Err(SocketError::Blocked(scene.ends, Layer::AleAuthListen.name()))
            }
        }
    }

    fn pend_listen(&mut self, scene: &Scene<'_>, application: Application, at: Layer) {
        let listen = PendedListen { ends: scene.ends, application, at };
        self.pended_listens.insert(scene.endpoint.unwrap_or_default(), listen);
    }

    /// Goes on with a listen call that a callout has pended: it is authorized again.
    pub(super) fn complete_listen(&mut self, endpoint: u64) -> Result<(), SocketError> {
        let PendedListen { ends, application, at } =
            self.pended_listens.remove(&endpoint).ok_or(SocketError::NotPended)?;
        let scene = Scene { endpoint: Some(endpoint), ..Scene::call(ends, Direction::Inbound) };
        let again = Scene { flags: flag::IS_REAUTHORIZE, ..scene };
        let event = if at == ASSIGNMENT { Event::Bind } else { Event::Listen };
        let record = self.gate.open(ends, event);
        if !self.gate.pass(record, at, &again) {
            self.release(&scene);
            return Err(SocketError::Blocked(ends, at.name()));
        }
        if at == ASSIGNMENT {
            return self.listen_at(&scene, application);
        }
        self.listeners.insert(ends.local, Listener { application, endpoint });
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
    /// If a filter blocks, or no interface leads there.
    pub fn connect(&mut self, remote: SocketAddr, request: Vec<u8>) -> Result<ConnectionId, SocketError> {
        if self.is_cut_off() {
            return Err(SocketError::Unusable(remote));
        }
        let endpoint = self.handle();
        let local = self.bind_any(TCP, endpoint, remote)?;
        let flow = self.gate.filter.flow_create();
        let scene = Scene {
            endpoint: Some(endpoint),
            flow: Some(flow),
            ..Scene::call(ends(local, Some(remote)), Direction::Outbound)
        };
        let record = self.gate.open(scene.ends, Event::Connect);
        self.redirect(record, scene, request)?;
        Ok(ConnectionId(endpoint))
    }

    /// Indicates a connect at ALE_CONNECT_REDIRECT, and goes on with it.
    fn redirect(&mut self, record: RecordId, scene: Scene<'_>, request: Vec<u8>) -> Result<(), SocketError> {
        let layer = Layer::AleConnectRedirect;
        match self.gate.passage(record, layer, &scene) {
            Passage::Open => self.authorize(record, scene, request),
            Passage::Pended => {
                self.pend(layer, &scene, request);
                Ok(())
            }
            Passage::Blocked => Err(self.refuse_connect(&scene, layer)),
        }
    }

    /// Indicates a connect at ALE_AUTH_CONNECT, with what a callout has made of its
    /// request, and goes on with it.
    fn authorize(
        &mut self,
        record: RecordId,
        mut scene: Scene<'_>,
        request: Vec<u8>,
    ) -> Result<(), SocketError> {
        if let (Some(redirect), Some(original)) = (self.take_redirect(&scene), scene.ends.remote)
            && let Some(remote) = redirect.remote.map(canonical)
            && remote != original
        {
            // "Changing the local address and port of a flow … isn't supported in the
            // connect-redirect layer" (Using Bind or Connect Redirection).
            if remote.is_ipv4() != original.is_ipv4() {
                return Err(self.refuse_connect(&scene, Layer::AleConnectRedirect));
            }
            scene.ends.remote = Some(remote);
            scene.flags |= flag::IS_CONNECTION_REDIRECTED;
            scene.redirected = Some((original, redirect.target));
        }
        let layer = Layer::AleAuthConnect;
        match self.gate.passage(record, layer, &scene) {
            Passage::Open => self.begin(&scene, request),
            Passage::Pended => {
                self.pend(layer, &scene, request);
                Ok(())
            }
            Passage::Blocked => Err(self.refuse_connect(&scene, layer)),
        }
    }

    fn pend(&mut self, at: Layer, scene: &Scene<'_>, request: Vec<u8>) {
        let Scene { ends, flow: Some(flow), endpoint: Some(endpoint), redirected, .. } = *scene else {
            return;
        };
        self.pended.insert(ConnectionId(endpoint), Pended { ends, flow, request, at, redirected });
    }

    fn refuse_connect(&mut self, scene: &Scene<'_>, layer: Layer) -> SocketError {
        if let Some(flow) = scene.flow {
            self.gate.filter.flow_end(flow);
        }
        self.release(&Scene { ends: ends(scene.ends.local, None), ..*scene });
        SocketError::Blocked(scene.ends, layer.name())
    }

    /// What a callout has made of the request of this endpoint.
    fn take_redirect(&self, scene: &Scene<'_>) -> Option<Redirect> {
        self.gate.filter.demands()?.take_redirect(scene.endpoint?)
    }

    /// Goes on with a connect whose classify at ALE_CONNECT_REDIRECT a callout has
    /// pended. `permit` is the callout's decision; without one, the connect is indicated
    /// again.
    ///
    /// # Errors
    /// If a filter blocks, or no such connect is pended.
    pub(super) fn complete_classify(
        &mut self,
        id: ConnectionId,
        permit: Option<bool>,
    ) -> Result<(), SocketError> {
        if self.pended.get(&id).is_none_or(|pended| pended.at != Layer::AleConnectRedirect) {
            return Err(SocketError::NotPended);
        }
        let Pended { ends, flow, request, .. } = self.pended.remove(&id).ok_or(SocketError::NotPended)?;
        let scene =
            Scene { endpoint: Some(id.0), flow: Some(flow), ..Scene::call(ends, Direction::Outbound) };
        let record = self.gate.open(ends, Event::Connect);
        let gone_on = match permit {
            Some(true) => self.authorize(record, scene, request),
            Some(false) => Err(self.refuse_connect(&scene, Layer::AleConnectRedirect)),
            None => self.redirect(record, scene, request),
        };
        if gone_on.is_err() {
            self.outcomes.insert(id, Outcome { state: State::Aborted, received: Vec::new() });
        }
        gone_on
    }

    /// Goes on with a connect that a callout pended, as `FwpsCompleteOperation0` does:
    /// it is authorized again.
    ///
    /// # Errors
    /// If a filter blocks, or no such connect is pended.
    pub fn complete(&mut self, id: ConnectionId) -> Result<(), SocketError> {
        if self.pended.get(&id).is_none_or(|pended| pended.at != Layer::AleAuthConnect) {
            return Err(SocketError::NotPended);
        }
        let Pended { ends, flow, request, redirected, .. } =
            self.pended.remove(&id).ok_or(SocketError::NotPended)?;
        let flags = redirected.map_or(0, |_| flag::IS_CONNECTION_REDIRECTED);
        let scene = Scene {
            endpoint: Some(id.0),
            flow: Some(flow),
            redirected,
            ..Scene::call(ends, Direction::Outbound)
        };
        let again = Scene {
            flags: flag::IS_REAUTHORIZE | flags,
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
        let authorized = (flow, self.gate.authorization(generation, self.gate.options.interface.luid));
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

    /// Binds. Returns the local address, which a callout may have changed.
    pub(super) fn bind(&mut self, scene: &Scene<'_>) -> Result<SocketAddr, SocketError> {
        match self.bind_at([scene, scene])? {
            Bound::To(local) => Ok(local.unwrap_or(local_of(scene))),
            Bound::Pended(_) => Err(SocketError::Blocked(scene.ends, ASSIGNMENT.name())),
        }
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
        // A callout may have bound it to a port; the host has one address.
        let port = match self.bind_at([&any(0), &any(shown)])? {
            Bound::To(Some(local)) if local.port() != 0 => local.port(),
            Bound::To(_) => port,
            Bound::Pended(_) => return Err(SocketError::Blocked(any(0).ends, ASSIGNMENT.name())),
        };
        Ok(SocketAddr::new(self.own(family), port))
    }

    /// Binds; the scenes are those of the two layers.
    fn bind_at(&mut self, [redirect, assignment]: [&Scene<'_>; 2]) -> Result<Bound, SocketError> {
        let record = self.gate.open(assignment.ends, Event::Bind);
        if !self.gate.pass(record, Layer::AleBindRedirect, redirect) {
            return Err(SocketError::Blocked(redirect.ends, Layer::AleBindRedirect.name()));
        }
        let given = redirect.ends.local;
        let changed = self.take_redirect(redirect).map(|it| canonical(it.local)).filter(|it| *it != given);
        let mut assignment = *assignment;
        if let Some(local) = changed {
            let own = local.ip().is_unspecified() || local.ip() == self.own(Family::of(local.ip()));
            if !own || local.is_ipv4() != given.is_ipv4() {
                return Err(SocketError::Unusable(local));
            }
            assignment.ends.local = local;
        }
        match self.gate.passage(record, ASSIGNMENT, &assignment) {
            Passage::Open => Ok(Bound::To(changed)),
            Passage::Pended => Ok(Bound::Pended(assignment.ends.local)),
            Passage::Blocked => Err(SocketError::Blocked(assignment.ends, ASSIGNMENT.name())),
        }
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

/// The IPv4 address that a dual-stack socket's mapped one stands for.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
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
