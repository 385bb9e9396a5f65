//! Tests of what connections and endpoints have passed.

use super::*;
use crate::logic::order::ties::SETTLED_MS;
use crate::logic::protocol::{TCP, UDP};

/// A table and a clock.
struct World {
    sets: Vec<TieSet>,
    common: Common,
    now: u64,
}

impl World {
    /// A check that has settled.
    fn new() -> Self {
        let mut world = Self {
            sets: (0..TIE_SETS).map(|_| TieSet::default()).collect(),
            common: Common::default(),
            now: 1_000,
        };
        assert_eq!(world.see("IN", Direction::Inbound, Kinds::SYN, 1), None);
        world.now += 100_000;
        world
    }

    fn ties(&self) -> Ties<'_> {
        Ties::new(&self.sets, &self.common, 7, || self.now)
    }

    fn passing(short: &str, direction: Direction, kinds: Kinds, pair: u64) -> Passing {
        Passing {
            layer: layer(short),
            direction,
            kinds,
            protocol: if kinds == Kinds::DATAGRAM { UDP } else { TCP },
            pair,
            endpoints: [0; 2],
            numbers: Some(Numbers { payload: Some(0), ..Numbers::default() }),
            reauthorizes: false,
            is_unclear: false,
            is_unauthorized: false,
            is_for_one: true,
            stream: (0, false),
            processor: 1,
        }
    }

    /// Shows a packet. Returns the layer that is missing.
    fn see(&self, short: &str, direction: Direction, kinds: Kinds, pair: u64) -> Option<LayerIndex> {
        let told = self.ties().see(&Self::passing(short, direction, kinds, pair), || self.now);
        told.deviation.and_then(|deviation| deviation.expected)
    }
}

/// In a settled check, a SYN without INBOUND_IPPACKET is reported; not in a new
/// one, and not where a tie was lost.
#[test]
fn what_was_not_seen_from_its_beginning_tells_nothing() {
    let world = World::new();
    let inbound = |world: &World, short, pair| world.see(short, Direction::Inbound, Kinds::SYN, pair);
    assert_eq!(inbound(&world, "IN", 1), None, "the check has not seen its beginning");
    assert_eq!(inbound(&world, "IN", 2), Some(layer("IN_IP")));
    assert_eq!(inbound(&world, "IN_IP", 3), None);
    assert_eq!(inbound(&world, "IN", 3), None);
    // Another check begins.
    let ties = Ties::new(&world.sets, &world.common, 8, || world.now);
    let told = ties.see(&World::passing("IN", Direction::Inbound, Kinds::SYN, 4), || world.now);
    assert_eq!(told, Told::default());
}

/// A flood that fills the table makes no false report.
#[test]
fn a_full_table_tells_nothing() {
    let world = World::new();
    for pair in 1..200_000 {
        assert_eq!(world.see("IN_IP", Direction::Inbound, Kinds::SYN, pair << 20 | 1), None);
    }
    for pair in 1..200_000 {
        assert_eq!(world.see("IN", Direction::Inbound, Kinds::SYN, pair << 20 | 1), None, "{pair}");
    }
}

/// A set that has lost a tie tells nothing until packets in progress then are over.
#[test]
fn a_set_that_has_lost_a_tie_tells_again_later() {
    let mut world = World::new();
    for pair in 1..200_000 {
        assert_eq!(world.see("IN_IP", Direction::Inbound, Kinds::SYN, pair << 20 | 1), None);
    }
    let later = |world: &World, pair: u64| world.see("IN", Direction::Inbound, Kinds::SYN, pair << 20 | 1);
    world.now += u64::from(SETTLED_MS) - 1;
    for pair in 200_000..200_100 {
        assert_eq!(later(&world, pair), None, "{pair}");
    }
    world.now += u64::from(SETTLED_MS);
    assert_eq!(later(&world, 200_100), Some(layer("IN_IP")));
}

/// IPsec hides packets from the IP layers, and forwarded ones pass these only.
#[test]
fn secured_and_forwarded_packets_are_not_expected_at_the_ip_layers() {
    for secures in [true, false] {
        let world = World::new();
        match secures {
            true => world.ties().secures(),
            false => world.ties().forwards(),
        }
        assert_eq!(world.see("IN", Direction::Inbound, Kinds::SYN, 5), None);
        assert_eq!(world.see("OUT_IP", Direction::Outbound, Kinds::SYN, 6), None);
        let told = world.ties().see(&World::passing("IN", Direction::Inbound, Kinds::SYN, 7), || world.now);
        assert!(told.scattered);
    }
}

/// Two processors may show the packets of one connection.
#[test]
fn a_packet_on_another_processor_makes_its_walks_uncertain() {
    let world = World::new();
    let on = |processor, short| {
        let passing = World::passing(short, Direction::Inbound, Kinds::SYN, 9);
        world.ties().see(&Passing { processor, ..passing }, || world.now).scattered
    };
    assert_eq!([on(1, "IN_IP"), on(1, "IN"), on(1, "IN_IP")], [false; 3]);
    assert_eq!([on(2, "IN"), on(2, "IN_IP")], [true; 2]);
    assert_eq!([on(2, "IN"), on(2, "IN_IP"), on(2, "IN")], [false; 3]);
}

/// The numbers of a connection may wrap.
/// The processor that has seen a packet at INBOUND_TRANSPORT does not know that another one
/// has seen it authorized.
#[test]
fn a_packet_that_is_authorized_on_another_processor_is_not_told() {
    for (elsewhere, missing) in [(false, Some(layer("ACCEPT"))), (true, None)] {
        let world = World::new();
        let see = |short, is_unauthorized| {
            let passing = World::passing(short, Direction::Inbound, Kinds::DATAGRAM, 9);
            let told = world.ties().see(&Passing { is_unauthorized, ..passing }, || world.now);
            told.deviation.and_then(|deviation| deviation.expected)
        };
        for (short, is_unauthorized) in
            [("IN_IP", false), ("IN", false), ("ACCEPT", !elsewhere), ("ESTABLISHED", false)]
        {
            assert_eq!(see(short, is_unauthorized), None, "{short}");
        }
        assert_eq!(see("DATAGRAM", true), missing);
    }
}

#[test]
fn sequence_numbers_wrap() {
    for start in [0, 5, u32::MAX - 3, u32::MAX] {
        let world = World::new();
        let show = |short, direction, kinds, sequence: u32, payload: u32, stream| {
            let numbers = Some(Numbers {
                sequence: start.wrapping_add(sequence),
                acknowledgment: None,
                payload: Some(payload),
                fin: false,
            });
            let passing = World::passing(short, direction, kinds, 11);
            let told =
                world.ties().see(&Passing { numbers, stream: (stream, false), ..passing }, || world.now);
            told.deviation.and_then(|deviation| deviation.expected)
        };
        let (inbound, outbound) = (Direction::Inbound, Direction::Outbound);
        assert_eq!(show("IN_IP", inbound, Kinds::SYN, 0, 0, 0), None);
        assert_eq!(show("IN", inbound, Kinds::SYN, 0, 0, 0), None);
        assert_eq!(show("ACCEPT", inbound, Kinds::SYN, 0, 0, 0), None);
        assert_eq!(show("OUT", outbound, Kinds::SYN_ACK, 0, 0, 0), None);
        assert_eq!(show("OUT_IP", outbound, Kinds::SYN_ACK, 0, 0, 0), None);
        for short in ["IN_IP", "IN", "ESTABLISHED"] {
            assert_eq!(show(short, inbound, Kinds::BARE, 1, 0, 0), None, "{start} {short}");
        }
        assert_eq!(show("IN_IP", inbound, Kinds::DATA, 1, 10, 0), None);
        assert_eq!(show("STREAM", inbound, Kinds::DATA, 0, 0, 10), Some(layer("IN")), "{start}");
        assert_eq!(show("IN", inbound, Kinds::DATA, 11, 10, 0), Some(layer("IN_IP")), "{start}");
        assert_eq!(show("STREAM", outbound, Kinds::DATA, 0, 0, 1), None);
        assert_eq!(show("OUT", outbound, Kinds::BARE.or(Kinds::DATA), 1, 1, 0), None);
        assert_eq!(
            show("OUT", outbound, Kinds::BARE.or(Kinds::DATA), 2, 1, 0),
            Some(layer("STREAM")),
            "one byte more than STREAM has shown"
        );
    }
}

/// The calls and first packets of an endpoint, without one of the layers before.
#[test]
fn an_endpoint_that_skips_a_layer_is_told() {
    let cases: [(&str, u8, &str, Option<&str>); 9] = [
        ("BIND_REDIRECT", TCP, "LISTEN", Some("ASSIGNMENT")),
        ("BIND_REDIRECT ASSIGNMENT", TCP, "CONNECT", Some("CONNECT_REDIRECT")),
        ("BIND_REDIRECT ASSIGNMENT CONNECT_REDIRECT", TCP, "OUT", Some("CONNECT")),
        ("BIND_REDIRECT ASSIGNMENT CONNECT_REDIRECT CONNECT", TCP, "OUT", None),
        ("BIND_REDIRECT", UDP, "ACCEPT", Some("ASSIGNMENT")),
        ("BIND_REDIRECT ASSIGNMENT", UDP, "ACCEPT", None),
        ("BIND_REDIRECT ASSIGNMENT CONNECT_REDIRECT", UDP, "ESTABLISHED", Some("CONNECT")),
        ("BIND_REDIRECT ASSIGNMENT CONNECT_REDIRECT CONNECT", UDP, "ESTABLISHED", None),
        // It was bound before the check.
        ("CONNECT_REDIRECT", TCP, "OUT", None),
    ];
    for (number, (passed, protocol, last, missing)) in cases.into_iter().enumerate() {
        let world = World::new();
        let show = |short: &str| {
            let call =
                ["BIND_REDIRECT", "ASSIGNMENT", "LISTEN", "CONNECT_REDIRECT", "CONNECT"].contains(&short);
            let kinds = match (call, protocol) {
                (true, _) => Kinds::CALL,
                (_, TCP) => Kinds::SYN,
                _ => Kinds::DATAGRAM,
            };
            let direction = if short == "ACCEPT" { Direction::Inbound } else { Direction::Outbound };
            let passing = World::passing(short, direction, kinds, 0);
            let passing = Passing { protocol, endpoints: [number as u64 + 100, 0], ..passing };
            let told = world.ties().see(&passing, || world.now);
            told.deviation.and_then(|deviation| deviation.expected)
        };
        for short in passed.split(' ') {
            show(short);
        }
        assert_eq!(show(last), missing.map(layer), "{passed}, then {last}");
    }
}

/// Where IPsec hides packets from the IP layers, INBOUND_TRANSPORT shows where the peer
/// begins to count.
#[test]
fn a_secured_connection_counts_from_the_peers_syn() {
    for again in [false, true] {
        let world = World::new();
        world.ties().secures();
        let show = |short, direction, kinds, numbers: Numbers, stream| {
            let passing = World::passing(short, direction, kinds, 12);
            let passing = Passing { numbers: Some(numbers), stream: (stream, false), ..passing };
            let told = world.ties().see(&passing, || world.now);
            told.deviation.and_then(|deviation| deviation.expected)
        };
        let at = |sequence, acknowledgment, payload| Numbers {
            sequence,
            acknowledgment,
            payload: Some(payload),
            fin: false,
        };
        let (inbound, outbound) = (Direction::Inbound, Direction::Outbound);
        assert_eq!(show("CONNECT", outbound, Kinds::CALL, at(0, None, 0), 0), None);
        assert_eq!(show("OUT", outbound, Kinds::SYN, at(70, None, 0), 0), None);
        assert_eq!(show("IN", inbound, Kinds::SYN_ACK, at(500, Some(71), 0), 0), None);
        assert_eq!(show("ESTABLISHED", outbound, Kinds::SYN_ACK, at(500, Some(71), 0), 0), None);
        assert_eq!(show("IN", inbound, Kinds::DATA, at(501, Some(71), 10), 0), None);
        if again {
            // A copy that was on its way longer changes nothing.
            assert_eq!(show("IN", inbound, Kinds::SYN_ACK, at(500, Some(71), 0), 0), None);
        }
        assert_eq!(show("STREAM", inbound, Kinds::DATA, at(0, None, 0), 10), None, "{again}");
        assert_eq!(show("STREAM", inbound, Kinds::DATA, at(0, None, 0), 10), Some(layer("IN")), "{again}");
    }
}

/// A segment without data overtakes the SYN-ACK between INBOUND_IPPACKET and
/// INBOUND_TRANSPORT, on another processor. When it passes the first, nothing is known of
/// the peer's numbers yet.
#[test]
fn a_bare_segment_may_overtake_the_syn_ack() {
    let world = World::new();
    let show = |short, direction, kinds, sequence, acknowledgment| {
        let passing = World::passing(short, direction, kinds, 13);
        let numbers = Numbers { sequence, acknowledgment, payload: Some(0), fin: false };
        let told = world.ties().see(&Passing { numbers: Some(numbers), ..passing }, || world.now);
        told.deviation.and_then(|deviation| deviation.expected)
    };
    let (inbound, outbound) = (Direction::Inbound, Direction::Outbound);
    assert_eq!(show("CONNECT", outbound, Kinds::CALL, 0, None), None);
    for short in ["OUT", "OUT_IP"] {
        assert_eq!(show(short, outbound, Kinds::SYN, 70, None), None);
    }
    assert_eq!(show("IN_IP", inbound, Kinds::SYN_ACK, 500, Some(71)), None);
    assert_eq!(show("IN_IP", inbound, Kinds::BARE, 501, Some(71)), None);
    assert_eq!(show("IN", inbound, Kinds::SYN_ACK, 500, Some(71)), None);
    assert_eq!(show("IN", inbound, Kinds::BARE, 501, Some(71)), None);
}
