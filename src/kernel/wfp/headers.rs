//! What the packet behind a classify says of itself: its headers, wherever its
//! data start.
#![deny(unsafe_code)]

use core::net::IpAddr;

use super::incoming::Incoming;
use super::net_buffer::NetBuffer;
use super::shown::{ClosedPort, Packet};
use crate::ffi;
use crate::logic::echo::{ICMP, ICMPV6};
use crate::logic::flow::Passed;
use crate::logic::ip::{self, Part};
use crate::logic::layers::{Family, Shows};
use crate::logic::order::{Direction, Kinds, Place, Sight};
use crate::logic::stealth::{TCP, TcpFlags, UDP};
use crate::logic::transport::{self, Header, Ports};

/// Bytes of a UDP header (RFC 768), and of a TCP header without options
/// (RFC 9293, 3.1).
const UDP_HEADER: u32 = 8;
const TCP_HEADER: u32 = 20;

/// Bytes of an ICMP error before what it quotes (RFC 792, RFC 4443).
const ERROR_HEADER: u32 = 8;

/// What a packet's headers say.
struct Headers {
    protocol: u8,
    /// What is above IP, where that is there.
    header: Option<Header>,
    /// Bytes from that header's start on, where the layer's data end with the
    /// packet's.
    length: Option<u32>,
    part: Part,
}

impl Incoming<'_> {
    /// A packet at the transport layer's discard: also the segment's flags.
    #[inline(always)]
    pub fn discarded_segment(&self) -> Packet<'_, '_> {
        let packet = self.shown();
        match packet.protocol {
            Some(TCP) => Packet { tcp_flags: self.tcp_flags(packet.local_port), ..packet },
            _ => packet,
        }
    }

    /// The same where it is a segment that found no endpoint, with nothing amiss.
    #[inline(always)]
    pub fn closed_port(&self) -> Option<ClosedPort<'_, '_>> {
        if !self.found_no_endpoint() {
            return None;
        }
        let Some(TCP) = self.protocol() else { return None };
        let local_port = self.local_port()?;
        let tcp_flags = self.tcp_flags_near(local_port)?;
        Some(ClosedPort { incoming: self, local_port, tcp_flags, remote: self.remote()? })
    }

    /// A discarded segment's flags. Nearly always its header lies in one piece,
    /// as far before the data as the metadata say, which is read at once.
    #[inline(always)]
    fn tcp_flags(&self, local_port: Option<u16>) -> TcpFlags {
        let near = match local_port {
            Some(local_port) => self.tcp_flags_near(local_port),
            None => None,
        };
        match near {
            Some(flags) => flags,
            None => self.again().tcp_flags_anywhere(),
        }
    }

    #[inline(always)]
    fn tcp_flags_near(&self, destination: u16) -> Option<TcpFlags> {
        let header = self.net_buffer()?.piece(self.transport_header_size()?, 0)?;
        let source = self.uint16(self.fields().remote_port)?;
        TcpFlags::between(Ports { source, destination }, header)
    }

    #[cold]
    #[inline(never)]
    fn tcp_flags_anywhere(self) -> TcpFlags {
        let segment = self.segment().and_then(|headers| headers.header?.segment);
        segment.map_or(TcpFlags::UNREAD, |segment| segment.flags)
    }

    /// A packet at the network layer's discard, which has no fields for
    /// protocol and ports: what its headers name.
    #[inline(always)]
    pub fn discarded_packet(&self) -> Packet<'_, '_> {
        let (remote, local) = self.ends();
        self.named(self.behind_ip(remote, local))
    }

    /// An ICMP error on its way out: what it quotes, which is the packet that it
    /// answers.
    #[inline(always)]
    pub fn quoted(&self) -> Packet<'_, '_> {
        let (remote, local) = self.ends();
        let quoted = |buffer: NetBuffer<'_>| ip_header(&buffer, 0, ERROR_HEADER, remote?, local?);
        self.named(self.net_buffer().and_then(quoted))
    }

    #[inline(always)]
    fn named(&self, headers: Option<Headers>) -> Packet<'_, '_> {
        let packet = self.shown();
        let Some(headers) = headers else { return packet };
        let ports = headers.header.and_then(|header| header.ports);
        let local_port = ports.map(|ports| ports.destination);
        Packet { protocol: Some(headers.protocol), local_port, ..packet }
    }

    /// Packets of a flow that pass here in this direction, and the bytes that
    /// they bring or take: what is behind the transport header.
    #[inline(always)]
    pub fn payload(&self, direction: Direction) -> Passed {
        let Some(buffer) = self.net_buffer() else { return Passed { direction, packets: 1, bytes: 0 } };
        let (packets, bytes) = buffer.totals();
        // Outbound the data start with the header, of each packet.
        let header = match direction {
            Direction::Outbound => self.transport_header_size().unwrap_or(0),
            Direction::Inbound => 0,
        };
        Passed { direction, packets, bytes: bytes.saturating_sub(u64::from(header) * u64::from(packets)) }
    }

    /// What the order of layers is to know of this.
    pub fn sight(&self) -> Option<Sight> {
        let layer = self.callout().layer;
        let place = Place::of_layer(self.callout().layer_id)?;
        let (packet, call) = match layer.shows {
            Shows::Call => (None, true),
            Shows::CallOrSegment(_) => (self.segment(), true),
            Shows::Segment(_) => (self.segment(), false),
            Shows::Packet(_) => {
                let (remote, local) = self.ends();
                let (source, destination) = match self.direction() {
                    Some(Direction::Outbound) => (local, remote),
                    _ => (remote, local),
                };
                (self.behind_ip(source, destination), false)
            }
            Shows::Stream => (None, false),
            // An error's headers are not yet those of a packet on its way.
            Shows::Error(_) | Shows::Forwarded => return None,
        };
        // An authorization that is asked for again is no call.
        let call = call && !self.has_flag(ffi::FWP_CONDITION_FLAG_IS_REAUTHORIZE);
        let (packet, kinds) = match (layer.shows, packet.and_then(|headers| self.marked(headers))) {
            (Shows::Stream, _) => (None, Kinds::DATA),
            (_, Some((mark, kinds))) => (Some(mark), kinds),
            (_, None) => (None, Kinds::ALL),
        };
        let call = if call { self.endpoint() } else { None };
        Some(Sight { place, direction: self.direction(), kinds, packet, call })
    }

    /// The packet's mark and what it is.
    fn marked(&self, headers: Headers) -> Option<(u64, Kinds)> {
        if headers.part != Part::Whole {
            // It is put together, or taken apart, on its way.
            return None;
        }
        let header = headers.header?;
        let payload = header
            .segment
            .zip(headers.length)
            .and_then(|(segment, length)| length.checked_sub(segment.header));
        let (remote, local) = self.ends();
        Some((header.mark(headers.protocol, local?, remote?), header.kinds(payload)))
    }

    /// Whom the packet is between: the remote end, then this one.
    fn ends(&self) -> (Option<IpAddr>, Option<IpAddr>) {
        let fields = self.fields();
        (self.address(fields.remote_address), self.address(fields.local_address))
    }

    fn transport_header_size(&self) -> Option<u32> {
        Some(self.metadata(ffi::FWPS_METADATA_FIELD_TRANSPORT_HEADER_SIZE)?.transportHeaderSize)
    }

    /// The transport header at layers whose data start at it or behind it; its
    /// ports tell which, and ICMP's type and code where ports are fields.
    fn segment(&self) -> Option<Headers> {
        let fields = self.fields();
        // STREAM_PACKET shows nothing but TCP, and has no field for it.
        let protocol = if fields.protocol.is_some() { self.protocol()? } else { TCP };
        let local = self.uint16(fields.local_port);
        let remote = self.uint16(fields.remote_port);
        let (source, destination) = match self.direction()? {
            Direction::Inbound => (remote, local),
            Direction::Outbound => (local, remote),
        };
        let fixed = match protocol {
            TCP => Some(TCP_HEADER),
            UDP => Some(UDP_HEADER),
            _ => None,
        };
        let buffer = self.net_buffer()?;
        self.transport_header_size().into_iter().chain([0]).chain(fixed).find_map(|back| {
            let header = transport_header(&buffer, back, 0, protocol)?;
            let is_ours = match header.ports {
                Some(ports) => Some(ports) == source.zip(destination).map(Ports::from),
                // Type and code stand where the ports would.
                None if matches!(protocol, ICMP | ICMPV6) => header.is_message(local?, remote?),
                None => true,
            };
            let length = buffer.data_length().checked_add(back);
            is_ours.then_some(Headers { protocol, header: Some(header), length, part: Part::Whole })
        })
    }

    /// What is above the IP header. The data start where the stack stopped
    /// parsing ("Data Offset Positions"): behind the IP header, behind a UDP
    /// header, or before any of it; the header's addresses tell which.
    fn behind_ip(&self, source: Option<IpAddr>, destination: Option<IpAddr>) -> Option<Headers> {
        let (source, destination) = (source?, destination?);
        let size =
            self.metadata(ffi::FWPS_METADATA_FIELD_IP_HEADER_SIZE).map(|metadata| metadata.ipHeaderSize);
        let behind_udp = size.and_then(|size| size.checked_add(UDP_HEADER));
        let buffer = self.net_buffer()?;
        let mut places = size.into_iter().chain([0]).chain(behind_udp);
        places.find_map(|back| ip_header(&buffer, back, 0, source, destination))
    }
}

/// The headers of a packet that starts `skip` bytes behind a place that is
/// `back` bytes before the data start, if it is between these two.
fn ip_header(
    buffer: &NetBuffer<'_>,
    back: u32,
    skip: u32,
    source: IpAddr,
    destination: IpAddr,
) -> Option<Headers> {
    let family = if source.is_ipv4() { Family::V4 } else { Family::V6 };
    let mut fixed = [0; ip::LONGEST];
    let fixed = fixed.get_mut(..ip::fixed_size(family))?;
    buffer.copy_within(back, skip, fixed)?;
    let upper = ip::upper(fixed, source, destination, |at| {
        let mut next = [0; 4];
        buffer.copy_within(back, skip.checked_add(at)?, &mut next).map(|()| next)
    })?;
    let (protocol, part) = (upper.protocol, upper.part);
    let header = match part {
        Part::Later => None,
        _ => transport_header(buffer, back, skip.checked_add(upper.offset)?, protocol),
    };
    Some(Headers { protocol, header, length: None, part })
}

fn transport_header(buffer: &NetBuffer<'_>, back: u32, skip: u32, protocol: u8) -> Option<Header> {
    if protocol == TCP
        && let Some(bytes) = buffer.piece::<{ transport::LONGEST }>(back, skip)
    {
        return Header::read(TCP, &bytes);
    }
    let mut bytes = [0; transport::LONGEST];
    let bytes = bytes.get_mut(..transport::size(protocol))?;
    buffer.copy_within(back, skip, bytes)?;
    Header::read(protocol, bytes)
}
