//! A raw IP packet, parsed once, with the positions that layers use.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use etherparse::checksum::Sum16BitWords;
use etherparse::{IpSlice, Ipv4Header, Ipv6Header, Ipv6HeaderSlice, TcpSlice, UdpSlice};

use super::chain::{self, Chain};

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

/// The fields of a TCP header that a host uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the RFC's own")]
pub struct Tcp {
    pub sequence: u32,
    pub acknowledgment: u32,
    pub flags: TcpFlags,
    pub checksum_valid: bool,
}

/// The content after the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Transport {
    Tcp(Tcp),
    Udp,
    /// ICMP or ICMPv6, by family. The last number is bytes 4 to 8, which contain
    /// identifier and sequence number of an echo.
    Icmp {
        kind: u8,
        code: u8,
        rest: u32,
    },
    /// A fragment of a datagram.
    Fragment,
    /// Another protocol.
    Other,
    /// An invalid header of a known protocol.
    Malformed,
}

/// A packet and its positions.
#[derive(Clone, Copy, Debug)]
pub struct Parsed<'a> {
    /// The packet, from its IP header to the end that the header gives.
    pub bytes: &'a [u8],
    /// The source; port 0 if the protocol has none.
    pub source: SocketAddr,
    /// The destination; port 0 if the protocol has none.
    pub destination: SocketAddr,
    /// IP protocol number after any extension headers.
    pub protocol: u8,
    /// The size of the IP header with options or extension headers, in bytes.
    pub ip_header_size: usize,
    /// The size of the transport header, in bytes. 0 for ICMP: its sockets get the
    /// header as data, so the payload starts there (Data Offset Positions).
    pub transport_header_size: usize,
    /// The transport header.
    pub transport: Transport,
}

/// Protocol numbers (IANA).
#[allow(missing_docs, reason = "the names say it")]
pub mod protocol {
    pub const ICMP: u8 = 1;
    pub const IGMP: u8 = 2;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ICMPV6: u8 = 58;
}

impl<'a> Parsed<'a> {
    /// Parses a packet; `None` if the IP header is invalid.
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        let header = Header::new(bytes)?;
        let Header { end, at, protocol, source, destination, .. } = header;
        let (ports, transport_header_size, transport) = match header.body {
            Body::Part => ((0, 0), 0, Transport::Fragment),
            Body::Broken => ((0, 0), 0, Transport::Malformed),
            Body::Whole => parse_transport(source, destination, protocol, &bytes[at..end]),
        };
        Some(Self {
            bytes: &bytes[..end],
            source: SocketAddr::new(source, ports.0),
            destination: SocketAddr::new(destination, ports.1),
            protocol,
            ip_header_size: at,
            transport_header_size,
            transport,
        })
    }

    /// The extension headers of an IPv6 packet, up to the data of a fragment.
    pub(crate) fn chain(&self) -> Option<Chain<'a>> {
        (self.family() == Family::V6).then(|| Chain::new(self.bytes))
    }

    /// The offset of an IPv4 packet's payload in its datagram, in bytes, and
    /// whether more fragments follow.
    pub(crate) fn v4_fragment(&self) -> (usize, bool) {
        match self.bytes {
            [_, _, _, _, _, _, high, low, ..] => {
                let field = u16::from_be_bytes([*high, *low]);
                (usize::from(field & 0x1fff) * 8, field & 0x2000 != 0)
            }
            _ => (0, false),
        }
    }

    /// The options of an IPv4 packet.
    pub(crate) fn v4_options(&self) -> &'a [u8] {
        match self.family() {
            Family::V4 => self.bytes.get(V4_FIXED..v4_header(self.bytes)).unwrap_or(&[]),
            Family::V6 => &[],
        }
    }

    /// Whether the IP header's checksum is correct; IPv6 has none.
    pub fn header_checksum_valid(&self) -> bool {
        match self.family() {
            Family::V4 => {
                let header = self.bytes.get(..v4_header(self.bytes)).unwrap_or(&[]);
                Sum16BitWords::new().add_slice(header).ones_complement() == 0
            }
            Family::V6 => true,
        }
    }

    /// Whether the transport's checksum is correct, if it has one. UDP over IPv4
    /// may have none; over IPv6 it must have one (RFC 8200, 8.1).
    pub fn checksum_valid(&self) -> bool {
        let body = self.transport_bytes();
        match self.transport {
            Transport::Tcp(tcp) => tcp.checksum_valid,
            Transport::Udp => {
                let [_, _, _, _, high, low, a, b, ..] = body else { return false };
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                match (self.family(), [*a, *b]) {
                    _ if length < 8 => false,
                    (Family::V4, [0, 0]) => true,
                    (Family::V6, [0, 0]) => false,
                    _ => body.get(..length).is_some_and(|body| self.sums_up(body, true)),
                }
            }
            Transport::Icmp { .. } => self.sums_up(body, self.family() == Family::V6),
            Transport::Fragment | Transport::Other | Transport::Malformed => true,
        }
    }

    /// Whether the Internet checksum over a transport header and its data,
    /// including the checksum field, is correct (RFC 1071).
    fn sums_up(&self, body: &[u8], pseudo_header: bool) -> bool {
        let mut sum = Sum16BitWords::new();
        if pseudo_header {
            for address in [self.source.ip(), self.destination.ip()] {
                sum = match address {
                    IpAddr::V4(address) => sum.add_4bytes(address.octets()),
                    IpAddr::V6(address) => sum.add_16bytes(address.octets()),
                };
            }
            sum = sum.add_4bytes((body.len() as u32).to_be_bytes()).add_2bytes([0, self.protocol]);
        }
        sum.add_slice(body).ones_complement() == 0
    }

    /// The packet without options and extension headers, for a stack that does not
    /// know them; `None` for a fragment.
    pub(crate) fn plain(&self) -> Option<Cow<'a, [u8]>> {
        let fixed = match self.family() {
            Family::V4 => V4_FIXED,
            Family::V6 => chain::FIXED,
        };
        if self.ip_header_size == fixed {
            return Some(Cow::Borrowed(self.bytes));
        }
        reassembled(self.bytes, self.protocol, self.transport_bytes()).map(Cow::Owned)
    }

    /// The IP version.
    pub fn family(&self) -> Family {
        Family::of(self.source.ip())
    }

    /// The TCP header, if the packet has one.
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

    /// The bytes from the transport header on.
    pub fn transport_bytes(&self) -> &'a [u8] {
        &self.bytes[self.ip_header_size..]
    }

    /// The bytes after the transport header.
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[self.ip_header_size + self.transport_header_size..]
    }
}

/// The size of an IPv4 header without options, in bytes.
const V4_FIXED: usize = 20;

/// The size of an IPv4 header, in bytes.
fn v4_header(packet: &[u8]) -> usize {
    packet.first().map_or(0, |first| usize::from(first & 0xf) * 4)
}

/// The content after the IP header and its extensions.
enum Body {
    Whole,
    /// A fragment of a datagram.
    Part,
    /// An incomplete extension header.
    Broken,
}

/// An IP header with its extensions.
struct Header {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    at: usize,
    end: usize,
    body: Body,
}

impl Header {
    fn new(bytes: &[u8]) -> Option<Self> {
        match bytes.first()? >> 4 {
            4 => Self::v4(bytes),
            6 => Self::v6(bytes),
            _ => None,
        }
    }

    fn v4(bytes: &[u8]) -> Option<Self> {
        let ip = IpSlice::from_slice(bytes).ok()?;
        let payload = ip.payload();
        // The payload is a slice of `bytes`, so the difference of the addresses is
        // its offset.
        let at = payload.payload.as_ptr().addr() - bytes.as_ptr().addr();
        Some(Self {
            source: ip.source_addr(),
            destination: ip.destination_addr(),
            protocol: payload.ip_number.0,
            at,
            end: at + payload.payload.len(),
            body: if payload.fragmented { Body::Part } else { Body::Whole },
        })
    }

    fn v6(bytes: &[u8]) -> Option<Self> {
        let fixed = Ipv6HeaderSlice::from_slice(bytes).ok()?;
        let end = match usize::from(fixed.payload_length()) {
            // A jumbogram, or a packet that the network card will segment.
            0 => bytes.len(),
            length => chain::FIXED + length,
        };
        let mut chain = Chain::new(bytes.get(..end)?);
        let last = chain.by_ref().last();
        let body = match last {
            Some(last) if !last.is_whole => Body::Broken,
            Some(last) if last.is_fragmenting() => Body::Part,
            _ => Body::Whole,
        };
        Some(Self {
            source: fixed.source_addr().into(),
            destination: fixed.destination_addr().into(),
            protocol: chain.next,
            at: chain.at.min(end),
            end,
            body,
        })
    }
}

fn parse_transport(
    source: IpAddr,
    destination: IpAddr,
    number: u8,
    body: &[u8],
) -> ((u16, u16), usize, Transport) {
    match number {
        protocol::TCP => match TcpSlice::from_slice(body) {
            Ok(tcp) => {
                let checksum = match (source, destination) {
                    (IpAddr::V4(source), IpAddr::V4(destination)) => {
                        tcp.calc_checksum_ipv4(source.octets(), destination.octets()).ok()
                    }
                    (IpAddr::V6(source), IpAddr::V6(destination)) => {
                        tcp.calc_checksum_ipv6(source.octets(), destination.octets()).ok()
                    }
                    _ => None,
                };
                let header = Tcp {
                    sequence: tcp.sequence_number(),
                    acknowledgment: tcp.acknowledgment_number(),
                    // Byte 13 contains the control bits; the slice is known to be a
                    // whole header.
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

/// Builds the whole datagram from the fixed header of its first fragment and the
/// reassembled payload.
pub(crate) fn reassembled(fragment: &[u8], number: u8, payload: &[u8]) -> Option<Vec<u8>> {
    let mut whole = match fragment.first()? >> 4 {
        4 => {
            let mut header = Ipv4Header::from_slice(fragment).ok()?.0;
            header.more_fragments = false;
            header.fragment_offset = etherparse::IpFragOffset::ZERO;
            header.options = etherparse::Ipv4Options::new();
            header.set_payload_len(payload.len()).ok()?;
            header.header_checksum = header.calc_header_checksum();
            header.to_bytes().to_vec()
        }
        _ => {
            let mut header = Ipv6Header::from_slice(fragment).ok()?.0;
            header.next_header = etherparse::IpNumber(number);
            header.set_payload_length(payload.len()).ok()?;
            header.to_bytes().to_vec()
        }
    };
    whole.extend_from_slice(payload);
    Some(whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::compose;

    fn syn(family: Family) -> Vec<u8> {
        let ip = match family {
            Family::V4 => compose::ip([10, 77, 0, 1].into(), [10, 77, 0, 2].into()),
            Family::V6 => compose::ip([1u8; 16].into(), [2u8; 16].into()),
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
