//! What the order check needs to know of a classify.
//!
//! In the common case a packet's headers are contiguous, at the place that "Data
//! Offset Positions" gives for the layer. They are read there, field by field. The
//! slow path searches for them like the decisions do ([`headers`](super::headers)).
#![deny(unsafe_code)]

use core::num::NonZeroU64;

use super::headers::{Marked, ProtocolAndPorts, is_between};
use super::incoming::{EndsConsumer, Incoming, Known};
use super::net_buffer::Contiguous;
use crate::ffi;
use crate::logic::ip::{self, Ends, Part, Upper};
use crate::logic::order::{Direction, Kinds, Positions, Tracking};
use crate::logic::protocol::TCP;
use crate::logic::transport::{Beginning, Header};

/// The mark of a packet or a call, if it has one, and its kinds.
pub type Tracked = (Option<NonZeroU64>, Kinds);

impl Incoming<'_> {
    /// The mark and the kinds of what is indicated. If a call may show its packet,
    /// this is about the packet only.
    #[inline(always)]
    pub fn tracked(&self) -> Option<Tracked> {
        let of_packet = |marked: Option<Marked>| match marked {
            Some((mark, kinds)) => (Some(mark), kinds),
            None => (None, Kinds::ALL),
        };
        Some(match &self.callout().tracking {
            Tracking::CallOrSegment(..) if self.has_no_packet() => (None, Kinds::ALL),
            Tracking::Segment(way, positions) | Tracking::CallOrSegment(way, positions) => {
                of_packet(self.segment_mark(positions, self.direction_of(*way)?))
            }
            Tracking::Packet(direction, positions) => of_packet(self.packet_mark(positions, *direction)),
            Tracking::Call(flags) => (self.called(*flags), Kinds::CALL),
            Tracking::Stream => (None, Kinds::DATA),
            Tracking::Away | Tracking::Error(_) => return None,
        })
    }

    /// Whether there may be a call beside the packet.
    #[inline(always)]
    pub fn may_be_call(&self) -> bool {
        matches!(self.callout().tracking, Tracking::CallOrSegment(..))
    }

    /// Whether the packet is an ICMP error. The beginning of its walk is not known:
    /// an error that is sent shows its packet only behind OUTBOUND_ICMP_ERROR, and
    /// the documents do not say which layers an error that arrives passes. So two
    /// equal errors look like one error that passes a layer twice. Called only for
    /// what seems out of order.
    #[cold]
    #[inline(never)]
    pub fn is_icmp_error(&self) -> bool {
        let headers = || match &self.callout().tracking {
            Tracking::Packet(direction, positions) => {
                let ends = self.known(positions)?.ends(*direction)?;
                self.scattered_packet(ends, *direction)
            }
            Tracking::Segment(way, positions) => {
                self.scattered_segment(&self.known(positions)?, self.direction_of(*way)?)
            }
            _ => None,
        };
        headers().is_some_and(|headers| headers.is_error())
    }

    /// The direction. Not inlined: few packets have a flow that needs it.
    #[inline(never)]
    pub fn direction_cold(&self) -> Option<Direction> {
        self.direction()
    }

    /// The mark of the endpoint that is called.
    #[inline(always)]
    pub fn call(&self) -> Option<NonZeroU64> {
        self.called(self.fields().flags)
    }

    /// [`call`](Self::call), with a known position of the flags. A reauthorization
    /// is no call.
    #[inline(always)]
    fn called(&self, flags: Option<u8>) -> Option<NonZeroU64> {
        match self.has_flag(flags, ffi::FWP_CONDITION_FLAG_IS_REAUTHORIZE) {
            true => None,
            false => NonZeroU64::new(self.endpoint()?),
        }
    }

    #[inline(always)]
    fn segment_mark(&self, positions: &'static Positions, direction: Direction) -> Option<Marked> {
        let known = self.known(positions)?;
        match self.contiguous_segment_mark(&known, direction) {
            Some(marked) => Some(marked),
            None => self.scattered_segment_mark(&known, direction),
        }
    }

    #[cold]
    #[inline(never)]
    fn scattered_segment_mark(&self, known: &Known<'_>, direction: Direction) -> Option<Marked> {
        self.scattered_segment(known, direction)?.mark_and_kinds(known.ends(direction)?, direction, false)
    }

    #[inline(always)]
    fn packet_mark(&self, positions: &'static Positions, direction: Direction) -> Option<Marked> {
        let known = self.known(positions)?;
        match self.contiguous_packet_mark(&known, direction) {
            Some(marked) => Some(marked),
            None => self.scattered_packet_mark(&known, direction),
        }
    }

    #[cold]
    #[inline(never)]
    fn scattered_packet_mark(&self, known: &Known<'_>, direction: Direction) -> Option<Marked> {
        let ends = known.ends(direction)?;
        let reassembled = self.has_flag(self.fields().flags, ffi::FWP_CONDITION_FLAG_IS_REASSEMBLED);
        self.scattered_packet(ends, direction)?.mark_and_kinds(ends, direction, reassembled)
    }

    /// The packet at layers whose data start at its transport header or behind it.
    #[inline(always)]
    fn contiguous_segment_mark(&self, known: &Known<'_>, direction: Direction) -> Option<Marked> {
        let back = match direction {
            Direction::Inbound => self.transport_header_size().unwrap_or(0),
            Direction::Outbound => 0,
        };
        let buffer = self.order_packet()?;
        let (bytes, protocol) = (buffer.contiguous(back)?, known.protocol()?);
        // One path for TCP, so that the protocol is compared once.
        let (start, kinds) = match protocol {
            TCP => {
                let header = Header::of_tcp(&bytes, 0)?;
                // `None` if the segment is shorter than its header says.
                let payload = header.payload(buffer.length_from(back))?;
                (known.beginning_of(&header, TCP, direction)?, header.kinds(Some(payload)))
            }
            _ => {
                let header = Header::of_other(&bytes, 0, protocol)?;
                (known.beginning_of(&header, protocol, direction)?, Kinds::DATAGRAM)
            }
        };
        let ends = known.with_ends(direction, SpreadEnds)?;
        Some((start.mark(protocol, ends, direction), kinds))
    }

    /// The packet at layers whose data start behind its IP header (inbound) or at it
    /// (outbound).
    #[inline(always)]
    fn contiguous_packet_mark(&self, known: &Known<'_>, direction: Direction) -> Option<Marked> {
        let buffer = self.order_packet()?;
        let bytes = buffer.contiguous(self.ip_header_back(direction)?)?;
        let (ends, offset, protocol) = known.with_ends(direction, FindUpper(&bytes))?;
        let (start, kinds) = match protocol {
            TCP => {
                let header = Header::of_tcp(&bytes, offset)?;
                (header.beginning(), header.kinds(None))
            }
            _ => (Header::of_other(&bytes, offset, protocol)?.beginning(), Kinds::DATAGRAM),
        };
        Some((start.mark(protocol, ends, direction), kinds))
    }

    /// The protocol and the destination port of the packet, for decisions.
    #[inline(always)]
    pub(super) fn contiguous_ports(
        &self,
        known: &Known<'_>,
        direction: Direction,
    ) -> Option<ProtocolAndPorts> {
        let buffer = self.order_packet()?;
        let bytes = buffer.contiguous(self.ip_header_back(direction)?)?;
        let (_, offset, protocol) = known.with_ends(direction, FindUpper(&bytes))?;
        Some((protocol, Header::at(&bytes, offset, protocol)?.ports))
    }

    /// How many bytes before the data start the IP header begins.
    #[inline(always)]
    fn ip_header_back(&self, direction: Direction) -> Option<u32> {
        match direction {
            Direction::Inbound => self.ip_header_size(),
            Direction::Outbound => Some(0),
        }
    }
}

impl Known<'_> {
    /// The part of a header that identifies its packet, if it is the header of the
    /// packet that the fields describe.
    #[inline(always)]
    fn beginning_of(&self, header: &Header, protocol: u8, direction: Direction) -> Option<Beginning> {
        if is_between(header, protocol, self.ports(), direction) { Some(header.beginning()) } else { None }
    }
}

/// Both addresses as one number.
struct SpreadEnds;

impl EndsConsumer for SpreadEnds {
    type Output = u64;

    #[inline(always)]
    fn make(&self, ends: Ends) -> Option<u64> {
        Some(ends.spread())
    }
}

/// Both addresses as one number, and the offset and protocol of the header above IP,
/// if this is the packet's IP header.
struct FindUpper<'a>(&'a Contiguous<'a>);

impl EndsConsumer for FindUpper<'_> {
    type Output = (u64, u32, u8);

    #[inline(always)]
    fn make(&self, ends: Ends) -> Option<Self::Output> {
        let Upper { protocol, offset, part } = ip::upper(self.0, ends)?;
        // A fragment will be reassembled, or was made on the way.
        if part == Part::Whole { Some((ends.spread(), offset, protocol)) } else { None }
    }
}
