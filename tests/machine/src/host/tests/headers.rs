//! Options, extension headers, checksums, addresses: accepted or refused.

use super::world::{CLOSED, PORT, World, udp};
use crate::host::open_points::reason;
use crate::host::{Application, Event, Layer};
use crate::wfp::Discard;
use crate::wire::{Family, Parsed, TcpFlags, Transport, protocol};

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const NO_NEXT: u8 = 59;
const DESTINATION: u8 = 60;

/// An extension header with one option, padded: its number and its bytes. The first
/// byte is set later.
fn option(kind: u8, option: u8) -> (u8, Vec<u8>) {
    (kind, vec![0, 0, option, 4, 1, 2, 3, 4])
}

fn routing(segments_left: u8) -> (u8, Vec<u8>) {
    let mut bytes = vec![0, 2, 0, segments_left, 0, 0, 0, 0];
    bytes.extend([0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
    (ROUTING, bytes)
}

fn atomic() -> (u8, Vec<u8>) {
    (FRAGMENT, vec![0, 0, 0, 0, 0, 0, 0, 7])
}

/// The packet with these headers after the fixed one.
pub fn behind(packet: &[u8], headers: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut whole = packet[..40].to_vec();
    let numbers: Vec<u8> = headers.iter().map(|(kind, _)| *kind).chain([packet[6]]).collect();
    whole[6] = numbers[0];
    for ((_, bytes), next) in headers.iter().zip(&numbers[1..]) {
        whole.push(*next);
        whole.extend(&bytes[1..]);
    }
    whole.extend(&packet[40..]);
    let length = whole.len() as u16 - 40;
    whole[4..6].copy_from_slice(&length.to_be_bytes());
    whole
}

/// A host that listens and echoes datagrams.
fn world(family: Family) -> World {
    let mut world = World::new(family);
    let at = world.host_at(PORT);
    world.host.listen(at, Application::Hold).unwrap();
    world.host.echo_datagrams(at).unwrap();
    world
}

/// An echo request.
fn echo(world: &World) -> Vec<u8> {
    let mut packet = Vec::new();
    match world.family {
        Family::V4 => world.ip().icmpv4_echo_request(9, 1).write(&mut packet, b"ping"),
        Family::V6 => world.ip().icmpv6_echo_request(9, 1).write(&mut packet, b"ping"),
    }
    .unwrap();
    packet
}

/// The answers: a SYN-ACK, an echo, or an ICMP error with its pointer.
fn answers(world: &mut World, packet: &[u8]) -> Vec<(u8, u8, u32)> {
    let sent = world.probe(packet);
    let answers = sent.iter().map(|packet| match Parsed::new(packet).unwrap().transport {
        Transport::Tcp(tcp) => (protocol::TCP, tcp.flags.0, 0),
        Transport::Udp => (protocol::UDP, 0, 0),
        // The identifier and sequence number of an echo are not a pointer.
        Transport::Icmp { kind, code, .. } if [129, 0].contains(&kind) => (kind, code, 0),
        Transport::Icmp { kind, code, rest } => (kind, code, rest),
        other => panic!("{other:?}"),
    });
    answers.collect()
}

#[test]
fn packets_with_valid_extension_headers_are_accepted() {
    let headers: &[&[(u8, Vec<u8>)]] = &[
        &[option(HOP_BY_HOP, 0x05)],
        &[option(DESTINATION, 0x1e)],
        &[(DESTINATION, vec![0, 0, 1, 4, 0, 0, 0, 0])],
        &[(DESTINATION, vec![0; 8])],
        &[routing(0)],
        &[atomic()],
        &[
            option(HOP_BY_HOP, 0x05),
            option(DESTINATION, 0x05),
            routing(0),
            atomic(),
            option(DESTINATION, 0x05),
        ],
        // In any order and any number (RFC 8200, 4.1).
        &[atomic(), routing(0), option(DESTINATION, 4), option(DESTINATION, 4), option(DESTINATION, 4)],
    ];
    for headers in headers {
        let mut world = world(Family::V6);
        let syn = behind(&world.segment(PORT, TcpFlags::SYN), headers);
        let (datagram, ping) = (behind(&udp(&world, PORT), headers), behind(&echo(&world), headers));
        let syn_ack = (TcpFlags::SYN | TcpFlags::ACK).0;
        assert_eq!(answers(&mut world, &syn), [(protocol::TCP, syn_ack, 0)], "{headers:?}");
        assert_eq!(answers(&mut world, &datagram), [(protocol::UDP, 0, 0)], "{headers:?}");
        assert_eq!(answers(&mut world, &ping), [(129, 0, 0)], "{headers:?}");
        let closed = behind(&world.segment(CLOSED, TcpFlags::SYN), headers);
        assert_eq!(World::resets(&world.probe(&closed)), 1, "{headers:?}");
        let datagram = behind(&udp(&world, CLOSED), headers);
        assert_eq!(answers(&mut world, &datagram), [(1, 4, 0)], "{headers:?}");
    }
}

/// All segments of the connection have extension headers.
#[test]
fn connections_work_with_extension_headers() {
    let mut world = World::new(Family::V6);
    let at = world.host_at(PORT);
    world.host.listen(at, Application::Echo).unwrap();
    let peer = world.connect(PORT);
    world.peer.socket(peer).send_slice(b"hello").unwrap();
    world.peer.egress(world.now);
    while let Some(segment) = world.peer.outbound() {
        let segment = behind(&segment, &[option(DESTINATION, 0x05), routing(0)]);
        world.host.receive(&segment, world.now);
    }
    world.run();
    assert_eq!(world.read(peer), b"hello");
}

#[test]
fn invalid_headers_get_an_error_at_the_ip_layer() {
    /// A chain of extension headers, and the errors in answer: type, code and
    /// pointer.
    type Case<'a> = (&'a [(u8, Vec<u8>)], &'a [(u8, u8, u32)]);
    let cases: &[Case<'_>] = &[
        // The two highest bits of an option: discard; discard and report.
        (&[option(DESTINATION, 0x45)], &[]),
        (&[option(DESTINATION, 0x85)], &[(4, 2, 42)]),
        (&[option(HOP_BY_HOP, 0xc5)], &[(4, 2, 42)]),
        (&[option(DESTINATION, 0x05), option(DESTINATION, 0xc5)], &[(4, 2, 50)]),
        // An option that exceeds its header; one without a length.
        (&[(DESTINATION, vec![0, 0, 5, 5, 0, 0, 0, 0])], &[(4, 0, 43)]),
        (&[(DESTINATION, vec![0, 0, 1, 3, 0, 0, 0, 5])], &[(4, 0, 47)]),
        // Segments left; the pointer is at the type, because all are unknown.
        (&[routing(1)], &[(4, 0, 42)]),
        // Hop-by-hop options that do not come first.
        (&[option(DESTINATION, 0x05), option(HOP_BY_HOP, 0x05)], &[(4, 1, 40)]),
        (&[option(HOP_BY_HOP, 0x05), option(HOP_BY_HOP, 0x05)], &[(4, 1, 40)]),
        // A header longer than the packet.
        (&[(DESTINATION, vec![0, 200, 1, 4, 0, 0, 0, 0])], &[(4, 0, 41)]),
        // No next header; no association to check it.
        (&[(NO_NEXT, vec![0; 8])], &[]),
        (
            &[(AUTHENTICATION, vec![0, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])],
            &[],
        ),
    ];
    for (headers, expected) in cases {
        for port in [PORT, CLOSED] {
            let mut world = world(Family::V6);
            let packet = behind(&world.segment(port, TcpFlags::SYN), headers);
            assert_eq!(answers(&mut world, &packet), *expected, "{headers:?}");
            assert!(!world.events().contains(&Event::RstOut), "{headers:?}");
            if !expected.is_empty() {
                super::assert_documented(&world.records(), &[Event::IcmpErrorOut]);
                world.fake.block(Layer::OutboundIcmpError, false, false);
                assert!(world.probe(&packet).is_empty());
            }
        }
    }
}

#[test]
fn the_error_points_at_an_unknown_next_header() {
    let mut world = world(Family::V6);
    let mut unknown = world.segment(PORT, TcpFlags::SYN);
    unknown[6] = 253;
    assert_eq!(answers(&mut world, &unknown), [(4, 1, 6)]);
    let unknown = behind(&unknown, &[option(DESTINATION, 5), option(DESTINATION, 5)]);
    assert_eq!(answers(&mut world, &unknown), [(4, 1, 48)]);
}

#[test]
fn no_error_answers_an_error() {
    for family in Family::BOTH {
        let mut world = world(family);
        let mut error = Vec::new();
        match family {
            Family::V4 => {
                let kind = etherparse::icmpv4::DestUnreachableHeader::Port;
                world
                    .ip()
                    .icmpv4(etherparse::Icmpv4Type::DestinationUnreachable(kind))
                    .write(&mut error, &[0; 28])
            }
            Family::V6 => {
                let kind = etherparse::icmpv6::DestUnreachableCode::Port;
                world
                    .ip()
                    .icmpv6(etherparse::Icmpv6Type::DestinationUnreachable(kind))
                    .write(&mut error, &[0; 48])
            }
        }
        .unwrap();
        if family == Family::V6 {
            error = behind(&error, &[option(DESTINATION, 0xc5)]);
        }
        assert_eq!(answers(&mut world, &error), []);
    }
}

/// The packet with these options after its IPv4 header.
fn with_options(packet: &[u8], options: &[u8]) -> Vec<u8> {
    let mut whole = packet[..20].to_vec();
    whole.extend(options);
    whole.resize(20 + options.len().next_multiple_of(4), 0);
    whole[0] = 0x40 | (whole.len() / 4) as u8;
    whole.extend(&packet[20..]);
    let length = whole.len() as u16;
    whole[2..4].copy_from_slice(&length.to_be_bytes());
    checksummed(whole)
}

/// The packet with a correct checksum in its IPv4 header.
pub fn checksummed(mut packet: Vec<u8>) -> Vec<u8> {
    packet[10..12].fill(0);
    let header = &packet[..usize::from(packet[0] & 0xf) * 4];
    let sum = etherparse::checksum::Sum16BitWords::new().add_slice(header).ones_complement();
    packet[10..12].copy_from_slice(&sum.to_be().to_be_bytes());
    packet
}

#[test]
fn ipv4_options_are_accepted_except_source_routes() {
    const LOOSE: u8 = 131;
    let syn_ack = (protocol::TCP, (TcpFlags::SYN | TcpFlags::ACK).0, 0);
    let pointer = |at: u32| at << 24;
    for (options, expected) in [
        (&[1, 1, 1, 1][..], syn_ack),
        (&[7, 7, 4, 0, 0, 0, 0], syn_ack),
        (&[68, 12, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0], syn_ack),
        (&[148, 4, 0, 0], syn_ack),
        // Bytes after the end of the list are no options.
        (&[0, 131, 7, 4], syn_ack),
        // A route with a hop left, and one that is complete.
        (&[LOOSE, 7, 4, 10, 77, 0, 1], (3, 5, 0)),
        (&[1, 137, 7, 4, 10, 77, 0, 1], (3, 5, 0)),
        (&[LOOSE, 7, 8, 10, 77, 0, 1], syn_ack),
        (&[LOOSE, 2, 8, 1], (3, 5, 0)),
        // Invalid lengths.
        (&[134, 0, 0, 0], (12, 0, pointer(20))),
        (&[1, 1, 7, 255], (12, 0, pointer(22))),
        (&[1, 1, 1, 7], (12, 0, pointer(23))),
    ] {
        let mut world = world(Family::V4);
        let packet = with_options(&world.segment(PORT, TcpFlags::SYN), options);
        assert_eq!(answers(&mut world, &packet), [expected], "{options:?}");
    }
}

#[test]
fn a_wrong_checksum_is_never_answered() {
    for family in Family::BOTH {
        let ip = if family == Family::V4 { 20 } else { 40 };
        for port in [PORT, CLOSED] {
            let mut world = world(family);
            for packet in [world.segment(port, TcpFlags::SYN), udp(&world, port), echo(&world)] {
                let mut wrong = packet.clone();
                *wrong.last_mut().unwrap() ^= 1;
                assert_eq!(answers(&mut world, &wrong), [], "{family} {port}");
                assert_eq!(world.events().last(), Some(&Event::Unusable));
                let kept = world.fake.at(Layer::InboundTransport, family, true).pop().unwrap();
                let why = Discard { module: 1, reason: reason::INET_CHECKSUM_INVALID, filter_id: 0 };
                assert_eq!(kept.metadata.discard, Some(why));
                assert_eq!(answers(&mut world, &packet).len(), 1, "{family} {port}");
            }
            // UDP without a checksum, or with a length that is too short or too
            // long.
            let mut none = udp(&world, port);
            none[ip + 6..ip + 8].fill(0);
            let expected = usize::from(family == Family::V4);
            assert_eq!(world.probe(&none).len(), expected, "{family} {port}");
            for length in [0, 7, 900u16] {
                let mut packet = none.clone();
                packet[ip + 4..ip + 6].copy_from_slice(&length.to_be_bytes());
                assert_eq!(world.probe(&packet).len(), 0, "{family} {port} {length}");
            }
        }
    }
    let mut world = world(Family::V4);
    let mut packet = world.segment(PORT, TcpFlags::SYN);
    packet[11] ^= 1;
    assert_eq!(answers(&mut world, &packet), []);
    let kept = &world.fake.at(Layer::InboundIppacket, Family::V4, true)[0];
    let why = Discard { module: 0, reason: reason::IP_BAD_CHECKSUM, filter_id: 0 };
    assert_eq!(kept.metadata.discard, Some(why));
}

/// The echo of a datagram has the datagram's length, whatever follows it in the
/// packet.
#[test]
fn bytes_after_a_datagram_are_not_echoed() {
    let mut world = world(Family::V4);
    let mut packet = udp(&world, PORT);
    packet.extend(b"more");
    let length = packet.len() as u16;
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    let sent = world.probe(&checksummed(packet));
    assert!(sent[0].ends_with(b"anybody?"));
}

#[test]
fn martian_sources_are_ignored() {
    let v4 = [
        [10, 77, 0, 2],
        [127, 0, 0, 1],
        [0, 0, 0, 0],
        [0, 1, 2, 3],
        [224, 0, 0, 1],
        [240, 0, 0, 1],
        [255, 255, 255, 255],
        [10, 77, 0, 255],
        [10, 77, 0, 0],
    ];
    let v6 = ["fd77::2", "::1", "::", "ff02::1", "::ffff:10.77.0.1", "::10.77.0.1"];
    let v4 = v4.map(std::net::IpAddr::from).into_iter();
    for source in v4.chain(v6.map(|text| text.parse().unwrap())) {
        let family = Family::of(source);
        let mut world = world(family);
        for port in [PORT, CLOSED] {
            for good in [world.segment(port, TcpFlags::SYN), udp(&world, port), echo(&world)] {
                let packet = from(&good, source);
                assert!(Parsed::new(&packet).unwrap().checksum_valid(), "{source}");
                assert!(world.probe(&packet).is_empty(), "{source}");
                assert_eq!(world.events().last(), Some(&Event::Unusable));
                let kept = world.fake.at(Layer::InboundIppacket, family, true).pop().unwrap();
                let why = Discard { module: 0, reason: reason::IP_BAD_SOURCE_ADDRESS, filter_id: 0 };
                assert_eq!(kept.metadata.discard, Some(why));
                assert_eq!(world.probe(&good).len(), 1);
            }
        }
    }
}

/// The packet with another source and correct checksums.
fn from(packet: &[u8], source: std::net::IpAddr) -> Vec<u8> {
    let mut packet = packet.to_vec();
    let protocol = Parsed::new(&packet).unwrap().protocol;
    let ip = match source {
        std::net::IpAddr::V4(source) => {
            packet[12..16].copy_from_slice(&source.octets());
            packet = checksummed(packet);
            20
        }
        std::net::IpAddr::V6(source) => {
            packet[8..24].copy_from_slice(&source.octets());
            40
        }
    };
    let at = ip
        + match protocol {
            protocol::TCP => 16,
            protocol::UDP => 6,
            _ => 2,
        };
    packet[at..at + 2].fill(0);
    let mut sum = etherparse::checksum::Sum16BitWords::new();
    if protocol != protocol::ICMP {
        let addresses = if ip == 20 { 12..20 } else { 8..40 };
        sum = sum.add_slice(&packet[addresses]);
        sum = sum.add_4bytes(((packet.len() - ip) as u32).to_be_bytes()).add_2bytes([0, protocol]);
    }
    let sum = sum.add_slice(&packet[ip..]).ones_complement();
    packet[at..at + 2].copy_from_slice(&sum.to_be().to_be_bytes());
    packet
}
