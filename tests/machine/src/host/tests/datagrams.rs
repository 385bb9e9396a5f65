//! UDP sockets.

use std::time::Duration;

use super::world::{PORT, World, udp};
use crate::host::{Event, Layer, SocketError};
use crate::wire::{Family, Parsed, Transport};

#[test]
fn an_echo_socket_passes_the_documented_layers() {
    for family in Family::BOTH {
        let mut world = World::new(family);
        let local = world.host_at(PORT);
        world.host.echo_datagrams(local).unwrap();
        assert_eq!(world.host.echo_datagrams(local), Err(SocketError::InUse(local)));
        let datagram = udp(&world, PORT);
        for _ in 0..2 {
            let answers = world.probe(&datagram);
            let answer = Parsed::new(&answers[0]).unwrap();
            assert!(answers.len() == 1 && answer.transport == Transport::Udp);
            assert_eq!((answer.source, answer.payload()), (local, &b"anybody?"[..]));
        }
        let expected = [Event::Bind, Event::DatagramIn, Event::DatagramOut];
        super::assert_documented(&world.records(), &expected);
        assert_eq!(world.events()[3], Event::LaterDatagramIn);
        assert_eq!(world.fake.at(Layer::AleAuthRecvAccept, family, false).len(), 1, "once a flow");
        assert_eq!(world.fake.live_flows(), 1);
        world.host.poll(world.now + Duration::from_secs(61));
        assert_eq!(world.fake.live_flows(), 0);
    }
}

#[test]
fn a_filter_can_refuse_the_socket_and_its_datagrams() {
    let mut world = World::new(Family::V4);
    let local = world.host_at(PORT);
    world.fake.block(Layer::AleResourceAssignment, false, false);
    assert!(matches!(world.host.echo_datagrams(local), Err(SocketError::Blocked(..))));
    world.fake.permit_all();
    world.host.echo_datagrams(local).unwrap();
    world.fake.block(Layer::AleAuthRecvAccept, false, false);
    let datagram = udp(&world, PORT);
    assert!(world.probe(&datagram).is_empty());
    assert_eq!(world.fake.live_flows(), 0);
}
