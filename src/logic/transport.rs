//! The part of a transport header that the driver reads.

use core::net::IpAddr;

use super::mix::mix;
use super::order::Kinds;
use super::policy::exemptions::{TCP, UDP};
use super::stealth::TcpFlags;

/// Bytes of the longest part that is read: TCP's, up to the flags.
pub const LONGEST: usize = 14;

/// Bytes that are read of a protocol's header (RFC 9293, 3.1; RFC 768). Of
/// others the first two words, which is ICMP's header (RFC 792, RFC 4443).
pub const fn size(protocol: u8) -> usize {
    match protocol {
        TCP => LONGEST,
        _ => 8,
    }
}

/// A header's first two numbers: ports, as the packet has them, or what
/// stands in their place: at layers that name ports, ICMP's type and code do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// The sender's.
    pub source: u16,
    /// The receiver's.
    pub destination: u16,
}

impl From<(u16, u16)> for Ports {
    fn from((source, destination): (u16, u16)) -> Self {
        Self { source, destination }
    }
}

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its ports, for protocols that have them.
    pub ports: Option<Ports>,
    /// Its first two bytes: ICMP's type and code.
    start: [u8; 2],
    /// A TCP segment's flags and the bytes of its header.
    pub segment: Option<Segment>,
    /// Tells it from others between the same ends that are on their way with
    /// it: TCP's sequence number; what else the protocol has there, but no
    /// checksum, which the interface may be left to fill in.
    identity: u32,
}

impl TcpFlags {
    /// Those of a TCP header, if it is between these ports.
    #[inline(always)]
    pub fn between(ports: Ports, header: [u8; LONGEST]) -> Option<Self> {
        let [s0, s1, d0, d1, .., flags] = header;
        let Ports { source, destination } = ports;
        let ours = u32::from(source) << 16 | u32::from(destination);
        if u32::from_be_bytes([s0, s1, d0, d1]) == ours { Some(Self(flags)) } else { None }
    }
}

/// What only TCP has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its flags.
    pub flags: TcpFlags,
    /// Bytes of its header, options and all.
    pub header: u32,
}

impl Header {
    /// Reads [`size`] bytes; fewer are no header.
    pub fn read(protocol: u8, bytes: &[u8]) -> Option<Self> {
        let [s0, s1, d0, d1, rest @ ..] = *bytes.first_chunk::<8>()?;
        let ports = Ports { source: u16::from_be_bytes([s0, s1]), destination: u16::from_be_bytes([d0, d1]) };
        let (start, identity) = ([s0, s1], u32::from_be_bytes(rest));
        Some(match protocol {
            TCP => {
                let [.., offset, flags] = *bytes.first_chunk::<LONGEST>()?;
                let segment = Segment { flags: TcpFlags(flags), header: u32::from(offset >> 4) * 4 };
                Self { ports: Some(ports), start, segment: Some(segment), identity }
            }
            // The length; behind it is the checksum.
            UDP => Self { ports: Some(ports), start, segment: None, identity: identity >> 16 },
            // Type and code, then the checksum, then ICMP's own words.
            _ => {
                Self { ports: None, start, segment: None, identity: identity ^ u32::from(ports.source) << 16 }
            }
        })
    }

    /// Whether it is an ICMP message of this type and code.
    pub fn is_message(&self, kind: u16, code: u16) -> bool {
        self.start.map(u16::from) == [kind, code]
    }

    /// What is on its way, as the order of layers looks at it. `payload`: the
    /// bytes behind the header, where that is known.
    pub fn kinds(&self, payload: Option<u32>) -> Kinds {
        let Some(segment) = self.segment else { return Kinds::DATAGRAM };
        let of = |payload| Kinds::of_segment(segment.flags, payload);
        payload.map_or(of(false).or(of(true)), |bytes| of(bytes != 0))
    }

    /// A mark to know the packet by at its next layer; never 0.
    pub fn mark(&self, protocol: u8, local: IpAddr, remote: IpAddr) -> u64 {
        let ports =
            self.ports.map_or(0, |ports| u64::from(ports.source) << 16 | u64::from(ports.destination));
        let [a, b] = halves(local);
        let [c, d] = halves(remote);
        let words = [b, c, d, ports << 32 | u64::from(self.identity)];
        words.into_iter().fold(mix(a, protocol.into()), |mark, word| mix(word, mark)) | 1
    }
}

fn halves(address: IpAddr) -> [u64; 2] {
    let bits = match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    };
    [(bits >> 64) as u64, bits as u64]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::tcp::{ACK, FIN, RST};

    const ENDS: [IpAddr; 2] =
        [IpAddr::V4(core::net::Ipv4Addr::LOCALHOST), IpAddr::V6(core::net::Ipv6Addr::LOCALHOST)];

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
        assert_eq!(header.segment, Some(Segment { flags: TcpFlags(0x14), header: 32 }));
        assert_eq!(header.kinds(None), Kinds::RST);
        for (protocol, bytes) in [(TCP, 13), (UDP, 7), (1, 7)] {
            assert_eq!(Header::read(protocol, &[0; LONGEST][..bytes]), None);
        }
    }

    #[test]
    fn payload_tells_data_from_an_acknowledgement() {
        let header = Header::read(TCP, &tcp(7, ACK)).unwrap();
        assert_eq!([Some(0), Some(1)].map(|payload| header.kinds(payload)), [Kinds::BARE, Kinds::DATA]);
        assert_eq!(header.kinds(None), Kinds::BARE.or(Kinds::DATA));
        let header = Header::read(TCP, &tcp(7, ACK | FIN)).unwrap();
        assert_eq!(header.kinds(None), Kinds::FIN.or(Kinds::DATA));
        assert_eq!(Header::read(UDP, &[0; 8]).unwrap().kinds(Some(9)), Kinds::DATAGRAM);
    }

    #[test]
    fn a_mark_is_the_same_for_the_same_packet_only() {
        let mark = |protocol, bytes: &[u8], [local, remote]: [IpAddr; 2]| {
            Header::read(protocol, bytes).unwrap().mark(protocol, local, remote)
        };
        let packet = tcp(7, ACK);
        let first = mark(TCP, &packet, ENDS);
        assert_eq!(first, mark(TCP, &packet, ENDS));
        let [local, remote] = ENDS;
        for other in [
            mark(TCP, &tcp(8, ACK), ENDS),
            mark(TCP, &packet, [remote, local]),
            mark(TCP, &[&[0xbe, 0xee][..], &packet[2..]].concat(), ENDS),
            mark(UDP, &packet, ENDS),
            mark(47, &packet, ENDS),
        ] {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn a_checksum_is_no_part_of_the_mark() {
        let [local, remote] = ENDS;
        for (protocol, at) in [(UDP, 6), (1, 2), (58, 2)] {
            let (before, mut after) = ([8, 0, 9, 9, 0, 1, 0, 2], [8, 0, 9, 9, 0, 1, 0, 2]);
            after[at] ^= 0xff;
            let mark = |bytes: &[u8]| Header::read(protocol, bytes).unwrap().mark(protocol, local, remote);
            assert_eq!(mark(&before), mark(&after), "{protocol}");
            after[0] ^= 1;
            assert_ne!(mark(&before), mark(&after), "{protocol}");
        }
    }
}
