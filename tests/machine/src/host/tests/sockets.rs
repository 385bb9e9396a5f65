//! Connections in both directions, from their beginning to their end.

use super::assert_documented;
use super::world::{CLOSED, PORT, World};
use crate::host::{Application, Course, Event, Layer, Lifecycles, OpenPoints, Options, SocketError, State};
use crate::wfp::Value;
use crate::wire::Family;

#[test]
fn a_server_connection_passes_the_documented_layers() {
    for family in Family::BOTH {
        let mut world = World::new(family);
        let at = world.host_at(PORT);
        world.host.listen(at, Application::Echo).unwrap();
        let peer = world.connect(PORT);
        assert_eq!(
            world.events(),
            [Event::Bind, Event::Listen, Event::SynIn, Event::SynAckOut, Event::AckIn, Event::Accept]
        );
        world.send(peer, b"hello");
        assert_eq!(world.read(peer), b"hello");
        assert_eq!(world.events()[6..], [Event::DataReceived, Event::DataSent, Event::LaterAckIn]);
        world.peer.socket(peer).close();
        world.run();
        assert_eq!(
            world.events()[9..],
            [Event::FinIn, Event::FinOut, Event::LaterAckIn, Event::EndpointClosed]
        );
        assert_eq!(world.fake.live_flows(), 0);
        world.host.unlisten(at).unwrap();
        assert_eq!(world.events()[13..], [Event::EndpointClosed, Event::PortFreed]);
        assert_documented(
            &world.records(),
            &[
                Event::Bind,
                Event::Listen,
                Event::SynIn,
                Event::SynAckOut,
                Event::AckIn,
                Event::DataReceived,
                Event::DataSent,
                Event::EndpointClosed,
                Event::PortFreed,
            ],
        );
        assert_eq!(world.layers(Event::DataSent), ["STREAM", "OUTBOUND_TRANSPORT", "OUTBOUND_IPPACKET"]);
        let course = in_order(&world, "TCP, server");
        let order = "bind, listen, SYN in, SYN-ACK out, ACK in, the server can accept, data received, data sent, \
                     FIN in, FIN out, endpoint closed";
        assert!(course.seen.contains(order), "{course:?}");
    }
}

#[test]
fn a_client_connection_passes_the_documented_layers() {
    for family in Family::BOTH {
        let mut world = World::new(family);
        let server = world.peer.listen(world.peer_at(PORT)).unwrap();
        let to = world.peer_at(PORT);
        let id = world.host.connect(to, b"question".to_vec()).unwrap();
        world.run();
        assert_eq!(
            world.events()[..6],
            [
                Event::Bind,
                Event::Connect,
                Event::SynOut,
                Event::SynAckIn,
                Event::AckOutWithData,
                Event::LaterAckIn
            ]
        );
        assert_eq!(world.read(server), b"question");
        assert_eq!(world.host.outcome(id).unwrap().state, State::Open);
        world.send(server, b"answer");
        world.peer.socket(server).close();
        world.run();
        let outcome = world.host.outcome(id).unwrap();
        assert_eq!(outcome.state, State::Closed);
        assert_eq!(outcome.received, b"answer");
        assert_eq!(world.fake.live_flows(), 0);
        let events = [
            Event::Bind,
            Event::Connect,
            Event::SynOut,
            Event::SynAckIn,
            Event::AckOutWithData,
            Event::DataReceived,
            Event::FinIn,
            Event::FinOut,
            Event::EndpointClosed,
            Event::PortFreed,
        ];
        assert_documented(&world.records(), &events);
        // The acknowledgement of the answer is not the handshake's.
        assert!(world.events().contains(&Event::LaterAckOut));
        assert!(!world.events().contains(&Event::AckOut));
        in_order(&world, "TCP, client");
    }
}

#[test]
fn the_handshakes_ack_is_sent_alone_without_data() {
    for family in Family::BOTH {
        let mut world = World::new(family);
        world.peer.listen(world.peer_at(PORT)).unwrap();
        let to = world.peer_at(PORT);
        world.host.connect(to, Vec::new()).unwrap();
        world.run();
        assert_documented(&world.records(), &[Event::SynAckIn, Event::AckOut]);
        in_order(&world, "TCP, client");
    }
}

#[test]
fn much_data_is_one_indication_and_many_segments() {
    let mut world = World::new(Family::V6);
    let at = world.host_at(PORT);
    world.host.listen(at, Application::Http).unwrap();
    let peer = world.connect(PORT);
    world.send(peer, b"GET /bytes/100000 HTTP/1.1\r\nConnection: close\r\n\r\n");
    let mut got = 0;
    loop {
        let bytes = world.read(peer);
        if bytes.is_empty() {
            break;
        }
        got += bytes.len();
        world.run();
    }
    assert!(got > 100_000 && got < 101_000, "{got}");
    assert_documented(&world.records(), &[Event::DataSent]);
    let records = world.records();
    let sent = records.iter().filter(|r| r.event == Event::DataSent);
    assert_eq!(sent.clone().count(), 4, "chunks of 32 KB");
    assert!(sent.clone().all(|record| record.steps.len() > 1));
    assert!(sent.map(|record| record.steps.len()).max() > Some(20));
}

#[test]
fn refusals_are_returned_to_the_caller() {
    for (layer, discard) in
        [(Layer::AleBindRedirect, 0), (Layer::AleResourceAssignment, 1), (Layer::AleAuthListen, 1)]
    {
        let mut world = World::new(Family::V4);
        world.fake.block(layer, false, false);
        let at = world.host_at(PORT);
        let error = world.host.listen(at, Application::Hold).unwrap_err();
        assert!(matches!(error, SocketError::Blocked(_, name) if name == layer.name()));
        if discard == 1 {
            assert_eq!(world.fake.at(layer, Family::V4, true).len(), 1);
        }
        world.fake.permit_all();
        world.host.listen(at, Application::Hold).unwrap();
        assert_eq!(world.host.listen(at, Application::Hold), Err(SocketError::InUse(at)));
    }
    for layer in [Layer::AleConnectRedirect, Layer::AleAuthConnect] {
        let mut world = World::new(Family::V4);
        world.fake.block(layer, false, false);
        let to = world.peer_at(PORT);
        let error = world.host.connect(to, Vec::new()).unwrap_err();
        assert!(matches!(error, SocketError::Blocked(_, name) if name == layer.name()));
        assert_eq!(world.fake.live_flows(), 0);
        assert!(world.host.transmit().is_none(), "no SYN");
        assert_eq!(world.events().last(), Some(&Event::PortFreed));
    }
}

#[test]
fn a_refused_or_reset_connection_ends_its_flow() {
    let mut world = World::new(Family::V4);
    let to = world.peer_at(CLOSED);
    let id = world.host.connect(to, Vec::new()).unwrap();
    world.run();
    assert_eq!(world.host.outcome(id).unwrap().state, State::Aborted);

    let at = world.host_at(PORT);
    world.host.listen(at, Application::Hold).unwrap();
    let peer = world.connect(PORT);
    assert_eq!(world.fake.live_flows(), 1);
    world.peer.socket(peer).abort();
    world.run();
    assert_eq!(world.layers(Event::RstIn), ["INBOUND_IPPACKET", "INBOUND_TRANSPORT", "STREAM"]);
    assert_eq!(world.fake.live_flows(), 0);
    assert_eq!(world.events().last(), Some(&Event::EndpointClosed));
}

#[test]
fn a_half_open_scan_leaves_nothing() {
    let mut world = World::new(Family::V4);
    let at = world.host_at(PORT);
    world.host.listen(at, Application::Hold).unwrap();
    let syn = world.segment(PORT, crate::wire::TcpFlags::SYN);
    assert_eq!(world.probe(&syn).len(), 1);
    assert_eq!(world.fake.live_flows(), 1);
    // The scanner's RST has the sequence number after its SYN.
    let mut reset = Vec::new();
    world.ip().tcp(50_000, PORT, 1001, 0).rst().write(&mut reset, &[]).unwrap();
    assert!(world.probe(&reset).is_empty());
    assert_eq!(world.fake.live_flows(), 0);
}

#[test]
fn a_half_open_connection_is_closed_or_not() {
    for half_open_closure in [true, false] {
        let open_points = OpenPoints { half_open_closure, ..OpenPoints::default() };
        let mut world = World::with(Family::V6, Options::default(), open_points);
        let at = world.host_at(PORT);
        world.host.listen(at, Application::Hold).unwrap();
        let syn = world.segment(PORT, crate::wire::TcpFlags::SYN);
        assert_eq!(world.probe(&syn).len(), 1);
        world.host.poll(world.now + std::time::Duration::from_secs(60));
        assert_eq!(world.fake.live_flows(), 0);
        let closed = world.events().iter().filter(|event| **event == Event::EndpointClosed).count();
        assert_eq!(closed, usize::from(half_open_closure));
        let course = in_order(&world, "TCP, server");
        assert_eq!((course.begun, course.complete), (1, 0));
    }
}

#[test]
fn a_bind_to_port_0_shows_the_selected_port_or_0() {
    for selected_port_at_assignment in [true, false] {
        let open_points = OpenPoints { selected_port_at_assignment, ..OpenPoints::default() };
        let mut world = World::with(Family::V4, Options::default(), open_points);
        let local = world.host.send_datagram(world.peer_at(PORT), b"question").unwrap();
        let port = |layer| world.fake.at(layer, Family::V4, false)[0].values[4].clone();
        let selected = if selected_port_at_assignment { local.port() } else { 0 };
        assert_eq!(port(Layer::AleResourceAssignment), Value::Uint16(selected));
        // A callout may still choose another port there.
        assert_eq!(port(Layer::AleBindRedirect), Value::Uint16(0));
    }
}

#[test]
fn a_server_gets_no_connection_that_a_filter_refused() {
    for layer in [Layer::AleAuthRecvAccept, Layer::AleFlowEstablished] {
        let mut world = World::new(Family::V4);
        let at = world.host_at(PORT);
        world.host.listen(at, Application::Echo).unwrap();
        world.fake.block(layer, false, false);
        world.connect(PORT);
        assert!(world.events().contains(&Event::SynIn) && !world.events().contains(&Event::Accept));
        assert_documented(&world.records(), &[Event::SynIn]);
    }
}

/// Panics unless events of a lifecycle came in the documented order. Returns what was
/// seen.
fn in_order(world: &World, name: &str) -> Course {
    let mut lifecycles = Lifecycles::default();
    world.records().iter().for_each(|record| lifecycles.note(record));
    let courses = lifecycles.courses();
    let (_, course) =
        courses.into_iter().find(|(lifecycle, _)| lifecycle.name == name).expect("the lifecycle is met");
    assert_eq!(course.deviation, None, "{course:?}");
    course
}

#[test]
fn an_idle_connection_stays_and_a_half_open_one_is_given_up_silently() {
    let mut world = World::new(Family::V4);
    let at = world.host_at(PORT);
    world.host.listen(at, Application::Echo).unwrap();
    let peer = world.connect(PORT);
    let syn = world.segment(PORT, crate::wire::TcpFlags::SYN);
    assert_eq!(world.probe(&syn).len(), 1);
    assert_eq!(world.fake.live_flows(), 2);
    let mut sent = Vec::new();
    for _ in 0..120 {
        world.now += std::time::Duration::from_secs(1);
        world.host.poll(world.now);
        sent.extend(std::iter::from_fn(|| world.host.transmit()));
    }
    assert_eq!(World::resets(&sent), 0);
    assert_eq!(world.fake.live_flows(), 1);
    world.send(peer, b"still there");
    assert_eq!(world.read(peer), b"still there");
}

#[test]
fn a_peer_that_goes_away_is_given_up() {
    let mut world = World::new(Family::V4);
    let at = world.host_at(PORT);
    world.host.listen(at, Application::Echo).unwrap();
    let peer = world.connect(PORT);
    world.peer.socket(peer).send_slice(b"hi").unwrap();
    world.peer.egress(world.now);
    while let Some(packet) = world.peer.outbound() {
        world.host.receive(&packet, world.now);
    }
    for seconds in 1..=61 {
        assert_eq!(world.fake.live_flows(), 1, "after {seconds} s");
        world.host.poll(world.now + std::time::Duration::from_secs(seconds));
    }
    assert_eq!(world.fake.live_flows(), 0);
    assert_documented(&world.records(), &[Event::DataSent, Event::EndpointClosed]);
}
