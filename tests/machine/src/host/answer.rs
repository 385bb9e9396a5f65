//! Builds the host's own answers: RST, echo reply, ICMP unreachable.

use std::net::{IpAddr, SocketAddr};

use etherparse::icmpv6::{ParameterProblemCode, ParameterProblemHeader};
use etherparse::{Icmpv4Type, Icmpv6Type, IpHeaders, IpNumber, PacketBuilder, PacketBuilderStep};
use etherparse::{icmpv4, icmpv6};

use crate::wire::{Parsed, TcpFlags, compose};

/// The hop limit of packets that Windows sends.
pub(super) const HOP_LIMIT: u8 = 128;

/// The problem that an ICMP error reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Problem {
    PortUnreachable,
    ProtocolUnreachable,
    /// IPv4 only.
    SourceRouteFailed,
    /// The position in the packet. Only ICMPv6 has a code.
    Parameter {
        code: u8,
        pointer: u32,
    },
    /// The other fragments of the datagram did not arrive in time.
    ReassemblyTimeout,
}

/// The IP header of an answer to `packet`.
fn back(packet: &Parsed<'_>) -> PacketBuilderStep<IpHeaders> {
    headers(packet.destination.ip(), packet.source.ip())
}

fn headers(from: IpAddr, to: IpAddr) -> PacketBuilderStep<IpHeaders> {
    let headers = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let header = etherparse::Ipv4Header {
                source: from.octets(),
                destination: to.octets(),
                time_to_live: HOP_LIMIT,
                ..etherparse::Ipv4Header::default()
            };
            IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default())
        }
        (from, to) => {
            let header = etherparse::Ipv6Header {
                source: v6(from),
                destination: v6(to),
                hop_limit: HOP_LIMIT,
                ..etherparse::Ipv6Header::default()
            };
            IpHeaders::Ipv6(header, etherparse::Ipv6Extensions::default())
        }
    };
    PacketBuilder::ip(headers)
}

fn v6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// A packet of these addresses around bytes that begin with a transport header. `None`
/// if the addresses are of different families or the bytes are too many.
pub(super) fn wrap(from: IpAddr, to: IpAddr, protocol: u8, bytes: &[u8]) -> Option<Vec<u8>> {
    if from.is_ipv4() != to.is_ipv4() {
        return None;
    }
    let mut packet = Vec::new();
    headers(from, to).write(&mut packet, IpNumber(protocol), bytes).ok()?;
    Some(packet)
}

/// The RST for a segment without a connection (RFC 9293, 3.10.7.1); `None` for a
/// RST, and for anything but TCP.
pub(super) fn reset(packet: &Parsed<'_>) -> Option<Vec<u8>> {
    let tcp = packet.tcp().filter(|tcp| !tcp.flags.has(TcpFlags::RST))?;
    let (from, to) = (packet.destination.port(), packet.source.port());
    let acknowledged = tcp.flags.has(TcpFlags::ACK);
    let sequence = if acknowledged { tcp.acknowledgment } else { 0 };
    let mut segment = back(packet).tcp(from, to, sequence, 0).rst();
    if !acknowledged {
        let controls = u32::from(tcp.flags.has(TcpFlags::SYN)) + u32::from(tcp.flags.has(TcpFlags::FIN));
        let length = packet.payload().len() as u32 + controls;
        segment = segment.ack(tcp.sequence.wrapping_add(length));
    }
    let mut bytes = Vec::new();
    segment.write(&mut bytes, &[]).ok()?;
    Some(bytes)
}

/// The reply to an echo request; `None` for any other packet.
pub(super) fn echo_reply(packet: &Parsed<'_>) -> Option<Vec<u8>> {
    let body = packet.transport_bytes();
    let header: [u8; 4] = body.get(4..8)?.try_into().ok()?;
    let data = body.get(8..)?;
    let mut bytes = Vec::new();
    match packet.source.ip() {
        IpAddr::V4(_) => {
            let header = etherparse::IcmpEchoHeader::from_bytes(header);
            back(packet).icmpv4(Icmpv4Type::EchoReply(header)).write(&mut bytes, data)
        }
        IpAddr::V6(_) => {
            let header = etherparse::IcmpEchoHeader::from_bytes(header);
            back(packet).icmpv6(Icmpv6Type::EchoReply(header)).write(&mut bytes, data)
        }
    }
    .ok()?;
    Some(bytes)
}

/// A datagram that this machine sends.
pub(super) fn datagram(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    compose::ip(from.ip(), to.ip()).udp(from.port(), to.port()).write(&mut bytes, payload).ok()?;
    Some(bytes)
}

/// The datagram that an echo socket sends back.
pub(super) fn datagram_echo(packet: &Parsed<'_>) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let (from, to) = (packet.destination.port(), packet.source.port());
    // Bytes after the datagram's own length do not belong to it.
    let length = packet.transport_bytes().get(4..6)?.try_into().ok()?;
    let data = packet.transport_bytes().get(8..usize::from(u16::from_be_bytes(length)))?;
    back(packet).udp(from, to).write(&mut bytes, data).ok()?;
    Some(bytes)
}

/// An ICMP error (RFC 792; RFC 4443) that quotes the start of the packet as these
/// documents require. `None` if the family has no such error.
pub(super) fn error(packet: &Parsed<'_>, problem: Problem) -> Option<Vec<u8>> {
    /// The IPv6 minimum MTU minus the error's own headers.
    const V6_QUOTE: usize = 1280 - 40 - 8;
    let mut bytes = Vec::new();
    let quote = |limit: usize| &packet.bytes[..packet.bytes.len().min(limit)];
    match packet.source.ip() {
        IpAddr::V4(_) => {
            let kind = v4_error(problem)?;
            back(packet).icmpv4(kind).write(&mut bytes, quote(packet.ip_header_size + 8))
        }
        IpAddr::V6(_) => {
            let kind = v6_error(packet, problem)?;
            back(packet).icmpv6(kind).write(&mut bytes, quote(V6_QUOTE))
        }
    }
    .ok()?;
    Some(bytes)
}

fn v4_error(problem: Problem) -> Option<Icmpv4Type> {
    use icmpv4::DestUnreachableHeader::{Port, Protocol, SourceRouteFailed};
    Some(match problem {
        Problem::PortUnreachable => Icmpv4Type::DestinationUnreachable(Port),
        Problem::ProtocolUnreachable => Icmpv4Type::DestinationUnreachable(Protocol),
        Problem::SourceRouteFailed => Icmpv4Type::DestinationUnreachable(SourceRouteFailed),
        Problem::Parameter { pointer, .. } => {
            let pointer = u8::try_from(pointer).ok()?;
            Icmpv4Type::ParameterProblem(icmpv4::ParameterProblemHeader::PointerIndicatesError(pointer))
        }
        Problem::ReassemblyTimeout => {
            Icmpv4Type::TimeExceeded(icmpv4::TimeExceededCode::FragmentReassemblyTimeExceeded)
        }
    })
}

fn v6_error(packet: &Parsed<'_>, problem: Problem) -> Option<Icmpv6Type> {
    let parameter = |code, pointer| Icmpv6Type::ParameterProblem(ParameterProblemHeader { code, pointer });
    Some(match problem {
        Problem::PortUnreachable => Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port),
        Problem::ProtocolUnreachable => {
            // The pointer is at the field with the unrecognized number.
            let mut chain = packet.chain()?;
            chain.by_ref().for_each(drop);
            parameter(ParameterProblemCode::UnrecognizedNextHeader, chain.named_at as u32)
        }
        Problem::SourceRouteFailed => return None,
        Problem::Parameter { code, pointer } => parameter(ParameterProblemCode::from_u8(code)?, pointer),
        Problem::ReassemblyTimeout => {
            Icmpv6Type::TimeExceeded(icmpv6::TimeExceededCode::FragmentReassemblyTimeExceeded)
        }
    })
}
