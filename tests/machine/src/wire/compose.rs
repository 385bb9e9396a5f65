//! Composes packets for tests, traffic and measurements, in one place.

use std::net::IpAddr;

use etherparse::checksum::Sum16BitWords;
use etherparse::{
    IpFragOffset, IpHeaders, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6FragmentHeader, Ipv6Header,
    PacketBuilder, PacketBuilderStep, TcpHeader, UdpHeader,
};

use super::protocol;

/// The hop limit of a composed packet.
const HOPS: u8 = 64;

/// Starts a whole packet. The builder sets checksums and lengths.
///
/// # Panics
/// If the addresses are of different families.
pub fn ip(from: IpAddr, to: IpAddr) -> PacketBuilderStep<IpHeaders> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), HOPS),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), HOPS),
        _ => panic!("{from} and {to} are of different families"),
    }
}

/// An IP header alone, for `length` bytes of `protocol`. A checksum is zero.
///
/// # Panics
/// If the addresses are of different families.
pub fn ip_header(from: IpAddr, to: IpAddr, protocol: u8, length: usize) -> Vec<u8> {
    let protocol = IpNumber(protocol);
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let header = Ipv4Header {
                total_len: (Ipv4Header::MIN_LEN + length) as u16,
                identification: 1,
                time_to_live: HOPS,
                protocol,
                source: from.octets(),
                destination: to.octets(),
                dont_fragment: false,
                ..Ipv4Header::default()
            };
            header.to_bytes().to_vec()
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let header = Ipv6Header {
                traffic_class: 0,
                flow_label: Ipv6FlowLabel::ZERO,
                payload_length: length as u16,
                next_header: protocol,
                hop_limit: HOPS,
                source: from.octets(),
                destination: to.octets(),
            };
            header.to_bytes().to_vec()
        }
        _ => panic!("{from} and {to} are of different families"),
    }
}

/// The options of an IPv4 header; none for another header.
pub fn v4_options(header: &[u8]) -> &[u8] {
    match header.first() {
        Some(first) if first >> 4 == 4 => header.get(Ipv4Header::MIN_LEN..).unwrap_or_default(),
        _ => &[],
    }
}

/// A packet around bytes that begin with a transport header, with all checksums. `None`
/// if the addresses are of different families, or the bytes are too many or no header of
/// the protocol.
pub fn around(from: IpAddr, to: IpAddr, protocol: u8, options: &[u8], rest: &[u8]) -> Option<Vec<u8>> {
    if from.is_ipv4() != to.is_ipv4() || (!options.is_empty() && from.is_ipv6()) {
        return None;
    }
    let length = u16::try_from(Ipv4Header::MIN_LEN.max(Ipv6Header::LEN) + options.len() + rest.len());
    length.ok()?;
    let mut packet = ip_header(from, to, protocol, options.len() + rest.len());
    if from.is_ipv4() {
        packet[0] += (options.len() / 4) as u8;
        packet.extend_from_slice(options);
        let sum = Sum16BitWords::new().add_slice(&packet).ones_complement();
        packet[10..12].copy_from_slice(&sum.to_ne_bytes());
    }
    let mut rest = rest.to_vec();
    // The place of the checksum, and whether it covers the addresses (RFC 9293, 768, 792,
    // 4443).
    let (place, with_addresses) = match protocol {
        protocol::TCP => (16, true),
        protocol::UDP => (6, true),
        protocol::ICMPV6 => (2, true),
        protocol::ICMP => (2, false),
        _ => return Some([packet, rest].concat()),
    };
    rest.get_mut(place..place + 2)?.fill(0);
    let mut sum = Sum16BitWords::new();
    if with_addresses {
        for address in [from, to] {
            sum = match address {
                IpAddr::V4(address) => sum.add_4bytes(address.octets()),
                IpAddr::V6(address) => sum.add_16bytes(address.octets()),
            };
        }
        sum = sum.add_4bytes((rest.len() as u32).to_be_bytes()).add_2bytes([0, protocol]);
    }
    let sum = sum.add_slice(&rest).ones_complement();
    // A sum of zero means none, for UDP.
    let sum = if sum == 0 && protocol == protocol::UDP { u16::MAX } else { sum };
    rest[place..place + 2].copy_from_slice(&sum.to_ne_bytes());
    Some([packet, rest].concat())
}

/// A TCP header without options. `flags` is the octet of RFC 9293, 3.1; the
/// checksum is zero.
pub fn tcp_header(source: u16, destination: u16, sequence: u32, flags: u8) -> [u8; TcpHeader::MIN_LEN] {
    const FLAGS: usize = 13;
    let mut bytes = [0; TcpHeader::MIN_LEN];
    bytes.copy_from_slice(&TcpHeader::new(source, destination, sequence, 0).to_bytes());
    bytes[FLAGS] = flags;
    bytes
}

/// A UDP header for a payload of `payload` bytes; the checksum is zero.
pub fn udp_header(source: u16, destination: u16, payload: usize) -> [u8; UdpHeader::LEN] {
    let length = (UdpHeader::LEN + payload) as u16;
    UdpHeader { source_port: source, destination_port: destination, length, checksum: 0 }.to_bytes()
}

/// The fragments of a packet without extension headers, each of at most `size`
/// bytes, a multiple of 8.
///
/// # Panics
/// If it is not an IP packet.
pub fn fragments(packet: &[u8], identification: u16, size: usize) -> Vec<Vec<u8>> {
    let (headers, body) = IpHeaders::from_slice(packet).expect("an IP packet");
    let body = body.payload;
    let count = body.len().div_ceil(size);
    let pieces = body.chunks(size).enumerate().map(|(index, piece)| {
        let offset = IpFragOffset::try_new((index * size / 8) as u16).expect("an offset in a packet");
        let more = index + 1 < count;
        match headers.clone() {
            IpHeaders::Ipv6(mut header, _) => {
                let own = Ipv6FragmentHeader::new(header.next_header, offset, more, identification.into());
                header.next_header = IpNumber::IPV6_FRAGMENTATION_HEADER;
                header.payload_length = (Ipv6FragmentHeader::LEN + piece.len()) as u16;
                [&header.to_bytes()[..], &own.to_bytes(), piece].concat()
            }
            IpHeaders::Ipv4(mut header, _) => {
                header.total_len = (header.header_len() + piece.len()) as u16;
                header.identification = identification;
                (header.more_fragments, header.dont_fragment) = (more, false);
                header.fragment_offset = offset;
                header.header_checksum = header.calc_header_checksum();
                [&header.to_bytes()[..], piece].concat()
            }
        }
    });
    pieces.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Parsed, protocol};

    const ENDS: [[&str; 2]; 2] = [["10.77.0.1", "10.77.0.2"], ["fd77::1", "fd77::2"]];

    fn ends([from, to]: [&str; 2]) -> (IpAddr, IpAddr) {
        (from.parse().unwrap(), to.parse().unwrap())
    }

    #[test]
    fn headers_are_what_the_builder_writes_but_for_checksums() {
        for (from, to) in ENDS.map(ends) {
            let mut whole = Vec::new();
            ip(from, to).tcp(1, 2, 3, 0).syn().write(&mut whole, b"abc").unwrap();
            let tcp = tcp_header(1, 2, 3, 0x02);
            let own = [&ip_header(from, to, protocol::TCP, tcp.len() + 3)[..], &tcp, b"abc"].concat();
            let (whole, own) = (Parsed::new(&whole).unwrap(), Parsed::new(&own).unwrap());
            assert_eq!((whole.source, whole.destination), (own.source, own.destination));
            assert_eq!(whole.tcp().unwrap().flags, own.tcp().unwrap().flags);
            let datagram = [&ip_header(from, to, protocol::UDP, 11)[..], &udp_header(5, 6, 3), b"abc"];
            let datagram = datagram.concat();
            let datagram = Parsed::new(&datagram).unwrap();
            assert_eq!((datagram.source.port(), datagram.destination.port()), (5, 6));
        }
    }

    #[test]
    fn fragments_hold_the_packet() {
        for (from, to) in ENDS.map(ends) {
            let mut whole = Vec::new();
            ip(from, to).udp(1, 2).write(&mut whole, &[7; 50]).unwrap();
            let pieces = fragments(&whole, 9, 16);
            assert_eq!(pieces.len(), 4);
            let header = if from.is_ipv4() { 20 } else { 48 };
            let body: Vec<u8> = pieces.iter().flat_map(|piece| piece[header..].to_vec()).collect();
            let own = if from.is_ipv4() { 20 } else { 40 };
            assert_eq!(body, whole[own..]);
        }
    }
}
