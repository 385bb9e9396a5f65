//! Packets for broadcast and multicast addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use etherparse::IpNumber;

use super::world::{CLOSED, PORT, World};
use super::{assert_documented, fake::Kept};
use crate::host::{
    Application, Event, GroupSegment, Layer, OpenPoints, Options, UdpDiscard, definition, reason,
};
use crate::wire::{Family, Parsed, Transport, compose};

/// The limited broadcast address, those of the subnet, and groups; with their
/// NL_ADDRESS_TYPE (`nldef.h`).
fn groups(family: Family) -> Vec<(IpAddr, u8)> {
    match family {
        Family::V4 => vec![
            (Ipv4Addr::BROADCAST.into(), 4),
            ([10, 77, 0, 255].into(), 4),
            ([10, 77, 0, 0].into(), 4),
            ([224, 0, 0, 1].into(), 3),
            ([239, 255, 255, 250].into(), 3),
        ],
        Family::V6 => vec![
            (Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into(), 3),
            (Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb).into(), 3),
            // The solicited-node group of the host's address.
            (Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 2).into(), 3),
        ],
    }
}

fn udp(world: &World, group: IpAddr, to: u16) -> Vec<u8> {
    let mut packet = Vec::new();
    let builder = compose::ip(world.peer_at(0).ip(), group).udp(50_000, to);
    builder.write(&mut packet, b"anybody?").unwrap();
    packet
}

fn syn(world: &World, group: IpAddr, to: u16) -> Vec<u8> {
    let mut packet = Vec::new();
    let builder = compose::ip(world.peer_at(0).ip(), group).tcp(50_000, to, 1, 1024).syn();
    builder.write(&mut packet, &[]).unwrap();
    packet
}

/// IP_LOCAL_ADDRESS_TYPE of a request.
fn address_type(layer: Layer, family: Family, kept: &Kept) -> u8 {
    let position = match layer {
        Layer::InboundIppacket => 2,
        _ => 3,
    };
    let crate::wfp::Value::Uint8(number) = kept.values[position] else {
        panic!("{} {family}: {:?}", definition(layer, family).name, kept.values)
    };
    number
}

#[test]
fn a_datagram_without_a_socket_is_discarded_as_any_other_and_never_answered() {
    const TRANSPORT: Layer = Layer::InboundTransport;
    const IP: Layer = Layer::InboundIppacket;
    for family in Family::BOTH {
        for (group, kind) in groups(family) {
            for (udp_discard, at) in [
                (UdpDiscard::Both, &[TRANSPORT, IP][..]),
                (UdpDiscard::IpPacket, &[IP]),
                (UdpDiscard::Transport, &[TRANSPORT]),
            ] {
                let open_points = OpenPoints { udp_discard, ..OpenPoints::default() };
                let mut world = World::with(family, Options::default(), open_points);
                let datagram = udp(&world, group, CLOSED);
                assert!(world.probe(&datagram).is_empty(), "{group}");
                assert_eq!(world.events(), [Event::EndpointlessDatagram]);
                assert_documented(&world.records(), &[Event::EndpointlessDatagram]);
                for &layer in at {
                    let kept = &world.fake.at(layer, family, true)[0];
                    assert_eq!(address_type(layer, family, kept), kind, "{group}");
                }
                // No answer is due, so none is suppressed.
                world.fake.block(at[0], true, false);
                assert!(world.probe(&datagram).is_empty());
                assert_eq!(world.host.counters().silenced, 0);
            }
        }
    }
}

/// "All inbound multicast and broadcast traffic … is mapped to one global ALE flow", and
/// a response is a flow of its own (*ALE Multicast/Broadcast Traffic*).
#[test]
fn all_datagrams_with_a_socket_are_one_flow_and_responses_have_their_own() {
    for family in Family::BOTH {
        for own in [false, true] {
            let mut world = World::new(family);
            let any: IpAddr = if family == Family::V4 { [0; 4].into() } else { [0; 16].into() };
            let bound = if own { world.host_at(PORT).ip() } else { any };
            world.host.echo_datagrams(SocketAddr::new(bound, PORT)).unwrap();
            for (group, _) in groups(family) {
                let sent = world.probe(&udp(&world, group, PORT));
                let answer = Parsed::new(&sent[0]).unwrap();
                assert_eq!((sent.len(), answer.transport), (1, Transport::Udp));
                assert_eq!((answer.source, answer.payload()), (world.host_at(PORT), &b"anybody?"[..]));
            }
            let expected = [Event::Bind, Event::DatagramIn, Event::FirstDatagramOut, Event::DatagramOut];
            assert_documented(&world.records(), &expected);
            assert_eq!(world.fake.at(Layer::AleAuthRecvAccept, family, false).len(), 1);
            assert_eq!(world.fake.at(Layer::AleAuthConnect, family, false).len(), 1);
            assert_eq!(world.fake.live_flows(), 2);
        }
    }
}

#[test]
fn a_segment_is_dropped_wherever_the_stack_does_it() {
    let at_discard = |why| (GroupSegment::TransportDiscard(why), Some(why));
    for family in Family::BOTH {
        for (group_segment, why) in [
            at_discard(reason::INET_DESTINATION_MULTICAST),
            at_discard(reason::INET_ENDPOINT_NOT_FOUND),
            (GroupSegment::Nothing, None),
        ] {
            let open_points = OpenPoints { group_segment, ..OpenPoints::default() };
            let mut world = World::with(family, Options::default(), open_points);
            world.host.listen(world.host_at(PORT), Application::Echo).unwrap();
            for (group, kind) in groups(family) {
                for port in [PORT, CLOSED] {
                    assert!(world.probe(&syn(&world, group, port)).is_empty(), "{group}");
                }
                let kept = world.fake.at(Layer::InboundTransport, family, true);
                assert_eq!(kept.is_empty(), why.is_none(), "{group}");
                let Some(kept) = kept.last() else { continue };
                assert_eq!(address_type(Layer::InboundTransport, family, kept), kind);
                let discard = kept.metadata.discard.unwrap();
                assert_eq!((discard.module, Some(discard.reason)), (reason::MODULE_TRANSPORT, why));
            }
            assert!(world.fake.at(Layer::AleAuthRecvAccept, family, false).is_empty());
        }
    }
}

#[test]
fn nothing_else_for_a_group_is_answered() {
    for family in Family::BOTH {
        for (group, _) in groups(family) {
            let mut world = World::new(family);
            let peer = world.peer_at(0).ip();
            let (mut echo, mut unknown) = (Vec::new(), Vec::new());
            match family {
                Family::V4 => compose::ip(peer, group).icmpv4_echo_request(1, 1).write(&mut echo, b"?"),
                Family::V6 => compose::ip(peer, group).icmpv6_echo_request(1, 1).write(&mut echo, b"?"),
            }
            .unwrap();
            compose::ip(peer, group).write(&mut unknown, IpNumber(253), b"?").unwrap();
            // An option that asks for an error, in the options of IPv4 and IPv6.
            let option: &[u8] =
                if family == Family::V4 { &[0x83, 3, 4, 0] } else { &[17, 0, 0xc0, 4, 0, 0, 0, 0] };
            let next = if family == Family::V4 { 17 } else { 60 };
            let header = compose::udp_header(1, CLOSED, 0);
            let bad = compose::around(peer, group, next, option, &header);
            for packet in [Some(echo), Some(unknown), bad].into_iter().flatten() {
                assert!(world.probe(&packet).is_empty(), "{group}: {:?}", world.records().last());
            }
        }
    }
}

/// Other groups are not for this host, and no packet comes from a group.
#[test]
fn a_group_that_it_has_not_joined_and_a_group_as_the_source_are_refused() {
    let others: [(Family, IpAddr); 3] = [
        (Family::V4, [239, 1, 2, 3].into()),
        (Family::V4, [10, 78, 0, 255].into()),
        (Family::V6, Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2).into()),
    ];
    for (family, group) in others {
        let mut world = World::new(family);
        assert!(world.probe(&udp(&world, group, CLOSED)).is_empty());
        let kept = &world.fake.at(Layer::InboundIppacket, family, true)[0];
        let discard = kept.metadata.discard.unwrap();
        assert_eq!((discard.module, discard.reason), (0, reason::IP_NOT_LOCALLY_DESTINED), "{group}");
        let joined = Options { groups: [group].into(), ..Options::default() };
        let mut world = World::with(family, joined, OpenPoints::default());
        world.probe(&udp(&world, group, CLOSED));
        let is_joined = group.is_multicast();
        assert_eq!(!world.fake.at(Layer::InboundTransport, family, true).is_empty(), is_joined, "{group}");
    }
    for (family, group) in
        Family::BOTH.into_iter().flat_map(|family| groups(family).into_iter().map(move |it| (family, it.0)))
    {
        let mut world = World::new(family);
        let mut packet = Vec::new();
        compose::ip(group, world.host_at(0).ip()).udp(1, CLOSED).write(&mut packet, b"?").unwrap();
        assert!(world.probe(&packet).is_empty());
        let discard = world.fake.at(Layer::InboundIppacket, family, true)[0].metadata.discard.unwrap();
        assert_eq!(discard.reason, reason::IP_BAD_SOURCE_ADDRESS, "{group}");
    }
}
