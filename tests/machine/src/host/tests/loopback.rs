//! Packets that the host sends to itself.

use std::time::Duration;

use super::assert_documented;
use super::fake::Kept;
use super::world::{PORT, World};
use crate::host::layers::Field;
use crate::host::scene::flag;
use crate::host::{Application, Event, Layer, OpenPoints, Options, State, definition};
use crate::wfp::{AleFields, Value};
use crate::wire::{Family, compose};

/// The flags of a request at a layer.
fn flags(layer: Layer, family: Family, kept: &Kept) -> u32 {
    let fields = definition(layer, family).fields(AleFields::default(), false);
    let at = fields.iter().position(|field| *field == Field::Flags).expect("the layer has flags");
    match kept.values[at] {
        Value::Uint32(flags) => flags,
        ref other => panic!("{other:?}"),
    }
}

#[test]
fn a_connection_to_the_host_itself_stays_in_it_and_every_layer_says_loopback() {
    for family in Family::BOTH {
        let mut world = World::new(family);
        let server = world.host_at(PORT);
        world.host.listen(server, Application::Http).unwrap();
        let id = world.host.connect(server, b"GET / HTTP/1.0\r\n\r\n".to_vec()).unwrap();
        world.run();
        assert!(world.sent.is_empty(), "{family}: {} packets to the network", world.sent.len());
        let outcome = world.host.outcome(id).unwrap();
        assert_eq!(outcome.state, State::Closed, "{family}");
        assert!(outcome.received.starts_with(b"HTTP/1.1 200 OK"), "{family}");
        let wanted = [Event::SynOut, Event::SynIn, Event::SynAckOut, Event::SynAckIn, Event::DataReceived];
        assert_documented(&world.records(), &wanted);
        for layer in [
            Layer::AleAuthConnect,
            Layer::OutboundTransport,
            Layer::OutboundIppacket,
            Layer::InboundIppacket,
            Layer::InboundTransport,
            Layer::AleAuthRecvAccept,
            Layer::AleFlowEstablished,
            Layer::Stream,
        ] {
            let kept = world.fake.at(layer, family, false);
            assert!(!kept.is_empty(), "{family} {layer:?}");
            for kept in kept {
                assert_ne!(flags(layer, family, &kept) & flag::IS_LOOPBACK, 0, "{family} {layer:?}");
            }
        }
        let bind = &world.fake.at(Layer::AleResourceAssignment, family, false)[0];
        assert_eq!(flags(Layer::AleResourceAssignment, family, bind) & flag::IS_LOOPBACK, 0, "{family}");
    }
}

#[test]
fn a_packet_from_the_network_that_claims_the_hosts_address_is_no_loopback() {
    for family in Family::BOTH {
        let mut world = World::new(family);
        let own = world.host_at(0).ip();
        let mut packet = Vec::new();
        compose::ip(own, own).udp(5000, 6000).write(&mut packet, b"mine?").unwrap();
        assert!(world.probe(&packet).is_empty());
        let kept = world.fake.at(Layer::InboundIppacket, family, false);
        assert_eq!(flags(Layer::InboundIppacket, family, &kept[0]) & flag::IS_LOOPBACK, 0, "{family}");
    }
}

/// Two sockets that answer each other for ever must not keep the host from the network.
#[test]
fn sockets_that_answer_each_other_leave_the_network_its_turn() {
    for family in Family::BOTH {
        let mut world =
            World::with(family, Options { log_limit: 16, ..Options::default() }, OpenPoints::default());
        let (one, other) = (world.host_at(7), world.host_at(8));
        world.host.echo_datagrams(one).unwrap();
        world.host.echo_datagrams(other).unwrap();
        world.host.send_datagram_from(one, other, b"again").unwrap();
        for turn in 1..4 {
            assert_eq!(world.host.poll_delay(), Some(Duration::ZERO), "{family}, turn {turn}");
            world.host.poll(Duration::from_millis(turn));
        }
        assert_eq!(world.host.transmit(), None);
    }
}
