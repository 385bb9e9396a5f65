//! Fragmented datagrams: reassembled, refused, timed out, evicted.

use std::time::Duration;

use super::headers::{behind, checksummed};
use super::world::{CLOSED, PORT, World};
use crate::host::{Application, Event, Layer};
use crate::wfp::FragmentData;
use crate::wire::{Family, Parsed, TcpFlags, Transport};

/// A fragment of a packet's payload; `more` sets the flag.
fn part(whole: &[u8], number: u32, range: std::ops::Range<usize>, more: bool) -> Vec<u8> {
    match whole[0] >> 4 {
        4 => {
            let mut packet = whole[..20].to_vec();
            packet.extend(&whole[20..][range.clone()]);
            let length = packet.len() as u16;
            packet[2..4].copy_from_slice(&length.to_be_bytes());
            packet[4..6].copy_from_slice(&(number as u16).to_be_bytes());
            let field = (range.start / 8) as u16 | u16::from(more) << 13;
            packet[6..8].copy_from_slice(&field.to_be_bytes());
            checksummed(packet)
        }
        _ => {
            let mut payload = whole[..40].to_vec();
            payload.extend(&whole[40..][range.clone()]);
            let mut header = vec![0, 0];
            header.extend((range.start as u16 | u16::from(more)).to_be_bytes());
            header.extend(number.to_be_bytes());
            behind(&payload, &[(44, header)])
        }
    }
}

/// The payload in fragments of at most `size` bytes.
fn parts(whole: &[u8], number: u32, size: usize) -> Vec<Vec<u8>> {
    let ip = if whole[0] >> 4 == 4 { 20 } else { 40 };
    let length = whole.len() - ip;
    let starts = (0..length).step_by(size);
    starts.map(|at| part(whole, number, at..length.min(at + size), at + size < length)).collect()
}

/// A datagram to the echo socket, long enough to be fragmented.
fn datagram(world: &World, data: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    world.ip().udp(50_000, PORT).write(&mut packet, data).unwrap();
    packet
}

fn world(family: Family) -> World {
    let mut world = World::new(family);
    let at = world.host_at(PORT);
    world.host.echo_datagrams(at).unwrap();
    world.host.listen(at, Application::Hold).unwrap();
    world
}

/// Type, code and pointer of the only error in answer.
fn error(world: &mut World, packet: &[u8]) -> Option<(u8, u8, u32)> {
    let sent = world.probe(packet);
    assert!(sent.len() < 2);
    let Transport::Icmp { kind, code, rest } = Parsed::new(sent.first()?).unwrap().transport else {
        panic!()
    };
    super::assert_documented(&world.records(), &[Event::IcmpErrorOut]);
    Some((kind, code, rest))
}

#[test]
fn fragments_are_reassembled_in_any_order() {
    for family in Family::BOTH {
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [0, 2, 1]] {
            let mut world = world(family);
            let data = b"a datagram that comes in three parts, twenty-four bytes each";
            let parts = parts(&datagram(&world, data), 7, 24);
            let sent: Vec<_> = order.iter().flat_map(|at| world.probe(&parts[*at])).collect();
            assert_eq!(sent.len(), 1, "{family} {order:?}");
            assert!(sent[0].ends_with(data));
            // A later duplicate begins another datagram.
            assert!(world.probe(&parts[0]).is_empty());
        }
        // Each fragment twice: a duplicate does not remove what has arrived.
        let mut world = world(family);
        let parts = parts(&datagram(&world, &[7; 60]), 7, 32);
        assert!(world.probe(&parts[0]).is_empty() && world.probe(&parts[0]).is_empty());
        assert_eq!(world.probe(&parts[1]).len() + world.probe(&parts[2]).len(), 1);
    }
}

#[test]
fn options_in_later_fragments_are_checked() {
    let mut world = world(Family::V6);
    let options = |option: u8| (60, vec![0, 0, option, 4, 0, 0, 0, 0]);
    for (option, answers) in [(0x05, 1), (0x45, 0), (0x85, 1)] {
        let whole = behind(&datagram(&world, &[1; 40]), &[options(option)]);
        let parts = parts(&whole, option.into(), 24);
        let sent: Vec<_> = parts.iter().flat_map(|part| world.probe(part)).collect();
        assert_eq!(sent.len(), answers, "{option:#x}");
        if let [sent] = &sent[..] {
            let transport = Parsed::new(sent).unwrap().transport;
            let refused = matches!(transport, Transport::Icmp { kind: 4, code: 2, .. });
            assert_eq!(refused, option != 0x05, "{transport:?}");
        }
    }
}

#[test]
fn overlapping_fragments_drop_the_datagram() {
    for family in Family::BOTH {
        let mut world = world(family);
        let whole = datagram(&world, &[3; 56]);
        let cut = |range, more| part(&whole, 9, range, more);
        for parts in [
            [cut(0..32, true), cut(24..64, false), cut(32..64, false)],
            [cut(0..16, true), cut(8..24, true), cut(16..64, false)],
            [cut(16..64, false), cut(8..24, true), cut(0..16, true)],
            // After the end, or with another end.
            [cut(16..32, false), cut(32..64, true), cut(0..16, true)],
            [cut(32..64, false), cut(16..32, false), cut(0..32, true)],
        ] {
            for part in &parts {
                assert!(world.probe(part).is_empty(), "{family}");
            }
            // The complete datagram with this number comes too late, too.
            assert!(world.probe(&cut(0..32, true)).is_empty() && world.probe(&cut(32..64, false)).is_empty());
            // After the timeout the number is free again.
            world.now += Duration::from_secs(61);
            let now = world.now;
            world.host.poll(now);
            assert!(world.host.transmit().is_none(), "no error is sent");
        }
        let sent = [cut(0..32, true), cut(32..64, false)].map(|part| world.probe(&part).len());
        assert_eq!(sent, [0, 1]);
    }
}

#[test]
fn an_invalid_fragment_is_refused() {
    let mut world = world(Family::V6);
    let whole = datagram(&world, &[3; 56]);
    // The length is not a multiple of 8 although more fragments follow; the pointer
    // is at the payload's length.
    assert_eq!(error(&mut world, &part(&whole, 1, 0..31, true)), Some((4, 0, 4)));
    // Beyond the maximum size of a datagram; the pointer is at the fragment's
    // offset.
    let mut far = part(&whole, 2, 0..64, true);
    far[42..44].copy_from_slice(&0xfff9_u16.to_be_bytes());
    assert_eq!(error(&mut world, &far), Some((4, 0, 42)));
    // The first fragment without its whole upper-layer header (RFC 8200, 4.5).
    let syn = world.segment(PORT, TcpFlags::SYN);
    assert_eq!(error(&mut world, &part(&syn, 3, 0..8, true)), Some((4, 3, 0)));
    assert_eq!(error(&mut world, &part(&syn, 3, 0..16, true)), Some((4, 3, 0)));
    let options = behind(&syn, &[(60, vec![0, 3, 1, 28, 0, 0, 0, 0])]);
    assert_eq!(error(&mut world, &part(&options, 4, 0..8, true)), Some((4, 3, 0)));
    // Over IPv4 such a fragment is only dropped, and eight bytes are enough.
    let mut world = self::world(Family::V4);
    let whole = datagram(&world, &[3; 56]);
    assert_eq!(error(&mut world, &part(&whole, 1, 0..31, true)), None);
    let syn = world.segment(CLOSED, TcpFlags::SYN);
    assert!(world.probe(&part(&syn, 3, 0..8, true)).is_empty());
    assert_eq!(World::resets(&world.probe(&part(&syn, 3, 8..20, false))), 1);
}

#[test]
fn the_sender_of_an_incomplete_datagram_gets_an_error() {
    for (family, error) in [(Family::V4, (11, 1)), (Family::V6, (3, 1))] {
        let mut world = world(family);
        let whole = datagram(&world, &[3; 56]);
        assert!(world.probe(&part(&whole, 1, 0..32, true)).is_empty());
        assert!(world.probe(&part(&whole, 2, 32..64, false)).is_empty());
        world.host.poll(world.now + Duration::from_secs(59));
        assert!(world.host.transmit().is_none());
        world.host.poll(world.now + Duration::from_secs(60));
        let sent = world.host.transmit().expect("the first fragment has arrived");
        let Transport::Icmp { kind, code, .. } = Parsed::new(&sent).unwrap().transport else { panic!() };
        assert_eq!((kind, code), error);
        assert!(world.host.transmit().is_none(), "the other's first fragment has not arrived");
        super::assert_documented(&world.records(), &[Event::IcmpErrorOut]);
        // A filter can block the error.
        assert!(world.probe(&part(&whole, 3, 0..32, true)).is_empty());
        world.fake.block(Layer::OutboundIcmpError, false, false);
        world.host.poll(world.now + Duration::from_secs(200));
        assert!(world.host.transmit().is_none());
    }
}

#[test]
fn incomplete_datagrams_do_not_keep_others_out() {
    for family in Family::BOTH {
        let mut world = world(family);
        let whole = datagram(&world, &[3; 56]);
        let mut answered = 0;
        for number in 0..1500 {
            assert!(world.probe(&part(&whole, 10_000 + number, 0..32, true)).is_empty());
            if number % 100 == 99 {
                let sent = [(0..32, true), (32..64, false)];
                answered +=
                    sent.map(|(range, more)| world.probe(&part(&whole, number, range, more)).len())[1];
            }
        }
        assert_eq!(answered, 15, "{family}");
        assert!(world.host.fragments.len() <= 64, "{}", world.host.fragments.len());
    }
}

#[test]
fn all_senders_together_are_limited() {
    let mut world = world(Family::V4);
    let whole = datagram(&world, &[3; 56]);
    let first = part(&whole, 1, 0..32, true);
    assert!(world.probe(&first).is_empty());
    for sender in 0..3000_u32 {
        let mut packet = part(&whole, 7, 0..32, true);
        packet[12..16].copy_from_slice(&(0xc0a8_0000 + sender + sender / 250 * 6 + 1).to_be_bytes());
        assert!(world.probe(&checksummed(packet)).is_empty());
    }
    assert_eq!(world.host.fragments.len(), 1024);
    let sent =
        [(0..32, true), (32..64, false)].map(|(range, more)| world.probe(&part(&whole, 2, range, more)));
    assert_eq!(sent.map(|sent| sent.len()), [0, 1]);
}

/// *Metadata Fields at Each Filtering Layer*: INBOUND_IPPACKET may have fragment data.
/// FWPS_INBOUND_FRAGMENT_METADATA0: offset "from the start of the packet" and length, both
/// in bytes.
#[test]
fn the_metadata_of_a_fragment_say_where_it_belongs() {
    for family in Family::BOTH {
        let mut world = world(family);
        let whole = datagram(&world, &[7; 60]);
        for part in parts(&whole, 77, 32) {
            world.probe(&part);
        }
        let kept = world.fake.at(Layer::InboundIppacket, family, false);
        let data = |identification, offset, length| Some(FragmentData { identification, offset, length });
        let seen: Vec<_> = kept.iter().map(|kept| kept.metadata.fragment).collect();
        assert_eq!(seen, [data(77, 0, 32), data(77, 32, 32), data(77, 64, 4), None], "{family}");
        let above = &world.fake.at(Layer::InboundTransport, family, false)[0];
        assert_eq!(above.metadata.fragment, None, "{family}");
    }
}
