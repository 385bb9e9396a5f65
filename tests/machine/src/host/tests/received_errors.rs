//! ICMP errors that the host receives.

use super::world::{PORT, World};
use crate::host::answer::{self, Problem};
use crate::host::{Event, Layer, OpenPoints, Options};
use crate::wfp::Value;
use crate::wire::{Family, Parsed};

const LAYER: Layer = Layer::InboundIcmpError;

/// A datagram of the host, and the error that answers it.
fn refused(world: &mut World) -> Vec<u8> {
    let to = world.peer_at(PORT);
    world.host.send_datagram(to, b"anybody?").unwrap();
    let sent = world.host.transmit().unwrap();
    answer::error(&Parsed::new(&sent).unwrap(), Problem::PortUnreachable).unwrap()
}

#[test]
fn an_error_shows_the_packet_that_it_quotes() {
    for (family, ip, kind) in [(Family::V4, 20, (3, 3)), (Family::V6, 40, (1, 4))] {
        let mut world = World::new(family);
        let error = refused(&mut world);
        assert!(world.probe(&error).is_empty());
        assert_eq!(world.layers(Event::IcmpErrorIn), ["INBOUND_IPPACKET", "INBOUND_ICMP_ERROR"]);
        let shown = &world.fake.at(LAYER, family, false)[0];
        let remote = match world.peer_at(0).ip() {
            std::net::IpAddr::V4(address) => Value::Uint32(address.to_bits()),
            std::net::IpAddr::V6(address) => Value::ByteArray16(address.octets()),
        };
        let port =
            world.records().iter().find(|record| record.event == Event::FirstDatagramOut).unwrap().ends;
        let expected = [
            (0, Value::Uint8(17)),
            (2, remote.clone()),
            (3, remote),
            (4, Value::Uint8(1)),
            (5, Value::Uint16(port.local.port())),
            (6, Value::Uint16(PORT)),
            (8, Value::Uint16(kind.0)),
            (9, Value::Uint16(kind.1)),
            (18, Value::Uint32(0)),
            (21, Value::Uint32(1)),
        ];
        for (index, value) in expected {
            assert_eq!(shown.values[index], value, "{family} {index}");
        }
        let (bytes, before) = shown.data.clone().unwrap();
        assert_eq!((before, bytes[0] >> 4), (ip + 8, if family == Family::V4 { 4 } else { 6 }));
        assert_eq!(shown.metadata.ip_header_size, Some(ip as u32 + 8));
        assert!(shown.metadata.transport_endpoint_handle.is_some() && shown.metadata.flow_handle.is_none());
        world.fake.block(LAYER, false, false);
        world.probe(&error);
        let layers = ["INBOUND_IPPACKET", "INBOUND_ICMP_ERROR", "INBOUND_ICMP_ERROR_DISCARD"];
        assert_eq!(world.layers(Event::IcmpErrorIn), layers);
    }
}

#[test]
fn the_transport_layer_may_show_it_first() {
    for family in Family::BOTH {
        let open_points = OpenPoints { icmp_error_at_transport: true, ..OpenPoints::default() };
        let mut world = World::with(family, Options::default(), open_points);
        let error = refused(&mut world);
        world.probe(&error);
        let layers = ["INBOUND_IPPACKET", "INBOUND_TRANSPORT", "INBOUND_ICMP_ERROR"];
        assert_eq!(world.layers(Event::IcmpErrorIn), layers);
        world.fake.block(Layer::InboundTransport, false, false);
        world.probe(&error);
        assert_eq!(world.fake.at(LAYER, family, false).len(), 1);
    }
}

#[test]
fn an_error_about_another_hosts_packet_or_about_nothing_goes_no_further() {
    for family in Family::BOTH {
        let mut world = World::new(family);
        let error = refused(&mut world);
        // The last byte of the address, and one that is not 0.
        let (quoted_source, earlier) = match family {
            Family::V4 => (20 + 8 + 12 + 3, 20 + 8 + 12 + 1),
            Family::V6 => (40 + 8 + 8 + 15, 40 + 8 + 8 + 1),
        };
        // The checksum covers the quoted bytes.
        let mut foreign = error.clone();
        foreign[quoted_source] += 1;
        foreign[earlier] -= 1;
        assert!(Parsed::new(&foreign).unwrap().checksum_valid());
        world.probe(&foreign);
        assert_eq!(world.layers(Event::IcmpErrorIn), ["INBOUND_IPPACKET"]);
        for length in quoted_source - 15..error.len() - 1 {
            let parsed = Parsed::new(&error).unwrap();
            let cut = Parsed { bytes: &error[..length], ..parsed };
            // It never reads behind the end.
            let _quoted = crate::host::received_error::quoted(&cut);
        }
        assert!(world.fake.at(LAYER, family, false).is_empty());
    }
}
