//! The part of an IP header that the driver reads (RFC 791, RFC 8200).

#[cfg(test)]
use core::net::IpAddr;

use super::bytes::Bytes;
use super::mix::fold;

/// The most extension headers that are followed. More of them are an attack.
const MAX_EXTENSIONS: usize = 8;

/// Bytes of IPv6's fixed header.
const V6_HEADER: u32 = 40;

/// Two numbers without a pattern, so that a factor of 0 does not make the hash 0
/// (the fractional digits of pi).
const SALT: [u64; 2] = [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344];

/// The source and the destination address of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// The source's number in the upper half, the destination's in the lower.
    V4(u64),
    /// The source's bytes, then the destination's, as words of this machine.
    V6([u64; 4]),
}

impl Ends {
    /// Two IPv4 addresses, as numbers.
    #[inline(always)]
    pub const fn v4(source: u32, destination: u32) -> Self {
        Self::V4((source as u64) << 32 | destination as u64)
    }

    /// Two IPv6 addresses, as bytes.
    #[inline(always)]
    pub const fn v6(source: &[u8; 16], destination: &[u8; 16]) -> Self {
        let ([a, b], [c, d]) = (words(source), words(destination));
        Self::V6([a, b, c, d])
    }

    /// Source and destination exchanged.
    #[inline(always)]
    pub const fn exchanged(self) -> Self {
        match self {
            Self::V4(ends) => Self::V4(ends.rotate_left(32)),
            Self::V6([a, b, c, d]) => Self::V6([c, d, a, b]),
        }
    }

    /// A hash of both addresses, to be mixed further. IPv4-mapped addresses have that of
    /// the IPv4 addresses: a dual-stack socket passes the ALE layers of IPv6 with them.
    #[inline(always)]
    pub const fn spread(self) -> u64 {
        match self {
            Self::V4(ends) => ends,
            Self::V6([0, b, 0, d]) if is_mapped(b) && is_mapped(d) => {
                (b.to_be() & 0xffff_ffff) << 32 | d.to_be() & 0xffff_ffff
            }
            // The local address has few different prefixes.
            Self::V6([a, b, c, d]) => fold(a ^ c.rotate_left(32) ^ SALT[0], b ^ SALT[1]) ^ d,
        }
    }

    /// Two addresses; `None` if their families differ.
    #[cfg(test)]
    fn between(source: IpAddr, destination: IpAddr) -> Option<Self> {
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                Some(Self::v4(source.to_bits(), destination.to_bits()))
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                Some(Self::v6(&source.octets(), &destination.octets()))
            }
            _ => None,
        }
    }
}

/// Whether the second half of an address is that of an IPv4-mapped one (RFC 4291,
/// 2.5.5.2).
#[inline(always)]
const fn is_mapped(half: u64) -> bool {
    half.to_be() >> 32 == 0xffff
}

const fn words(address: &[u8; 16]) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, rest @ ..] = *address;
    [u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes(rest)]
}

/// The header above an IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upper {
    /// Its protocol.
    pub protocol: u8,
    /// Bytes from the start of the fixed IP header to it.
    pub offset: u32,
    /// Which part of the packet this is.
    pub part: Part,
}

/// A whole packet, or a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The whole packet.
    Whole,
    /// The first fragment, which has the upper header.
    First,
    /// A later fragment, without the upper header.
    Later,
}

impl Part {
    /// From the fragment offset, in units of 8 bytes, and the flag for more
    /// fragments.
    const fn of(offset: u16, more: bool) -> Self {
        match (offset, more) {
            (0, false) => Self::Whole,
            (0, true) => Self::First,
            _ => Self::Later,
        }
    }
}

/// Finds the header above the IP header at the start of the bytes. `None` if the IP
/// header does not have these addresses, because then it is not this packet's.
#[inline(always)]
pub fn upper<B: Bytes + ?Sized>(bytes: &B, ends: Ends) -> Option<Upper> {
    match ends {
        Ends::V4(ends) => {
            let [first, _, _, _, _, _, f0, f1, _, protocol, _, _, addresses @ ..] = bytes.at::<20>(0)?;
            if first >> 4 != 4 || u64::from_be_bytes(addresses) != ends {
                return None;
            }
            let fragment = u16::from_be_bytes([f0, f1]);
            let part = Part::of(fragment & 0x1fff, fragment & 0x2000 != 0);
            Some(Upper { protocol, offset: u32::from(first & 0xf) * 4, part })
        }
        Ends::V6(ours) => {
            let [first, _, _, _, _, _, next, _, addresses @ ..] = bytes.at::<40>(0)?;
            let (source, destination) = addresses.split_first_chunk()?;
            let ([a, b], [c, d]) = (words(source), words(destination.first_chunk()?));
            if first >> 4 != 6 || (a ^ ours[0]) | (b ^ ours[1]) | (c ^ ours[2]) | (d ^ ours[3]) != 0 {
                return None;
            }
            match next {
                0 | 43 | 44 | 51 | 60 => behind_extensions(&|offset| bytes.at(offset), next),
                protocol => Some(Upper { protocol, offset: V6_HEADER, part: Part::Whole }),
            }
        }
    }
}

/// Finds the header above IPv6's extension headers. `at` reads four bytes. One copy of the
/// code for all kinds of bytes.
#[cold]
#[inline(never)]
fn behind_extensions(at: &dyn Fn(u32) -> Option<[u8; 4]>, first: u8) -> Option<Upper> {
    let mut upper = Upper { protocol: first, offset: V6_HEADER, part: Part::Whole };
    for _ in 0..MAX_EXTENSIONS {
        let size = match upper.protocol {
            // Hop-by-hop, routing, destination options: in units of 8 bytes, without
            // the first unit.
            0 | 43 | 60 => |length: u8| (u32::from(length) + 1) * 8,
            // Fragment: always 8 bytes.
            44 => |_| 8,
            // Authentication: in units of 4 bytes, without the first two units (RFC
            // 4302, 2.2).
            51 => |length: u8| (u32::from(length) + 2) * 4,
            _ => return Some(upper),
        };
        let [next, length, offset @ ..] = at(upper.offset)?;
        if upper.protocol == 44 {
            let fragment = u16::from_be_bytes(offset);
            upper.part = Part::of(fragment >> 3, fragment & 1 != 0);
        }
        (upper.protocol, upper.offset) = (next, upper.offset.checked_add(size(length))?);
        if upper.part == Part::Later {
            // The first fragment has the header that is named next.
            return Some(upper);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn behind<B: Bytes + ?Sized>(bytes: &B, first: u8) -> Option<Upper> {
        behind_extensions(&|offset| bytes.at(offset), first)
    }

    const V4: [&str; 2] = ["10.77.0.1", "10.77.0.2"];
    const V6: [&str; 2] = ["fd77::1", "fd77::2"];

    fn header(ends: [&str; 2], protocol: u8) -> (Vec<u8>, [IpAddr; 2]) {
        let ends = ends.map(|end| end.parse::<IpAddr>().unwrap());
        let (mut header, at, [from, to]) = match ends[0] {
            IpAddr::V4(_) => (vec![0; 20], 9, [12, 16]),
            IpAddr::V6(_) => (vec![0; 40], 6, [8, 24]),
        };
        header[0] = if at == 9 { 0x45 } else { 0x60 };
        header[at] = protocol;
        for (at, end) in [from, to].into_iter().zip(ends) {
            let octets = match end {
                IpAddr::V4(end) => end.octets().to_vec(),
                IpAddr::V6(end) => end.octets().to_vec(),
            };
            header[at..at + octets.len()].copy_from_slice(&octets);
        }
        (header, ends)
    }

    #[test]
    fn a_mapped_address_has_the_hash_of_its_ipv4_address() {
        let spread = |ends: [&str; 2]| {
            let [source, destination] = ends.map(|end| end.parse::<IpAddr>().unwrap());
            Ends::between(source, destination).unwrap().spread()
        };
        assert_eq!(spread(["::ffff:10.77.0.1", "::ffff:10.77.0.2"]), spread(V4));
        assert_ne!(spread(["::ffff:10.77.0.1", "fd77::2"]), spread(V4));
        assert_ne!(spread(["::fffe:10.77.0.1", "::ffff:10.77.0.2"]), spread(V4));
    }

    #[test]
    fn addresses_distinguish_a_header_from_other_bytes() {
        for ends in [V4, V6] {
            let (header, [source, destination]) = header(ends, 17);
            let offset = header.len() as u32;
            let whole = Some(Upper { protocol: 17, offset, part: Part::Whole });
            let ours = Ends::between(source, destination).unwrap();
            assert_eq!(upper(&header[..], ours), whole);
            assert_eq!(upper(&header[..], Ends::between(destination, source).unwrap()), None);
            for at in [0, header.len() - 1, header.len() - 5, header.len() / 2 + 3] {
                let mut other = header.clone();
                other[at] ^= 0x10;
                assert_eq!(upper(&other[..], ours), None, "another version, or address: {at}");
            }
            for length in 0..header.len() {
                assert_eq!(upper(&header[..length], ours), None);
            }
        }
        let (header, _) = header(V4, 17);
        let [source, destination] = V6.map(|end| end.parse().unwrap());
        assert_eq!(upper(&header[..], Ends::between(source, destination).unwrap()), None);
    }

    /// Repeats the same bytes at every offset.
    struct Endless([u8; 4]);

    impl Bytes for Endless {
        fn at<const N: usize>(&self, _: u32) -> Option<[u8; N]> {
            self.0.first_chunk().copied()
        }
    }

    #[test]
    fn extension_headers_are_skipped() {
        // Hop-by-hop (8), routing (24), fragment (8), authentication (24).
        let chain = [(40, [43, 0, 0, 0]), (48, [44, 2, 0, 0]), (72, [51, 9, 0, 0]), (80, [17, 4, 0, 0])];
        let (mut bytes, [source, destination]) = header(V6, 0);
        bytes.resize(104, 0xEE);
        for (at, next) in chain {
            bytes[at..at + 4].copy_from_slice(&next);
        }
        let whole = |offset| Some(Upper { protocol: 17, offset, part: Part::Whole });
        assert_eq!(upper(&bytes[..], Ends::between(source, destination).unwrap()), whole(104));
        assert_eq!(upper(&bytes[..83], Ends::between(source, destination).unwrap()), None, "it is not there");
        assert_eq!(behind(&bytes[..40], 17), whole(40), "nothing to pass over");
        assert_eq!(behind(&Endless([0, 255, 0, 0]), 0), None, "it has to end");
    }

    #[test]
    fn a_fragment_is_recognized() {
        for (offset, more, part) in [
            (0, false, Part::Whole),
            (0, true, Part::First),
            (185, true, Part::Later),
            (185, false, Part::Later),
        ] {
            let (mut bytes, [source, destination]) = header(V4, 17);
            let word: u16 = offset | if more { 0x2000 } else { 0 };
            bytes[6..8].copy_from_slice(&word.to_be_bytes());
            assert_eq!(upper(&bytes[..], Ends::between(source, destination).unwrap()).unwrap().part, part);
            let word = (offset << 3 | u16::from(more)).to_be_bytes();
            let found = behind(&Endless([17, 0, word[0], word[1]]), 44);
            assert_eq!(found, Some(Upper { protocol: 17, offset: 48, part }));
        }
    }
}
