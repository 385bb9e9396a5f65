//! A TCP segment from the network, for a listener, a connection, or neither.

use smoltcp::socket::tcp;

use super::answer;
use super::application::Session;
use super::connection::Connection;
use super::layers::Layer;
use super::log::{Event, RecordId};
use super::open_points::{ListenerReason, reason};
use super::scene::{Direction, Scene, flag};
use super::sockets::unspecified;
use super::stream::{Received, indicate, is_deferred};
use super::{Host, Pair};
use crate::wire::{Parsed, Tcp, TcpFlags};

/// `FWPS_STREAM_FLAG_*` (`fwpsk.h`).
#[allow(missing_docs, reason = "the names are those of the headers")]
pub mod stream_flag {
    pub const RECEIVE: u32 = 0x1;
    pub const RECEIVE_DISCONNECT: u32 = 0x4;
    pub const RECEIVE_ABORT: u32 = 0x8;
    pub const RECEIVE_PUSH: u32 = 0x10;
    pub const SEND: u32 = 0x1_0000;
    pub const SEND_DISCONNECT: u32 = 0x8_0000;
}

const SYN: TcpFlags = TcpFlags::SYN;
const RST: TcpFlags = TcpFlags::RST;

/// Whether the flags are those of a SYN that only asks for a connection.
pub fn is_plain_syn(flags: TcpFlags) -> bool {
    flags.has(SYN) && flags.0 & (TcpFlags::ACK | TcpFlags::FIN | RST).0 == 0
}

impl Host {
    /// The event of a segment, from its flags and its connection or listener.
    pub(super) fn segment_event(&self, parsed: &Parsed<'_>, flags: TcpFlags) -> Event {
        let pair = (parsed.destination, parsed.source);
        if let Some(connection) = self.connections.get(&pair) {
            return match connection.established {
                _ if flags.has(RST) => Event::RstIn,
                _ if is_plain_syn(flags) => Event::SynAgain,
                false if flags.has(SYN) => Event::SynAckIn,
                _ if flags.has(TcpFlags::FIN) => Event::FinIn,
                true if !parsed.payload().is_empty() => Event::DataReceived,
                true => Event::LaterAckIn,
                false => Event::AckIn,
            };
        }
        match (self.listener_at(parsed).is_some(), is_plain_syn(flags)) {
            (true, true) => Event::SynIn,
            (true, false) => Event::NotForListener,
            (false, true) => Event::SynNobodyListening,
            (false, false) => Event::NoConnection,
        }
    }

    fn listener_at(&self, parsed: &Parsed<'_>) -> Option<std::net::SocketAddr> {
        let mut any = parsed.destination;
        any.set_ip(unspecified(parsed.family()));
        [parsed.destination, any].into_iter().find(|local| self.listeners.contains_key(local))
    }

    pub(super) fn segment(&mut self, record: RecordId, scene: Scene<'_>, parsed: Parsed<'_>, tcp: Tcp) {
        let pair = (parsed.destination, parsed.source);
        if let Some(connection) = self.connections.get(&pair) {
            let over = self.stack.state(connection.handle) == tcp::State::TimeWait;
            if !(over && is_plain_syn(tcp.flags)) {
                return self.for_connection(record, scene, pair, parsed);
            }
            // A new connection may replace one in TIME-WAIT (RFC 9293, 3.10.7.4,
            // fourth).
            self.forget(pair);
            let event = self.segment_event(&parsed, tcp.flags);
            self.gate.log.rename(record, event);
        }
        let why = match self.listener_at(&parsed) {
            None => reason::INET_ENDPOINT_NOT_FOUND,
            Some(local) if is_plain_syn(tcp.flags) => {
                let half_open = self
                    .connections
                    .values()
                    .filter(|c| !c.established && c.parent.is_some_and(|(at, _)| at == local))
                    .count();
                if half_open < self.gate.options.backlog {
                    return self.accept(record, scene, parsed, local);
                }
                self.gate.log.rename(record, Event::BacklogFull);
                reason::INET_PAUSE_ACCEPT
            }
            Some(_) => match self.gate.open_points.listener_reason {
                ListenerReason::Always(number) => number,
                ListenerReason::ByFlags if tcp.flags.has(TcpFlags::ACK) => reason::INET_ACK_INVALID,
                ListenerReason::ByFlags if tcp.flags.has(SYN) => reason::INET_LISTENER_INVALID_FLAGS,
                ListenerReason::ByFlags => reason::INET_EXPECTED_SYN,
            },
        };
        self.refuse(record, &scene, parsed, why);
    }

    /// A segment that the stack drops: the discard layer, then the RST.
    fn refuse(&mut self, record: RecordId, scene: &Scene<'_>, parsed: Parsed<'_>, why: u32) {
        let layer = Layer::InboundTransport;
        if self.gate.open_points.transport_before_discard && !self.gate.pass(record, layer, scene) {
            return;
        }
        let may_answer = self.gate.answer_after_discard(record, layer, scene, reason::MODULE_TRANSPORT, why);
        let Some(reset) = answer::reset(&parsed) else {
            return;
        };
        if may_answer {
            self.send_built(reset, Event::RstOut, Layer::OutboundTransport, None);
        } else {
            self.gate.counters.silenced += 1;
        }
    }

    /// A SYN for a listener.
    fn accept(
        &mut self,
        record: RecordId,
        mut scene: Scene<'_>,
        parsed: Parsed<'_>,
        local: std::net::SocketAddr,
    ) {
        let Some(listener) = self.listeners.get(&local) else {
            return;
        };
        let (application, parent) = (listener.application, listener.endpoint);
        scene.endpoint = Some(parent);
        scene.flags |= flag::REQUIRES_ALE_CLASSIFY;
        if !self.gate.pass_segment(record, Layer::InboundTransport, &scene) {
            return;
        }
        scene.flags &= !flag::REQUIRES_ALE_CLASSIFY;
        let generation = self.gate.generation(Layer::AleAuthRecvAccept, &scene);
        let flow = self.gate.filter.flow_create();
        scene.flow = Some(flow);
        scene.endpoint = Some(self.handle());
        scene.parent = Some(parent);
        if self.gate.pass(record, Layer::AleAuthRecvAccept, &scene)
            && let Some(handle) = self.stack.listen(parsed.destination)
        {
            self.ingress(&parsed);
            if self.stack.state(handle) == tcp::State::SynReceived {
                let authorized = (flow, self.gate.authorization(generation, self.gate.arrival.luid));
                let session = Session::server(application);
                let mut connection = Connection::new(handle, &scene, authorized, self.gate.now, session);
                connection.parent = Some((local, parent));
                let pair = (parsed.destination, parsed.source);
                self.connections.insert(pair, connection);
                return;
            }
            self.stack.remove(handle);
        }
        self.gate.filter.flow_end(flow);
    }

    /// Passes a segment to TCP without its extension headers, which TCP does not
    /// know.
    fn ingress(&mut self, parsed: &Parsed<'_>) {
        if let Some(plain) = parsed.plain() {
            self.stack.ingress(&plain, self.gate.now);
        }
    }

    fn for_connection(&mut self, record: RecordId, arrived: Scene<'_>, pair: Pair, parsed: Parsed<'_>) {
        let flags = arrived.flags;
        let Some(connection) = self.connections.get(&pair) else {
            return;
        };
        let packet = Some((Direction::Inbound, parsed));
        let mut scene = Scene { flags, injections: arrived.injections, ..connection.scene(packet) };
        let authorizing = connection.authorizing();
        let generation = self.gate.generation(authorizing, &scene);
        let reasons = connection.authorization.reasons(generation, Some(self.gate.arrival.luid));
        let stale = !connection.closed && reasons != 0;
        if stale {
            scene.flags |= flag::REQUIRES_ALE_CLASSIFY;
        }
        if !self.gate.pass_segment(record, Layer::InboundTransport, &scene) {
            return;
        }
        scene.flags = flags;
        if stale && !self.reauthorize(record, pair, scene, reasons) {
            let event = match authorizing {
                Layer::AleAuthRecvAccept => Event::ReauthorizationFails,
                _ => Event::ReauthorizationFailsElsewhere,
            };
            self.gate.log.rename(record, event);
            self.forget(pair);
            return;
        }
        self.ingress(&parsed);
        let data = self.after_ingress(record, pair, scene, parsed);
        if stale {
            let event = match authorizing {
                Layer::AleAuthRecvAccept if data => Event::ReauthorizationPasses,
                _ => Event::ReauthorizationPassesElsewhere,
            };
            self.gate.log.rename(record, event);
        }
    }

    /// Classifies a connection again at the layer that authorized it, for `reasons`
    /// ([`reauthorize_reason`](super::reauthorize_reason)). Returns whether it is
    /// permitted.
    #[must_use]
    pub(super) fn reauthorize(
        &mut self,
        record: RecordId,
        pair: Pair,
        mut scene: Scene<'_>,
        reasons: u32,
    ) -> bool {
        let Some(connection) = self.connections.get_mut(&pair) else {
            return false;
        };
        let layer = connection.authorizing();
        let arrival = (scene.passing() == Direction::Inbound).then_some(self.gate.arrival.luid);
        connection.authorization.renew(self.gate.generation(layer, &scene), arrival);
        scene.flags |= flag::IS_REAUTHORIZE;
        scene.reauthorize_reason = reasons;
        scene.original_profile = Some(connection.authorization.profile);
        self.gate.pass(record, layer, &scene)
    }

    /// Handles the result of a segment in TCP: an established flow, received data,
    /// an end. Returns whether data were indicated at STREAM.
    fn after_ingress(&mut self, record: RecordId, pair: Pair, scene: Scene<'_>, parsed: Parsed<'_>) -> bool {
        let Some(connection) = self.connections.get_mut(&pair) else {
            return false;
        };
        connection.since = self.gate.now;
        let state = self.stack.state(connection.handle);
        let mut just_established = false;
        let accepts = connection.parent.is_some();
        if !connection.established && is_synchronized(state) {
            connection.established = true;
            just_established = true;
            if !self.gate.pass(record, Layer::AleFlowEstablished, &scene) {
                connection.aborted = true;
                self.stack.socket(connection.handle).abort();
                return false;
            }
            if accepts {
                // The applications accept at once.
                self.gate.open(scene.ends, Event::Accept);
            }
        }
        let mut flags = 0;
        if parsed.has_flags(RST, TcpFlags::default()) && state == tcp::State::Closed {
            connection.aborted = true;
            flags |= stream_flag::RECEIVE_ABORT;
        }
        let closed_now = !connection.peer_closed && has_peer_closed(state);
        if closed_now {
            connection.peer_closed = true;
            flags |= stream_flag::RECEIVE_DISCONNECT;
        }
        if connection.deferred.is_some() || is_deferred(connection) {
            // "Deferring an inbound data stream will cause the network stack to stop
            // acknowledging data" (FWPS_STREAM_CALLOUT_IO_PACKET0). They stay in TCP's
            // buffer until its window is full.
            return false;
        }
        let mut bytes = take(self.stack.socket(connection.handle));
        if let Some((mut before, least)) = connection.waiting.take() {
            let ends = flags != 0;
            before.append(&mut bytes);
            if before.len() < least && !ends {
                connection.waiting = Some((before, least));
                return false;
            }
            bytes = before;
        }
        if bytes.is_empty() && (flags == 0 || !connection.established) {
            let is_fin = parsed.has_flags(TcpFlags::FIN, TcpFlags::default());
            if !parsed.payload().is_empty() || is_fin {
                self.gate.log.rename(record, Event::NothingNew);
            }
            return false;
        }
        if parsed.has_flags(TcpFlags::PSH, TcpFlags::default()) {
            flags |= stream_flag::RECEIVE_PUSH;
        }
        let has_bytes = !bytes.is_empty();
        let indication = Received { record, bytes, flags, closed_now };
        if !indicate(&mut self.gate, connection, &scene, indication) {
            return true;
        }
        if just_established && has_bytes && !closed_now {
            self.gate.log.rename(record, Event::AckInWithData);
        }
        has_bytes
    }
}

fn is_synchronized(state: tcp::State) -> bool {
    !matches!(state, tcp::State::Closed | tcp::State::Listen | tcp::State::SynSent | tcp::State::SynReceived)
}

pub(super) fn has_peer_closed(state: tcp::State) -> bool {
    matches!(state, tcp::State::CloseWait | tcp::State::LastAck | tcp::State::Closing | tcp::State::TimeWait)
}

/// Reads everything that is readable; the ring buffer may return it in two parts.
pub(super) fn take(socket: &mut tcp::Socket<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    while socket.can_recv() {
        let part = socket.recv(|part| {
            bytes.extend_from_slice(part);
            (part.len(), part.len())
        });
        if !matches!(part, Ok(1..)) {
            break;
        }
    }
    bytes
}
