//! Plays TCP segments: indicates each one at the layers that it passes.

use anyhow::Result;
use machine::host::{
    Direction, Ends, Event, Layer, RecordId, Scene, flag, is_plain_syn, reason, stream_flag,
};
use machine::wire::{Parsed, Tcp, TcpFlags, protocol};

use super::connection::Pair;
use super::feed::Item;
use super::progress::{Progress, Side, State, end};
use super::replay::{Replay, Witness};

const ACK: TcpFlags = TcpFlags::ACK;
const RST: TcpFlags = TcpFlags::RST;
const SYN: TcpFlags = TcpFlags::SYN;

/// What a segment from the network meets.
#[derive(Clone, Copy)]
pub(super) struct Meeting {
    /// The event that it is there.
    pub event: Event,
    met: Met,
    /// The connection known so far is over; this is another one.
    replaces: bool,
}

#[derive(Clone, Copy)]
enum Met {
    /// Its checksum is wrong, so it is dropped unseen.
    Spoiled,
    /// A connection that a layer has blocked.
    Refused,
    Connection(Progress),
    /// A connection that began before the capture.
    Unseen(State, Progress),
    /// A listener that accepts a SYN.
    Listener,
    /// No endpoint that can use it; the reason for the discard.
    Nobody(u32),
}

impl Meeting {
    /// Whether it is a SYN for a listener.
    pub fn is_for_listener(&self) -> bool {
        matches!(self.met, Met::Listener)
    }

    /// Whether nothing of it is played.
    pub fn is_refused(&self) -> bool {
        matches!(self.met, Met::Refused)
    }
}

impl<W: Witness> Replay<'_, W> {
    /// Finds what a segment from the network meets, before it is indicated.
    pub(super) fn meeting(&self, item: &Item<'_>, tcp: Tcp) -> Meeting {
        let parsed = &item.parsed;
        let met = |event, met| Meeting { event, met, replaces: false };
        if !tcp.checksum_valid {
            return met(Event::Unusable, Met::Spoiled);
        }
        let pair = (parsed.destination, parsed.source);
        let syn = is_plain_syn(tcp.flags);
        let mut replaces = false;
        if let Some(connection) = self.connections.0.get(&pair) {
            replaces = syn && self.is_another(&connection.state, item, tcp);
            if !replaces {
                let progress = connection.state.receives(parsed, tcp);
                return match connection.refused {
                    true => met(Event::OtherIn, Met::Refused),
                    false => met(progress.event, Met::Connection(progress)),
                };
            }
        }
        if let Some(state) = self.unseen(item, pair, tcp).filter(|_| !replaces) {
            let progress = state.receives(parsed, tcp);
            return met(progress.event, Met::Unseen(state, progress));
        }
        let open = self.survey.is_open(protocol::TCP, pair.0, item.index);
        let (event, met) = match (open, syn) {
            (true, true) => (Event::SynIn, Met::Listener),
            (false, true) => (Event::SynNobodyListening, Met::Nobody(reason::INET_ENDPOINT_NOT_FOUND)),
            (false, false) => (Event::NoConnection, Met::Nobody(reason::INET_ENDPOINT_NOT_FOUND)),
            (true, false) => (
                Event::NotForListener,
                Met::Nobody(match () {
                    () if tcp.flags.has(ACK) => reason::INET_ACK_INVALID,
                    () if tcp.flags.has(SYN) => reason::INET_LISTENER_INVALID_FLAGS,
                    () => reason::INET_EXPECTED_SYN,
                }),
            ),
        };
        Meeting { event, met, replaces }
    }

    /// The connection that a segment from the network belongs to, if its beginning
    /// is missing in the capture: this host sends segments of an established
    /// connection.
    fn unseen(&self, item: &Item<'_>, pair: Pair, tcp: Tcp) -> Option<State> {
        if !tcp.flags.has(ACK) || tcp.flags.has(RST) || !self.survey.speaks(protocol::TCP, pair.0, pair.1) {
            return None;
        }
        Some(match tcp.flags.has(SYN) {
            // It answers a SYN of this host.
            true => State::new(Direction::Outbound),
            false => self.adopted(pair, item.index, true),
        })
    }

    pub(super) fn segment_in(
        &mut self,
        record: RecordId,
        scene: Scene<'_>,
        item: &Item<'_>,
        tcp: Tcp,
        meeting: Meeting,
    ) {
        let parsed = item.parsed;
        let pair = (parsed.destination, parsed.source);
        if meeting.replaces {
            self.drop_connection(pair);
        }
        match meeting.met {
            Met::Spoiled => {
                let (module, why) = (reason::MODULE_TRANSPORT, reason::INET_CHECKSUM_INVALID);
                // No answer is due, so none can be suppressed.
                let _ = self.gate.answer_after_discard(record, Layer::InboundTransport, &scene, module, why);
            }
            Met::Refused => {}
            Met::Listener => self.accept(record, scene, parsed, tcp),
            Met::Unseen(state, progress) => {
                self.begin(pair, scene.ends, state);
                self.connection_gets(record, scene.flags, pair, parsed, tcp, progress);
            }
            Met::Connection(progress) => {
                self.connection_gets(record, scene.flags, pair, parsed, tcp, progress);
            }
            Met::Nobody(why) => self.refuse(record, &scene, tcp, why),
        }
    }

    /// A segment without an endpoint that can use it: the discard layer, then the
    /// RST if one is due.
    fn refuse(&mut self, record: RecordId, scene: &Scene<'_>, tcp: Tcp, why: u32) {
        let layer = Layer::InboundTransport;
        if self.gate.open_points.transport_before_discard && !self.gate.pass(record, layer, scene) {
            return;
        }
        let answered = self.gate.answer_after_discard(record, layer, scene, reason::MODULE_TRANSPORT, why);
        let Ends { local, remote: Some(remote), .. } = scene.ends else {
            return;
        };
        // A RST gets no answer.
        if !answered && !tcp.flags.has(RST) {
            self.silence((protocol::TCP, local, remote));
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
        // TCP Fast Open (RFC 7413): the SYN-ACK acknowledges the SYN's bytes, too.
        let early =
            !parsed.payload().is_empty() && self.survey.acknowledges(pair.0, pair.1, end(&parsed, tcp));
        let progress = Progress { early, ..Progress::nothing(Event::SynIn) };
        let mut state = State::new(Direction::Inbound);
        state.take(Side::There, &progress, &parsed, tcp);
        self.begin(pair, scene.ends, state);
        let Some(connection) = self.connections.0.get_mut(&pair) else {
            return;
        };
        connection.parent = Some(parent);
        let scene = Scene { flags: loopback, ..connection.scene(scene.packet) };
        connection.refused = !self.gate.pass(record, Layer::AleAuthRecvAccept, &scene);
        if early && !connection.refused {
            self.early_data(&scene, parsed.payload());
        }
    }

    /// The bytes of a SYN or SYN-ACK are data received. Their packet has already
    /// passed the layers before STREAM.
    fn early_data(&mut self, scene: &Scene<'_>, bytes: &[u8]) {
        let record = self.gate.log.open_rest(self.gate.now, scene.ends, Event::DataReceived);
        let scene = Scene { stream: Some((bytes, stream_flag::RECEIVE)), ..*scene };
        // The bytes are in the capture, so nothing is removed.
        let _ = self.gate.pass(record, Layer::Stream, &scene);
    }

    fn connection_gets(
        &mut self,
        record: RecordId,
        flags: u32,
        pair: Pair,
        parsed: Parsed<'_>,
        tcp: Tcp,
        progress: Progress,
    ) {
        let Some(connection) = self.connections.0.get_mut(&pair) else {
            return;
        };
        connection.since = self.gate.now;
        let packet = Some((Direction::Inbound, parsed));
        let scene = Scene { flags, ..connection.scene(packet) };
        if !self.gate.pass(record, Layer::InboundTransport, &scene) {
            return;
        }
        connection.state.take(Side::There, &progress, &parsed, tcp);
        if progress.establishes {
            connection.refused = !self.gate.pass(record, Layer::AleFlowEstablished, &scene);
            if connection.refused {
                return;
            }
            if connection.state.direction == Direction::Inbound {
                self.gate.open(connection.ends, Event::Accept);
            }
        }
        if let Some((shown, bytes)) = progress.stream {
            let bytes = if bytes { parsed.payload() } else { &[] };
            let scene = Scene { stream: Some((bytes, shown)), ..scene };
            // The bytes are in the capture, so nothing is removed.
            let _ = self.gate.pass(record, Layer::Stream, &scene);
        }
        let over = connection.state.finished == [true; 2];
        if progress.early {
            self.early_data(&scene, parsed.payload());
        }
        if progress.aborts {
            self.drop_connection(pair);
        } else if over {
            self.close(pair);
        }
    }

    pub(super) fn segment_out(&mut self, item: &Item<'_>, tcp: Tcp, flags: u32) -> Result<()> {
        let parsed = item.parsed;
        let pair = (parsed.source, parsed.destination);
        let plain = Scene::packet(Direction::Outbound, parsed);
        if self.connections.0.get(&pair).is_some_and(|known| known.state.is_over_for(&parsed, tcp)) {
            self.drop_connection(pair);
        }
        if !self.connections.0.contains_key(&pair) {
            if tcp.flags.has(RST) {
                if !self.is_suppressed((protocol::TCP, pair.0, pair.1))? {
                    let record = self.gate.open(plain.ends, Event::RstOut);
                    self.down(record, &Scene { flags, ..plain });
                }
                return Ok(());
            }
            if is_plain_syn(tcp.flags) {
                self.connect(pair, plain.ends, flags);
            } else {
                let state = self.adopted(pair, item.index, !tcp.flags.has(SYN));
                self.begin(pair, plain.ends, state);
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
        let progress = connection.state.sends(&parsed, tcp);
        connection.state.take(Side::Here, &progress, &parsed, tcp);
        let record = self.gate.open(connection.ends, progress.event);
        let scene = connection.scene(Some((Direction::Outbound, parsed)));
        let over = connection.state.finished == [true; 2];
        if let Some((shown, bytes)) = progress.stream {
            let stream = Some((if bytes { parsed.payload() } else { &[] }, shown));
            let call = Scene { stream, flags, ..connection.scene(None) };
            // The bytes are in the capture, so nothing is removed.
            let _ = self.gate.pass(record, Layer::Stream, &call);
        }
        self.down(record, &Scene { flags, ..scene });
        if progress.aborts {
            self.drop_connection(pair);
        } else if over {
            self.close(pair);
        }
    }
}
