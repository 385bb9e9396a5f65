//! Datagrams with an endpoint: UDP sockets, and the stack's own echo.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::Host;
use super::answer;
use super::inbound::FLOWS_LIMIT;
use super::layers::Layer;
use super::log::{Ends, Event, RecordId};
use super::scene::{Direction, Scene, flag};
use super::segment::REASON_POLICY_CHANGE;
use super::sockets::{SocketError, unspecified};
use crate::wfp::FlowHandle;
use crate::wire::{Family, Parsed, Transport};

const UDP: u8 = 17;

/// Flows of datagrams. For echoes, the identifier stands for the remote port (*ALE
/// Stateful Filtering*: 5-tuple, for ICMP 6-tuple).
pub(super) type Flows = BTreeMap<(u8, SocketAddr, SocketAddr), Flow>;

/// A flow of datagrams.
pub(super) struct Flow {
    pub handle: FlowHandle,
    /// The time of its last packet.
    pub last: Duration,
    /// The direction of its first packet.
    direction: Direction,
    /// The generation of the authorizing layer at the last authorization.
    generation: u64,
}

/// Bound UDP sockets.
pub(super) type Sockets = BTreeMap<SocketAddr, Socket>;

/// A bound UDP socket.
pub(super) struct Socket {
    endpoint: u64,
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
        self.bind(&scene)?;
        self.datagram_sockets.insert(local, Socket { endpoint, echoes: true });
        Ok(())
    }

    /// Binds a UDP socket to a port of the dynamic range and sends a datagram from
    /// it. Returns the socket's address.
    ///
    /// # Errors
    /// If a filter blocks.
    pub fn send_datagram(&mut self, remote: SocketAddr, payload: &[u8]) -> Result<SocketAddr, SocketError> {
        let family = Family::of(remote.ip());
        let endpoint = self.handle();
        let wildcard = bound(SocketAddr::new(unspecified(family), 0));
        let binding = Scene {
            endpoint: Some(endpoint),
            flags: flag::IS_WILDCARD_BIND,
            ..Scene::call(wildcard, Direction::Outbound)
        };
        self.bind(&binding)?;
        let local = SocketAddr::new(self.own(family), self.free_port(remote));
        self.datagram_sockets.insert(local, Socket { endpoint, echoes: false });
        let packet = answer::datagram(local, remote, payload).ok_or(SocketError::Unusable(remote))?;
        let parsed = Parsed::new(&packet).ok_or(SocketError::Unusable(remote))?;
        let mut scene = Scene { endpoint: Some(endpoint), ..Scene::packet(Direction::Outbound, parsed) };
        let record = self.gate.open(scene.ends, Event::FirstDatagramOut);
        let blocked = |layer: Layer| SocketError::Blocked(scene.ends, layer.name());
        if !self.gate.pass(record, Layer::AleConnectRedirect, &scene) {
            return Err(blocked(Layer::AleConnectRedirect));
        }
        let generation = self.gate.generation(Layer::AleAuthConnect, &scene);
        let handle = self.gate.filter.flow_create();
        let ends = scene.ends;
        scene.flow = Some(handle);
        for layer in [Layer::AleAuthConnect, Layer::AleFlowEstablished] {
            if !self.gate.pass(record, layer, &scene) {
                self.gate.filter.flow_end(handle);
                return Err(SocketError::Blocked(ends, layer.name()));
            }
        }
        let flow = Flow { handle, last: self.gate.now, direction: Direction::Outbound, generation };
        self.flows.insert((UDP, local, remote), flow);
        if self.gate.pass(record, Layer::DatagramData, &scene) {
            self.down(record, &scene, packet.clone());
        }
        Ok(local)
    }

    /// Closes a UDP socket, and ends its flows.
    ///
    /// # Errors
    /// If there is none.
    pub fn close_datagrams(&mut self, local: SocketAddr) -> Result<(), SocketError> {
        let socket = self.datagram_sockets.remove(&local).ok_or(SocketError::NotListening(local))?;
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
        let mut any = parsed.destination;
        any.set_ip(unspecified(parsed.family()));
        [parsed.destination, any].iter().find_map(|local| self.datagram_sockets.get(local))
    }

    /// A datagram for a socket.
    pub(super) fn datagram(&mut self, record: RecordId, mut scene: Scene<'_>, parsed: Parsed<'_>) {
        let Some(&Socket { endpoint, echoes }) = self.datagram_socket(&parsed) else { return };
        scene.endpoint = Some(endpoint);
        if self.admit(record, &mut scene, parsed.source, Event::LaterDatagramIn)
            && echoes
            && let Some(reply) = answer::datagram_echo(&parsed)
        {
            self.send_built(reply, Event::DatagramOut, Layer::DatagramData, scene.flow);
        }
    }

    /// An echo request. It is authorized like a datagram for the stack's own ICMP
    /// endpoint, then answered.
    pub(super) fn echo(&mut self, record: RecordId, mut scene: Scene<'_>, parsed: Parsed<'_>) {
        let Transport::Icmp { rest, .. } = parsed.transport else {
            return;
        };
        let remote = SocketAddr::new(parsed.source.ip(), (rest >> 16) as u16);
        if self.admit(record, &mut scene, remote, Event::LaterEchoRequestIn)
            && let Some(reply) = answer::echo_reply(&parsed)
        {
            self.send_built(reply, Event::EchoReplyOut, Layer::DatagramData, scene.flow);
        }
    }

    /// Whether a datagram reaches its endpoint. The first one of a flow passes the
    /// authorization layers. A later one passes the layer that authorized the flow if
    /// the policy has changed since then (*ALE Reauthorization*).
    #[must_use]
    fn admit(&mut self, record: RecordId, scene: &mut Scene<'_>, remote: SocketAddr, later: Event) -> bool {
        let key = (scene.ends.protocol, scene.ends.local, remote);
        let known = self.flows.get_mut(&key).map(|flow| {
            flow.last = self.gate.now;
            (flow.handle, flow.direction, flow.generation)
        });
        scene.flow = known.map(|(handle, ..)| handle);
        let authorizing = match known {
            Some((_, Direction::Outbound, _)) => Layer::AleAuthConnect,
            _ => Layer::AleAuthRecvAccept,
        };
        let generation = self.gate.generation(authorizing, scene);
        let stale = known.is_some_and(|(.., authorized)| authorized != generation);
        if known.is_some() {
            self.gate.log.rename(record, later);
        }
        if known.is_none() || stale {
            scene.flags |= flag::REQUIRES_ALE_CLASSIFY;
        }
        if !self.gate.pass(record, Layer::InboundTransport, scene) {
            return false;
        }
        scene.flags &= !flag::REQUIRES_ALE_CLASSIFY;
        if stale && !self.reauthorize_datagram(record, key, *scene, authorizing, generation) {
            return false;
        }
        if known.is_none() {
            if self.flows.len() >= FLOWS_LIMIT {
                return false;
            }
            let handle = self.gate.filter.flow_create();
            scene.flow = Some(handle);
            for layer in [Layer::AleAuthRecvAccept, Layer::AleFlowEstablished] {
                if !self.gate.pass(record, layer, scene) {
                    self.gate.filter.flow_end(handle);
                    return false;
                }
            }
            let flow = Flow { handle, last: self.gate.now, direction: Direction::Inbound, generation };
            self.flows.insert(key, flow);
        }
        self.gate.pass(record, Layer::DatagramData, scene)
    }

    /// Classifies a flow again at the layer that authorized it. If it is not
    /// permitted, it ends.
    fn reauthorize_datagram(
        &mut self,
        record: RecordId,
        key: (u8, SocketAddr, SocketAddr),
        scene: Scene<'_>,
        layer: Layer,
        generation: u64,
    ) -> bool {
        let scene = Scene {
            flags: scene.flags | flag::IS_REAUTHORIZE,
            reauthorize_reason: REASON_POLICY_CHANGE,
            ..scene
        };
        let passes = self.gate.pass(record, layer, &scene);
        let event = match (layer, passes) {
            (Layer::AleAuthConnect, true) => Event::ReauthorizationPassesElsewhere,
            (Layer::AleAuthConnect, false) => Event::ReauthorizationFailsElsewhere,
            (_, true) => Event::DatagramReauthorizationPasses,
            (_, false) => Event::DatagramReauthorizationFails,
        };
        self.gate.log.rename(record, event);
        match passes {
            true => {
                if let Some(flow) = self.flows.get_mut(&key) {
                    flow.generation = generation;
                }
            }
            false => {
                if let Some(flow) = self.flows.remove(&key) {
                    self.gate.filter.flow_end(flow.handle);
                }
            }
        }
        passes
    }
}

fn bound(local: SocketAddr) -> Ends {
    Ends { protocol: UDP, local, remote: None }
}
