//! Reads the headers of an indicated packet, wherever its data start.
#![deny(unsafe_code)]

use core::num::NonZeroU64;

use super::incoming::{Incoming, Known};
use super::indicated::IndicatedPacket;
use super::net_buffer::{Lists, NetBuffer};
use crate::ffi;
use crate::logic::bytes::Bytes;
use crate::logic::ip::{self, Ends, Part};
use crate::logic::layers::{Decision, Role};
use crate::logic::order::{Direction, Kinds, Numbers, Tracking};
use crate::logic::protocol::{ICMP, ICMPV6, TCP, UDP};
use crate::logic::scan::WELL_KNOWN_END;
use crate::logic::stealth::{Packet, PacketView};
use crate::logic::tcp::TcpFlags;
use crate::logic::transport::{Header, Ports, is_encapsulated};

/// Length of a UDP header (RFC 768), and of a TCP header without options (RFC 9293,
/// 3.1), in bytes.
const UDP_HEADER: u32 = 8;
const TCP_HEADER: u32 = 20;

/// Lengths of a TCP header with options, in bytes.
const TCP_HEADERS: core::ops::RangeInclusive<u32> = 24..=60;

/// Bytes of an ICMP error before the packet that it quotes (RFC 792, RFC 4443).
const ERROR_HEADER: u32 = 8;

/// What a packet's headers say.
pub(super) struct Headers {
    protocol: u8,
    /// The header above IP, if it could be read.
    header: Option<Header>,
    /// Bytes from the start of that header to the end of the packet. `None` if the
    /// layer's data do not tell.
    length: Option<u64>,
    /// Bytes from the start of the IP header to that header.
    offset: u32,
    part: Part,
}

/// What an indication shows of a flow's packets.
pub enum FlowData<'a> {
    /// One NET_BUFFER, with so many bytes behind the header.
    Single(u64),
    /// Any number of lists, and the bytes of the header of each NET_BUFFER.
    Lists(Lists<'a>, u64),
}

impl<'a> FlowData<'a> {
    /// The packet, if the indication shows a single NET_BUFFER, else the lists. With RSC, URO,
    /// USO and LSO one NET_BUFFER is many packets. `header`: the bytes with which the data of
    /// each NET_BUFFER begin and that are not counted.
    #[inline(always)]
    pub(super) fn of(buffer: Option<NetBuffer<'a>>, direction: Direction, header: u64) -> Self {
        let Some(buffer) = buffer else { return Self::Lists(Lists::NONE, 0) };
        let single = match direction {
            Direction::Outbound => buffer.single(),
            Direction::Inbound => buffer.received(),
        };
        match single {
            Some(bytes) => Self::Single(bytes.saturating_sub(header)),
            None => Self::Lists(buffer.lists(), header),
        }
    }
}

impl Incoming<'_> {
    /// The packet at INBOUND_TRANSPORT_DISCARD, with the TCP flags from its header.
    #[inline(always)]
    pub fn discarded_segment(&self) -> IndicatedPacket<'_, '_> {
        let packet = self.packet();
        match packet.protocol {
            Some(TCP) => IndicatedPacket { tcp_flags: self.tcp_flags(packet.local_port), ..packet },
            _ => packet,
        }
    }

    /// The segment in the common case: it found no endpoint, is plain, its header is
    /// contiguous, it is no reset, and it does not come from a well-known port, so that it
    /// is no late reply.
    #[inline(always)]
    pub fn closed_port(&self) -> Option<IndicatedPacket<'_, '_>> {
        const COMPARTMENT: u32 = ffi::FWPS_METADATA_FIELD_COMPARTMENT_ID;
        if !self.found_no_endpoint_and_has::<COMPARTMENT>() || !self.is_plain() {
            return None;
        }
        let Some(TCP) = self.protocol() else { return None };
        let local_port = self.local_port()?;
        let (source, tcp_flags) = self.contiguous_tcp_flags(local_port)?;
        if source < WELL_KNOWN_END || tcp_flags.is_reset() {
            return None;
        }
        let (protocol, local_port) = (Some(TCP), Some(local_port));
        Some(IndicatedPacket {
            incoming: self,
            protocol,
            local_port,
            source: None,
            tcp_flags,
            is_common: true,
            is_plain: true,
        })
    }

    /// A discarded segment's flags. In the common case the header is contiguous, and
    /// lies before the data start at the distance that the metadata give.
    #[inline(always)]
    fn tcp_flags(&self, local_port: Option<u16>) -> TcpFlags {
        let contiguous = match local_port {
            Some(local_port) => self.contiguous_tcp_flags(local_port),
            None => None,
        };
        match contiguous {
            Some((_, flags)) => flags,
            None => self.cold_copy().scattered_tcp_flags(),
        }
    }

    #[inline(always)]
    fn contiguous_tcp_flags(&self, destination: u16) -> Option<(u16, TcpFlags)> {
        let header = self.net_buffer()?.piece(self.transport_header_size()?)?;
        let source = self.remote_port()?;
        Some((source, TcpFlags::between(Ports { source, destination }, header)?))
    }

    #[cold]
    #[inline(never)]
    fn scattered_tcp_flags(self) -> TcpFlags {
        let segment = || {
            let Tracking::Segment(way, positions) = &self.callout().tracking else { return None };
            let known = self.known(positions)?;
            self.scattered_segment(&known, self.direction_of(*way)?)?.header?.segment
        };
        segment().map_or(TcpFlags::UNREAD, |segment| segment.flags)
    }

    /// The packet at INBOUND_IPPACKET_DISCARD, with the protocol and ports of its
    /// headers: the layer has no fields for them. `None` if they are not contiguous.
    #[inline(always)]
    pub fn discarded_packet(&self) -> Option<IndicatedPacket<'_, '_>> {
        // Only what arrives is discarded there, so the direction is a constant.
        let Tracking::Packet(_, positions) = &self.callout().tracking else { return None };
        let ports = self.contiguous_ports(&self.known(positions)?, Direction::Inbound)?;
        Some(self.packet_with(Some(ports)))
    }

    #[cold]
    #[inline(never)]
    fn scattered_discarded(self) -> Option<ProtocolAndPorts> {
        let Tracking::Packet(_, positions) = &self.callout().tracking else { return None };
        let ends = self.known(positions)?.ends(Direction::Inbound)?;
        self.scattered_packet(ends, Direction::Inbound).map(protocol_and_ports)
    }

    /// An ICMP error that is being sent: the packet that it quotes, which it
    /// answers. `None` if its headers are not contiguous.
    #[inline(always)]
    pub fn quoted(&self) -> Option<IndicatedPacket<'_, '_>> {
        let (buffer, ends) = self.error()?;
        let headers = behind_ip(&AtOffset(buffer.contiguous(0)?, ERROR_HEADER), ends)?;
        if headers.is_whole() { Some(self.packet_with(Some(protocol_and_ports(headers)))) } else { None }
    }

    /// The NET_BUFFER of an ICMP error, and the addresses of the packet that it
    /// quotes.
    #[inline(always)]
    fn error(&self) -> Option<(NetBuffer<'_>, Ends)> {
        let Tracking::Error(positions) = &self.callout().tracking else { return None };
        Some((self.net_buffer()?, self.known(positions)?.ends(Direction::Inbound)?))
    }

    /// The packet with protocol and ports from its headers, if they could be read.
    #[inline(always)]
    fn packet_with(&self, ports: Option<ProtocolAndPorts>) -> IndicatedPacket<'_, '_> {
        let Some((protocol, ports)) = ports else { return self.packet() };
        let (source, local_port) = match ports {
            Some(Ports { source, destination }) => (Some(source), Some(destination)),
            None => (None, None),
        };
        IndicatedPacket { protocol: Some(protocol), local_port, source, ..self.packet() }
    }

    /// The packet that the callout decides about or observes, for an event.
    #[inline(never)]
    pub fn described(&self) -> Packet {
        match self.callout().role {
            Role::Decide(Decision::TransportDiscard) => self.discarded_segment(),
            Role::Decide(Decision::PacketDiscard) => self.packet_with(self.cold_copy().scattered_discarded()),
            Role::Decide(Decision::IcmpError) => {
                self.packet_with(self.error().and_then(|(buffer, ends)| scattered_quoted(&buffer, ends)))
            }
            Role::Decide(Decision::EchoRequest) | Role::Observe => self.packet(),
        }
        .to_packet()
    }

    /// What is to be counted for the flow, at layers that count its packets. Outbound the
    /// data of each NET_BUFFER start with the transport header.
    #[inline(always)]
    pub fn flow_data(&self, direction: Direction) -> FlowData<'_> {
        let header = match direction {
            Direction::Outbound => self.transport_header_size().unwrap_or(0),
            Direction::Inbound => 0,
        };
        FlowData::of(self.segment(), direction, header.into())
    }

    #[inline(always)]
    pub(super) fn transport_header_size(&self) -> Option<u32> {
        Some(self.metadata(ffi::FWPS_METADATA_FIELD_TRANSPORT_HEADER_SIZE)?.transportHeaderSize)
    }

    /// The transport header at layers whose data start at it or behind it. Searches
    /// all places where it can be.
    pub(super) fn scattered_segment(&self, known: &Known<'_>, direction: Direction) -> Option<Headers> {
        let fixed = match known.protocol()? {
            TCP => Some(TCP_HEADER),
            UDP => Some(UDP_HEADER),
            _ => None,
        };
        let buffer = self.net_buffer()?;
        let at = |back| segment_at(&buffer.scattered(back), known, Some(buffer.length_from(back)), direction);
        let size = self.transport_header_size();
        for back in places(direction, size, fixed) {
            if let Some(back) = back
                && let Some(found) = at(back)
            {
                return Some(found);
            }
        }
        if size.is_some() || fixed != Some(TCP_HEADER) {
            return None;
        }
        // ALE_FLOW_ESTABLISHED does not say how long the header is, but the header
        // does.
        TCP_HEADERS.step_by(4).find_map(|back| {
            let says = |headers: &Headers| headers.header?.segment.map(|segment| segment.header);
            at(back).filter(|headers| says(headers) == Some(back))
        })
    }

    /// The header above the IP header. At the discard layer the data start where the
    /// stack stopped parsing: behind the IP header, behind a UDP header, or at the
    /// IP header. The addresses in the header tell which.
    pub(super) fn scattered_packet(&self, ends: Ends, direction: Direction) -> Option<Headers> {
        let size = self.ip_header_size();
        let behind_udp = size.and_then(|size| size.checked_add(UDP_HEADER));
        let buffer = self.net_buffer()?;
        for back in places(direction, size, behind_udp) {
            if let Some(back) = back
                && let Some(headers) = behind_ip(&buffer.scattered(back), ends)
            {
                let length = buffer.length_from(back).checked_sub(headers.offset.into());
                return Some(Headers { length, ..headers });
            }
        }
        None
    }

    #[inline(always)]
    pub(super) fn ip_header_size(&self) -> Option<u32> {
        Some(self.metadata(ffi::FWPS_METADATA_FIELD_IP_HEADER_SIZE)?.ipHeaderSize)
    }
}

impl Headers {
    /// Whether the packet is an ICMP error.
    pub(super) fn is_error(&self) -> bool {
        self.header.is_some_and(|header| header.is_error(self.protocol))
    }

    /// Whether the header above IP was read.
    fn is_whole(&self) -> bool {
        self.header.is_some()
    }

    /// The packet's mark and kinds. `ends`: source and destination. `reassembled`:
    /// the packet is whole, even if its IP header still says that it is a fragment.
    pub(super) fn mark_and_kinds(
        self,
        ends: Ends,
        direction: Direction,
        reassembled: bool,
    ) -> Option<Marked> {
        if self.part != Part::Whole && !reassembled {
            // A fragment will be reassembled, or was made on the way.
            return None;
        }
        let header = self.header?;
        let payload = self.length.and_then(|length| header.payload(length));
        Some(Marked::of(&header, self.protocol, local_first(ends, direction).spread(), direction, payload))
    }
}

/// How many bytes before the data start a header may begin. Inbound the value of the
/// metadata comes first, then 0; outbound the other way round. The header's fixed
/// length comes last.
fn places(direction: Direction, size: Option<u32>, fixed: Option<u32>) -> [Option<u32>; 3] {
    match direction {
        Direction::Inbound => [size, Some(0), fixed],
        Direction::Outbound => [Some(0), size, fixed],
    }
}

/// A packet's protocol, and its ports if the protocol has them.
pub(super) type ProtocolAndPorts = (u8, Option<Ports>);

#[inline(always)]
fn protocol_and_ports(headers: Headers) -> ProtocolAndPorts {
    (headers.protocol, headers.header.and_then(|header| header.ports))
}

#[cold]
#[inline(never)]
fn scattered_quoted(buffer: &NetBuffer<'_>, ends: Ends) -> Option<ProtocolAndPorts> {
    behind_ip(&AtOffset(buffer.scattered(0), ERROR_HEADER), ends).map(protocol_and_ports)
}

/// By what a packet is recognized.
#[derive(Clone, Copy)]
pub(super) struct Marked {
    pub(super) mark: NonZeroU64,
    pub(super) kinds: Kinds,
    pub(super) protocol: u8,
    /// A hash of the local and the remote address.
    pub(super) ends: u64,
    /// A hash of the connection's ends, see [`Header::pair`].
    pub(super) pair: u64,
    pub(super) numbers: Option<Numbers>,
    /// The header above is hidden.
    pub(super) encapsulated: bool,
    /// An ICMP error: port or protocol unreachable.
    pub(super) unreachable: bool,
}

impl Marked {
    /// `ends`: of the local and the remote address. `payload`: the bytes behind a TCP
    /// header, if known.
    #[inline(never)]
    pub(super) fn of(
        header: &Header,
        protocol: u8,
        ends: u64,
        direction: Direction,
        payload: Option<u64>,
    ) -> Self {
        Self {
            mark: header.beginning().mark(protocol, ends, direction),
            kinds: header.kinds(payload),
            protocol,
            ends,
            pair: header.pair(protocol, ends, direction),
            numbers: header.numbers(payload),
            encapsulated: is_encapsulated(protocol, header),
            unreachable: header.is_unreachable(protocol),
        }
    }
}

/// The local address first; `ends`: source and destination.
#[inline(always)]
pub(super) fn local_first(ends: Ends, direction: Direction) -> Ends {
    match direction {
        Direction::Outbound => ends,
        Direction::Inbound => ends.exchanged(),
    }
}

/// The transport header at the start of the bytes, if it is this packet's. `length`:
/// of the bytes.
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
    is_ours.then_some(Headers { protocol, header: Some(header), length, offset: 0, part: Part::Whole })
}

/// Whether a header belongs to the packet that the fields describe. The ports must
/// be equal; for ICMP its type and code, where the port fields hold them.
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
        // The port fields hold type and code.
        (None, Some([kind, code])) if matches!(protocol, ICMP | ICMPV6) => header.is_message(kind, code),
        (None, _) => !matches!(protocol, ICMP | ICMPV6),
        (Some(_), None) => false,
    }
}

/// The headers at the start of the bytes, if the IP header has these addresses.
#[inline(always)]
fn behind_ip<B: Bytes>(bytes: &B, ends: Ends) -> Option<Headers> {
    let ip::Upper { protocol, offset, part } = ip::upper(bytes, ends)?;
    let header = match part {
        Part::Later => None,
        Part::Whole | Part::First => Header::at(bytes, offset, protocol),
    };
    Some(Headers { protocol, header, length: None, offset, part })
}

/// Bytes at an offset in other bytes.
struct AtOffset<B>(B, u32);

impl<B: Bytes> Bytes for AtOffset<B> {
    #[inline(always)]
    fn at<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.0.at(self.1.checked_add(offset)?)
    }
}
