//! The part of a transport header that the driver reads.

use core::num::NonZeroU64;

use super::bytes::Bytes;
use super::ip::Ends;
use super::layers::Family;
use super::mix::fold;
use super::order::{Direction, Kinds, Numbers};
use super::protocol::{ICMP, ICMPV6, TCP, UDP};
use super::stealth::Icmp;
use super::tcp::{ACK, FIN, TcpFlags};

/// Bytes that are read of a TCP header: up to the flags.
pub const LONGEST: usize = 14;

/// Bytes that are read of any other header: the first two words, which is all of
/// UDP's header (RFC 768) and the start of ICMP's (RFC 792, RFC 4443).
const SHORTEST: usize = 8;

/// The first two numbers of a header, as in the packet: the ports. Where a layer has
/// ICMP's type and code in its port fields, they stand here, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// The sender's port.
    pub source: u16,
    /// The receiver's port.
    pub destination: u16,
}

impl From<(u16, u16)> for Ports {
    fn from((source, destination): (u16, u16)) -> Self {
        Self { source, destination }
    }
}

/// What is read of a transport header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The ports, if the protocol has them.
    pub ports: Option<Ports>,
    /// The first two words, without the checksum.
    start: u64,
    /// TCP's flags and header length.
    pub segment: Option<Segment>,
}

impl TcpFlags {
    /// The flags in a TCP header; `None` if it does not have these ports.
    #[inline(always)]
    pub fn between(ports: Ports, header: [u8; LONGEST]) -> Option<Self> {
        let [s0, s1, d0, d1, .., flags] = header;
        let Ports { source, destination } = ports;
        let ours = u32::from(source) << 16 | u32::from(destination);
        if u32::from_ne_bytes([s0, s1, d0, d1]) == ours.to_be() { Some(Self(flags)) } else { None }
    }
}

/// What only a TCP header has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The flags.
    pub flags: TcpFlags,
    /// The length of the header with its options, in bytes.
    pub header: u32,
    /// The acknowledgment number.
    pub acknowledgment: u32,
}

/// The position of UDP's and of ICMP's checksum in the first two words. The network
/// interface may fill it in, so the next layer can show another value.
const UDP_CHECKSUM: u64 = 0xffff;
const ICMP_CHECKSUM: u64 = 0xffff << 32;

/// A number without a pattern, so that a factor of 0 does not make the hash 0
/// (fractional digits of pi).
const SALT: u64 = 0x082e_fa98_ec4e_6c89;

impl Header {
    /// Reads the start of a header; `None` if there are too few bytes.
    #[inline(always)]
    pub fn read(protocol: u8, bytes: &[u8]) -> Option<Self> {
        Self::at(bytes, 0, protocol)
    }

    /// Reads the start of a header at an offset.
    #[inline(always)]
    pub fn at<B: Bytes + ?Sized>(bytes: &B, offset: u32, protocol: u8) -> Option<Self> {
        match protocol {
            TCP => Self::of_tcp(bytes, offset),
            _ => Self::of_other(bytes, offset, protocol),
        }
    }

    /// Reads a TCP header.
    #[inline(always)]
    pub fn of_tcp<B: Bytes + ?Sized>(bytes: &B, offset: u32) -> Option<Self> {
        let header = bytes.at::<LONGEST>(offset)?;
        let (start, [.., a, b, c, d, length, flags]) = (u64::from_be_bytes(*header.first_chunk()?), header);
        let acknowledgment = u32::from_be_bytes([a, b, c, d]);
        let header = u32::from(length >> 4) * 4;
        let segment = Segment { flags: TcpFlags(flags), header, acknowledgment };
        Some(Self { ports: Some(ports(start)), start, segment: Some(segment) })
    }

    /// Reads the header of another protocol.
    #[inline(always)]
    pub fn of_other<B: Bytes + ?Sized>(bytes: &B, offset: u32, protocol: u8) -> Option<Self> {
        let start = u64::from_be_bytes(bytes.at::<SHORTEST>(offset)?);
        Some(match protocol {
            UDP => Self { ports: Some(ports(start)), start: start & !UDP_CHECKSUM, segment: None },
            _ => Self { ports: None, start: start & !ICMP_CHECKSUM, segment: None },
        })
    }

    /// Whether it is an ICMP message of this type and code.
    pub fn is_message(&self, kind: u16, code: u16) -> bool {
        [self.start >> 56, self.start >> 48 & 0xff] == [kind, code].map(u64::from)
    }

    /// Whether it is an ICMP error (RFC 792, RFC 1122, 3.2.2; RFC 4443, 2.1).
    pub fn is_error(&self, protocol: u8) -> bool {
        let kind = self.start >> 56;
        match protocol {
            ICMP => matches!(kind, 3 | 4 | 5 | 11 | 12),
            ICMPV6 => kind < 128,
            _ => false,
        }
    }

    /// Whether it is the ICMP error port unreachable or protocol unreachable.
    pub fn is_unreachable(&self, protocol: u8) -> bool {
        let [kind, code] = [self.start >> 56, self.start >> 48 & 0xff].map(|byte| byte as u16);
        let of = |family| Icmp { family, kind, code }.is_unreachable();
        match protocol {
            ICMP => of(Family::V4),
            ICMPV6 => of(Family::V6),
            _ => false,
        }
    }

    /// The numbers of a TCP segment with this much payload.
    #[inline(always)]
    pub fn numbers(&self, payload: Option<u64>) -> Option<Numbers> {
        let Segment { flags, acknowledgment, .. } = self.segment?;
        Some(Numbers {
            sequence: self.start as u32,
            acknowledgment: if flags.0 & ACK != 0 { Some(acknowledgment) } else { None },
            payload: payload.map(|payload| payload as u32),
            fin: flags.0 & FIN != 0,
        })
    }

    /// See [`pair`]. `ends`: of the local and the remote address.
    #[inline(always)]
    pub fn pair(&self, protocol: u8, ends: u64, direction: Direction) -> u64 {
        let ports = (self.start >> 32) as u32;
        match direction {
            Direction::Outbound => pair(protocol, ends, ports),
            Direction::Inbound => pair(protocol, ends, ports.rotate_left(16)),
        }
    }

    /// The kinds of the packet, for the order check. `payload`: the bytes behind the
    /// header, if known.
    #[inline(always)]
    pub fn kinds(&self, payload: Option<u64>) -> Kinds {
        let Some(segment) = self.segment else { return Kinds::DATAGRAM };
        Kinds::of_some_segment(segment.flags, payload)
    }

    /// The payload of a TCP segment; `length` counts from the start of its header.
    #[inline(always)]
    pub fn payload(&self, length: u64) -> Option<u64> {
        length.checked_sub(self.segment?.header.into())
    }

    /// The part of the header that identifies the packet among others with its
    /// addresses.
    #[inline(always)]
    pub const fn beginning(&self) -> Beginning {
        Beginning(self.start)
    }

    /// See [`Beginning::mark`].
    #[inline(always)]
    pub fn mark(&self, protocol: u8, ends: Ends, direction: Direction) -> NonZeroU64 {
        self.beginning().mark(protocol, ends.spread(), direction)
    }
}

/// A hash of a connection's ends; 0 if the protocol has no ports. `ends`: of the
/// local and the remote address. `ports`: the local one in the upper half.
#[inline(always)]
pub const fn pair(protocol: u8, ends: u64, ports: u32) -> u64 {
    match protocol {
        TCP | UDP => fold(ends ^ SALT, (ports as u64 | (protocol as u64) << 32) ^ SALT) | 1,
        _ => 0,
    }
}

/// Protocols that hide the header above: ESP and AH (RFC 4303, RFC 4302), and ESP in
/// UDP (RFC 3948).
pub fn is_encapsulated(protocol: u8, header: &Header) -> bool {
    const PORT: u16 = 4500;
    match (protocol, header.ports) {
        (50 | 51, _) => true,
        (UDP, Some(Ports { source, destination })) => source == PORT || destination == PORT,
        _ => false,
    }
}

/// The part of a header that identifies its packet.
#[derive(Clone, Copy, Debug)]
pub struct Beginning(u64);

impl Beginning {
    /// A mark by which the packet is recognized at its next layer. It depends on
    /// protocol, addresses, direction, ports, TCP's sequence number, and the rest of
    /// the first two words, except the checksum.
    #[inline(always)]
    pub fn mark(self, protocol: u8, ends: u64, direction: Direction) -> NonZeroU64 {
        // A packet from this machine to itself passes the layers both ways, in two
        // walks.
        let way = match direction {
            Direction::Outbound => 0,
            Direction::Inbound => 1 << 9,
        };
        let spread = fold(ends ^ SALT, self.0 ^ SALT);
        NonZeroU64::MIN | (spread ^ (u64::from(protocol) << 1 | way))
    }
}

#[inline(always)]
const fn ports(start: u64) -> Ports {
    Ports { source: (start >> 48) as u16, destination: (start >> 32) as u16 }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::Direction::{Inbound, Outbound};
    use super::*;
    use crate::logic::tcp::RST;

    const ENDS: Ends = Ends::v4(0x0a00_0001, 0x0a00_0002);

    fn tcp(sequence: u32, flags: u8) -> Vec<u8> {
        let mut header = vec![0xbe, 0xef, 0x01, 0xbb];
        header.extend(sequence.to_be_bytes());
        header.extend([0, 0, 0, 1, 0x80, flags]);
        header
    }

    #[test]
    fn a_segment_is_read() {
        let header = Header::read(TCP, &tcp(7, RST | ACK)).unwrap();
        assert_eq!(header.ports, Some(Ports { source: 0xbeef, destination: 443 }));
        assert_eq!(header.segment, Some(Segment { flags: TcpFlags(0x14), header: 32, acknowledgment: 1 }));
        assert_eq!(header.kinds(None), Kinds::RST);
        for (protocol, bytes) in [(TCP, 13), (UDP, 7), (1, 7)] {
            assert_eq!(Header::read(protocol, &[0; LONGEST][..bytes]), None);
        }
    }

    #[test]
    fn payload_distinguishes_data_from_an_acknowledgement() {
        let header = Header::read(TCP, &tcp(7, ACK)).unwrap();
        assert_eq!([Some(0), Some(2)].map(|payload| header.kinds(payload)), [Kinds::BARE, Kinds::DATA]);
        // A keep-alive may have one byte of payload.
        assert_eq!(header.kinds(Some(1)), Kinds::BARE.or(Kinds::DATA));
        assert_eq!(header.kinds(None), Kinds::BARE.or(Kinds::DATA));
        let header = Header::read(TCP, &tcp(7, ACK | FIN)).unwrap();
        assert_eq!(header.kinds(None), Kinds::FIN.or(Kinds::DATA));
        assert_eq!(Header::read(UDP, &[0; 8]).unwrap().kinds(Some(9)), Kinds::DATAGRAM);
    }

    #[test]
    fn a_mark_is_the_same_for_the_same_packet_only() {
        let mark = |protocol, bytes: &[u8], ends, direction| {
            Header::read(protocol, bytes).unwrap().mark(protocol, ends, direction)
        };
        let packet = tcp(7, ACK);
        let first = mark(TCP, &packet, ENDS, Inbound);
        // The mark does not depend on the flags.
        assert_eq!(first, mark(TCP, &tcp(7, RST), ENDS, Inbound));
        for other in [
            mark(TCP, &tcp(8, ACK), ENDS, Inbound),
            mark(TCP, &packet, Ends::v4(0x0a00_0002, 0x0a00_0001), Inbound),
            mark(TCP, &packet, Ends::v6(&[0; 16], &[0; 16]), Inbound),
            mark(TCP, &packet, ENDS, Outbound),
            mark(TCP, &[&[0xbe, 0xee][..], &packet[2..]].concat(), ENDS, Inbound),
            mark(UDP, &packet, ENDS, Inbound),
            mark(47, &packet, ENDS, Inbound),
        ] {
            assert_ne!(first, other);
        }
    }

    /// A scan from one host to many ports, a connection's segments, many hosts of a
    /// network: the numbers differ in few bits.
    #[test]
    fn marks_of_similar_packets_differ() {
        let mut marks = BTreeSet::new();
        let mut count = 0;
        let mut take = |source: u8, port: u16, sequence: u32| {
            let mut header = tcp(sequence, ACK);
            header[2..4].copy_from_slice(&port.to_be_bytes());
            let header = Header::read(TCP, &header).unwrap();
            let (mut near, mut far) = ([0; 16], [0; 16]);
            (near[14], far[15]) = (1, source);
            let v4 = Ends::v4(0x0a00_0000 | u32::from(source), 0x0a00_0001);
            for ends in [v4, Ends::v6(&far, &near), Ends::v6(&near, &far)] {
                for direction in [Inbound, Outbound] {
                    marks.insert(header.mark(TCP, ends, direction));
                    count += 1;
                }
            }
        };
        for source in 0..=255 {
            (0..16).for_each(|port| take(source, port, 0));
            (1..17).for_each(|sequence| take(source, 443, sequence * 1460));
        }
        (0..u16::MAX).for_each(|port| take(9, port, u32::MAX));
        assert_eq!(marks.len(), count);
    }

    #[test]
    fn icmp_errors_are_distinguished_from_other_messages() {
        let is_error = |protocol, kind: u8| {
            let header = Header::read(protocol, &[kind, 1, 0, 0, 0, 0, 0, 0]).unwrap();
            header.is_error(protocol)
        };
        let errors = (0..=255).filter(|kind| is_error(ICMP, *kind));
        assert_eq!(errors.collect::<Vec<_>>(), [3, 4, 5, 11, 12]);
        assert_eq!((0..=255).filter(|kind| is_error(ICMPV6, *kind)).max(), Some(127));
        assert!(!is_error(UDP, 3) && !is_error(47, 3));
    }

    #[test]
    fn a_checksum_is_no_part_of_the_mark() {
        for (protocol, at) in [(UDP, 6), (1, 2), (58, 2)] {
            let (before, mut after) = ([8, 0, 9, 9, 0, 1, 0, 2], [8, 0, 9, 9, 0, 1, 0, 2]);
            after[at] ^= 0xff;
            let mark = |bytes: &[u8]| Header::read(protocol, bytes).unwrap().mark(protocol, ENDS, Inbound);
            assert_eq!(mark(&before), mark(&after), "{protocol}");
            after[0] ^= 1;
            assert_ne!(mark(&before), mark(&after), "{protocol}");
        }
    }
}
