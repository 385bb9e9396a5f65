//! What a segment is to its connection, decided before any layer is shown it.
//!
//! The event's name and the layers that the segment passes come from one value,
//! so that they cannot disagree, whatever the segment is. The rules are RFC
//! 9293's, 3.10.7, as far as packets tell; what a stack would refuse does
//! nothing here.

use machine::host::{Direction, Event, is_plain_syn, stream_flag};
use machine::wire::{Parsed, Tcp, TcpFlags};

const ACK: TcpFlags = TcpFlags::ACK;
const FIN: TcpFlags = TcpFlags::FIN;
const RST: TcpFlags = TcpFlags::RST;
const SYN: TcpFlags = TcpFlags::SYN;

/// What one segment does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Progress {
    pub event: Event,
    /// It completes the handshake.
    pub establishes: bool,
    /// What the stream layer is shown: `FWPS_STREAM_FLAG_*`, and whether with
    /// the segment's bytes.
    pub stream: Option<(u32, bool)>,
    /// A SYN or SYN-ACK brings bytes that are taken: they are data received, a
    /// second event of one packet.
    pub early: bool,
    /// Its side sends no more.
    pub finishes: bool,
    /// The connection is over at once.
    pub aborts: bool,
}

impl Progress {
    /// A segment that changes nothing.
    pub fn nothing(event: Event) -> Self {
        Self { event, establishes: false, stream: None, early: false, finishes: false, aborts: false }
    }
}

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Here = 0,
    There = 1,
}

/// What TCP knows of a connection; of two values the first is this host's.
#[derive(Clone, Copy, Debug)]
pub(super) struct State {
    pub direction: Direction,
    /// The SYNs' sequence numbers, where they were seen.
    pub first: [Option<u32>; 2],
    /// The end of what each side has sent.
    pub sent: [Option<u32>; 2],
    pub finished: [bool; 2],
    pub established: bool,
    pub first_ack_sent: bool,
    /// The stream layer was shown something that this host sends.
    pub streamed: bool,
    /// Its endpoint was told to be closed; late segments may still come.
    pub closed: bool,
}

impl State {
    /// A connection that begins.
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

    /// One whose beginning is not in the capture.
    pub fn adopted(direction: Direction, established: bool) -> Self {
        Self { established, first_ack_sent: established, ..Self::new(direction) }
    }

    /// Takes a segment in.
    pub fn take(&mut self, side: Side, progress: &Progress, parsed: &Parsed<'_>, tcp: Tcp) {
        let at = side as usize;
        if tcp.flags.has(SYN) {
            // Later ones are sent again, or ask for what is not granted.
            if !self.established && self.first[at].is_none() {
                self.first[at] = Some(tcp.sequence);
                // The bytes of a SYN count once they are taken: unless they
                // are, they are sent again.
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

    /// What a segment from the network does.
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
        // Every other segment of a connection has an ACK; a server's handshake
        // is not completed by a SYN; a FIN on a SYN is no end.
        let answers = flags.has(SYN | ACK) && self.direction == Direction::Outbound && !self.established;
        let useless = self.closed || !flags.has(ACK) || (flags.has(SYN) && !answers);
        if useless || (!self.established && !self.acknowledged_by(tcp)) {
            return Progress::nothing(match payload || flags.has(SYN) || !flags.has(ACK) {
                true => Event::NothingNew,
                false if flags.has(FIN) => Event::FinIn,
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
            _ if flags.has(FIN) => Event::FinIn,
            (true, _) if payload => Event::AckWithData,
            (true, _) => Event::AckIn,
            (false, true) => Event::DataReceived,
            (false, false) if payload => Event::NothingNew,
            (false, false) => Event::LaterAckIn,
        };
        let stream = (news || finishes).then_some((shown, news));
        Progress { establishes, stream, finishes, ..Progress::nothing(event) }
    }

    /// What a segment of this host's does.
    pub fn sends(&self, parsed: &Parsed<'_>, tcp: Tcp) -> Progress {
        let flags = tcp.flags;
        let payload = !parsed.payload().is_empty();
        if flags.has(RST) {
            return Progress { aborts: true, ..Progress::nothing(Event::RstOut) };
        }
        if flags.has(SYN) {
            return Progress::nothing(if flags.has(ACK) { Event::SynAckOut } else { Event::SynOut });
        }
        // The first bytes of all came from an application, whatever their
        // number: only a keep-alive brings one that did not (RFC 9293, 3.8.4).
        let first = !self.streamed && !self.is_keep_alive(parsed, tcp);
        let news = payload && !self.closed && (first || self.is_news(Side::Here, parsed, tcp));
        let finishes = flags.has(FIN) && !self.closed && !self.finished[Side::Here as usize];
        let stream = (news || finishes).then_some(match finishes {
            true => (stream_flag::SEND | stream_flag::SEND_DISCONNECT, news),
            false => (stream_flag::SEND, news),
        });
        // A host that sends bytes, or an end, has its handshake behind it, even
        // if the capture lacks the segment that completed it.
        let establishes = !self.established && stream.is_some();
        let event = match () {
            () if news => Event::DataSent,
            () if payload => Event::NothingNew,
            () if flags.has(FIN) => Event::FinOut,
            () if self.direction == Direction::Outbound && self.established && !self.first_ack_sent => {
                Event::AckOut
            }
            () => Event::LaterAckOut,
        };
        Progress { establishes, stream, finishes, ..Progress::nothing(event) }
    }

    /// Whether a segment of this host's cannot belong to this connection, but
    /// to a later one between the same ends whose SYN is not in the capture: it
    /// answers another SYN, or brings bytes behind the host's own end.
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

    /// Whether a segment acknowledges this host's SYN, as far as that was seen.
    fn acknowledged_by(&self, tcp: Tcp) -> bool {
        self.first[Side::Here as usize].is_none_or(|first| is_ahead(tcp.acknowledgment, first))
    }

    /// Whether a segment of this host's is one old byte before what is next.
    fn is_keep_alive(&self, parsed: &Parsed<'_>, tcp: Tcp) -> bool {
        parsed.payload().len() == 1 && self.sent[Side::Here as usize] == Some(tcp.sequence.wrapping_add(1))
    }

    /// Whether a segment brings bytes, or an end, behind all that its side has
    /// sent before. What fills a gap comes late and counts as old.
    pub fn is_news(&self, side: Side, parsed: &Parsed<'_>, tcp: Tcp) -> bool {
        self.sent[side as usize].is_none_or(|sent| is_ahead(end(parsed, tcp), sent))
    }
}

/// The sequence number behind a segment.
pub(super) fn end(parsed: &Parsed<'_>, tcp: Tcp) -> u32 {
    let controls = u32::from(tcp.flags.has(SYN)) + u32::from(tcp.flags.has(FIN));
    tcp.sequence.wrapping_add(parsed.payload().len() as u32).wrapping_add(controls)
}

/// Serial numbers: ahead if by less than half of all numbers.
fn is_ahead(one: u32, of: u32) -> bool {
    (1..=i32::MAX as u32).contains(&one.wrapping_sub(of))
}
