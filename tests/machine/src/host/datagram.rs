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
use super::sockets::{SocketError, unspecified};
use crate::wfp::FlowHandle;
use crate::wire::{Family, Parsed, Transport};

const UDP: u8 = 17;

/// Flows of datagrams, with the time of their last packet. For echoes, the
/// identifier stands for the remote port (*ALE Stateful Filtering*: 5-tuple, for
/// ICMP 6-tuple).
pub(super) type Flows = BTreeMap<(u8, SocketAddr, SocketAddr), (FlowHandle, Duration)>;

/// Bound UDP sockets, which are all echo servers, with their endpoint handles.
pub(super) type Sockets = BTreeMap<SocketAddr, u64>;

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
        let ends = Ends { protocol: UDP, local, remote: None };
        let scene = Scene { endpoint: Some(endpoint), ..Scene::call(ends, Direction::Inbound) };
        self.bind(&scene)?;
        self.datagram_sockets.insert(local, endpoint);
        Ok(())
    }

    /// The endpoint of the socket for a datagram.
    pub(super) fn datagram_socket(&self, parsed: &Parsed<'_>) -> Option<u64> {
        let mut any = parsed.destination;
        any.set_ip(unspecified(parsed.family()));
        [parsed.destination, any].iter().find_map(|local| self.datagram_sockets.get(local).copied())
    }

    /// A datagram for a socket.
    pub(super) fn datagram(&mut self, record: RecordId, mut scene: Scene<'_>, parsed: Parsed<'_>) {
        scene.endpoint = self.datagram_socket(&parsed);
        if self.admit(record, &mut scene, parsed.source, Event::LaterDatagramIn)
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
    /// authorization layers, `later` ones do not.
    #[must_use]
    fn admit(&mut self, record: RecordId, scene: &mut Scene<'_>, remote: SocketAddr, later: Event) -> bool {
        let key = (scene.ends.protocol, scene.ends.local, remote);
        let now = self.gate.now;
        scene.flow = self.flows.get_mut(&key).map(|(flow, last)| {
            *last = now;
            *flow
        });
        let known = scene.flow.is_some();
        if known {
            self.gate.log.rename(record, later);
        } else {
            scene.flags |= flag::REQUIRES_ALE_CLASSIFY;
        }
        if !self.gate.pass(record, Layer::InboundTransport, scene) {
            return false;
        }
        scene.flags &= !flag::REQUIRES_ALE_CLASSIFY;
        if !known {
            if self.flows.len() >= FLOWS_LIMIT {
                return false;
            }
            let flow = self.gate.filter.flow_create();
            scene.flow = Some(flow);
            for layer in [Layer::AleAuthRecvAccept, Layer::AleFlowEstablished] {
                if !self.gate.pass(record, layer, scene) {
                    self.gate.filter.flow_end(flow);
                    return false;
                }
            }
            self.flows.insert(key, (flow, now));
        }
        self.gate.pass(record, Layer::DatagramData, scene)
    }
}
