//! Datagrams with an endpoint: UDP sockets, and the stack's own echo.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::Host;
use super::answer;
use super::authorization::{Authorization, reauthorize_reason};
use super::gate::{Gate, Passage};
use super::inbound::FLOWS_LIMIT;
use super::layers::Layer;
use super::log::{Ends, Event, RecordId};
use super::scene::{Direction, Scene, flag};
use super::sockets::{SocketError, canonical, unspecified};
use crate::wfp::FlowHandle;
use crate::wire::protocol::UDP;
use crate::wire::{Family, Parsed, Transport};

/// Flows of datagrams. For echoes, the identifier stands for the remote port (*ALE
/// Stateful Filtering*: 5-tuple, for ICMP 6-tuple).
pub(super) type Flows = BTreeMap<Key, Flow>;

/// Protocol, local and remote address.
type Key = (u8, SocketAddr, SocketAddr);

/// A flow of datagrams.
pub(super) struct Flow {
    pub handle: FlowHandle,
    /// The time of its last packet.
    pub last: Duration,
    /// The direction of its first packet.
    direction: Direction,
    pub authorization: Authorization,
}

impl Flow {
    /// The layer that authorized the flow.
    fn authorizing(&self) -> Layer {
        match self.direction {
            Direction::Inbound => Layer::AleAuthRecvAccept,
            Direction::Outbound => Layer::AleAuthConnect,
        }
    }
}

/// Bound UDP sockets.
pub(super) type Sockets = BTreeMap<SocketAddr, Socket>;

/// A bound UDP socket.
pub(super) struct Socket {
    pub endpoint: u64,
    /// Whether it is an echo server. The others only read.
    echoes: bool,
}

impl Host {
    /// Binds a UDP socket that echoes datagrams. An unspecified address stands for
    /// every address of its family.
    ///
    /// # Errors
    /// If a filter blocks, or the address is in use or not the host's.
    pub fn echo_datagrams(&mut self, local: SocketAddr) -> Result<(), SocketError> {
        if !local.ip().is_unspecified() && local.ip() != self.own(Family::of(local.ip())) {
            return Err(SocketError::Unusable(local));
        }
        if self.datagram_sockets.contains_key(&local) {
            return Err(SocketError::InUse(local));
        }
        let endpoint = self.handle();
        let scene = Scene { endpoint: Some(endpoint), ..Scene::call(bound(local), Direction::Inbound) };
        let local = self.bind(&scene)?;
        self.datagram_sockets.insert(local, Socket { endpoint, echoes: true });
        Ok(())
    }

    /// Binds a UDP socket to a port of the dynamic range and sends a datagram from
    /// it. Returns the socket's address.
    ///
    /// # Errors
    /// If a filter blocks. Then there is no socket.
    pub fn send_datagram(&mut self, remote: SocketAddr, payload: &[u8]) -> Result<SocketAddr, SocketError> {
        let endpoint = self.handle();
        let local = self.bind_any(UDP, endpoint, remote)?;
        self.datagram_sockets.insert(local, Socket { endpoint, echoes: false });
        if let Err(error) = self.send_datagram_from(local, remote, payload) {
            self.close_datagrams(local)?;
            return Err(error);
        }
        Ok(local)
    }

    /// Sends a datagram from a bound UDP socket. The first one to a remote address
    /// passes the authorization layers.
    ///
    /// # Errors
    /// If there is no such socket, a filter blocks, or no interface leads there.
    pub fn send_datagram_from(
        &mut self,
        local: SocketAddr,
        remote: SocketAddr,
        payload: &[u8],
    ) -> Result<(), SocketError> {
        if self.is_cut_off() {
            return Err(SocketError::Unusable(remote));
        }
        let socket = self.datagram_sockets.get(&local).ok_or(SocketError::NotBound(local))?;
        self.send_datagram_of(socket.endpoint, local, remote, payload)
    }

    /// Sends a datagram of an endpoint.
    fn send_datagram_of(
        &mut self,
        endpoint: u64,
        local: SocketAddr,
        remote: SocketAddr,
        payload: &[u8],
    ) -> Result<(), SocketError> {
        let endpoint = Some(endpoint);
        let packet = answer::datagram(local, remote, payload).ok_or(SocketError::Unusable(remote))?;
        let parsed = Parsed::new(&packet).ok_or(SocketError::Unusable(remote))?;
        let mut scene = Scene { endpoint, ..Scene::packet(Direction::Outbound, parsed) };
        let key = (UDP, local, remote);
        if self.flows.contains_key(&key) {
            let record = self.gate.open(scene.ends, Event::DatagramOut);
            if self.authorize_again(record, key, &mut scene) {
                self.send_of_flow(record, &scene, packet.clone());
            }
            return Ok(());
        }
        let record = self.gate.open(scene.ends, Event::FirstDatagramOut);
        let ends = scene.ends;
        let blocked = |layer: Layer| SocketError::Blocked(ends, layer.name());
        if !self.gate.pass(record, Layer::AleConnectRedirect, &scene) {
            return Err(blocked(Layer::AleConnectRedirect));
        }
        if let Some((elsewhere, target)) = self.redirected(&scene) {
            let packet =
                answer::datagram(local, elsewhere, payload).ok_or(SocketError::Unusable(elsewhere))?;
            let parsed = Parsed::new(&packet).ok_or(SocketError::Unusable(elsewhere))?;
            let scene = Scene {
                endpoint,
                flags: flag::IS_CONNECTION_REDIRECTED,
                redirected: Some((remote, target)),
                ..Scene::packet(Direction::Outbound, parsed)
            };
            return self.send_first(record, scene, packet.clone());
        }
        self.send_first(record, scene, packet.clone())
    }

    /// Authorizes a flow that a socket begins, and sends its first datagram. If a callout
    /// pends it, "any pended packet data is flushed from memory" (FwpsPendOperation0).
    fn send_first(
        &mut self,
        record: RecordId,
        mut scene: Scene<'_>,
        packet: Vec<u8>,
    ) -> Result<(), SocketError> {
        let Scene { ends, endpoint: Some(endpoint), .. } = scene else { return Ok(()) };
        let key = (UDP, ends.local, ends.remote.unwrap_or(ends.local));
        if self.flows.contains_key(&key) {
            // A redirection has led to a remote address that the socket knows.
            if self.authorize_again(record, key, &mut scene) {
                self.send_of_flow(record, &scene, packet);
            }
            return Ok(());
        }
        let by = [Layer::AleAuthConnect, Layer::AleFlowEstablished];
        match self.begin_flow(record, key, &mut scene, by) {
            Ok(()) => self.send_of_flow(record, &scene, packet),
            Err((Layer::AleAuthConnect, Passage::Pended)) => {
                self.pended_datagrams.insert(endpoint, ends);
            }
            Err((layer, _)) => return Err(SocketError::Blocked(ends, layer.name())),
        }
        Ok(())
    }

    /// Goes on with a flow whose first datagram a callout has pended: it is authorized
    /// again. "Non-TCP connections only create state entries" (FwpsPendOperation0).
    pub(super) fn complete_datagram(&mut self, endpoint: u64, ends: Ends) -> Result<(), SocketError> {
        let key = (UDP, ends.local, ends.remote.unwrap_or(ends.local));
        let record = self.gate.open(ends, Event::CompletionPasses);
        let mut scene = Scene {
            endpoint: Some(endpoint),
            flags: flag::IS_REAUTHORIZE,
            reauthorize_reason: reauthorize_reason::CLASSIFY_COMPLETION,
            ..Scene::call(ends, Direction::Outbound)
        };
        let by = [Layer::AleAuthConnect, Layer::AleFlowEstablished];
        self.begin_flow(record, key, &mut scene, by).map_err(|(layer, _)| {
            self.gate.log.rename(record, Event::CompletionFails);
            SocketError::Blocked(ends, layer.name())
        })
    }

    /// The remote address to which a callout has redirected a datagram, and the process
    /// there.
    fn redirected(&self, scene: &Scene<'_>) -> Option<(SocketAddr, u32)> {
        let redirect = self.gate.filter.demands()?.take_redirect(scene.endpoint?)?;
        let remote = canonical(redirect.remote?);
        (Some(remote) != scene.ends.remote).then_some((remote, redirect.target))
    }

    fn send_of_flow(&mut self, record: RecordId, scene: &Scene<'_>, packet: Vec<u8>) {
        if self.gate.pass(record, Layer::DatagramData, scene) {
            self.down(record, scene, packet);
        }
    }

    /// Authorizes a datagram that a driver has injected, if it is the first one of a
    /// socket to its remote address: "a UDP packet … will reenter the stack and traverse
    /// the ALE (optional), datagram data, and transport layers" (*Packet Injection
    /// Functions*). The answers then belong to a flow that the host has begun. Returns
    /// whether the datagram goes on.
    #[must_use]
    pub(super) fn begin_injected(&mut self, record: RecordId, scene: &mut Scene<'_>) -> bool {
        let Ends { protocol: UDP, local, remote: Some(remote) } = scene.ends else { return true };
        let any = SocketAddr::new(unspecified(Family::of(local.ip())), local.port());
        let socket = [local, any].iter().find_map(|at| self.datagram_sockets.get(at));
        let Some(&Socket { endpoint, .. }) = socket.filter(|_| self.flows.len() < FLOWS_LIMIT) else {
            return true;
        };
        scene.endpoint = Some(endpoint);
        let by = [Layer::AleAuthConnect, Layer::AleFlowEstablished];
        match self.begin_flow(record, (UDP, local, remote), scene, by) {
            Ok(()) => true,
            Err((layer, passage)) => {
                if (layer, passage) == (Layer::AleAuthConnect, Passage::Pended) {
                    self.pended_datagrams.insert(endpoint, scene.ends);
                }
                false
            }
        }
    }

    /// Closes a UDP socket, and ends its flows.
    ///
    /// # Errors
    /// If there is none.
    pub fn close_datagrams(&mut self, local: SocketAddr) -> Result<(), SocketError> {
        let socket = self.datagram_sockets.remove(&local).ok_or(SocketError::NotBound(local))?;
        let scene =
            Scene { endpoint: Some(socket.endpoint), ..Scene::call(bound(local), Direction::Inbound) };
        let record = self.gate.open(scene.ends, Event::EndpointClosed);
        self.gate.notify(record, Layer::AleEndpointClosure, &scene);
        let filter = &self.gate.filter;
        self.flows.retain(|(protocol, at, _), flow| {
            let ends = *protocol == UDP && *at == local;
            if ends {
                filter.flow_end(flow.handle);
            }
            !ends
        });
        self.release(&scene);
        Ok(())
    }

    /// The socket for a datagram.
    pub(super) fn datagram_socket(&self, parsed: &Parsed<'_>) -> Option<&Socket> {
        let [mut own, mut any] = [parsed.destination; 2];
        // A socket bound to the host's address gets what comes to its interface for all.
        if self.gate.options.is_for_several(own.ip()) {
            own.set_ip(self.own(parsed.family()));
        }
        any.set_ip(unspecified(parsed.family()));
        [parsed.destination, own, any].iter().find_map(|local| self.datagram_sockets.get(local))
    }

    /// A datagram for a socket.
    pub(super) fn datagram(&mut self, record: RecordId, mut scene: Scene<'_>, parsed: Parsed<'_>) {
        let Some(&Socket { endpoint, echoes }) = self.datagram_socket(&parsed) else { return };
        scene.endpoint = Some(endpoint);
        if self.gate.options.is_for_several(parsed.destination.ip()) {
            return self.datagram_for_group(record, scene, parsed, echoes);
        }
        let key = (scene.ends.protocol, scene.ends.local, parsed.source);
        if self.admit(record, &mut scene, key, Event::LaterDatagramIn)
            && echoes
            && let Some(reply) = answer::datagram_echo(&parsed)
        {
            self.send_built(reply, Event::DatagramOut, Layer::DatagramData, scene.flow);
        }
    }

    /// A datagram for several machines, with a socket. All of them are one flow, and what
    /// is sent in response is another one (*ALE Multicast/Broadcast Traffic*).
    fn datagram_for_group(
        &mut self,
        record: RecordId,
        mut scene: Scene<'_>,
        parsed: Parsed<'_>,
        echoes: bool,
    ) {
        let everybody = SocketAddr::new(unspecified(parsed.family()), 0);
        let key = (scene.ends.protocol, everybody, everybody);
        if self.admit(record, &mut scene, key, Event::LaterDatagramIn)
            && echoes
            && let Some(endpoint) = scene.endpoint
        {
            let local = SocketAddr::new(self.own(parsed.family()), parsed.destination.port());
            // A filter may refuse the response.
            let _ = self.send_datagram_of(endpoint, local, parsed.source, parsed.payload());
        }
    }

    /// An echo request. It is authorized like a datagram for the stack's own ICMP
    /// endpoint, then answered.
    pub(super) fn echo(&mut self, record: RecordId, mut scene: Scene<'_>, parsed: Parsed<'_>) {
        let Transport::Icmp { rest, .. } = parsed.transport else {
            return;
        };
        let remote = SocketAddr::new(parsed.source.ip(), (rest >> 16) as u16);
        let key = (scene.ends.protocol, scene.ends.local, remote);
        if self.admit(record, &mut scene, key, Event::LaterEchoRequestIn)
            && let Some(reply) = answer::echo_reply(&parsed)
        {
            self.send_built(reply, Event::EchoReplyOut, Layer::DatagramData, scene.flow);
        }
    }

    /// Whether a datagram of a flow reaches its endpoint. The first one of a flow passes the
    /// authorization layers, `later` ones do not.
    #[must_use]
    fn admit(&mut self, record: RecordId, scene: &mut Scene<'_>, key: Key, later: Event) -> bool {
        let flow = self.flows.get(&key);
        scene.flow = flow.map(|flow| flow.handle);
        let known = flow.is_some();
        if known {
            self.gate.log.rename(record, later);
        }
        if !known || self.reasons(key, scene) != 0 {
            scene.flags |= flag::REQUIRES_ALE_CLASSIFY;
        }
        if !self.gate.pass(record, Layer::InboundTransport, scene) {
            return false;
        }
        scene.flags &= !flag::REQUIRES_ALE_CLASSIFY;
        let by = [Layer::AleAuthRecvAccept, Layer::AleFlowEstablished];
        let authorized = match known {
            true => self.authorize_again(record, key, scene),
            false => self.flows.len() < FLOWS_LIMIT && self.begin_flow(record, key, scene, by).is_ok(),
        };
        authorized && self.gate.pass(record, Layer::DatagramData, scene)
    }

    /// Authorizes a flow's first datagram at these layers. The error is the layer that
    /// blocks, and how.
    fn begin_flow(
        &mut self,
        record: RecordId,
        key: Key,
        scene: &mut Scene<'_>,
        by: [Layer; 2],
    ) -> Result<(), (Layer, Passage)> {
        let generation = self.gate.generation(by[0], scene);
        let handle = self.gate.filter.flow_create();
        scene.flow = Some(handle);
        for layer in by {
            let passage = self.gate.passage(record, layer, scene);
            if passage != Passage::Open {
                self.gate.filter.flow_end(handle);
                return Err((layer, passage));
            }
        }
        let luid = arrival(&self.gate, scene).unwrap_or(self.gate.options.interface.luid);
        let authorization = self.gate.authorization(generation, luid);
        let flow = Flow { handle, last: self.gate.now, direction: scene.direction, authorization };
        self.flows.insert(key, flow);
        Ok(())
    }

    /// The reasons to authorize a flow again for this datagram; 0 if there is none.
    fn reasons(&self, key: Key, scene: &Scene<'_>) -> u32 {
        self.flows.get(&key).map_or(0, |flow| {
            let generation = self.gate.generation(flow.authorizing(), scene);
            flow.authorization.reasons(generation, arrival(&self.gate, scene))
        })
    }

    /// Classifies a flow again at the layer that authorized it, if there is a reason
    /// (*ALE Reauthorization*). If it is not permitted, it ends.
    #[must_use]
    fn authorize_again(&mut self, record: RecordId, key: Key, scene: &mut Scene<'_>) -> bool {
        let reasons = self.reasons(key, scene);
        let Some(flow) = self.flows.get_mut(&key) else { return false };
        flow.last = self.gate.now;
        scene.flow = Some(flow.handle);
        if reasons == 0 {
            return true;
        }
        let layer = flow.authorizing();
        flow.authorization.renew(self.gate.generation(layer, scene), arrival(&self.gate, scene));
        let again = Scene {
            flags: scene.flags | flag::IS_REAUTHORIZE,
            reauthorize_reason: reasons,
            original_profile: Some(flow.authorization.profile),
            ..*scene
        };
        let passes = self.gate.pass(record, layer, &again);
        let by_receiver = layer == Layer::AleAuthRecvAccept && scene.passing() == Direction::Inbound;
        let event = match (by_receiver, passes) {
            (false, true) => Event::ReauthorizationPassesElsewhere,
            (false, false) => Event::ReauthorizationFailsElsewhere,
            (true, true) => Event::DatagramReauthorizationPasses,
            (true, false) => Event::DatagramReauthorizationFails,
        };
        self.gate.log.rename(record, event);
        if !passes && let Some(flow) = self.flows.remove(&key) {
            self.gate.filter.flow_end(flow.handle);
        }
        passes
    }
}

/// The interface on which a datagram has arrived; `None` if it is sent.
fn arrival(gate: &Gate, scene: &Scene<'_>) -> Option<u64> {
    (scene.passing() == Direction::Inbound).then_some(gate.arrival.luid)
}

fn bound(local: SocketAddr) -> Ends {
    Ends { protocol: UDP, local, remote: None }
}
