//! TCP segments, each shown to the layers that it passes.

use anyhow::Result;

use super::connection::{Pair, Side};
use super::feed::Item;
use super::replay::{Replay, Witness};
use crate::host::{Direction, Event, Layer, RecordId, Scene, flag, is_plain_syn, reason, stream_flag};
use crate::wire::{Parsed, Tcp, TcpFlags, protocol};

const ACK: TcpFlags = TcpFlags::ACK;
const FIN: TcpFlags = TcpFlags::FIN;
const RST: TcpFlags = TcpFlags::RST;
const SYN: TcpFlags = TcpFlags::SYN;

impl<W: Witness> Replay<'_, W> {
    /// What a segment from the network is, by its flags and by whom it meets.
    pub(super) fn segment_event(&self, item: &Item<'_>, flags: TcpFlags) -> Event {
        let parsed = &item.parsed;
        let (local, remote) = (parsed.destination, parsed.source);
        if let Some(connection) = self.connections.0.get(&(local, remote)) {
            let another = is_plain_syn(flags) && self.is_another(connection, parsed);
            return match connection.established {
                _ if flags.has(RST) => Event::RstIn,
                _ if another => self.syn_event(item),
                _ if is_plain_syn(flags) => Event::SynAgain,
                false if flags.has(SYN) => Event::SynAckIn,
                _ if flags.has(FIN) => Event::FinIn,
                true if !parsed.payload().is_empty() => Event::DataReceived,
                true => Event::LaterAckIn,
                false if !parsed.payload().is_empty() => Event::AckWithData,
                false => Event::AckIn,
            };
        }
        let adopted = !flags.has(RST) && !flags.has(SYN);
        match self.survey.is_open(protocol::TCP, local, item.index) {
            _ if is_plain_syn(flags) => self.syn_event(item),
            _ if adopted && self.survey.speaks(protocol::TCP, local, remote) => match () {
                () if flags.has(FIN) => Event::FinIn,
                () if !parsed.payload().is_empty() => Event::DataReceived,
                () => Event::LaterAckIn,
            },
            true => Event::NotForListener,
            false => Event::NoConnection,
        }
    }

    fn syn_event(&self, item: &Item<'_>) -> Event {
        match self.survey.is_open(protocol::TCP, item.parsed.destination, item.index) {
            true => Event::SynIn,
            false => Event::SynNobodyListening,
        }
    }

    pub(super) fn segment_in(&mut self, record: RecordId, scene: Scene<'_>, item: &Item<'_>, tcp: Tcp) {
        let parsed = item.parsed;
        if !tcp.checksum_valid {
            self.gate.log.rename(record, Event::Unusable);
            let (module, why) = (reason::MODULE_TRANSPORT, reason::INET_CHECKSUM_INVALID);
            // No answer is due, so there is none to prevent.
            let _ = self.gate.answer_after_discard(record, Layer::InboundTransport, &scene, module, why);
            return;
        }
        let pair = (parsed.destination, parsed.source);
        let (syn, open) = (is_plain_syn(tcp.flags), self.survey.is_open(protocol::TCP, pair.0, item.index));
        if let Some(connection) = self.connections.0.get(&pair) {
            if !(syn && self.is_another(connection, &parsed)) {
                return self.connection_gets(record, scene.flags, pair, parsed, tcp);
            }
            self.drop_connection(pair);
        }
        let within = !tcp.flags.has(RST) && !tcp.flags.has(SYN);
        let why = match open {
            true if syn => return self.accept(record, scene, parsed, tcp),
            _ if within && self.survey.speaks(protocol::TCP, pair.0, pair.1) => {
                self.adopt(pair, scene.ends, item.index, true);
                return self.connection_gets(record, scene.flags, pair, parsed, tcp);
            }
            false => reason::INET_ENDPOINT_NOT_FOUND,
            true if tcp.flags.has(ACK) => reason::INET_ACK_INVALID,
            true if tcp.flags.has(SYN) => reason::INET_LISTENER_INVALID_FLAGS,
            true => reason::INET_EXPECTED_SYN,
        };
        let layer = Layer::InboundTransport;
        if self.gate.variants.transport_before_discard && !self.gate.pass(record, layer, &scene) {
            return;
        }
        let answered = self.gate.answer_after_discard(record, layer, &scene, reason::MODULE_TRANSPORT, why);
        // To a RST no answer is due.
        if !answered && !tcp.flags.has(RST) {
            self.silence((protocol::TCP, pair.0, pair.1));
        }
    }

    /// A SYN for a listener.
    fn accept(&mut self, record: RecordId, mut scene: Scene<'_>, parsed: Parsed<'_>, tcp: Tcp) {
        let parent = self.endpoint(protocol::TCP, parsed.destination, true);
        let loopback = scene.flags;
        scene.endpoint = Some(parent);
        scene.flags |= flag::REQUIRES_ALE_CLASSIFY;
        if !self.gate.pass(record, Layer::InboundTransport, &scene) {
            return;
        }
        scene.flags = loopback;
        let pair = (parsed.destination, parsed.source);
        self.begin(pair, scene.ends, Direction::Inbound);
        let Some(connection) = self.connections.0.get_mut(&pair) else {
            return;
        };
        connection.parent = Some(parent);
        connection.first = Some(tcp.sequence);
        connection.is_news(Side::There, &parsed, tcp);
        let scene = Scene { flags: loopback, ..connection.scene(scene.packet) };
        connection.refused = !self.gate.pass(record, Layer::AleAuthRecvAccept, &scene);
    }

    fn connection_gets(&mut self, record: RecordId, flags: u32, pair: Pair, parsed: Parsed<'_>, tcp: Tcp) {
        let Some(connection) = self.connections.0.get_mut(&pair) else {
            return;
        };
        connection.since = self.gate.now;
        if connection.refused {
            self.unplayed.refused += 1;
            return;
        }
        let packet = Some((Direction::Inbound, parsed));
        let scene = Scene { flags, ..connection.scene(packet) };
        if !self.gate.pass(record, Layer::InboundTransport, &scene) {
            return;
        }
        let aborts = tcp.flags.has(RST);
        let handshake = !connection.established && tcp.flags.has(ACK) && !aborts;
        if handshake {
            connection.established = true;
            connection.refused = !self.gate.pass(record, Layer::AleFlowEstablished, &scene);
        }
        let news = connection.is_news(Side::There, &parsed, tcp);
        let payload = parsed.payload();
        let ends_now = tcp.flags.has(FIN) && !std::mem::replace(&mut connection.finished[1], true);
        let mut flags = if tcp.flags.has(TcpFlags::PSH) { stream_flag::RECEIVE_PUSH } else { 0 };
        if ends_now {
            flags |= stream_flag::RECEIVE_DISCONNECT;
        }
        if aborts {
            flags |= stream_flag::RECEIVE_ABORT;
        }
        let indicated = !connection.closed && (ends_now || aborts || (news && !payload.is_empty()));
        if indicated && connection.established && !connection.refused {
            let bytes = if aborts { &[][..] } else { payload };
            let scene = Scene { stream: Some((bytes, flags | stream_flag::RECEIVE)), ..scene };
            // The bytes are in the capture: there is nothing to take out.
            let _ = self.gate.pass(record, Layer::Stream, &scene);
        } else if !payload.is_empty() && !aborts {
            self.gate.log.rename(record, Event::NothingNew);
        }
        if aborts {
            self.close(pair);
            self.connections.0.remove(&pair);
        } else if connection.finished == [true; 2] {
            self.close(pair);
        }
    }

    pub(super) fn segment_out(&mut self, item: &Item<'_>, tcp: Tcp, flags: u32) -> Result<()> {
        let parsed = item.parsed;
        let pair = (parsed.source, parsed.destination);
        let plain = Scene::packet(Direction::Outbound, parsed);
        if let Some(connection) = self.connections.0.get(&pair)
            && is_plain_syn(tcp.flags)
            && self.is_another(connection, &parsed)
        {
            self.drop_connection(pair);
        }
        if !self.connections.0.contains_key(&pair) {
            if tcp.flags.has(RST) {
                if !self.keeps_back((protocol::TCP, pair.0, pair.1))? {
                    let record = self.gate.open(plain.ends, Event::RstOut);
                    self.down(record, &Scene { flags, ..plain });
                }
                return Ok(());
            }
            if is_plain_syn(tcp.flags) {
                self.connect(pair, plain.ends, tcp, flags);
            } else {
                self.adopt(pair, plain.ends, item.index, !tcp.flags.has(SYN));
            }
        }
        self.connection_sends(pair, parsed, tcp, flags);
        Ok(())
    }

    fn connection_sends(&mut self, pair: Pair, parsed: Parsed<'_>, tcp: Tcp, flags: u32) {
        let Some(connection) = self.connections.0.get_mut(&pair) else {
            return;
        };
        connection.since = self.gate.now;
        if connection.refused {
            self.unplayed.refused += 1;
            return;
        }
        let news = connection.is_news(Side::Here, &parsed, tcp);
        let payload = parsed.payload();
        let ends_now = tcp.flags.has(FIN) && !std::mem::replace(&mut connection.finished[0], true);
        let handshake = connection.direction == Direction::Outbound;
        let event = match () {
            () if tcp.flags.has(RST) => Event::RstOut,
            () if tcp.flags.has(SYN | ACK) => Event::SynAckOut,
            () if tcp.flags.has(SYN) => Event::SynOut,
            () if !payload.is_empty() && !news => Event::NothingNew,
            () if !payload.is_empty() => Event::DataSent,
            () if tcp.flags.has(FIN) => Event::FinOut,
            () if handshake && connection.established && !connection.first_ack_sent => Event::AckOut,
            () => Event::LaterAckOut,
        };
        connection.first_ack_sent |= tcp.flags.has(ACK) && connection.established;
        let record = self.gate.open(connection.ends, event);
        let scene = connection.scene(Some((Direction::Outbound, parsed)));
        let streams = !connection.closed && (event == Event::DataSent || ends_now);
        if streams {
            let disconnect = if ends_now { stream_flag::SEND_DISCONNECT } else { 0 };
            let stream = Some((payload, stream_flag::SEND | disconnect));
            let call = Scene { stream, flags, ..connection.scene(None) };
            // The bytes are in the capture: there is nothing to take out.
            let _ = self.gate.pass(record, Layer::Stream, &call);
        }
        let over = connection.finished == [true; 2];
        self.down(record, &Scene { flags, ..scene });
        if tcp.flags.has(RST) {
            self.close(pair);
            self.connections.0.remove(&pair);
        } else if over {
            self.close(pair);
        }
    }
}
