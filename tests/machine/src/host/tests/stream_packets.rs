//! STREAM_PACKET above and below the transport layers; injected packets that enter
//! there.

use std::sync::Arc;
use std::time::Duration;

use super::assert_documented;
use super::world::{PORT, World, udp};
use crate::host::{Application, Event, Host, Layer, OpenPoints, Options, StreamPackets};
use crate::wfp::{Demand, Engine, Entry, Injection, Value};
use crate::wire::{Family, TcpFlags};

fn world(family: Family, stream_packets: StreamPackets) -> World {
    let open_points = OpenPoints { stream_packets, ..OpenPoints::default() };
    let mut world = World::with(family, Options::default(), open_points);
    let at = world.host_at(PORT);
    world.host.listen(at, Application::Echo).unwrap();
    world
}

#[test]
fn every_segment_of_a_connection_is_shown_above_or_below_the_transport_layer() {
    const PACKET: &str = "STREAM_PACKET";
    let (above, below) = (StreamPackets::AboveTransport, StreamPackets::BelowTransport);
    for family in Family::BOTH {
        for at in [StreamPackets::NotShown, above, below] {
            let mut world = world(family, at);
            let peer = world.connect(PORT);
            world.send(peer, b"hi");
            assert_eq!(world.read(peer), b"hi");
            let (inbound, outbound) = ("INBOUND_TRANSPORT", "OUTBOUND_TRANSPORT");
            let place = |event, transport| {
                let layers = world.layers(event);
                let transport = layers.iter().position(|name| name == transport).unwrap();
                layers.iter().position(|name| name == PACKET).map(|packet| packet > transport)
            };
            let expected = |inbound: bool| match at {
                StreamPackets::NotShown => None,
                _ => Some((at == above) == inbound),
            };
            for event in [Event::SynIn, Event::AckIn, Event::DataReceived] {
                assert_eq!(place(event, inbound), expected(true), "{event} {at:?}");
            }
            for event in [Event::SynAckOut, Event::DataSent] {
                assert_eq!(place(event, outbound), expected(false), "{event} {at:?}");
            }
            assert_documented(&world.records(), &[Event::DataReceived, Event::DataSent]);
            let shown = world.fake.at(Layer::StreamPacket, family, false);
            let ways = shown.iter().map(|kept| kept.values[7].clone());
            let inbound = ways.filter(|way| *way == Value::Uint32(1)).count();
            assert_eq!((shown.is_empty(), inbound == 0), (at == StreamPackets::NotShown, shown.is_empty()));
            for kept in &shown {
                let is_inbound = kept.values[7] == Value::Uint32(1);
                assert_eq!(kept.values[8], Value::Uint32(0), "FLAGS");
                assert_eq!(kept.metadata.ip_header_size.is_some(), is_inbound);
                // Inbound at the payload, outbound at the transport header.
                let (bytes, before) = kept.data.as_ref().unwrap();
                assert_eq!(*before > 0, is_inbound);
                assert!(is_inbound || bytes[..2] == PORT.to_be_bytes());
            }
        }
    }
}

#[test]
fn a_block_there_drops_the_segment() {
    for family in Family::BOTH {
        let mut world = world(family, StreamPackets::AboveTransport);
        world.fake.block(Layer::StreamPacket, false, false);
        let syn = world.segment(PORT, TcpFlags::SYN);
        assert!(world.probe(&syn).is_empty());
        assert_eq!(world.layers(Event::SynIn), ["INBOUND_IPPACKET", "INBOUND_TRANSPORT", "STREAM_PACKET"]);
        assert_documented(&world.records(), &[]);
    }
}

/// A packet that a driver injects from the transport layer, and the layers that it passes.
#[test]
fn an_injected_packet_enters_at_the_bottom_or_where_it_was_injected() {
    for family in Family::BOTH {
        for (at_transport, bottom, first) in [
            (false, false, "INBOUND_IPPACKET"),
            (true, true, "INBOUND_IPPACKET"),
            (true, false, "INBOUND_TRANSPORT"),
        ] {
            let open_points =
                OpenPoints { received_injection_from_the_bottom: bottom, ..OpenPoints::default() };
            let engine = Engine::new();
            let mut host = Host::new(Arc::clone(&engine) as _, Options::default(), open_points);
            let blank = World::new(family);
            host.echo_datagrams(blank.host_at(PORT)).unwrap();
            let entry = Entry::Receive { interface: 7, sub_interface: 0, at_transport };
            let injections = Some([Injection { handle: 1, context: 2 }].into());
            let packets = vec![udp(&blank, PORT)];
            engine.demands.demand(Demand::Inject { entry, packets, injections }, |status| {
                assert!(status.is_success());
            });
            host.poll(Duration::from_millis(1));
            assert!(host.transmit().is_some(), "the echo");
            let record = host.log().records().find(|record| record.event == Event::DatagramIn).unwrap();
            let layers: Vec<_> = record.layers().collect();
            assert!(layers[0].starts_with(first), "{layers:?}");
        }
    }
}
