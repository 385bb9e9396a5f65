//! A raw IP packet, parsed once, with the positions that layers speak of.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use etherparse::{IpSlice, NetSlice, SlicedPacket, TcpSlice, UdpSlice};

/// The IP version, as data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Family {
    V4,
    V6,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

impl Family {
    /// Both versions.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The version of an address.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// The control bits of a TCP header (RFC 9293, 3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TcpFlags(pub u8);

#[allow(missing_docs, reason = "the names are the RFC's own")]
impl TcpFlags {
    pub const FIN: Self = Self(0x01);
    pub const SYN: Self = Self(0x02);
    pub const RST: Self = Self(0x04);
    pub const PSH: Self = Self(0x08);
    pub const ACK: Self = Self(0x10);
    pub const URG: Self = Self(0x20);

    /// Whether every bit of `other` is set.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl std::ops::BitOr for TcpFlags {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The part of a TCP header that a host decides by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the RFC's own")]
pub struct Tcp {
    pub sequence: u32,
    pub acknowledgment: u32,
    pub flags: TcpFlags,
    pub checksum_valid: bool,
}

/// What follows the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Transport {
    Tcp(Tcp),
    Udp,
    /// ICMP or ICMPv6, by family; the last number is bytes 4 to 8, which an
    /// echo uses for identifier and sequence number.
    Icmp {
        kind: u8,
        code: u8,
        rest: u32,
    },
    /// Only a part of a datagram.
    Fragment,
    /// Another protocol.
    Other,
    /// A header of a known protocol that cannot be one.
    Malformed,
}

/// A packet and the positions in it.
#[derive(Clone, Copy, Debug)]
pub struct Parsed<'a> {
    /// The packet from its IP header to the end the header names.
    pub bytes: &'a [u8],
    /// Source; port 0 where the protocol has none.
    pub source: SocketAddr,
    /// Destination; port 0 where the protocol has none.
    pub destination: SocketAddr,
    /// IP protocol number after any extension headers.
    pub protocol: u8,
    /// Bytes of IP header with its options or extension headers.
    pub ip_header_size: usize,
    /// Bytes of transport header. 0 for ICMP: its sockets get the header as
    /// data, so layers that start at the payload start there (facts: Data
    /// Offset Positions).
    pub transport_header_size: usize,
    /// What is in it.
    pub transport: Transport,
}

/// Protocol numbers (IANA).
pub(crate) mod protocol {
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ICMPV6: u8 = 58;
}

impl<'a> Parsed<'a> {
    /// Parses a packet; `None` where not even the IP header holds.
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        let ip = IpSlice::from_slice(bytes).ok()?;
        let payload = ip.payload();
        // The payload is a slice of `bytes`, so the difference is its offset.
        let ip_header_size = payload.payload.as_ptr().addr() - bytes.as_ptr().addr();
        let protocol = payload.ip_number.0;
        let body = payload.payload;
        let (ports, transport_header_size, transport) = if payload.fragmented {
            ((0, 0), 0, Transport::Fragment)
        } else {
            parse_transport(&ip, protocol, body)
        };
        Some(Self {
            bytes: &bytes[..ip_header_size + body.len()],
            source: SocketAddr::new(ip.source_addr(), ports.0),
            destination: SocketAddr::new(ip.destination_addr(), ports.1),
            protocol,
            ip_header_size,
            transport_header_size,
            transport,
        })
    }

    /// The IP version.
    pub fn family(&self) -> Family {
        Family::of(self.source.ip())
    }

    /// The TCP header, if it is one.
    pub fn tcp(&self) -> Option<Tcp> {
        match self.transport {
            Transport::Tcp(tcp) => Some(tcp),
            _ => None,
        }
    }

    /// Whether it is a TCP segment with all of `set` and none of `clear`.
    pub fn has_flags(&self, set: TcpFlags, clear: TcpFlags) -> bool {
        self.tcp().is_some_and(|tcp| tcp.flags.has(set) && tcp.flags.0 & clear.0 == 0)
    }

    /// From the transport header on.
    pub fn transport_bytes(&self) -> &'a [u8] {
        &self.bytes[self.ip_header_size..]
    }

    /// After the transport header.
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[self.ip_header_size + self.transport_header_size..]
    }
}

fn parse_transport(ip: &IpSlice<'_>, number: u8, body: &[u8]) -> ((u16, u16), usize, Transport) {
    match number {
        protocol::TCP => match TcpSlice::from_slice(body) {
            Ok(tcp) => {
                let checksum = match ip {
                    IpSlice::Ipv4(ip) => {
                        tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination()).ok()
                    }
                    IpSlice::Ipv6(ip) => {
                        tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination()).ok()
                    }
                };
                let header = Tcp {
                    sequence: tcp.sequence_number(),
                    acknowledgment: tcp.acknowledgment_number(),
                    // Byte 13 holds the control bits; the slice is checked to
                    // be a whole header.
                    flags: TcpFlags(tcp.header_slice()[13]),
                    checksum_valid: checksum == Some(tcp.checksum()),
                };
                let ports = (tcp.source_port(), tcp.destination_port());
                (ports, tcp.header_slice().len(), Transport::Tcp(header))
            }
            Err(_) => ((0, 0), 0, Transport::Malformed),
        },
        protocol::UDP => match UdpSlice::from_slice(body) {
            Ok(udp) => {
                let ports = (udp.source_port(), udp.destination_port());
                (ports, udp.header_slice().len(), Transport::Udp)
            }
            Err(_) => ((0, 0), 0, Transport::Malformed),
        },
        protocol::ICMP | protocol::ICMPV6 => match body {
            [kind, code, _, _, a, b, c, d, ..] => {
                let rest = u32::from_be_bytes([*a, *b, *c, *d]);
                let (kind, code) = (*kind, *code);
                ((0, 0), 0, Transport::Icmp { kind, code, rest })
            }
            _ => ((0, 0), 0, Transport::Malformed),
        },
        _ => ((0, 0), 0, Transport::Other),
    }
}

/// Rebuilds the whole datagram from its first fragment's header and the
/// reassembled payload.
pub(crate) fn reassembled(fragment: &[u8], number: u8, payload: &[u8]) -> Option<Vec<u8>> {
    let sliced = SlicedPacket::from_ip(fragment).ok()?;
    let mut whole = match sliced.net? {
        NetSlice::Ipv4(ip) => {
            let mut header = ip.header().to_header();
            header.more_fragments = false;
            header.fragment_offset = etherparse::IpFragOffset::ZERO;
            header.set_payload_len(payload.len()).ok()?;
            header.header_checksum = header.calc_header_checksum();
            header.to_bytes().to_vec()
        }
        NetSlice::Ipv6(ip) => {
            let mut header = ip.header().to_header();
            header.next_header = etherparse::IpNumber(number);
            header.set_payload_length(payload.len()).ok()?;
            header.to_bytes().to_vec()
        }
        NetSlice::Arp(_) => return None,
    };
    whole.extend_from_slice(payload);
    Some(whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    fn syn(family: Family) -> Vec<u8> {
        let ip = match family {
            Family::V4 => PacketBuilder::ipv4([10, 77, 0, 1], [10, 77, 0, 2], 64),
            Family::V6 => PacketBuilder::ipv6([1; 16], [2; 16], 64),
        };
        let mut packet = Vec::new();
        ip.tcp(40_000, 80, 7, 1024).syn().write(&mut packet, b"abc").unwrap();
        packet
    }

    #[test]
    fn positions_and_flags_in_both_families() {
        for (family, header) in [(Family::V4, 20), (Family::V6, 40)] {
            let mut packet = syn(family);
            packet.extend_from_slice(b"padding");
            let parsed = Parsed::new(&packet).unwrap();
            assert_eq!(parsed.family(), family);
            assert_eq!(parsed.ip_header_size, header);
            assert_eq!(parsed.transport_header_size, 20);
            assert_eq!((parsed.source.port(), parsed.destination.port()), (40_000, 80));
            assert!(parsed.has_flags(TcpFlags::SYN, TcpFlags::ACK));
            assert_eq!(parsed.payload(), b"abc");
            assert!(parsed.tcp().unwrap().checksum_valid);
        }
    }

    #[test]
    fn a_changed_byte_spoils_the_checksum() {
        let mut packet = syn(Family::V4);
        *packet.last_mut().unwrap() ^= 1;
        assert!(!Parsed::new(&packet).unwrap().tcp().unwrap().checksum_valid);
    }

    #[test]
    fn every_truncation_is_refused_or_malformed() {
        for family in Family::BOTH {
            let packet = syn(family);
            for length in 0..packet.len() {
                assert!(Parsed::new(&packet[..length]).is_none());
            }
        }
    }
}
