//! A tie: marks, and the highest sequence numbers that each layer has seen.
//!
//! Marks and numbers are added by read-modify-writes, because another processor may
//! evict the tie meanwhile, see [`Found`](super::table::Found).

use super::{Numbers, Passing};
use crate::logic::atomic::{AtomicU8, AtomicU32, Ordering};
use crate::logic::order::flow_order::Direction;
use crate::logic::order::rows::{IN, IN_IP, OUT, OUT_IP};

/// What one connection or endpoint has passed. Numbers of the connection count from
/// its SYN, which is number 0.
#[derive(Debug, Default)]
pub(super) struct Tie {
    pub(super) marks: AtomicU32,
    /// The processor of the latest packet at INBOUND_IPPACKET, INBOUND_TRANSPORT,
    /// OUTBOUND_TRANSPORT and OUTBOUND_IPPACKET; 0 if there was none.
    pub(super) processors: [AtomicU8; 4],
    pub(super) inbound: Half,
    pub(super) outbound: Half,
    /// The number of the peer's FIN.
    pub(super) end: AtomicU32,
}

/// One direction of a connection.
#[derive(Debug, Default)]
pub(super) struct Half {
    /// The sequence number of the SYN.
    pub(super) start: AtomicU32,
    /// The number behind the last byte that was seen at the IP layer.
    pub(super) packet: AtomicU32,
    /// At the transport layer.
    pub(super) segment: AtomicU32,
    /// At STREAM.
    pub(super) stream: AtomicU32,
}

/// Its beginning was seen.
pub(super) const BEGUN: u32 = 1;
/// Something about it is not understood, so it tells nothing.
pub(super) const UNCLEAR: u32 = 1 << 1;
pub(super) const SYN_IN_PACKET: u32 = 1 << 2;
pub(super) const SYN_IN: u32 = 1 << 3;
pub(super) const LATER_IN_PACKET: u32 = 1 << 4;
pub(super) const ACCEPTED: u32 = 1 << 5;
pub(super) const REFUSED: u32 = 1 << 6;
pub(super) const FLOWING: u32 = 1 << 7;
pub(super) const CLOSED: u32 = 1 << 8;
pub(super) const SYN_OUT: u32 = 1 << 9;
pub(super) const LATER_OUT: u32 = 1 << 10;
pub(super) const LATER_LEFT: u32 = 1 << 11;
pub(super) const DISCARDED: u32 = 1 << 12;
pub(super) const INBOUND_KNOWN: u32 = 1 << 13;
pub(super) const OUTBOUND_KNOWN: u32 = 1 << 14;
pub(super) const END_KNOWN: u32 = 1 << 15;
pub(super) const ENDS_DIFFER: u32 = 1 << 16;
pub(super) const OUT_SEEN: u32 = 1 << 17;
pub(super) const ERROR_MADE: u32 = 1 << 18;
pub(super) const BIND_REDIRECTED: u32 = 1 << 19;
pub(super) const BOUND: u32 = 1 << 20;
pub(super) const LISTENING: u32 = 1 << 21;
pub(super) const CONNECT_REDIRECTED: u32 = 1 << 22;
pub(super) const CONNECTED: u32 = 1 << 23;
pub(super) const FIN_OUT: u32 = 1 << 24;
/// A packet was authorized on another processor than it passed INBOUND_TRANSPORT on, which
/// still takes it for unauthorized.
pub(super) const AUTHORIZED_ELSEWHERE: u32 = 1 << 25;

impl Tie {
    /// Adds marks; returns those from before.
    pub(super) fn mark(&self, marks: u32) -> u32 {
        // Write only if a mark is new, because several processors read the line.
        match self.marks.load(Ordering::Acquire) {
            before if before & marks == marks => before,
            _ => self.marks.fetch_or(marks, Ordering::AcqRel),
        }
    }

    pub(super) fn mark_only(&self, marks: u32) {
        let _before = self.mark(marks);
    }

    /// Stores the processor of a layer; returns whether it was another one before.
    pub(super) fn moves(&self, latest: &AtomicU8, processor: u8) -> bool {
        let before = latest.load(Ordering::Relaxed);
        if before != processor {
            latest.store(processor, Ordering::Relaxed);
        }
        before != 0 && before != processor
    }

    /// Whether the packets of this direction have passed their layers on several
    /// processors. Stores the processor of this one.
    pub(super) fn is_scattered(&self, passing: &Passing) -> bool {
        let [in_packet, in_segment, out_segment, out_packet] = &self.processors;
        let here = match passing.layer {
            IN_IP => Some(in_packet),
            IN => Some(in_segment),
            OUT => Some(out_segment),
            OUT_IP => Some(out_packet),
            _ => None,
        };
        let of_way = match passing.direction {
            Direction::Inbound => [in_packet, in_segment],
            Direction::Outbound => [out_segment, out_packet],
        };
        let is_other = |processor: &AtomicU8| {
            let number = processor.load(Ordering::Relaxed);
            number != 0 && number != passing.processor
        };
        let [one, other] = of_way;
        let differs = is_other(one) || is_other(other);
        if let Some(here) = here
            && here.load(Ordering::Relaxed) != passing.processor
        {
            here.store(passing.processor, Ordering::Relaxed);
        }
        differs
    }

    /// Stores the number of the peer's FIN; returns the one from before.
    pub(super) fn ends_at(&self, end: u32) -> u32 {
        self.end.swap(end, Ordering::AcqRel)
    }

    /// A SYN was authorized: the connection begins.
    pub(super) fn begin_inbound(&self, numbers: &Numbers) {
        const KEPT: u32 = BEGUN | SYN_IN_PACKET | SYN_IN | LATER_IN_PACKET;
        self.inbound.begin(numbers.sequence);
        let unclear = if numbers.payload == Some(0) { 0 } else { UNCLEAR };
        let begin = |before: u32| Some(before & KEPT | ACCEPTED | INBOUND_KNOWN | unclear);
        let _begun = self.marks.fetch_update(Ordering::AcqRel, Ordering::Acquire, begin);
    }

    /// A SYN or a SYN-ACK leaves.
    pub(super) fn begin_outbound(&self, numbers: &Numbers, syn: u32) {
        const KEPT: u32 = BEGUN | LATER_IN_PACKET | LATER_OUT | LATER_LEFT;
        self.outbound.begin(numbers.sequence);
        let unclear = if numbers.payload == Some(0) { 0 } else { UNCLEAR };
        let kept = if syn == 0 { u32::MAX } else { KEPT };
        let begin = |before: u32| Some(before & kept | syn | OUTBOUND_KNOWN | unclear);
        let _begun = self.marks.fetch_update(Ordering::AcqRel, Ordering::Acquire, begin);
    }
}

/// Numbers from here on are not followed.
pub(super) const LIMIT: u32 = 1 << 30;

impl Half {
    pub(super) fn clear(&self) {
        for number in [&self.start, &self.packet, &self.segment, &self.stream] {
            number.store(0, Ordering::Relaxed);
        }
    }

    /// Begins at the sequence number of a SYN, which has passed the layers up to
    /// here.
    pub(super) fn begin(&self, start: u32) {
        for (number, first) in
            [(&self.start, start), (&self.packet, 0), (&self.segment, 1), (&self.stream, 1)]
        {
            let _before = number.swap(first, Ordering::AcqRel);
        }
    }

    pub(super) fn starts_at(&self, start: u32) -> bool {
        self.start.load(Ordering::Acquire) == start
    }

    /// Raises a number to the end of a segment. Returns that end; 0 if the segment
    /// is none of this connection.
    pub(super) fn raise(&self, to: &AtomicU32, numbers: &Numbers) -> u32 {
        let start = numbers.sequence.wrapping_sub(self.start.load(Ordering::Acquire));
        // A SYN takes one number.
        let length = if start == 0 { 1 } else { numbers.payload.unwrap_or(0) };
        let end = start.wrapping_add(length);
        if start >= LIMIT || end >= LIMIT {
            return 0;
        }
        if to.load(Ordering::Acquire) < end {
            to.fetch_max(end, Ordering::AcqRel);
        }
        end
    }
}
