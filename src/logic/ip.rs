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

/// The protocol that a fixed header names first, if the header is from one
/// address to the other; bytes with others are no header of this packet.
pub fn first_protocol(header: &[u8], source: IpAddr, destination: IpAddr) -> Option<u8> {
    let version = header.first()? >> 4;
    let (expected, from, to, protocol) = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let is = |at, address: core::net::Ipv4Addr| header.get(at..at + 4) == Some(&address.octets());
            (4, is(12, source), is(16, destination), header.get(9))
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let is = |at, address: core::net::Ipv6Addr| header.get(at..at + 16) == Some(&address.octets());
            (6, is(8, source), is(24, destination), header.get(6))
        }
        _ => return None,
    };
    if version == expected && from && to { protocol.copied() } else { None }
}

/// The protocol above IPv6's extension headers. `read` gives the two bytes at
/// an offset from the fixed header's start.
pub fn upper_protocol(first: u8, mut read: impl FnMut(u32) -> Option<[u8; 2]>) -> Option<u8> {
    let (mut protocol, mut at) = (first, fixed_size(Family::V6) as u32);
    for _ in 0..MOST_EXTENSIONS {
        let size = match protocol {
            // Hop-by-hop, routing, destination options: in units of 8 bytes,
            // the first not counted.
            0 | 43 | 60 => |length: u8| (u32::from(length) + 1) * 8,
            // Fragment: of one size.
            44 => |_| 8,
            // Authentication: in units of 4 bytes, the first two not counted
            // (RFC 4302, 2.2).
            51 => |length: u8| (u32::from(length) + 2) * 4,
            upper => return Some(upper),
        };
        let [next, length] = read(at)?;
        (protocol, at) = (next, at.checked_add(size(length))?);
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
            IpAddr::V4(_) => (vec![0x45; 20], 9, [12, 16]),
            IpAddr::V6(_) => (vec![0x60; 40], 6, [8, 24]),
        };
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
            assert_eq!(first_protocol(&header, source, destination), Some(17));
            assert_eq!(first_protocol(&header, destination, source), None);
            let mut other = header.clone();
            other[0] ^= 0x10;
            assert_eq!(first_protocol(&other, source, destination), None, "another version");
            for length in 0..header.len() {
                assert_eq!(first_protocol(&header[..length], source, destination), None);
            }
        }
        let (header, [source, _]) = header(V4, 17);
        assert_eq!(first_protocol(&header, source, V6[0].parse().unwrap()), None);
    }

    #[test]
    fn extension_headers_are_passed_over() {
        // Hop-by-hop (8), routing (24), fragment (8), authentication (24).
        let chain = [(40, [43, 0]), (48, [44, 2]), (72, [51, 9]), (80, [17, 4])];
        let read = |at| chain.iter().find(|(start, _)| *start == at).map(|(_, bytes)| *bytes);
        assert_eq!(upper_protocol(0, read), Some(17));
        assert_eq!(upper_protocol(60, |_| None), None, "it is not there");
        assert_eq!(upper_protocol(17, |_| None), Some(17), "nothing to pass over");
        assert_eq!(upper_protocol(0, |_| Some([0, 255])), None, "it has to end");
    }
}
