//! The part of an IP header that the driver reads (RFC 791, RFC 8200).

use core::net::IpAddr;

use super::layers::Family;

/// Bytes of the longer fixed header.
pub const LONGEST: usize = 40;

/// The most extension headers passed over; more are a packet made to tire.
const MOST_EXTENSIONS: usize = 8;

/// Bytes of a family's fixed header.
pub const fn fixed_size(family: Family) -> usize {
    match family {
        Family::V4 => 20,
        Family::V6 => 40,
    }
}

/// What is above an IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upper {
    /// Its protocol.
    pub protocol: u8,
    /// Bytes from the start of the fixed header to it.
    pub offset: u32,
    /// The part of the packet that this is.
    pub part: Part,
}

/// A packet, or a fragment of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// Its beginning, with the upper header.
    First,
    /// Another part: the upper header is elsewhere.
    Later,
}

impl Part {
    /// By the word that holds the offset, in units of 8 bytes, and whether more
    /// follow.
    const fn of(offset: u16, more: bool) -> Self {
        match (offset, more) {
            (0, false) => Self::Whole,
            (0, true) => Self::First,
            _ => Self::Later,
        }
    }
}

/// What is above a header of this fixed part, if that is from one address to
/// the other; bytes with others are no header of this packet. `read` gives four
/// bytes at an offset from the fixed part's start.
pub fn upper(
    header: &[u8],
    source: IpAddr,
    destination: IpAddr,
    read: impl FnMut(u32) -> Option<[u8; 4]>,
) -> Option<Upper> {
    let first = *header.first()?;
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let is = |at, address: core::net::Ipv4Addr| header.get(at..at + 4) == Some(&address.octets());
            if first >> 4 != 4 || !is(12, source) || !is(16, destination) {
                return None;
            }
            let fragment = u16::from_be_bytes([*header.get(6)?, *header.get(7)?]);
            let part = Part::of(fragment & 0x1fff, fragment & 0x2000 != 0);
            Some(Upper { protocol: *header.get(9)?, offset: u32::from(first & 0xf) * 4, part })
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let is = |at, address: core::net::Ipv6Addr| header.get(at..at + 16) == Some(&address.octets());
            if first >> 4 != 6 || !is(8, source) || !is(24, destination) {
                return None;
            }
            behind_extensions(*header.get(6)?, read)
        }
        _ => None,
    }
}

/// What is above IPv6's extension headers.
fn behind_extensions(first: u8, mut read: impl FnMut(u32) -> Option<[u8; 4]>) -> Option<Upper> {
    let mut upper = Upper { protocol: first, offset: fixed_size(Family::V6) as u32, part: Part::Whole };
    for _ in 0..MOST_EXTENSIONS {
        let size = match upper.protocol {
            // Hop-by-hop, routing, destination options: in units of 8 bytes,
            // the first not counted.
            0 | 43 | 60 => |length: u8| (u32::from(length) + 1) * 8,
            // Fragment: of one size.
            44 => |_| 8,
            // Authentication: in units of 4 bytes, the first two not counted
            // (RFC 4302, 2.2).
            51 => |length: u8| (u32::from(length) + 2) * 4,
            _ => return Some(upper),
        };
        let [next, length, offset @ ..] = read(upper.offset)?;
        if upper.protocol == 44 {
            let fragment = u16::from_be_bytes(offset);
            upper.part = Part::of(fragment >> 3, fragment & 1 != 0);
        }
        (upper.protocol, upper.offset) = (next, upper.offset.checked_add(size(length))?);
        if upper.part == Part::Later {
            // What is named next is in the first part.
            return Some(upper);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn the_addresses_tell_a_header_from_other_bytes() {
        for ends in [V4, V6] {
            let (header, [source, destination]) = header(ends, 17);
            let offset = header.len() as u32;
            let whole = Some(Upper { protocol: 17, offset, part: Part::Whole });
            assert_eq!(upper(&header, source, destination, NOTHING), whole);
            assert_eq!(upper(&header, destination, source, NOTHING), None);
            let mut other = header.clone();
            other[0] ^= 0x10;
            assert_eq!(upper(&other, source, destination, NOTHING), None, "another version");
            for length in 0..header.len() {
                assert_eq!(upper(&header[..length], source, destination, NOTHING), None);
            }
        }
        let (header, [source, _]) = header(V4, 17);
        assert_eq!(upper(&header, source, V6[0].parse().unwrap(), NOTHING), None);
    }

    const NOTHING: fn(u32) -> Option<[u8; 4]> = |_| None;

    #[test]
    fn extension_headers_are_passed_over() {
        // Hop-by-hop (8), routing (24), fragment (8), authentication (24).
        let chain = [(40, [43, 0, 0, 0]), (48, [44, 2, 0, 0]), (72, [51, 9, 0, 0]), (80, [17, 4, 0, 0])];
        let read = |at| chain.iter().find(|(start, _)| *start == at).map(|(_, bytes)| *bytes);
        let whole = |offset| Some(Upper { protocol: 17, offset, part: Part::Whole });
        assert_eq!(behind_extensions(0, read), whole(104));
        assert_eq!(behind_extensions(60, NOTHING), None, "it is not there");
        assert_eq!(behind_extensions(17, NOTHING), whole(40), "nothing to pass over");
        assert_eq!(behind_extensions(0, |_| Some([0, 255, 0, 0])), None, "it has to end");
    }

    #[test]
    fn a_fragment_is_told() {
        for (offset, more, part) in [
            (0, false, Part::Whole),
            (0, true, Part::First),
            (185, true, Part::Later),
            (185, false, Part::Later),
        ] {
            let (mut bytes, [source, destination]) = header(V4, 17);
            let word: u16 = offset | if more { 0x2000 } else { 0 };
            bytes[6..8].copy_from_slice(&word.to_be_bytes());
            assert_eq!(upper(&bytes, source, destination, NOTHING).unwrap().part, part);
            let word = (offset << 3 | u16::from(more)).to_be_bytes();
            let found = behind_extensions(44, |_| Some([17, 0, word[0], word[1]]));
            assert_eq!(found, Some(Upper { protocol: 17, offset: 48, part }));
        }
    }
}
