//! Tests what a flow or an endpoint must have passed.

use super::Direction::{Inbound, Outbound};
use super::*;
use crate::logic::tcp::{ACK, TcpFlags};

/// The life of a connection, as its order sees it: short names of layers, `<`
/// inbound, `>` outbound, and the kind.
type Life = &'static [(&'static str, char, Kinds)];

const CLIENT: Life = &[
    ("BIND_REDIRECT", '>', Kinds::CALL),
    ("ASSIGNMENT", '>', Kinds::CALL),
    ("CONNECT_REDIRECT", '>', Kinds::CALL),
    ("CONNECT", '>', Kinds::CALL),
    ("OUT", '>', Kinds::SYN),
    ("IN", '<', Kinds::SYN_ACK),
    ("ESTABLISHED", '>', Kinds::SYN_ACK),
    ("OUT", '>', Kinds::BARE),
    ("STREAM", '>', Kinds::DATA),
    ("OUT", '>', Kinds::DATA),
    ("OUT", '>', Kinds::DATA),
    ("IN", '<', Kinds::DATA),
    ("STREAM", '<', Kinds::DATA),
    ("CLOSURE", '>', Kinds::CALL),
    ("RELEASE", '>', Kinds::CALL),
];

const SERVER: Life = &[
    ("IN", '<', Kinds::SYN),
    ("ACCEPT", '<', Kinds::SYN),
    ("OUT", '>', Kinds::SYN_ACK),
    ("IN", '<', Kinds::BARE),
    ("ESTABLISHED", '<', Kinds::BARE),
    ("IN", '<', Kinds::DATA),
    ("ACCEPT", '<', Kinds::DATA),
    ("STREAM", '<', Kinds::DATA),
    ("STREAM", '>', Kinds::DATA),
    ("OUT", '>', Kinds::DATA),
    ("CLOSURE", '<', Kinds::CALL),
];

const UDP: Life = &[
    ("IN", '<', Kinds::DATAGRAM),
    ("ACCEPT", '<', Kinds::DATAGRAM),
    ("ESTABLISHED", '<', Kinds::DATAGRAM),
    ("DATAGRAM", '<', Kinds::DATAGRAM),
    ("DATAGRAM", '>', Kinds::DATAGRAM),
    ("OUT", '>', Kinds::DATAGRAM),
    ("CLOSURE", '<', Kinds::CALL),
];

const LISTENER: Life = &[
    ("BIND_REDIRECT", '<', Kinds::CALL),
    ("ASSIGNMENT", '<', Kinds::CALL),
    ("LISTEN", '<', Kinds::CALL),
    ("CLOSURE", '<', Kinds::CALL),
    ("RELEASE", '<', Kinds::CALL),
];

fn live<'a>(order: &Order, life: impl IntoIterator<Item = &'a (&'a str, char, Kinds)>) -> Option<Deviation> {
    for &(short, way, kinds) in life {
        let direction = if way == '<' { Inbound } else { Outbound };
        let step = Step { layer: layer(short), direction, kinds };
        if let Err(deviation) = order.step(step) {
            assert_eq!(order.deviation(), Some(deviation));
            return Some(deviation);
        }
    }
    None
}

#[test]
fn missing_earlier_layers_are_reported() {
    let pair = |due: &str, seen: &str| {
        let short = |short: &str| (!short.is_empty()).then(|| layer(short));
        Some(Deviation { expected: short(due), seen: short(seen) })
    };
    let without: &[(Life, &str, Option<Deviation>)] = &[
        (CLIENT, "BIND_REDIRECT", pair("BIND_REDIRECT", "ASSIGNMENT")),
        (CLIENT, "ASSIGNMENT", pair("ASSIGNMENT", "CONNECT_REDIRECT")),
        (CLIENT, "CONNECT_REDIRECT", pair("CONNECT_REDIRECT", "CONNECT")),
        (CLIENT, "CONNECT", pair("CONNECT", "OUT")),
        (CLIENT, "ESTABLISHED", pair("ESTABLISHED", "STREAM")),
        (CLIENT, "STREAM", pair("STREAM", "OUT")),
        (CLIENT, "IN", pair("IN", "STREAM")),
        (SERVER, "ACCEPT", pair("ACCEPT", "ESTABLISHED")),
        (SERVER, "ESTABLISHED", pair("ESTABLISHED", "STREAM")),
        (SERVER, "STREAM", pair("STREAM", "OUT")),
        (UDP, "ACCEPT", pair("ACCEPT", "ESTABLISHED")),
        (UDP, "ESTABLISHED", pair("ESTABLISHED", "DATAGRAM")),
        (UDP, "DATAGRAM", pair("DATAGRAM", "OUT")),
        (LISTENER, "BIND_REDIRECT", pair("BIND_REDIRECT", "ASSIGNMENT")),
        (LISTENER, "ASSIGNMENT", pair("ASSIGNMENT", "LISTEN")),
        // Only a walk detects these.
        (CLIENT, "CLOSURE", None),
        (LISTENER, "LISTEN", None),
    ];
    for life in [CLIENT, SERVER, UDP, LISTENER] {
        assert_eq!(live(&Order::whole(), life), None);
    }
    for (life, left_out, expected) in without {
        let order = Order::whole();
        let rest = life.iter().filter(|(short, ..)| short != left_out);
        assert_eq!(live(&order, rest), *expected, "{left_out}");
        assert_eq!(order.deviation(), *expected);
    }
    for (life, doubled, expected) in [
        (CLIENT, "ESTABLISHED", pair("STREAM", "ESTABLISHED")),
        (UDP, "ESTABLISHED", pair("DATAGRAM", "ESTABLISHED")),
        (SERVER, "CLOSURE", pair("", "CLOSURE")),
        (LISTENER, "RELEASE", pair("", "RELEASE")),
    ] {
        let twice =
            life.iter().flat_map(|step| std::iter::repeat_n(step, 1 + usize::from(step.0 == doubled)));
        assert_eq!(live(&Order::whole(), twice), expected, "{doubled}");
    }
}

#[test]
fn a_flow_joined_when_established_is_in_order() {
    for (life, from) in [(CLIENT, 6), (SERVER, 4), (UDP, 2)] {
        assert_eq!(live(&Order::joined(), &life[from..life.len() - 1]), None);
    }
}

/// No application sends a keep-alive's garbage octet.
#[test]
fn a_keep_alive_needs_no_stream() {
    let kinds = |payload| Kinds::of_some_segment(TcpFlags(ACK), Some(payload));
    let established = ("ESTABLISHED", '<', Kinds::BARE);
    for (payload, due) in [(0, None), (1, None), (2, Some("STREAM")), (1460, Some("STREAM"))] {
        let order = Order::joined();
        let reported = live(&order, &[established, ("OUT", '>', kinds(payload))]);
        let expected = due.map(|due| Deviation { expected: Some(layer(due)), seen: Some(layer("OUT")) });
        assert_eq!(reported, expected, "{payload}");
    }
}

#[test]
fn a_refused_flow_is_not_established() {
    let refused = [("IN", '<', Kinds::SYN), ("ACCEPT", '<', Kinds::SYN), ("ACCEPT-D", '<', Kinds::SYN)];
    let order = Order::whole();
    assert_eq!(live(&order, &refused), None);
    let established = [("ESTABLISHED", '<', Kinds::BARE)];
    let expected = Deviation { expected: None, seen: Some(layer("ESTABLISHED")) };
    assert_eq!(live(&order, &established), Some(expected));
    // The first deviation is the one that is stored.
    let _later = order.step(Step { layer: layer("RELEASE"), direction: Inbound, kinds: Kinds::CALL });
    assert_eq!(order.deviation(), Some(expected));
}

/// Segments of one connection on two processors: any interleaving in which each
/// segment passes its own layers in order is in order.
#[test]
fn interleaved_segments_are_in_order() {
    let received = [("IN", '<', Kinds::DATA), ("STREAM", '<', Kinds::DATA)];
    let sent = [("STREAM", '>', Kinds::DATA), ("OUT", '>', Kinds::DATA), ("OUT", '>', Kinds::DATA)];
    for choice in 0_u32..1 << 10 {
        let order = Order::joined();
        assert_eq!(live(&order, &[("ESTABLISHED", '<', Kinds::BARE)]), None);
        let mut lanes = [received.iter(), sent.iter(), received.iter(), sent.iter()];
        for turn in 0..10 {
            let lane = (choice >> turn & 1) as usize + 2 * (turn % 2);
            if let Some(step) = lanes[lane].next() {
                assert_eq!(live(&order, [step]), None);
            }
        }
    }
}

#[test]
fn a_flow_is_reported_once() {
    // The flow detects that it is not established, the walk that a layer is missing.
    // Only one deviation is reported.
    let order = Order::joined();
    let walks = Walks::<4>::default();
    let first = Deviation { expected: Some(layer("ESTABLISHED")), seen: Some(layer("STREAM")) };
    let data = || classify("STREAM", Outbound, Kinds::DATA, Some(&order), Some(&walks));
    assert_eq!(data(), Some(first));
    assert_eq!(order.deviation(), Some(first));
    assert_eq!(data(), None);

    let order = Order::joined();
    let walks = Walks::<4>::default();
    assert_eq!(classify("ESTABLISHED", Inbound, Kinds::BARE, Some(&order), None), None);
    assert_eq!(classify("IN_IP", Inbound, Kinds::DATA, None, Some(&walks)), None);
    let missing = Deviation { expected: Some(layer("IN")), seen: Some(layer("STREAM")) };
    let skipped = classify("STREAM", Inbound, Kinds::DATA, Some(&order), Some(&walks));
    assert_eq!(skipped, Some(missing));
    assert_eq!(order.deviation(), Some(missing), "the flow keeps what the walk found");
}

#[test]
fn an_order_stores_the_number_of_its_check() {
    let order = Order::whole();
    assert_eq!(order.check_number(), 0);
    for check in [1, 700, u16::MAX] {
        order.restart(check);
        let life: Life = &[("ESTABLISHED", '<', Kinds::BARE), ("STREAM", '>', Kinds::DATA)];
        assert_eq!(live(&order, life), None);
        assert_eq!(order.check_number(), check);
    }
}
