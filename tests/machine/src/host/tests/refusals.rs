//! Packets without an endpoint: discard layers, and the answers they block.

use super::assert_documented;
use super::fake::FILTER_ID;
use super::world::{CLOSED, PORT, World, udp};
use crate::host::open_points::reason;
use crate::host::{
    Application, DataStart, DiscardMetadata, Event, Layer, ListenerReason, OpenPoints, Options, UdpDiscard,
};
use crate::wfp::Discard;
use crate::wire::{Family, TcpFlags, Transport};

const TRANSPORT: Layer = Layer::InboundTransport;
const IP: Layer = Layer::InboundIppacket;

fn discard(module: u32, reason: u32) -> Option<Discard> {
    Some(Discard { module, reason, filter_id: 0 })
}

#[test]
fn a_closed_port_answers_with_a_reset() {
    for family in Family::BOTH {
        let mut world = World::new(family);
        let syn = world.segment(CLOSED, TcpFlags::SYN);
        let sent = world.probe(&syn);
        assert_eq!((sent.len(), World::resets(&sent)), (1, 1));
        let reset = crate::wire::Parsed::new(&sent[0]).unwrap();
        let tcp = reset.tcp().unwrap();
        assert!(tcp.checksum_valid);
        assert_eq!((tcp.sequence, tcp.acknowledgment), (0, 1001));
        assert_eq!(world.events(), [Event::SynNobodyListening, Event::RstOut]);
        assert_documented(&world.records(), &[Event::SynNobodyListening, Event::RstOut]);
        let kept = &world.fake.at(TRANSPORT, family, true)[0];
        assert_eq!(kept.metadata.discard, discard(1, 4));
        assert_eq!(kept.metadata.transport_endpoint_handle, None);
        assert_eq!(world.host.counters().silenced, 0);
    }
}

#[test]
fn a_block_at_the_discard_layer_silences_it() {
    for family in Family::BOTH {
        let mut world = World::new(family);
        world.fake.block(TRANSPORT, true, false);
        for flags in [
            TcpFlags::SYN,
            TcpFlags::ACK,
            TcpFlags::FIN,
            TcpFlags(0),
            TcpFlags::FIN | TcpFlags::PSH | TcpFlags::URG,
            TcpFlags::SYN | TcpFlags::FIN,
        ] {
            let probe = world.segment(CLOSED, flags);
            assert!(world.probe(&probe).is_empty(), "{flags:?}");
        }
        assert_eq!(world.host.counters().silenced, 6);
        assert!(!world.events().contains(&Event::RstOut));
        assert_documented(&world.records(), &[Event::SynNobodyListening]);
    }
}

#[test]
fn each_answer_to_the_open_points_can_be_simulated() {
    let play = |open_points: OpenPoints| {
        let mut world = World::with(Family::V4, Options::default(), open_points);
        let syn = world.segment(CLOSED, TcpFlags::SYN);
        assert_eq!(world.probe(&syn).len(), 1);
        assert_documented(&world.records(), &[Event::SynNobodyListening]);
        world
    };
    let world = play(OpenPoints { transport_before_discard: true, ..OpenPoints::default() });
    assert_eq!(
        world.layers(Event::SynNobodyListening),
        ["INBOUND_IPPACKET", "INBOUND_TRANSPORT", "INBOUND_TRANSPORT_DISCARD"]
    );
    for (metadata, expected) in [
        (DiscardMetadata::Documented, discard(1, 4)),
        (DiscardMetadata::Reason(31), discard(1, 31)),
        (DiscardMetadata::Absent, None),
    ] {
        let world = play(OpenPoints { discard_metadata: metadata, ..OpenPoints::default() });
        let kept = &world.fake.at(TRANSPORT, Family::V4, true)[0];
        assert_eq!(kept.metadata.discard, expected);
    }
    for (start, offset) in
        [(DataStart::IpHeader, 0), (DataStart::TransportHeader, 20), (DataStart::Payload, 40)]
    {
        let world = play(OpenPoints { transport_discard_start: start, ..OpenPoints::default() });
        let kept = &world.fake.at(TRANSPORT, Family::V4, true)[0];
        assert_eq!(kept.data.as_ref().unwrap().1, offset);
    }
}

#[test]
fn segments_that_a_listener_cannot_use_are_reset_with_a_reason() {
    let syn_fin = TcpFlags::SYN | TcpFlags::FIN;
    for (flags, why) in [
        (TcpFlags::ACK, reason::INET_ACK_INVALID),
        (TcpFlags::FIN, reason::INET_EXPECTED_SYN),
        (TcpFlags(0), reason::INET_EXPECTED_SYN),
        (syn_fin, reason::INET_LISTENER_INVALID_FLAGS),
    ] {
        for (listener_reason, why) in [(ListenerReason::ByFlags, why), (ListenerReason::Always(23), 23)] {
            let open_points = OpenPoints { listener_reason, ..OpenPoints::default() };
            let mut world = World::with(Family::V6, Options::default(), open_points);
            let at = world.host_at(PORT);
            world.host.listen(at, Application::Hold).unwrap();
            let probe = world.segment(PORT, flags);
            assert_eq!(World::resets(&world.probe(&probe)), 1);
            let kept = &world.fake.at(TRANSPORT, Family::V6, true)[0];
            assert_eq!(kept.metadata.discard, discard(1, why));
        }
    }
}

#[test]
fn a_reset_is_never_answered_and_a_bad_checksum_never() {
    let mut world = World::new(Family::V4);
    let reset = world.segment(CLOSED, TcpFlags::RST);
    assert!(world.probe(&reset).is_empty());
    let mut bad = world.segment(CLOSED, TcpFlags::SYN);
    bad[36] ^= 1;
    assert!(world.probe(&bad).is_empty());
    let kept = world.fake.at(TRANSPORT, Family::V4, true);
    assert_eq!(kept[1].metadata.discard, discard(1, 3));
    world.fake.block(TRANSPORT, true, false);
    assert!(world.probe(&reset).is_empty());
    assert_eq!(world.host.counters().silenced, 0, "no answer was due");
}

#[test]
fn a_full_backlog_is_reset() {
    let options = Options { backlog: 0, ..Options::default() };
    let mut world = World::with(Family::V4, options, OpenPoints::default());
    let at = world.host_at(PORT);
    world.host.listen(at, Application::Hold).unwrap();
    let syn = world.segment(PORT, TcpFlags::SYN);
    assert_eq!(World::resets(&world.probe(&syn)), 1);
    let kept = &world.fake.at(TRANSPORT, Family::V4, true)[0];
    assert_eq!(kept.metadata.discard, discard(1, reason::INET_PAUSE_ACCEPT));
}

#[test]
fn each_layer_on_the_way_can_stop_a_packet() {
    for family in Family::BOTH {
        for absorb in [false, true] {
            for (layer, event) in [
                (IP, Event::SynIn),
                (TRANSPORT, Event::SynIn),
                (Layer::AleAuthRecvAccept, Event::SynIn),
                (Layer::OutboundTransport, Event::SynAckOut),
                (Layer::OutboundIppacket, Event::SynAckOut),
            ] {
                let mut world = World::new(family);
                let at = world.host_at(PORT);
                world.host.listen(at, Application::Hold).unwrap();
                world.fake.block(layer, false, absorb);
                let syn = world.segment(PORT, TcpFlags::SYN);
                assert!(world.probe(&syn).is_empty(), "{layer:?}");
                assert_documented(&world.records(), &[]);
                let layers = world.layers(event);
                let discards = world.fake.at(layer, family, true);
                if absorb {
                    assert_eq!(layers.last().unwrap(), layer.name());
                    assert!(discards.is_empty());
                } else {
                    assert_eq!(*layers.last().unwrap(), format!("{}_DISCARD", layer.name()));
                    let policy = Discard {
                        module: reason::MODULE_GENERAL,
                        reason: reason::GENERAL_FIREWALL_POLICY,
                        filter_id: FILTER_ID,
                    };
                    assert_eq!(discards[0].metadata.discard, Some(policy));
                }
            }
        }
    }
}

#[test]
fn udp_and_unknown_protocols_get_their_icmp_error_unless_blocked() {
    for family in Family::BOTH {
        for (variant, layers, at) in [
            (UdpDiscard::IpPacket, &["INBOUND_IPPACKET_DISCARD"][..], &[IP][..]),
            (UdpDiscard::Transport, &["INBOUND_TRANSPORT_DISCARD"], &[TRANSPORT]),
            (UdpDiscard::Both, &["INBOUND_TRANSPORT_DISCARD", "INBOUND_IPPACKET_DISCARD"], &[TRANSPORT, IP]),
        ] {
            let open_points = OpenPoints { udp_discard: variant, ..OpenPoints::default() };
            let mut world = World::with(family, Options::default(), open_points);
            let probe = udp(&world, CLOSED);
            let sent = world.probe(&probe);
            assert_eq!(sent.len(), 1);
            let error = crate::wire::Parsed::new(&sent[0]).unwrap();
            let port_unreachable = match family {
                Family::V4 => (3, 3),
                Family::V6 => (1, 4),
            };
            assert!(matches!(error.transport, Transport::Icmp { kind, code, .. }
                    if (kind, code) == port_unreachable));
            assert_eq!(world.layers(Event::EndpointlessDatagram)[1..], *layers);
            assert_documented(&world.records()[1..], &[Event::IcmpErrorOut]);
            for &layer in at {
                world.fake.permit_all();
                world.fake.block(layer, true, false);
                assert!(world.probe(&probe).is_empty());
            }
            world.fake.permit_all();
            world.fake.block(Layer::OutboundIcmpError, false, false);
            assert!(world.probe(&probe).is_empty());
        }
    }
}

#[test]
fn unknown_protocols_are_unreachable() {
    for (family, answer) in [(Family::V4, (3, 2)), (Family::V6, (4, 1))] {
        let mut world = World::new(family);
        let mut probe = Vec::new();
        world.ip().write(&mut probe, etherparse::IpNumber(253), b"?").unwrap();
        let sent = world.probe(&probe);
        let error = crate::wire::Parsed::new(&sent[0]).unwrap();
        assert!(matches!(error.transport, Transport::Icmp { kind, code, .. }
                if (kind, code) == answer));
        let kept = &world.fake.at(IP, family, true)[0];
        assert_eq!(kept.metadata.discard, discard(0, 3));
        assert_documented(&world.records(), &[Event::EndpointlessDatagram, Event::IcmpErrorOut]);
    }
}
