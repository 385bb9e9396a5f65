//! Policy changes while connections are established.

use smoltcp::iface::SocketHandle;

use super::assert_documented;
use super::fake::FILTER_ID;
use super::world::{PORT, World};
use crate::host::{Application, Event, Interface, Layer, Options, SocketError, State, reauthorize_reason};
use crate::wfp::Value;
use crate::wire::Family;

fn established(family: Family) -> (World, SocketHandle) {
    let mut world = World::new(family);
    let at = world.host_at(PORT);
    world.host.listen(at, Application::Echo).unwrap();
    let peer = world.connect(PORT);
    world.send(peer, b"before");
    assert_eq!(world.read(peer), b"before");
    (world, peer)
}

#[test]
fn the_next_packet_is_authorized_again() {
    for family in Family::BOTH {
        let (mut world, peer) = established(family);
        world.fake.change_policy();
        world.send(peer, b"after");
        assert_eq!(world.read(peer), b"after");
        assert_documented(&world.records(), &[Event::ReauthorizationPasses]);
        let kept = world.fake.at(Layer::AleAuthRecvAccept, family, false);
        assert_eq!(kept.len(), 2, "once at first, once again");
        assert_eq!(kept[1].values[11], Value::Uint32(0x4), "IS_REAUTHORIZE");
        assert_eq!(kept[1].values[29], Value::Uint32(1), "POLICY_CHANGE");
        assert_eq!(kept[1].metadata.packet_direction, Some(1));
        assert_eq!((kept[0].values[11].clone(), kept[0].metadata.packet_direction), (Value::Uint32(0), None));
        let required = |kept: &super::fake::Kept| kept.metadata.ale_classify_required;
        let at_transport = world.fake.at(Layer::InboundTransport, family, false);
        assert_eq!(at_transport.iter().filter(|kept| required(kept)).count(), 2);
        // No further authorization follows.
        world.send(peer, b"later");
        assert_eq!(world.read(peer), b"later");
        let kept = world.fake.at(Layer::AleAuthRecvAccept, family, false);
        assert_eq!(kept.len(), 2);
    }
}

#[test]
fn a_connection_that_fails_is_dropped_silently() {
    for family in Family::BOTH {
        let (mut world, peer) = established(family);
        world.fake.change_policy();
        world.fake.block(Layer::AleAuthRecvAccept, false, false);
        let before = world.sent.len();
        // The peer's later retransmissions meet no connection.
        world.peer.socket(peer).send_slice(b"after").unwrap();
        world.peer.egress(world.now);
        while let Some(packet) = world.peer.outbound() {
            world.host.receive(&packet, world.now);
        }
        assert!(world.host.transmit().is_none());
        assert_eq!(world.sent.len(), before);
        assert_documented(&world.records(), &[Event::ReauthorizationFails]);
        let kept = world.fake.at(Layer::AleAuthRecvAccept, family, true);
        let discard = kept[0].metadata.discard.unwrap();
        assert_eq!((discard.module, discard.reason), (2, 0));
        assert_eq!(discard.filter_id, FILTER_ID);
        assert_eq!(world.events().last(), Some(&Event::EndpointClosed));
        assert_eq!(world.fake.live_flows(), 0);
    }
}

#[test]
fn a_sent_packet_may_be_the_first_after_the_change() {
    for family in Family::BOTH {
        let mut world = World::new(family);
        let server = world.peer.listen(world.peer_at(PORT)).unwrap();
        let to = world.peer_at(PORT);
        world.host.connect(to, b"one".to_vec()).unwrap();
        world.run();
        world.fake.change_policy();
        // The peer's FIN is reauthorized at the connect layer.
        world.peer.socket(server).close();
        world.run();
        let kept = world.fake.at(Layer::AleAuthConnect, family, false);
        assert_eq!(kept.len(), 2);
        assert_eq!(kept[1].values[12], Value::Uint32(0x4));
        assert!(world.events().contains(&Event::ReauthorizationPassesElsewhere));
    }
}

/// The fields FLAGS and REAUTHORIZE_REASON.
fn reasons(world: &World, layer: Layer) -> Vec<(Value, Value)> {
    let places = if layer == Layer::AleAuthConnect { (12, 28) } else { (11, 29) };
    let kept = world.fake.at(layer, world.family, false);
    kept.iter().map(|kept| (kept.values[places.0].clone(), kept.values[places.1].clone())).collect()
}

#[test]
fn the_first_packet_from_another_interface_is_authorized_again() {
    const AGAIN: (Value, Value) =
        (Value::Uint32(0x4), Value::Uint32(reauthorize_reason::NEW_ARRIVAL_INTERFACE));
    for family in Family::BOTH {
        let other = Interface { luid: 6 << 48 | 0x9000 << 24, index: 9, ..Options::default().interface };
        let (mut world, peer) = established(family);
        for _ in 0..2 {
            world.peer.socket(peer).send_slice(b"elsewhere").unwrap();
            world.now += std::time::Duration::from_millis(1);
            world.peer.egress(world.now);
            while let Some(packet) = world.peer.outbound() {
                world.host.receive_on(other.clone(), &packet, world.now);
            }
            world.run();
            assert_eq!(world.read(peer), b"elsewhere");
        }
        // The first interface is still one of the flow's.
        world.send(peer, b"back");
        let seen = reasons(&world, Layer::AleAuthRecvAccept);
        assert_eq!(seen.len(), 2, "{seen:?}");
        assert_eq!(seen[1], AGAIN);
        let arrival = world.fake.at(Layer::AleAuthRecvAccept, family, false);
        assert!(arrival[1].values.contains(&Value::Uint64(other.luid)));
        assert!(!arrival[0].values.contains(&Value::Uint64(other.luid)));
        assert_documented(&world.records(), &[Event::ReauthorizationPasses]);

        let local = world.host_at(PORT + 2);
        world.host.echo_datagrams(local).unwrap();
        let datagram = super::world::udp(&world, PORT + 2);
        world.host.receive(&datagram, world.now);
        for _ in 0..2 {
            world.host.receive_on(other.clone(), &datagram, world.now);
        }
        let seen = reasons(&world, Layer::AleAuthRecvAccept);
        assert_eq!((seen.len(), &seen[3]), (4, &AGAIN));
        world.fake.block(Layer::AleAuthRecvAccept, false, false);
        world.host.receive_on(Interface { luid: 1, ..other }, &datagram, world.now);
        let expected = [Event::DatagramReauthorizationPasses, Event::DatagramReauthorizationFails];
        assert_documented(&world.records(), &expected);
    }
}

#[test]
fn a_pended_connect_is_authorized_again_when_it_is_completed() {
    for family in Family::BOTH {
        for passes in [true, false] {
            let mut world = World::new(family);
            let server = world.peer.listen(world.peer_at(PORT)).unwrap();
            world.fake.block(Layer::AleAuthConnect, false, true);
            let to = world.peer_at(PORT);
            let id = world.host.connect(to, b"question".to_vec()).unwrap();
            world.run();
            assert_eq!(world.host.outcome(id).unwrap().state, State::Connecting);
            assert!(world.sent.is_empty(), "no SYN before the completion");
            assert!(world.fake.at(Layer::AleAuthConnect, family, true).is_empty(), "absorbed");
            world.fake.permit_all();
            if !passes {
                world.fake.block(Layer::AleAuthConnect, false, false);
            }
            let completed = world.host.complete(id);
            assert_eq!(world.host.complete(id), Err(SocketError::NotPended));
            let seen = reasons(&world, Layer::AleAuthConnect);
            let again = Value::Uint32(reauthorize_reason::CLASSIFY_COMPLETION);
            assert_eq!(seen, [(Value::Uint32(0), Value::Uint32(0)), (Value::Uint32(0x4), again)]);
            if passes {
                completed.unwrap();
                world.run();
                assert_eq!(world.read(server), b"question");
                assert_documented(&world.records(), &[Event::CompletionPasses, Event::AckOutWithData]);
                continue;
            }
            completed.unwrap_err();
            assert_eq!(world.host.outcome(id).unwrap().state, State::Aborted);
            assert_eq!(world.fake.live_flows(), 0);
            assert_documented(&world.records(), &[Event::CompletionFails, Event::PortFreed]);
        }
    }
}
