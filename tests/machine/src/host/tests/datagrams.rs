//! UDP sockets.

use std::time::Duration;

use super::world::{PORT, World, udp};
use crate::host::{Event, Layer, SocketError};
use crate::wire::{Family, Parsed, Transport, compose};

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

#[test]
fn a_client_sends_first_and_its_flow_is_authorized_once() {
    for family in Family::BOTH {
        let mut world = World::new(family);
        let remote = world.peer_at(PORT);
        let local = world.host.send_datagram(remote, b"question").unwrap();
        let mut answer = Vec::new();
        compose::ip(remote.ip(), local.ip())
            .udp(remote.port(), local.port())
            .write(&mut answer, b"answer")
            .unwrap();
        world.probe(&answer);
        world.host.send_datagram_from(local, remote, b"again").unwrap();
        let expected = [Event::Bind, Event::FirstDatagramOut, Event::LaterDatagramIn, Event::DatagramOut];
        assert_eq!(world.events(), expected);
        assert_eq!(world.fake.at(Layer::AleAuthConnect, family, false).len(), 1);
        // What is sent is authorized again, too. If that fails, the flow ends.
        world.fake.change_policy();
        world.host.send_datagram_from(local, remote, b"again").unwrap();
        world.fake.change_policy();
        world.fake.block(Layer::AleAuthConnect, false, false);
        while world.host.transmit().is_some() {}
        world.host.send_datagram_from(local, remote, b"again").unwrap();
        assert!(world.host.transmit().is_none());
        assert_eq!(
            world.events()[4..],
            [Event::ReauthorizationPassesElsewhere, Event::ReauthorizationFailsElsewhere]
        );
        assert_eq!(world.fake.live_flows(), 0);
        world.host.close_datagrams(local).unwrap();
        assert_eq!(world.events()[6..], [Event::EndpointClosed, Event::PortFreed]);
        super::assert_documented(&world.records(), &expected);
        assert_eq!(world.host.close_datagrams(local), Err(SocketError::NotBound(local)));
        let gone = world.host.send_datagram_from(local, remote, b"again");
        assert_eq!(gone, Err(SocketError::NotBound(local)));
    }
}

#[test]
fn a_client_that_a_filter_refuses_has_no_socket() {
    for layer in [Layer::AleConnectRedirect, Layer::AleAuthConnect] {
        let mut world = World::new(Family::V4);
        world.fake.block(layer, false, false);
        let error = world.host.send_datagram(world.peer_at(PORT), b"question").unwrap_err();
        assert!(matches!(error, SocketError::Blocked(_, name) if name == layer.name()), "{error}");
        assert_eq!(world.events().last(), Some(&Event::PortFreed));
        assert_eq!((world.fake.live_flows(), world.host.transmit()), (0, None));
    }
}
