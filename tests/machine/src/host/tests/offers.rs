//! The fields, the metadata and the data offsets of indications.

use super::world::{CLOSED, PEER_PORT, PORT, World};
use crate::host::{Application, Event, Layer, OpenPoints, Options, definition};
use crate::wfp::{AleFields, FlowHandle, Value};
use crate::wire::{Family, Network, TcpFlags};

fn address(family: Family, host: bool) -> Value {
    let Network { near, host: (v4, v6), .. } = Network::default();
    let (v4, v6) = if host { (v4, v6) } else { near };
    match family {
        Family::V4 => Value::Uint32(v4.to_bits()),
        Family::V6 => Value::ByteArray16(v6.octets()),
    }
}

/// A world in which a peer has connected and said "hi".
fn talked(family: Family) -> World {
    let mut world = World::new(family);
    let at = world.host_at(PORT);
    world.host.listen(at, Application::Echo).unwrap();
    let peer = world.connect(PORT);
    world.send(peer, b"hi");
    assert_eq!(world.read(peer), b"hi");
    world
}

#[test]
fn fields_stand_at_their_positions() {
    for family in Family::BOTH {
        let world = talked(family);
        let syn = &world.fake.at(Layer::InboundTransport, family, false)[0];
        let expected = [
            (0, Value::Uint8(6)),
            (1, address(family, true)),
            (2, address(family, false)),
            (3, Value::Uint8(1)),
            (4, Value::Uint16(PORT)),
            (5, Value::Uint16(PEER_PORT)),
            (7, Value::Uint32(7)),
            (9, Value::Uint32(0x100)),
            (14, Value::Uint32(1)),
        ];
        for (index, value) in expected {
            assert_eq!(syn.values[index], value, "INBOUND_TRANSPORT {index}");
        }
        let accept = &world.fake.at(Layer::AleAuthRecvAccept, family, false)[0];
        assert_eq!(accept.values[2], address(family, true));
        assert_eq!(accept.values[6], address(family, false));
        assert_eq!(accept.values[11], Value::Uint32(0));
        let stream = &world.fake.at(Layer::Stream, family, false)[0];
        assert_eq!(stream.values[5], Value::Uint32(1), "the connection's direction");
        for &layer in Layer::ALL {
            for kept in world.fake.at(layer, family, false) {
                assert_eq!(
                    kept.values.len(),
                    definition(layer, family).fields(AleFields::default(), false).len()
                );
            }
        }
    }
}

#[test]
fn data_starts_where_the_layer_documents_it() {
    for (family, ip) in [(Family::V4, 20), (Family::V6, 40)] {
        let world = talked(family);
        let first = |layer: Layer| world.fake.at(layer, family, false)[0].clone();
        let last = |layer: Layer| {
            let mut kept = world.fake.at(layer, family, false);
            kept.retain(|kept| kept.data.as_ref().is_some_and(|(d, _)| d.ends_with(b"hi")));
            kept.pop().unwrap()
        };
        let tcp = first(Layer::InboundIppacket).data.unwrap().0.len();
        assert_eq!(first(Layer::InboundIppacket).data.unwrap().1, ip);
        assert_eq!(first(Layer::InboundTransport).data.unwrap(), (vec![], ip + tcp));
        assert_eq!(first(Layer::AleAuthRecvAccept).data.unwrap().1, ip + tcp);
        assert_eq!(last(Layer::InboundTransport).data.unwrap().0, b"hi");
        let stream = world.fake.at(Layer::Stream, family, false);
        let flags: Vec<_> = stream.iter().map(|kept| kept.stream_flags).collect();
        // RECEIVE and RECEIVE_PUSH, then SEND (fwpsk.h).
        assert_eq!(flags, [Some(0x11), Some(0x1_0000)]);
        assert!(stream.iter().all(|kept| kept.data.as_ref().unwrap().0 == b"hi"));
        let (bytes, before) = last(Layer::OutboundTransport).data.unwrap();
        assert_eq!((&bytes[..2], before), (&PORT.to_be_bytes()[..], 0));
        let (bytes, before) = last(Layer::OutboundIppacket).data.unwrap();
        assert_eq!(bytes[0] >> 4, if family == Family::V4 { 4 } else { 6 });
        assert_eq!(before, 0);
        assert!(first(Layer::AleAuthListen).data.is_none());
    }
}

#[test]
fn metadata_is_what_each_layer_documents() {
    for (family, ip) in [(Family::V4, 20), (Family::V6, 40)] {
        let world = talked(family);
        let at = |layer: Layer, index: usize| world.fake.at(layer, family, false)[index].metadata.clone();
        let ip_layer = at(Layer::InboundIppacket, 0);
        assert_eq!((ip_layer.ip_header_size, ip_layer.compartment_id), (Some(ip), Some(1)));
        assert_eq!(ip_layer.transport_header_size, None);
        let syn = at(Layer::InboundTransport, 0);
        assert_eq!((syn.flow_handle, syn.ale_classify_required), (None, true));
        let ack = at(Layer::InboundTransport, 1);
        assert_eq!((ack.flow_handle, ack.ale_classify_required), (Some(FlowHandle(1)), false));
        let accept = at(Layer::AleAuthRecvAccept, 0);
        assert_eq!(accept.parent_endpoint_handle, syn.transport_endpoint_handle);
        assert_ne!(accept.transport_endpoint_handle, accept.parent_endpoint_handle);
        assert_eq!(accept.transport_endpoint_handle, ack.transport_endpoint_handle);
        assert_eq!(accept.process_id, Some(4242));
        assert_eq!(accept.flow_handle, Some(FlowHandle(1)));
        let established = at(Layer::AleFlowEstablished, 0);
        assert_eq!(established.flow_handle, Some(FlowHandle(1)));
        let out = at(Layer::OutboundTransport, 0);
        assert_eq!((out.ip_header_size, out.flow_handle), (None, Some(FlowHandle(1))));
        assert_eq!(at(Layer::OutboundIppacket, 0).path_mtu, Some(1500));
        assert_eq!(at(Layer::Stream, 0).flow_handle, Some(FlowHandle(1)));
    }
}

#[test]
fn traffic_can_be_declared_loopback_or_secured() {
    let options =
        Options { extra_flags: vec![(World::new(Family::V4).peer_at(0).ip(), 1)], ..Options::default() };
    let mut world = World::with(Family::V4, options, OpenPoints::default());
    let syn = world.segment(CLOSED, TcpFlags::SYN);
    world.probe(&syn);
    let kept = &world.fake.at(Layer::InboundTransport, Family::V4, true)[0];
    assert_eq!(kept.values[9], Value::Uint32(1));
}

#[test]
fn a_block_at_the_stream_layer_takes_the_bytes() {
    let mut world = World::new(Family::V4);
    let at = world.host_at(PORT);
    world.host.listen(at, Application::Echo).unwrap();
    let peer = world.connect(PORT);
    world.fake.block(Layer::Stream, false, false);
    world.send(peer, b"hi");
    assert_eq!(World::resets(&world.sent), 0);
    assert!(world.read(peer).is_empty());
    assert!(!world.events().contains(&Event::DataSent));
}

#[test]
fn echo_requests_pass_ale_once_and_are_answered() {
    for family in Family::BOTH {
        let mut world = World::new(family);
        let mut probe = Vec::new();
        match family {
            Family::V4 => world.ip().icmpv4_echo_request(9, 1).write(&mut probe, b"ping"),
            Family::V6 => world.ip().icmpv6_echo_request(9, 1).write(&mut probe, b"ping"),
        }
        .unwrap();
        assert!(world.probe(&probe)[0].ends_with(b"ping"));
        assert_eq!(world.probe(&probe).len(), 1);
        let expected = [Event::EchoRequestIn, Event::EchoReplyOut];
        super::assert_documented(&world.records(), &expected);
        assert_eq!(world.events()[2], Event::LaterEchoRequestIn);
        let kept = &world.fake.at(Layer::AleAuthRecvAccept, family, false)[0];
        let kind = if family == Family::V4 { 8 } else { 128 };
        assert_eq!(kept.values[4], Value::Uint16(kind), "type at the local port");
        assert_eq!(kept.metadata.icmp_id_and_sequence, Some(9 << 16 | 1));
        assert_eq!(world.fake.live_flows(), 1);
        world.host.poll(world.now + std::time::Duration::from_secs(61));
        assert_eq!(world.fake.live_flows(), 0);
    }
}

#[test]
fn fragments_stop_at_the_ip_layer_until_they_are_whole() {
    let mut world = World::new(Family::V4);
    let whole = world.segment(CLOSED, TcpFlags::SYN);
    let mut parts = Vec::new();
    for (range, more) in [(20..28, true), (28..40, false)] {
        let mut header = etherparse::Ipv4Header::from_slice(&whole).unwrap().0;
        header.more_fragments = more;
        header.dont_fragment = false;
        header.identification = 5;
        header.fragment_offset = ((range.start as u16 - 20) / 8).try_into().unwrap();
        header.set_payload_len(range.len()).unwrap();
        header.header_checksum = header.calc_header_checksum();
        parts.push([header.to_bytes().as_slice(), &whole[range]].concat());
    }
    assert!(world.probe(&parts[0]).is_empty());
    assert_eq!(World::resets(&world.probe(&parts[1])), 1);
    let events = [Event::FragmentIn, Event::FragmentIn, Event::SynNobodyListening, Event::RstOut];
    assert_eq!(world.events(), events);
    let ip = world.fake.at(Layer::InboundIppacket, Family::V4, false);
    let flags: Vec<_> = ip.iter().map(|kept| kept.values[6].clone()).collect();
    assert_eq!(flags, [0x20, 0x20, 0x400].map(Value::Uint32), "IS_FRAGMENT, IS_REASSEMBLED");
    let transport = &world.fake.at(Layer::InboundTransport, Family::V4, true)[0];
    assert_eq!(transport.values[9], Value::Uint32(0x400), "IS_REASSEMBLED");
    super::assert_documented(&world.records(), &[Event::SynNobodyListening]);
}

#[test]
fn packets_for_others_and_garbage_are_dropped() {
    let mut world = World::new(Family::V4);
    let mut foreign = world.segment(PORT, TcpFlags::SYN);
    foreign[19] = 99;
    let mut header = etherparse::Ipv4Header::from_slice(&foreign).unwrap().0;
    header.header_checksum = header.calc_header_checksum();
    foreign[..20].copy_from_slice(header.to_bytes().as_slice());
    assert!(world.probe(&foreign).is_empty());
    assert_eq!(world.events(), [Event::Unusable]);
    for length in 0..foreign.len() {
        assert!(world.probe(&foreign[..length]).is_empty());
    }
    assert_eq!(world.events().len(), 1, "no layer saw what is not IP");
}
