//! What the order check needs to know of a classify.
//!
//! In the common case a packet's headers are contiguous, at the place that "Data
//! Offset Positions" gives for the layer. They are read there, field by field. The
//! slow path searches for them like the decisions do ([`headers`](super::headers)).
#![deny(unsafe_code)]

use core::num::NonZeroU64;

use super::headers::{Marked, ProtocolAndPorts, is_between, local_first};
use super::incoming::{EndsConsumer, Incoming, Known};
use super::net_buffer::Contiguous;
use crate::ffi;
use crate::logic::ip::{self, Ends, Part, Upper};
use crate::logic::layers::{Shows, Way};
use crate::logic::order::{Direction, Kinds, Passing, Positions, Tracking};
use crate::logic::protocol::{TCP, UDP};
use crate::logic::transport::{self, Header};

/// ALE_AUTH_RECV_ACCEPT_V4 and _V6, ALE_AUTH_CONNECT_V4 and _V6 (fwpsk.h).
const ACCEPT_OR_CONNECT: [u16; 4] = [44, 46, 48, 50];

/// By what a classify is recognized.
#[derive(Clone, Copy)]
pub struct Tracked {
    /// The mark of a packet or a call, if it has one.
    pub mark: Option<NonZeroU64>,
    /// Its kinds.
    pub kinds: Kinds,
    /// The packet, if its headers were read.
    packet: Option<Marked>,
    direction: Option<Direction>,
}

impl Tracked {
    const fn call(mark: Option<NonZeroU64>, kinds: Kinds) -> Self {
        Self { mark, kinds, packet: None, direction: None }
    }

    /// The address of what carries the packet; 0 for a call.
    #[inline(always)]
    pub fn carrier(&self, incoming: &Incoming<'_>) -> u64 {
        if self.packet.is_some() { incoming.carrier() } else { 0 }
    }

    /// Whether the header above IP is hidden.
    pub fn is_encapsulated(&self) -> bool {
        self.packet.is_some_and(|packet| packet.encapsulated)
    }
}

impl Incoming<'_> {
    /// By what this is recognized. If a call may show its packet, this is about the
    /// packet only.
    #[inline(always)]
    pub fn tracked(&self) -> Option<Tracked> {
        let of_packet = |marked: Option<Marked>, direction: Direction| match marked {
            Some(packet) => Tracked {
                mark: Some(packet.mark),
                kinds: packet.kinds,
                packet: Some(packet),
                direction: Some(direction),
            },
            None => Tracked { direction: Some(direction), ..Tracked::call(None, Kinds::ALL) },
        };
        Some(match &self.callout().tracking {
            Tracking::CallOrSegment(..) if self.has_no_packet() => Tracked::call(None, Kinds::ALL),
            Tracking::Segment(way, positions) | Tracking::CallOrSegment(way, positions) => {
                let direction = self.packet_direction(*way)?;
                of_packet(self.segment_mark(positions, direction), direction)
            }
            Tracking::Packet(direction, positions) => {
                of_packet(self.packet_mark(positions, *direction), *direction)
            }
            Tracking::Call(flags, _) => Tracked::call(self.called(*flags), Kinds::CALL),
            Tracking::Stream(_) => Tracked::call(None, Kinds::DATA),
            Tracking::Away | Tracking::Error(_) => return None,
        })
    }

    /// The direction of the packet itself. A connection's direction is another one:
    /// at a client's ALE_FLOW_ESTABLISHED the packet is the inbound SYN-ACK. A
    /// reauthorization says the direction of its packet in the metadata.
    #[inline(always)]
    fn packet_direction(&self, way: Way) -> Option<Direction> {
        match self.metadata(ffi::FWPS_METADATA_FIELD_PACKET_DIRECTION) {
            Some(metadata) => match metadata.packetDirection {
                ffi::FWP_DIRECTION_::FWP_DIRECTION_OUTBOUND => Some(Direction::Outbound),
                ffi::FWP_DIRECTION_::FWP_DIRECTION_INBOUND => Some(Direction::Inbound),
                _ => None,
            },
            // TCP's flow is established by what the peer sends.
            None if self.callout().begins_flows && self.protocol() == Some(TCP) => Some(Direction::Inbound),
            None => self.direction_of(way),
        }
    }

    /// What passes, for the ties. `processor`: its number.
    #[inline(always)]
    pub fn passing(&self, tracked: &Tracked, processor: usize) -> Option<Passing> {
        let layer = self.callout().order_layer.index;
        let (pair, protocol) = match tracked.packet {
            Some(packet) => (packet.pair, packet.protocol),
            None => self.pair_of_fields()?,
        };
        let direction = match tracked.direction {
            Some(direction) => direction,
            None => self.direction_cold().unwrap_or(Direction::Outbound),
        };
        let numbers = match tracked.packet {
            Some(packet) => packet.numbers,
            None => None,
        };
        Some(Passing {
            layer,
            direction,
            kinds: tracked.kinds,
            protocol,
            pair,
            endpoints: [self.endpoint().unwrap_or(0), self.parent_endpoint().unwrap_or(0)],
            numbers,
            reauthorizes: self.has_flag(self.fields().flags, ffi::FWP_CONDITION_FLAG_IS_REAUTHORIZE),
            is_unclear: self.has_flag(self.fields().flags, ffi::FWP_CONDITION_FLAG_IS_LOOPBACK),
            is_unauthorized: false,
            is_for_one: self.is_for_one(),
            stream: self.stream().unwrap_or((0, false)),
            processor: (processor % 255) as u8 + 1,
        })
    }

    /// The pair and the protocol of a call, or of a packet whose headers cannot be
    /// read, from the layer's fields.
    #[inline(never)]
    fn pair_of_fields(&self) -> Option<(u64, u8)> {
        let (positions, protocol) = match &self.callout().tracking {
            // ALE_AUTH_LISTEN is for TCP only, and has no field for it.
            Tracking::Call(_, None) => return Some((0, self.protocol().unwrap_or(TCP))),
            Tracking::Call(_, Some(positions)) => (positions, self.protocol()?),
            Tracking::Segment(_, positions) | Tracking::CallOrSegment(_, positions) => {
                (positions, self.protocol()?)
            }
            Tracking::Stream(positions) => (positions, TCP),
            Tracking::Packet(..) | Tracking::Away | Tracking::Error(_) => return None,
        };
        let pair = match (self.addresses(positions), self.known(positions)?.ports()) {
            (Some(ends), Some([local, remote])) => {
                transport::pair(protocol, ends, u32::from(local) << 16 | u32::from(remote))
            }
            _ => 0,
        };
        Some((pair, protocol))
    }

    /// The local and the remote address, as one number.
    #[inline(never)]
    fn addresses(&self, positions: &'static Positions) -> Option<u64> {
        self.known(positions)?.with_ends(Direction::Outbound, SpreadEnds)
    }

    /// Whether what is authorized has one receiver: NL_ADDRESS_TYPE of the local
    /// address (ALE_AUTH_RECV_ACCEPT) or of the destination (ALE_AUTH_CONNECT).
    fn is_for_one(&self) -> bool {
        const UNICAST: u8 = 1;
        let position = if self.has_no_destination_type() { 3 } else { 10 };
        self.uint8(Some(position)) == Some(UNICAST)
    }

    fn has_no_destination_type(&self) -> bool {
        !matches!(self.callout().tracking, Tracking::CallOrSegment(..))
    }

    /// Whether the layer shows packets that are forwarded.
    pub fn is_forwarded(&self) -> bool {
        self.layer.shows == Shows::Forwarded
    }

    /// Whether IPsec secures the packet.
    pub fn is_secured(&self) -> bool {
        self.has_flag(self.fields().flags, ffi::FWP_CONDITION_FLAG_IS_IPSEC_SECURED)
    }

    /// Whether packets from the network are shown to the transport layer here.
    pub fn is_at_inbound_transport(&self) -> bool {
        self.callout().flow_packets == Some(Direction::Inbound)
    }

    /// Whether flows are authorized here.
    pub fn authorizes(&self) -> bool {
        ACCEPT_OR_CONNECT.contains(&self.callout().layer_id)
    }

    /// Whether the packet is to be authorized before it goes on.
    pub fn requires_authorization(&self) -> bool {
        self.metadata(ffi::FWPS_METADATA_FIELD_ALE_CLASSIFY_REQUIRED).is_some()
    }

    /// The addresses of a packet that is answered by the ICMP error port or protocol
    /// unreachable, or of that error, as one number. The flag says that an endpoint
    /// sends it.
    pub fn unreachable(&self, tracked: Option<&Tracked>) -> Option<(u64, bool)> {
        let callout = self.callout();
        if let Tracking::Error(positions) = &callout.tracking {
            return match self.icmp()?.is_unreachable() && !callout.discard {
                true => Some((self.addresses(positions)?, false)),
                false => None,
            };
        }
        if callout.discard {
            let positions = match &callout.tracking {
                Tracking::Packet(Direction::Inbound, positions) => positions,
                Tracking::Segment(Way::In, positions) if self.protocol() != Some(TCP) => positions,
                _ => return None,
            };
            return Some((self.addresses(positions)?, false));
        }
        let packet = tracked?.packet.filter(|packet| packet.unreachable)?;
        Some((packet.ends, self.flow().is_some() || self.endpoint().is_some()))
    }

    /// Whether there may be a call beside the packet.
    #[inline(always)]
    pub fn may_be_call(&self) -> bool {
        matches!(self.callout().tracking, Tracking::CallOrSegment(..))
    }

    /// Whether two equal packets look like one that passes a layer twice. Called only
    /// for what seems out of order.
    ///
    /// - An ICMP error that is sent shows its packet only behind OUTBOUND_ICMP_ERROR,
    ///   and the documents do not say which layers an error that arrives passes.
    /// - No document says which messages of ICMP and of other protocols end in the
    ///   network layer, as neighbor discovery may.
    #[cold]
    #[inline(never)]
    pub fn may_stop(&self, tracked: &Tracked) -> bool {
        if let (Some(packet), Tracking::Packet(Direction::Inbound, _)) =
            (tracked.packet, &self.callout().tracking)
            && !matches!(packet.protocol, TCP | UDP)
        {
            return true;
        }
        let headers = || match &self.callout().tracking {
            Tracking::Packet(direction, positions) => {
                let ends = self.known(positions)?.ends(*direction)?;
                self.scattered_packet(ends, *direction)
            }
            Tracking::Segment(way, positions) => {
                self.scattered_segment(&self.known(positions)?, self.packet_direction(*way)?)
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
        let header = match protocol {
            TCP => Header::of_tcp(&bytes, 0)?,
            _ => Header::of_other(&bytes, 0, protocol)?,
        };
        if !is_between(&header, protocol, known.ports(), direction) {
            return None;
        }
        let payload = match header.segment {
            // `None` if the segment is shorter than its header says.
            Some(segment) => Some(buffer.payload(back, segment.header)?),
            None => None,
        };
        let ends = known.with_ends(Direction::Outbound, SpreadEnds)?;
        Some(Marked::of(&header, protocol, ends, direction, payload))
    }

    /// The packet at layers whose data start behind its IP header (inbound) or at it
    /// (outbound).
    #[inline(always)]
    fn contiguous_packet_mark(&self, known: &Known<'_>, direction: Direction) -> Option<Marked> {
        let buffer = self.order_packet()?;
        let back = self.ip_header_back(direction)?;
        let bytes = buffer.contiguous(back)?;
        let (ends, offset, protocol) = known.with_ends(direction, FindUpper(&bytes, direction))?;
        let header = Header::at(&bytes, offset, protocol)?;
        let payload = match header.segment {
            Some(segment) => buffer.payload(back, offset + segment.header),
            None => None,
        };
        Some(Marked::of(&header, protocol, ends, direction, payload))
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
        let (_, offset, protocol) = known.with_ends(direction, FindUpper(&bytes, direction))?;
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

/// Both addresses as one number.
struct SpreadEnds;

impl EndsConsumer for SpreadEnds {
    type Output = u64;

    #[inline(always)]
    fn make(&self, ends: Ends) -> Option<u64> {
        Some(ends.spread())
    }
}

/// The local and the remote address as one number, and the offset and protocol of the
/// header above IP, if this is the packet's IP header.
struct FindUpper<'a>(&'a Contiguous<'a>, Direction);

impl EndsConsumer for FindUpper<'_> {
    type Output = (u64, u32, u8);

    #[inline(always)]
    fn make(&self, ends: Ends) -> Option<Self::Output> {
        let Upper { protocol, offset, part } = ip::upper(self.0, ends)?;
        // A fragment will be reassembled, or was made on the way.
        if part == Part::Whole { Some((local_first(ends, self.1).spread(), offset, protocol)) } else { None }
    }
}
