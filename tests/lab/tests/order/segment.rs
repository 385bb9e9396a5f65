//! TCP segments that can be changed, fragments, and ICMP errors.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header, Ipv6Extensions, Ipv6Header, PacketBuilder, TcpHeader,
    TcpHeaderSlice,
};
use machine::wire::TcpFlags;
use machine::wire::compose;

pub const SYN: u8 = TcpFlags::SYN.0;
pub const ACK: u8 = TcpFlags::ACK.0;
pub const FIN: u8 = TcpFlags::FIN.0;
pub const RST: u8 = TcpFlags::RST.0;
pub const PSH: u8 = TcpFlags::PSH.0;

/// A parsed segment.
#[derive(Clone, Debug)]
pub struct Segment {
    pub ip: IpHeaders,
    pub tcp: TcpHeader,
    pub payload: Vec<u8>,
}

impl Segment {
    pub fn new(from: SocketAddr, to: SocketAddr, flags: u8, sequence: u32, acknowledgment: u32) -> Self {
        let mut tcp = TcpHeader::new(from.port(), to.port(), sequence, u16::MAX);
        tcp.acknowledgment_number = acknowledgment;
        Self { ip: ip(from.ip(), to.ip()), tcp, payload: Vec::new() }.with_flags(flags)
    }

    /// `None` if the packet is not a whole TCP segment.
    pub fn read(packet: &[u8]) -> Option<Self> {
        let (ip, rest) = IpHeaders::from_slice(packet).ok()?;
        if rest.ip_number != IpNumber::TCP || rest.fragmented {
            return None;
        }
        let header = TcpHeaderSlice::from_slice(rest.payload).ok()?;
        let payload = rest.payload[header.slice().len()..].to_vec();
        Some(Self { ip, tcp: header.to_header(), payload })
    }

    /// The packet with computed lengths and checksums.
    pub fn packet(&self) -> Vec<u8> {
        let mut packet = Vec::new();
        let builder = PacketBuilder::ip(self.ip.clone()).tcp_header(self.tcp.clone());
        builder.write(&mut packet, &self.payload).expect("a vector takes everything");
        packet
    }

    pub fn flags(&self) -> u8 {
        let bits = [(self.tcp.syn, SYN), (self.tcp.ack, ACK), (self.tcp.fin, FIN), (self.tcp.rst, RST)];
        bits.iter().filter(|(set, _)| *set).fold(0, |flags, (_, bit)| flags | bit)
    }

    pub fn with_flags(mut self, flags: u8) -> Self {
        let has = |flag| flags & flag != 0;
        (self.tcp.syn, self.tcp.ack, self.tcp.fin) = (has(SYN), has(ACK), has(FIN));
        (self.tcp.rst, self.tcp.psh) = (has(RST), has(PSH));
        self
    }

    /// A bare acknowledgment with the segment's numbers.
    pub fn bare(self) -> Self {
        self.with_flags(ACK).with_payload(&[])
    }

    pub fn with_payload(self, payload: &[u8]) -> Self {
        Self { payload: payload.to_vec(), ..self }
    }

    /// The segment with another sequence number.
    pub fn moved(mut self, by: i32) -> Self {
        self.tcp.sequence_number = self.tcp.sequence_number.wrapping_add_signed(by);
        self
    }

    /// Whether the data of `next` follow directly, in one connection, so that a network
    /// card may merge both.
    fn is_continued_by(&self, next: &Self) -> bool {
        let plain = |segment: &Self| segment.flags() & (SYN | RST) == 0 && !segment.payload.is_empty();
        let ends = |segment: &Self| (segment.tcp.source_port, segment.tcp.destination_port);
        plain(self)
            && plain(next)
            && !self.tcp.fin
            && ends(self) == ends(next)
            && family(&self.ip) == family(&next.ip)
            && self.tcp.sequence_number.wrapping_add(self.payload.len() as u32) == next.tcp.sequence_number
            && self.payload.len() + next.payload.len() < 60_000
    }

    /// Both segments merged.
    pub fn merged(&self, next: &Self) -> Option<Self> {
        self.is_continued_by(next).then(|| {
            let sequence_number = self.tcp.sequence_number;
            let tcp = TcpHeader { sequence_number, ..next.tcp.clone() };
            Self { ip: next.ip.clone(), tcp, payload: [&self.payload[..], &next.payload].concat() }
        })
    }
}

fn family(ip: &IpHeaders) -> bool {
    ip.ipv4().is_some()
}

fn ip(from: IpAddr, to: IpAddr) -> IpHeaders {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let (source, destination) = (from.octets(), to.octets());
            let header = Ipv4Header { source, destination, time_to_live: 64, ..Ipv4Header::default() };
            IpHeaders::Ipv4(header, Ipv4Extensions::default())
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let (source, destination) = (from.octets(), to.octets());
            let header = Ipv6Header { source, destination, hop_limit: 64, ..Ipv6Header::default() };
            IpHeaders::Ipv6(header, Ipv6Extensions::default())
        }
        mixed => panic!("{mixed:?}"),
    }
}

/// Splits a packet into fragments of at most `bytes` bytes, a multiple of 8. A packet
/// that fits into one is not changed.
pub fn fragments(packet: &[u8], bytes: usize, identification: u16) -> Vec<Vec<u8>> {
    let fragments = compose::fragments(packet, identification, bytes);
    if fragments.len() < 2 { vec![packet.to_vec()] } else { fragments }
}

/// The ICMP error of a router that does not forward a packet.
pub fn unreachable(packet: &[u8]) -> Vec<u8> {
    let quoted = &packet[..packet.len().min(64)];
    let mut error = Vec::new();
    let (headers, _) = IpHeaders::from_slice(packet).expect("an IP packet");
    match headers {
        IpHeaders::Ipv4(header, _) => {
            let kind = etherparse::Icmpv4Type::DestinationUnreachable(
                etherparse::icmpv4::DestUnreachableHeader::Host,
            );
            let builder = PacketBuilder::ipv4(header.destination, header.source, 64).icmpv4(kind);
            builder.write(&mut error, quoted).expect("a vector takes everything");
        }
        IpHeaders::Ipv6(header, _) => {
            let kind = etherparse::Icmpv6Type::DestinationUnreachable(
                etherparse::icmpv6::DestUnreachableCode::Address,
            );
            let builder = PacketBuilder::ipv6(header.destination, header.source, 64).icmpv6(kind);
            builder.write(&mut error, quoted).expect("a vector takes everything");
        }
    }
    error
}
