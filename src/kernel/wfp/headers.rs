//! What the packet behind a classify says of itself: its headers, wherever its
//! data start.
#![deny(unsafe_code)]

use core::num::NonZeroU64;

use super::incoming::{Incoming, Known};
use super::indicated::IndicatedPacket;
use super::net_buffer::NetBuffer;
use crate::ffi;
use crate::logic::bytes::Bytes;
use crate::logic::flow::Passed;
use crate::logic::ip::{self, Ends, Part};
use crate::logic::order::{Direction, Kinds, Tracking};
use crate::logic::protocol::{ICMP, ICMPV6, TCP, UDP};
use crate::logic::tcp::TcpFlags;
use crate::logic::transport::{Header, Ports};

/// Bytes of a UDP header (RFC 768), and of a TCP header without options
/// (RFC 9293, 3.1).
const UDP_HEADER: u32 = 8;
const TCP_HEADER: u32 = 20;

/// Bytes of an ICMP error before what it quotes (RFC 792, RFC 4443).
const ERROR_HEADER: u32 = 8;

/// What a packet's headers say.
pub(super) struct Headers {
    protocol: u8,
    /// What is above IP, where that is there.
    header: Option<Header>,
    /// Bytes from that header's start on, where the layer's data end with the
    /// packet's.
    length: Option<u64>,
    part: Part,
}

impl Incoming<'_> {
    /// A packet at the transport layer's discard: also the segment's flags.
    #[inline(always)]
    pub fn discarded_segment(&self) -> IndicatedPacket<'_, '_> {
        let packet = self.shown();
        match packet.protocol {
            Some(TCP) => IndicatedPacket { tcp_flags: self.tcp_flags(packet.local_port), ..packet },
            _ => packet,
        }
    }

    /// The same if nearly nothing is left to be asked: a segment that found no
    /// endpoint, whose header lies in one piece.
    #[inline(always)]
    pub fn closed_port(&self) -> Option<IndicatedPacket<'_, '_>> {
        if !self.found_no_endpoint() {
            return None;
        }
        let Some(TCP) = self.protocol() else { return None };
        let local_port = self.local_port()?;
        let tcp_flags = self.contiguous_tcp_flags(local_port)?;
        Some(IndicatedPacket { incoming: self, protocol: Some(TCP), local_port: Some(local_port), tcp_flags })
    }

    /// A discarded segment's flags. Nearly always its header lies in one piece,
    /// as far before the data as the metadata say, which is read at once.
    #[inline(always)]
    fn tcp_flags(&self, local_port: Option<u16>) -> TcpFlags {
        let near = match local_port {
            Some(local_port) => self.contiguous_tcp_flags(local_port),
            None => None,
        };
        match near {
            Some(flags) => flags,
            None => self.again().scattered_tcp_flags(),
        }
    }

    #[inline(always)]
    fn contiguous_tcp_flags(&self, destination: u16) -> Option<TcpFlags> {
        let header = self.net_buffer()?.piece(self.transport_header_size()?)?;
        let source = self.uint16(self.fields().remote_port)?;
        TcpFlags::between(Ports { source, destination }, header)
    }

    #[cold]
    #[inline(never)]
    fn scattered_tcp_flags(self) -> TcpFlags {
        let segment = || {
            let Tracking::Segment(way, positions) = &self.callout().tracking else { return None };
            let known = self.known(positions)?;
            self.scattered_segment(&known, self.going(*way)?)?.header?.segment
        };
        segment().map_or(TcpFlags::UNREAD, |segment| segment.flags)
    }

    /// A packet at the network layer's discard, which has no fields for
    /// protocol and ports: what its headers name.
    #[inline(always)]
    pub fn discarded_packet(&self) -> IndicatedPacket<'_, '_> {
        match self.again().discarded_ports() {
            Some((protocol, local_port)) => {
                IndicatedPacket { protocol: Some(protocol), local_port, ..self.shown() }
            }
            None => self.shown(),
        }
    }

    /// Not a part of each who asks: of the decision, and of the event.
    #[inline(never)]
    fn discarded_ports(self) -> Option<Named> {
        let Tracking::Packet(direction, positions) = &self.callout().tracking else { return None };
        let known = self.known(positions)?;
        match self.contiguous_ports(&known, *direction) {
            Some(named) => Some(named),
            None => self.scattered_discarded(&known, *direction),
        }
    }

    #[cold]
    #[inline(never)]
    fn scattered_discarded(&self, known: &Known<'_>, direction: Direction) -> Option<Named> {
        self.scattered_packet(known.ends(direction)?, direction).map(named)
    }

    /// An ICMP error on its way out: what it quotes, which is the packet that it
    /// answers.
    #[inline(always)]
    pub fn quoted(&self) -> IndicatedPacket<'_, '_> {
        match self.again().quoted_ports() {
            Some((protocol, local_port)) => {
                IndicatedPacket { protocol: Some(protocol), local_port, ..self.shown() }
            }
            None => self.shown(),
        }
    }

    /// As [`discarded_ports`](Self::discarded_ports).
    #[inline(never)]
    fn quoted_ports(self) -> Option<Named> {
        let Tracking::Error(positions) = &self.callout().tracking else { return None };
        let (buffer, ends) = (self.net_buffer()?, self.known(positions)?.ends(Direction::Inbound)?);
        let near = match buffer.contiguous(0) {
            Some(run) => behind_ip(&AtOffset(run, ERROR_HEADER), ends),
            None => None,
        };
        match near {
            Some(headers) if headers.is_whole() => Some(named(headers)),
            _ => scattered_quoted(&buffer, ends),
        }
    }

    /// The NET_BUFFERs and bytes to count for the flow: what is behind the
    /// transport headers. `None` at a layer where they are not counted.
    #[inline(always)]
    pub fn flow_packets(&self) -> Option<Passed> {
        let direction = self.callout().flow_packets?;
        let Some(buffer) = self.segment() else { return Some(Passed { direction, packets: 1, bytes: 0 }) };
        let (packets, bytes) = buffer.totals();
        // Outbound the data of each NET_BUFFER start with the header.
        let header = match direction {
            Direction::Outbound => self.transport_header_size().unwrap_or(0),
            Direction::Inbound => 0,
        };
        let bytes = bytes.saturating_sub(u64::from(header) * u64::from(packets));
        Some(Passed { direction, packets, bytes })
    }

    #[inline(always)]
    pub(super) fn transport_header_size(&self) -> Option<u32> {
        Some(self.metadata(ffi::FWPS_METADATA_FIELD_TRANSPORT_HEADER_SIZE)?.transportHeaderSize)
    }

    /// The transport header at layers whose data start at it or behind it,
    /// wherever they start.
    pub(super) fn scattered_segment(&self, known: &Known<'_>, direction: Direction) -> Option<Headers> {
        let fixed = match known.protocol()? {
            TCP => Some(TCP_HEADER),
            UDP => Some(UDP_HEADER),
            _ => None,
        };
        let buffer = self.net_buffer()?;
        places(direction, self.transport_header_size(), fixed).find_map(|back| {
            segment_at(&buffer.scattered(back), known, Some(buffer.length_from(back)), direction)
        })
    }

    /// What is above the IP header, wherever the data start, which at the discard
    /// is where the stack stopped parsing: behind the IP header, behind a UDP
    /// header, or before any of it; the header's addresses tell which.
    pub(super) fn scattered_packet(&self, ends: Ends, direction: Direction) -> Option<Headers> {
        let size = self.ip_header_size();
        let behind_udp = size.and_then(|size| size.checked_add(UDP_HEADER));
        let buffer = self.net_buffer()?;
        let mut places = places(direction, size, behind_udp);
        places.find_map(|back| behind_ip(&buffer.scattered(back), ends))
    }

    #[inline(always)]
    pub(super) fn ip_header_size(&self) -> Option<u32> {
        Some(self.metadata(ffi::FWPS_METADATA_FIELD_IP_HEADER_SIZE)?.ipHeaderSize)
    }
}

impl Headers {
    /// Whether it is an ICMP error.
    pub(super) fn is_error(&self) -> bool {
        self.header.is_some_and(|header| header.is_error(self.protocol))
    }

    /// Whether what is above IP was read, too.
    fn is_whole(&self) -> bool {
        self.header.is_some()
    }

    /// The packet's mark and what it is. `reassembled`: the packet is whole,
    /// whatever its IP header still says.
    pub(super) fn marked(self, ends: Ends, direction: Direction, reassembled: bool) -> Option<Marked> {
        if self.part != Part::Whole && !reassembled {
            // It is put together, or taken apart, on its way.
            return None;
        }
        let header = self.header?;
        Some((
            header.mark(self.protocol, ends, direction),
            header.kinds(self.length.and_then(|length| header.payload(length))),
        ))
    }
}

/// How far before the data start a header may be: inbound as the metadata say,
/// outbound not at all; the other way round; or as far as what is always there.
fn places(direction: Direction, size: Option<u32>, fixed: Option<u32>) -> impl Iterator<Item = u32> {
    let [first, second] = match direction {
        Direction::Inbound => [size, Some(0)],
        Direction::Outbound => [Some(0), size],
    };
    [first, second, fixed].into_iter().flatten()
}

/// What decisions ask of a packet: its protocol and, if it has ports, the local
/// one of what came in.
pub(super) type Named = (u8, Option<u16>);

#[inline(always)]
fn named(headers: Headers) -> Named {
    let ports = headers.header.and_then(|header| header.ports);
    (headers.protocol, ports.map(|ports| ports.destination))
}

#[cold]
#[inline(never)]
fn scattered_quoted(buffer: &NetBuffer<'_>, ends: Ends) -> Option<Named> {
    behind_ip(&AtOffset(buffer.scattered(0), ERROR_HEADER), ends).map(named)
}

/// The mark of what passes, and what it is.
pub(super) type Marked = (NonZeroU64, Kinds);

/// The transport header that the bytes begin with, if they do. `length`: of the
/// bytes.
#[inline(always)]
fn segment_at<B: Bytes>(
    bytes: &B,
    known: &Known<'_>,
    length: Option<u64>,
    direction: Direction,
) -> Option<Headers> {
    let protocol = known.protocol()?;
    let header = Header::at(bytes, 0, protocol)?;
    let is_ours = is_between(&header, protocol, known.ports(), direction);
    is_ours.then_some(Headers { protocol, header: Some(header), length, part: Part::Whole })
}

/// Whether a header is that of what the fields name: its ports tell, and ICMP's
/// type and code where ports are fields.
#[inline(always)]
pub(super) fn is_between(
    header: &Header,
    protocol: u8,
    ports: Option<[u16; 2]>,
    direction: Direction,
) -> bool {
    match (header.ports, ports) {
        (Some(Ports { source, destination }), Some([local, remote])) => {
            let found = u32::from(source) << 16 | u32::from(destination);
            let ours = u32::from(local) << 16 | u32::from(remote);
            match direction {
                Direction::Inbound => found.rotate_left(16) == ours,
                Direction::Outbound => found == ours,
            }
        }
        // Type and code stand where the ports would.
        (None, Some([kind, code])) if matches!(protocol, ICMP | ICMPV6) => header.is_message(kind, code),
        (None, _) => !matches!(protocol, ICMP | ICMPV6),
        (Some(_), None) => false,
    }
}

/// The headers of a packet that the bytes begin with, if it goes from one of
/// these ends to the other.
#[inline(always)]
fn behind_ip<B: Bytes>(bytes: &B, ends: Ends) -> Option<Headers> {
    let ip::Upper { protocol, offset, part } = ip::upper(bytes, ends)?;
    let header = match part {
        Part::Later => None,
        Part::Whole | Part::First => Header::at(bytes, offset, protocol),
    };
    Some(Headers { protocol, header, length: None, part })
}

/// Bytes from so many behind others on.
struct AtOffset<B>(B, u32);

impl<B: Bytes> Bytes for AtOffset<B> {
    #[inline(always)]
    fn at<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.0.at(self.1.checked_add(offset)?)
    }
}
