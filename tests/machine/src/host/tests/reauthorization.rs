//! Policy changes while connections are established.

use smoltcp::iface::SocketHandle;

use super::assert_documented;
use super::fake::FILTER_ID;
use super::world::{PORT, World};
use crate::host::{Application, Event, Layer};
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
