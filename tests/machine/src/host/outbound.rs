//! The outbound path, from an application to the network.

use super::layers::Layer;
use super::log::{Event, RecordId};
use super::reentry::AT_ONCE;
use super::scene::{Direction, Scene, flag};
use super::segment::stream_flag;
use super::stream::take_ask;
use super::{Host, Pair};
use crate::wfp::{FlowHandle, Injections};
use crate::wire::{Parsed, TcpFlags, Transport, protocol};

/// The maximum size of a stream indication in bytes. The next one waits until these
/// bytes are acknowledged, so that each segment belongs to one indication.
const CHUNK: usize = 32 << 10;

impl Host {
    /// Lets applications and TCP send until nothing is left to send now. Then ends
    /// the connections that TCP has ended.
    pub(super) fn turn(&mut self) {
        let mut looped = 0;
        loop {
            let pairs: Vec<Pair> = self.connections.keys().copied().collect();
            let mut handed_over = false;
            for pair in pairs {
                handed_over |= self.hand_over_injected(pair) || self.hand_over(pair);
            }
            self.stack.egress(self.gate.now);
            while let Some(packet) = self.stack.outbound() {
                self.send_segment(packet);
            }
            let received = if looped < AT_ONCE { self.receive_looped() } else { 0 };
            looped += received;
            // What drivers ask of the stack comes in while callouts see the packets.
            if !self.serve() && received == 0 && !handed_over {
                break;
            }
        }
        self.reap();
    }

    /// Passes the next bytes of an application's output, or its end, to TCP.
    /// Returns whether anything changed.
    fn hand_over(&mut self, pair: Pair) -> bool {
        let Some(connection) = self.connections.get(&pair) else {
            return false;
        };
        let socket = self.stack.socket(connection.handle);
        if !connection.established || connection.close_sent || connection.aborted {
            return false;
        }
        let chunk = connection.session.pending(CHUNK);
        if socket.send_queue() > 0 || !socket.may_send() {
            return false;
        }
        if chunk.is_empty() && !connection.session.close {
            return false;
        }
        // A callout wants to see more at once. The end of the stream, and a full chunk,
        // do not wait.
        let is_whole = chunk.len() >= connection.send_least.min(CHUNK) || connection.session.close;
        if !chunk.is_empty() && !is_whole {
            return false;
        }
        let Some(connection) = self.connections.get_mut(&pair) else {
            return true;
        };
        let chunk = connection.session.pending(CHUNK).to_vec();
        let (event, flags) = if chunk.is_empty() {
            (Event::FinOut, stream_flag::SEND_DISCONNECT)
        } else {
            (Event::DataSent, 0)
        };
        let record = self.gate.open(connection.ends, event);
        connection.sending = Some(record);
        connection.since = self.gate.now;
        let mut scene = connection.scene(None);
        scene.stream = Some((&chunk, flags | stream_flag::SEND));
        let passed = self.gate.pass(record, Layer::Stream, &scene);
        let ask = take_ask(&self.gate, connection.flow);
        let ends = chunk.len() == CHUNK || connection.session.close;
        if let Some(needs) = ask.needs.filter(|_| !ends) {
            connection.send_least = chunk.len() + needs.max(1) as usize;
            return true;
        }
        connection.send_least = 0;
        let decided = ask.enforced.map_or(chunk.len(), |enforced| chunk.len().min(enforced as usize));
        let chunk = &chunk[..decided];
        let socket = self.stack.socket(connection.handle);
        if chunk.is_empty() {
            connection.close_sent = true;
            // A callout that blocks the end of the stream injects it later.
            if passed {
                socket.close();
            }
        } else {
            // The buffer is empty and larger than a chunk. Bytes that it does not
            // accept stay pending.
            let taken = if passed { socket.send_slice(chunk).unwrap_or(0) } else { chunk.len() };
            connection.session.advance(taken);
        }
        true
    }

    /// Reauthorizes the connection for a segment that it sends, if the policy has changed
    /// since its authorization: it is the first packet after the change that has a flow
    /// authorized again (*ALE Reauthorization*). If it is not permitted, it is dropped.
    #[must_use]
    fn still_authorized(&mut self, pair: Pair, packet: Parsed<'_>) -> bool {
        let Some(connection) = self.connections.get(&pair) else {
            return false;
        };
        let scene = connection.scene(Some((Direction::Outbound, packet)));
        let generation = self.gate.generation(connection.authorizing(), &scene);
        let reasons = connection.authorization.reasons(generation, None);
        if connection.closed || reasons == 0 {
            return true;
        }
        let record = self.gate.open(connection.ends, Event::ReauthorizationPassesElsewhere);
        if self.reauthorize(record, pair, scene, reasons) {
            return true;
        }
        self.gate.log.rename(record, Event::ReauthorizationFailsElsewhere);
        self.forget(pair);
        false
    }

    /// Sends a segment that TCP has made.
    fn send_segment(&mut self, packet: Vec<u8>) {
        let Some(parsed) = Parsed::new(&packet) else {
            return;
        };
        // An ICMP error passes OUTBOUND_ICMP_ERROR, whoever builds it.
        if matches!(parsed.transport, Transport::Icmp { .. }) {
            return self.send_built(packet.clone(), Event::IcmpErrorOut, Layer::OutboundIcmpError, None);
        }
        let pair = (parsed.source, parsed.destination);
        if self.connections.contains_key(&pair) && !self.still_authorized(pair, parsed) {
            return;
        }
        let mut scene = Scene::packet(Direction::Outbound, parsed);
        let record = match self.connections.get(&pair) {
            Some(connection) => {
                scene = connection.scene(scene.packet);
                self.record_of(pair, &parsed)
            }
            // Its connection was dropped in this turn.
            None => self.gate.open(scene.ends, Event::RstOut),
        };
        self.down(record, &scene, packet.clone());
    }

    /// The record of a segment that is sent.
    fn record_of(&mut self, pair: Pair, parsed: &Parsed<'_>) -> RecordId {
        let has = |flags| parsed.has_flags(flags, TcpFlags::default());
        let event = if has(TcpFlags::RST) {
            Event::RstOut
        } else if has(TcpFlags::SYN | TcpFlags::ACK) {
            Event::SynAckOut
        } else if has(TcpFlags::SYN) {
            Event::SynOut
        } else if !parsed.payload().is_empty() {
            Event::DataSent
        } else if has(TcpFlags::FIN) {
            Event::FinOut
        } else {
            Event::LaterAckOut
        };
        let Some(connection) = self.connections.get_mut(&pair) else {
            return self.gate.open(Scene::packet(Direction::Outbound, *parsed).ends, event);
        };
        let ends = connection.ends;
        let completes = connection.established
            && connection.direction == Direction::Outbound
            && !std::mem::replace(&mut connection.first_ack_sent, connection.established);
        if let Some(record) = connection.sending {
            if completes && event == Event::DataSent {
                self.gate.log.rename(record, Event::AckOutWithData);
            }
            let begun = self.gate.log.event(record);
            if begun == Some(event) || (event, begun) == (Event::DataSent, Some(Event::AckOutWithData)) {
                return record;
            }
        }
        let event = if completes && event == Event::LaterAckOut { Event::AckOut } else { event };
        self.gate.open(ends, event)
    }

    /// Sends a packet that the host itself has built. It passes the layer `first`
    /// before the transport layer, if that is another one.
    pub(super) fn send_built(
        &mut self,
        packet: Vec<u8>,
        event: Event,
        first: Layer,
        flow: Option<FlowHandle>,
    ) {
        let Some(parsed) = Parsed::new(&packet) else {
            return;
        };
        let scene = Scene { flow, ..Scene::packet(Direction::Outbound, parsed) };
        let record = self.gate.open(scene.ends, event);
        if first != Layer::OutboundTransport && !self.gate.pass(record, first, &scene) {
            return;
        }
        self.down(record, &scene, packet.clone());
    }

    /// Passes an outbound packet through the layers that every one passes.
    pub(super) fn down(&mut self, record: RecordId, scene: &Scene<'_>, packet: Vec<u8>) {
        let transport = Layer::OutboundTransport;
        let of_stream = scene.ends.protocol == protocol::TCP && scene.endpoint.is_some();
        let passes = match of_stream {
            true => self.gate.pass_segment(record, transport, scene),
            false => self.gate.pass(record, transport, scene),
        };
        if passes && self.gate.pass(record, Layer::OutboundIppacket, scene) {
            self.leave(packet, &None);
        }
    }

    /// Sends a packet that has passed the layers: to the network, or to the host itself.
    pub(super) fn leave(&mut self, packet: Vec<u8>, injections: &Injections) {
        let is_own = |parsed: Parsed<'_>| parsed.destination.ip() == self.own(parsed.family());
        if Parsed::new(&packet).is_some_and(is_own) {
            self.looped.push_back((packet, injections.clone()));
        } else if !self.is_cut_off() {
            self.gate.counters.sent += 1;
            self.outbound.push_back(packet);
        }
    }

    /// Receives what the host has sent to itself so far. Returns the number of packets.
    fn receive_looped(&mut self) -> usize {
        let packets = std::mem::take(&mut self.looped);
        let count = packets.len();
        for (packet, injections) in packets {
            let own = self.gate.options.interface.clone();
            self.arrive(own, &packet, &injections, flag::IS_LOOPBACK);
        }
        count
    }
}
