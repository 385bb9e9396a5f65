//! Interfaces and profiles that change while flows are alive, and the other reasons to
//! authorize a flow again.

use smoltcp::iface::SocketHandle;

use super::super::REAUTHORIZE_REASONS;
use super::assert_documented;
use super::world::{PORT, World, udp};
use crate::host::{Application, Event, Interface, Layer, OpenPoints, Options, reauthorize_reason};
use crate::wfp::Value;
use crate::wire::Family;

const ACCEPT: Layer = Layer::AleAuthRecvAccept;
/// Positions of FLAGS, ORIGINAL_PROFILE_ID, CURRENT_PROFILE_ID and REAUTHORIZE_REASON.
const FIELDS: [usize; 4] = [11, 27, 28, 29];
const REAUTHORIZE: u32 = 0x4;

fn other() -> Interface {
    Options::default().other_interface
}

fn established(family: Family, open_points: OpenPoints) -> (World, SocketHandle) {
    let mut world = World::with(family, Options::default(), open_points);
    let at = world.host_at(PORT);
    world.host.listen(at, Application::Echo).unwrap();
    let peer = world.connect(PORT);
    world.send(peer, b"before");
    assert_eq!(world.read(peer), b"before");
    (world, peer)
}

/// What ALE_AUTH_RECV_ACCEPT was shown, without the first authorizations.
fn again(world: &World) -> Vec<[u32; 4]> {
    let shown = world.fake.at(ACCEPT, world.family, false).into_iter();
    let values = shown.map(|kept| {
        FIELDS.map(|at| match kept.values[at] {
            Value::Uint32(number) => number,
            ref other => panic!("{other:?}"),
        })
    });
    values.filter(|[flags, ..]| flags & REAUTHORIZE != 0).collect()
}

#[test]
fn each_reason_of_the_headers_is_shown_with_the_next_packet() {
    for family in Family::BOTH {
        let (mut world, peer) = established(family, OpenPoints::default());
        for reason in REAUTHORIZE_REASONS {
            world.host.ask_again(reason);
            let before = again(&world).len();
            world.send(peer, b"after");
            assert_eq!(world.read(peer), b"after");
            world.send(peer, b"later");
            assert_eq!(world.read(peer), b"later");
            assert_eq!(again(&world)[before..], [[REAUTHORIZE, 1, 1, reason]], "{reason:#x}");
        }
        assert_documented(&world.records(), &[Event::ReauthorizationPasses]);
        // Two reasons come together.
        world.host.ask_again(reauthorize_reason::SOCKET_PROPERTY_CHANGED);
        world.fake.change_policy();
        world.send(peer, b"after");
        assert_eq!(again(&world).last(), Some(&[REAUTHORIZE, 1, 1, 0x81]));
    }
}

#[test]
fn the_numbers_of_the_reasons_are_those_of_the_headers() {
    const MACROS: &str = include_str!("../../../facts/macros.json");
    let macros: serde_json::Value = serde_json::from_str(MACROS).unwrap();
    let prefix = "FWP_CONDITION_REAUTHORIZE_REASON_";
    let known = macros.as_object().unwrap().iter().filter(|(name, _)| name.starts_with(prefix));
    let mut known: Vec<u64> = known.map(|(_, value)| value[0].as_u64().unwrap()).collect();
    known.sort_unstable();
    assert_eq!(known, REAUTHORIZE_REASONS.map(u64::from));
}

#[test]
fn a_changed_profile_is_a_reason_for_connections_and_datagrams() {
    for family in Family::BOTH {
        let (mut world, peer) = established(family, OpenPoints::default());
        let (local, datagram) = (world.host_at(PORT), udp(&world, PORT));
        world.host.echo_datagrams(local).unwrap();
        world.probe(&datagram);
        world.host.change_profile(1);
        world.send(peer, b"same");
        assert_eq!(again(&world), [[0; 4]; 0], "nothing has changed");
        world.host.change_profile(3);
        world.send(peer, b"after");
        world.probe(&datagram);
        // The original profile stays that of the first authorization.
        let crossing = reauthorize_reason::PROFILE_CROSSING;
        assert_eq!(again(&world), [[REAUTHORIZE, 1, 3, crossing]; 2]);
        world.host.change_profile(2);
        world.fake.block(ACCEPT, false, false);
        world.probe(&datagram);
        assert_eq!(again(&world)[2..], [[REAUTHORIZE, 1, 2, crossing]]);
        let (passes, fails) = (Event::DatagramReauthorizationPasses, Event::DatagramReauthorizationFails);
        assert_documented(&world.records(), &[Event::ReauthorizationPasses, passes, fails]);
    }
}

#[test]
fn another_way_out_is_a_reason() {
    for family in Family::BOTH {
        let (mut world, peer) = established(family, OpenPoints::default());
        world.host.leave_by(other());
        world.send(peer, b"after");
        assert_eq!(world.read(peer), b"after");
        let both = reauthorize_reason::NEW_ARRIVAL_INTERFACE | reauthorize_reason::NEW_NEXTHOP_INTERFACE;
        assert_eq!(again(&world), [[REAUTHORIZE, 1, 1, both]]);
        let sent = world.fake.at(Layer::OutboundTransport, family, false);
        assert_eq!(sent.last().unwrap().values[7], Value::Uint32(9), "INTERFACE_INDEX");
    }
}

#[test]
fn each_packet_can_be_a_reason() {
    for family in Family::BOTH {
        let open_points = OpenPoints { always_reauthorized: true, ..OpenPoints::default() };
        let (mut world, peer) = established(family, open_points);
        for _ in 0..REAUTHORIZE_REASONS.len() {
            world.send(peer, b"again");
            assert_eq!(world.read(peer), b"again");
        }
        let seen = again(&world);
        assert!(
            REAUTHORIZE_REASONS.iter().all(|reason| seen.iter().any(|[.., it]| it == reason)),
            "{seen:?}"
        );
        let received = world.fake.at(Layer::InboundTransport, family, false).len();
        assert!(seen.len() >= received - 1, "{} of {received} packets", seen.len());
    }
}

/// The segments of the peer that wait, received on an interface.
fn receive_on(world: &mut World, interface: &Interface) {
    world.now += std::time::Duration::from_millis(1);
    world.peer.egress(world.now);
    while let Some(packet) = world.peer.outbound() {
        world.host.receive_on(interface.clone(), &packet, world.now);
    }
    world.run();
}

#[test]
fn nothing_arrives_on_an_interface_that_has_gone_away() {
    for family in Family::BOTH {
        let (mut world, peer) = established(family, OpenPoints::default());
        let datagram = udp(&world, PORT + 1);
        let count = |world: &World| world.fake.at(Layer::InboundIppacket, family, false).len();
        world.peer.socket(peer).send_slice(b"elsewhere").unwrap();
        receive_on(&mut world, &other());
        assert_eq!(world.read(peer), b"elsewhere");
        let before = count(&world);
        world.host.remove_interface(&other());
        world.host.receive_on(other(), &datagram, world.now);
        assert_eq!(count(&world), before);
        // The connection stays, and the interface is new to it when it is back.
        world.send(peer, b"here");
        assert_eq!(world.read(peer), b"here");
        world.host.restore_interface(&other());
        world.peer.socket(peer).send_slice(b"elsewhere").unwrap();
        receive_on(&mut world, &other());
        assert_eq!(world.read(peer), b"elsewhere");
        let arrival = reauthorize_reason::NEW_ARRIVAL_INTERFACE;
        assert_eq!(again(&world), [[REAUTHORIZE, 1, 1, arrival]; 2]);
    }
}

#[test]
fn with_its_own_interface_the_host_loses_its_flows_and_what_is_under_way() {
    for family in Family::BOTH {
        let (mut world, peer) = established(family, OpenPoints::default());
        let (local, datagram) = (world.host_at(PORT), udp(&world, PORT));
        world.host.echo_datagrams(local).unwrap();
        world.host.receive(&datagram, world.now);
        assert_eq!((world.fake.live_flows(), world.host.flow_count()), (2, 2));
        let own = Options::default().interface;
        world.host.remove_interface(&own);
        world.host.remove_interface(&own);
        assert!(world.host.transmit().is_none(), "the echo is lost");
        assert_eq!((world.fake.live_flows(), world.host.flow_count()), (0, 0));
        assert_eq!(world.events().iter().filter(|event| **event == Event::EndpointClosed).count(), 1);
        let to = world.peer_at(PORT);
        assert!(world.host.connect(to, Vec::new()).is_err() && world.host.send_datagram(to, b"x").is_err());
        assert_eq!(world.probe(&datagram), Vec::<Vec<u8>>::new());
        // The listener is still there.
        world.host.restore_interface(&own);
        world.peer.remove(peer);
        let peer = world.connect(PORT);
        world.send(peer, b"again");
        assert_eq!(world.read(peer), b"again");
        world.host.send_datagram(to, b"x").unwrap();
        assert_documented(&world.records(), &[Event::EndpointClosed, Event::FirstDatagramOut]);
    }
}
