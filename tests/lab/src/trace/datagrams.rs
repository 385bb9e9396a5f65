//! Plays everything but TCP: UDP, echoes, ICMP errors, other protocols.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use machine::host::{
    Direction, Event, Gate, IDLE, Layer, RecordId, Scene, UdpDiscard, echo_request, flag, reason,
};
use machine::wfp::FlowHandle;
use machine::wire::{Family, Parsed, Transport, protocol};

use super::feed::Item;
use super::replay::{Key, Replay, Witness};
use super::room::make_room;
use super::survey::refused;

/// Flows of datagrams, with the time of their last packet. For echoes, the
/// identifier stands for the remote port (*ALE Stateful Filtering*: 5-tuple, for
/// ICMP 6-tuple).
#[derive(Default)]
pub(super) struct Flows(HashMap<Key, (FlowHandle, Duration)>);

impl Flows {
    /// Ends every flow.
    pub fn end(&mut self, gate: &Gate) {
        for (flow, _) in self.0.drain().map(|(_, flow)| flow) {
            gate.filter.flow_end(flow);
        }
    }

    /// Finds a live flow. A flow that was idle for too long is ended.
    fn find(&mut self, key: Key, gate: &Gate) -> Option<FlowHandle> {
        let (flow, last) = self.0.get_mut(&key)?;
        if gate.now.saturating_sub(*last) < IDLE {
            *last = gate.now;
            return Some(*flow);
        }
        gate.filter.flow_end(*flow);
        self.0.remove(&key);
        None
    }

    /// Makes room for one more flow. Returns the number of flows that were evicted.
    fn make_room(&mut self, gate: &Gate) -> u64 {
        let mut gone = 0;
        make_room(
            &mut self.0,
            |(_, last)| *last,
            |(flow, _)| {
                gate.filter.flow_end(*flow);
                gone += 1;
            },
        );
        gone
    }
}

/// The role of an ICMP message for this host.
enum Message {
    /// A request that the stack answers.
    Echo,
    /// The reply to a request. It belongs to the requester's flow.
    EchoReply,
    /// An error, or a message of the link, such as neighbor discovery.
    Other,
}

fn message(parsed: &Parsed<'_>) -> Message {
    match parsed.transport {
        Transport::Icmp { kind, .. } if kind == echo_request(parsed.family()) => Message::Echo,
        Transport::Icmp { kind, .. } if kind == echo_reply(parsed.family()) => Message::EchoReply,
        _ => Message::Other,
    }
}

/// The ICMP type of an echo reply (RFC 792, RFC 4443).
fn echo_reply(family: Family) -> u8 {
    match family {
        Family::V4 => 0,
        Family::V6 => 129,
    }
}

/// Whether a message is an error, which has a layer of its own.
fn is_error(parsed: &Parsed<'_>) -> bool {
    match (parsed.transport, parsed.family()) {
        (Transport::Icmp { kind, .. }, Family::V4) => matches!(kind, 3 | 4 | 11 | 12),
        (Transport::Icmp { kind, .. }, Family::V6) => kind < 128,
        _ => false,
    }
}

/// The flow of a datagram: its ends, with an echo's identifier as port.
fn flow_key(parsed: &Parsed<'_>, local: SocketAddr, remote: SocketAddr) -> Key {
    let mut remote = remote;
    if let Transport::Icmp { rest, .. } = parsed.transport {
        remote.set_port((rest >> 16) as u16);
    }
    (parsed.protocol, local, remote)
}

impl<W: Witness> Replay<'_, W> {
    /// The socket that a datagram reaches, if there is one. A socket that sends exists, and
    /// gets what is for several machines, too.
    pub(super) fn receiver(&self, item: &Item<'_>) -> Option<SocketAddr> {
        let Parsed { protocol, destination, .. } = item.parsed;
        let own = self.roles.addresses().filter(|own| own.is_ipv4() == destination.is_ipv4());
        let own = own.filter(|_| self.roles.is_group(destination.ip()));
        let sockets = own.map(|own| SocketAddr::new(own, destination.port()));
        [destination].into_iter().chain(sockets).find(|it| self.survey.is_open(protocol, *it, item.index))
    }

    pub(super) fn datagram_event(&self, item: &Item<'_>) -> Event {
        match item.parsed.transport {
            Transport::Icmp { .. } => match message(&item.parsed) {
                Message::Echo => Event::EchoRequestIn,
                Message::EchoReply | Message::Other => Event::OtherIn,
            },
            _ if self.receiver(item).is_some() => Event::DatagramIn,
            _ => Event::EndpointlessDatagram,
        }
    }

    pub(super) fn datagram_in(&mut self, record: RecordId, scene: Scene<'_>, item: &Item<'_>) {
        let parsed = &item.parsed;
        let to_group = self.roles.is_group(parsed.destination.ip());
        // What is for several machines is one flow (ALE Multicast/Broadcast Traffic).
        let everybody = |mut address: SocketAddr| {
            address.set_ip(if address.is_ipv4() { [0; 4].into() } else { [0; 16].into() });
            address.set_port(0);
            address
        };
        let key = match to_group {
            true => (parsed.protocol, everybody(parsed.destination), everybody(parsed.source)),
            false => flow_key(parsed, parsed.destination, parsed.source),
        };
        match (parsed.transport, message(parsed)) {
            (Transport::Icmp { .. }, Message::Echo) => {
                self.admit(record, scene, key, Event::LaterEchoRequestIn);
            }
            (Transport::Icmp { .. }, Message::EchoReply) => {
                let Some(flow) = self.flows.find(key, &self.gate) else {
                    return;
                };
                let scene = Scene { flow: Some(flow), ..scene };
                let _ = self.gate.pass(record, Layer::InboundTransport, &scene)
                    && self.gate.pass(record, Layer::DatagramData, &scene);
            }
            // Only non-error ICMP reaches the layers above, and no socket is known
            // to wait for it.
            (Transport::Icmp { .. }, Message::Other) => {}
            _ => match self.receiver(item) {
                Some(local) => {
                    let endpoint = self.endpoint(parsed.protocol, local, false);
                    let scene = Scene { endpoint: Some(endpoint), ..scene };
                    self.admit(record, scene, key, Event::LaterDatagramIn);
                }
                None => self.endpointless(record, &scene, parsed),
            },
        }
    }

    /// A datagram for an endpoint. The first one of a flow passes the authorization
    /// layers, `later` ones do not.
    fn admit(&mut self, record: RecordId, mut scene: Scene<'_>, key: Key, later: Event) {
        let plain = scene.flags;
        scene.flow = self.flows.find(key, &self.gate);
        if scene.flow.is_some() {
            self.gate.log.rename(record, later);
        } else {
            scene.flags |= flag::REQUIRES_ALE_CLASSIFY;
        }
        let known = scene.flow.is_some();
        let mut passes = self.gate.pass(record, Layer::InboundTransport, &scene);
        scene.flags = plain;
        if passes && !known {
            passes = self.begin_flow(
                record,
                &mut scene,
                key,
                &[Layer::AleAuthRecvAccept, Layer::AleFlowEstablished],
            );
        }
        passes = passes && self.gate.pass(record, Layer::DatagramData, &scene);
        if !passes {
            self.silence(key);
        }
    }

    /// Authorizes a flow's first datagram. Returns whether it may pass.
    fn begin_flow(&mut self, record: RecordId, scene: &mut Scene<'_>, key: Key, by: &[Layer]) -> bool {
        self.unplayed.forgotten += self.flows.make_room(&self.gate);
        let flow = self.gate.filter.flow_create();
        scene.flow = Some(flow);
        let passes = by.iter().all(|layer| self.gate.pass(record, *layer, scene));
        if passes {
            self.flows.0.insert(key, (flow, self.gate.now));
        } else {
            self.gate.filter.flow_end(flow);
        }
        passes
    }

    /// A datagram without an endpoint.
    fn endpointless(&mut self, record: RecordId, scene: &Scene<'_>, parsed: &Parsed<'_>) {
        const IP: (Layer, u32) = (Layer::InboundIppacket, reason::MODULE_NETWORK);
        const TRANSPORT: (Layer, u32) = (Layer::InboundTransport, reason::MODULE_TRANSPORT);
        let is_udp = parsed.protocol == protocol::UDP;
        let at = match self.gate.open_points.udp_discard {
            UdpDiscard::Transport if is_udp => &[TRANSPORT][..],
            UdpDiscard::Both if is_udp => &[TRANSPORT, IP],
            _ => &[IP],
        };
        for &(layer, module) in at {
            let why = match layer {
                Layer::InboundTransport => reason::INET_ENDPOINT_NOT_FOUND,
                _ if is_udp => reason::IP_PORT_UNREACHABLE,
                _ => reason::IP_PROTOCOL_UNREACHABLE,
            };
            if !self.gate.answer_after_discard(record, layer, scene, module, why) {
                if !self.roles.is_group(parsed.destination.ip()) {
                    self.silence((parsed.protocol, parsed.destination, parsed.source));
                }
                return;
            }
        }
    }

    pub(super) fn datagram_out(&mut self, item: &Item<'_>, flags: u32) -> Result<()> {
        let parsed = item.parsed;
        let scene = Scene { flags, ..Scene::packet(Direction::Outbound, parsed) };
        let key = flow_key(&parsed, parsed.source, parsed.destination);
        match (parsed.transport, message(&parsed)) {
            (Transport::Icmp { kind, code, .. }, Message::Other) => {
                if let Some(asked) = refused(&parsed, kind, code)
                    && self.is_suppressed(asked)?
                {
                    return Ok(());
                }
                let error = is_error(&parsed);
                let event = if error { Event::IcmpErrorOut } else { Event::OtherOut };
                let record = self.gate.open(scene.ends, event);
                if !error || self.gate.pass(record, Layer::OutboundIcmpError, &scene) {
                    self.down(record, &scene);
                }
            }
            (Transport::Icmp { .. }, Message::EchoReply) => {
                if !self.is_suppressed(key)? {
                    let flow = self.flows.find(key, &self.gate);
                    self.send(&scene, flow, Event::EchoReplyOut);
                }
            }
            (Transport::Malformed, _) => {
                let record = self.gate.open(scene.ends, Event::OtherOut);
                self.down(record, &scene);
            }
            (transport, _) => {
                let flow = self.flows.find(key, &self.gate);
                if flow.is_some() {
                    self.send(&scene, flow, Event::DatagramOut);
                    return Ok(());
                }
                let icmp = matches!(transport, Transport::Icmp { .. });
                let endpoint = (!icmp).then(|| self.endpoint(parsed.protocol, parsed.source, false));
                self.send_first(Scene { endpoint, ..scene }, key);
            }
        }
        Ok(())
    }

    /// The first datagram of a flow that the host begins.
    fn send_first(&mut self, mut scene: Scene<'_>, key: Key) {
        let record = self.gate.open(scene.ends, Event::FirstDatagramOut);
        let by = [Layer::AleConnectRedirect, Layer::AleAuthConnect, Layer::AleFlowEstablished];
        let passes = self.begin_flow(record, &mut scene, key, &by);
        if passes && self.gate.pass(record, Layer::DatagramData, &scene) {
            self.down(record, &scene);
        }
    }

    fn send(&mut self, scene: &Scene<'_>, flow: Option<FlowHandle>, event: Event) {
        let scene = Scene { flow, ..*scene };
        let record = self.gate.open(scene.ends, event);
        if self.gate.pass(record, Layer::DatagramData, &scene) {
            self.down(record, &scene);
        }
    }
}
