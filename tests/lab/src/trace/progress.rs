//! Decides what a segment does to its connection, before it is indicated.
//!
//! The name of the event and the layers that the segment passes come from one
//! value, so they always agree. The rules are those of RFC 9293, 3.10.7, as far as
//! packets show them. A segment that a stack would refuse does nothing.

use machine::host::{Direction, Event, is_plain_syn, stream_flag};
use machine::wire::{Parsed, Tcp, TcpFlags};

const ACK: TcpFlags = TcpFlags::ACK;
const FIN: TcpFlags = TcpFlags::FIN;
const RST: TcpFlags = TcpFlags::RST;
const SYN: TcpFlags = TcpFlags::SYN;

/// The effect of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Progress {
    pub event: Event,
    /// The segment completes the handshake.
    pub establishes: bool,
    /// The indication at STREAM: `FWPS_STREAM_FLAG_*`, and whether it shows the
    /// segment's bytes.
    pub stream: Option<(u32, bool)>,
    /// A SYN or SYN-ACK carries bytes that are accepted. They are a second event of
    /// the packet: data received.
    pub early: bool,
    /// Its side sends no more data.
    pub finishes: bool,
    /// The connection ends at once.
    pub aborts: bool,
}

impl Progress {
    /// The effect of a segment that changes nothing.
    pub fn nothing(event: Event) -> Self {
        Self { event, establishes: false, stream: None, early: false, finishes: false, aborts: false }
    }
}

/// The sender of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Here = 0,
    There = 1,
}

/// The state of a connection. In each pair the first value is this host's.
#[derive(Clone, Copy, Debug)]
pub(super) struct State {
    pub direction: Direction,
    /// The sequence numbers of the SYNs, if they were seen.
    pub first: [Option<u32>; 2],
    /// The end of what each side has sent.
    pub sent: [Option<u32>; 2],
    pub finished: [bool; 2],
    pub established: bool,
    pub first_ack_sent: bool,
    /// STREAM has been indicated for data that this host sends.
    pub streamed: bool,
    /// The closure of its endpoint has been indicated; late segments may still
    /// come.
    pub closed: bool,
}

impl State {
    /// The state of a new connection.
    pub fn new(direction: Direction) -> Self {
        Self {
            direction,
            first: [None; 2],
            sent: [None; 2],
            finished: [false; 2],
            established: false,
            first_ack_sent: false,
            streamed: false,
            closed: false,
        }
    }

    /// The state of a connection whose beginning is not in the capture.
    pub fn adopted(direction: Direction, established: bool) -> Self {
        Self { established, first_ack_sent: established, ..Self::new(direction) }
    }

    /// Updates the state with a segment.
    pub fn take(&mut self, side: Side, progress: &Progress, parsed: &Parsed<'_>, tcp: Tcp) {
        let at = side as usize;
        if tcp.flags.has(SYN) {
            // A later SYN is a retransmission, or asks for another connection and
            // is not granted.
            if !self.established && self.first[at].is_none() {
                self.first[at] = Some(tcp.sequence);
                // The bytes of a SYN count only if they are accepted; otherwise
                // they are sent again.
                let taken = if progress.early { end(parsed, tcp) } else { tcp.sequence.wrapping_add(1) };
                self.sent[at] = Some(taken);
            }
        } else if progress.event != Event::NothingNew && self.is_news(side, parsed, tcp) {
            self.sent[at] = Some(end(parsed, tcp));
        }
        self.finished[at] |= progress.finishes;
        self.established |= progress.establishes;
        if side == Side::Here {
            self.streamed |= progress.stream.is_some();
            self.first_ack_sent |= tcp.flags.has(ACK) && self.established;
        }
    }

    /// The effect of a segment that this host receives.
    pub fn receives(&self, parsed: &Parsed<'_>, tcp: Tcp) -> Progress {
        let flags = tcp.flags;
        let payload = !parsed.payload().is_empty();
        if flags.has(RST) {
            let stream = (self.established && !self.closed)
                .then_some((stream_flag::RECEIVE | stream_flag::RECEIVE_ABORT, false));
            return Progress { stream, aborts: true, ..Progress::nothing(Event::RstIn) };
        }
        if is_plain_syn(flags) {
            return Progress::nothing(Event::SynAgain);
        }
        // Every other segment of a connection has an ACK. A SYN does not complete a
        // server's handshake. A FIN on a SYN is ignored.
        let answers = flags.has(SYN | ACK) && self.direction == Direction::Outbound && !self.established;
        let useless = self.closed || !flags.has(ACK) || (flags.has(SYN) && !answers);
        if useless || (!self.established && !self.acknowledged_by(tcp)) {
            return Progress::nothing(match payload || flags.has(SYN) || flags.has(FIN) || !flags.has(ACK) {
                true => Event::NothingNew,
                false => Event::LaterAckIn,
            });
        }
        let establishes = !self.established;
        if answers {
            return Progress { establishes, early: payload, ..Progress::nothing(Event::SynAckIn) };
        }
        let news = payload && !self.finished[Side::There as usize] && self.is_news(Side::There, parsed, tcp);
        let finishes = flags.has(FIN) && !self.finished[Side::There as usize];
        let mut shown = stream_flag::RECEIVE;
        if flags.has(TcpFlags::PSH) {
            shown |= stream_flag::RECEIVE_PUSH;
        }
        if finishes {
            shown |= stream_flag::RECEIVE_DISCONNECT;
        }
        let event = match (establishes, news) {
            _ if finishes => Event::FinIn,
            (true, true) => Event::AckInWithData,
            (true, false) => Event::AckIn,
            (false, true) => Event::DataReceived,
            (false, false) if payload || flags.has(FIN) => Event::NothingNew,
            (false, false) => Event::LaterAckIn,
        };
        let stream = (news || finishes).then_some((shown, news));
        Progress { establishes, stream, finishes, ..Progress::nothing(event) }
    }

    /// The effect of a segment that this host sends.
    pub fn sends(&self, parsed: &Parsed<'_>, tcp: Tcp) -> Progress {
        let flags = tcp.flags;
        let payload = !parsed.payload().is_empty();
        if flags.has(RST) {
            return Progress { aborts: true, ..Progress::nothing(Event::RstOut) };
        }
        if flags.has(SYN) {
            return Progress::nothing(if flags.has(ACK) { Event::SynAckOut } else { Event::SynOut });
        }
        // An application sent the first bytes, whatever their number. Only a
        // keep-alive carries a byte that no application sent (RFC 9293, 3.8.4).
        let first = !self.streamed && !self.is_keep_alive(parsed, tcp);
        let news = payload && !self.closed && (first || self.is_news(Side::Here, parsed, tcp));
        let finishes = flags.has(FIN) && !self.closed && !self.finished[Side::Here as usize];
        let stream = (news || finishes).then_some(match finishes {
            true => (stream_flag::SEND | stream_flag::SEND_DISCONNECT, news),
            false => (stream_flag::SEND, news),
        });
        // A host that sends data or a FIN has completed its handshake, even if the
        // segment that completed it is missing in the capture.
        let establishes = !self.established && stream.is_some();
        let completes = self.direction == Direction::Outbound && !self.first_ack_sent;
        let event = match () {
            () if news && completes => Event::AckOutWithData,
            () if news => Event::DataSent,
            () if finishes => Event::FinOut,
            () if payload || flags.has(FIN) => Event::NothingNew,
            () if completes && self.established => Event::AckOut,
            () => Event::LaterAckOut,
        };
        Progress { establishes, stream, finishes, ..Progress::nothing(event) }
    }

    /// Whether a segment of this host belongs to a later connection between the
    /// same ends, whose SYN is missing in the capture. It acknowledges another SYN,
    /// or carries data after the host's FIN.
    pub fn is_over_for(&self, parsed: &Parsed<'_>, tcp: Tcp) -> bool {
        let here = Side::Here as usize;
        match (tcp.flags.has(RST), tcp.flags.has(SYN), tcp.flags.has(ACK)) {
            (true, ..) => false,
            (_, true, true) => match self.first[here] {
                None => self.closed,
                first => first != Some(tcp.sequence),
            },
            (_, true, false) => self.closed || self.first[here] != Some(tcp.sequence),
            _ => {
                let payload = !parsed.payload().is_empty();
                payload && (self.closed || self.finished[here]) && self.is_news(Side::Here, parsed, tcp)
            }
        }
    }

    /// Whether a segment acknowledges this host's SYN, if that was seen.
    fn acknowledged_by(&self, tcp: Tcp) -> bool {
        self.first[Side::Here as usize].is_none_or(|first| is_ahead(tcp.acknowledgment, first))
    }

    /// Whether a segment of this host carries one old byte just before the next
    /// one.
    fn is_keep_alive(&self, parsed: &Parsed<'_>, tcp: Tcp) -> bool {
        parsed.payload().len() == 1 && self.sent[Side::Here as usize] == Some(tcp.sequence.wrapping_add(1))
    }

    /// Whether a segment carries data or a FIN after everything that its side has
    /// sent before. A segment that fills a gap counts as old.
    pub fn is_news(&self, side: Side, parsed: &Parsed<'_>, tcp: Tcp) -> bool {
        self.sent[side as usize].is_none_or(|sent| is_ahead(end(parsed, tcp), sent))
    }
}

/// The sequence number after a segment.
pub(super) fn end(parsed: &Parsed<'_>, tcp: Tcp) -> u32 {
    let controls = u32::from(tcp.flags.has(SYN)) + u32::from(tcp.flags.has(FIN));
    tcp.sequence.wrapping_add(parsed.payload().len() as u32).wrapping_add(controls)
}

/// Serial number arithmetic: ahead by less than half of all numbers.
fn is_ahead(one: u32, of: u32) -> bool {
    (1..=i32::MAX as u32).contains(&one.wrapping_sub(of))
}
