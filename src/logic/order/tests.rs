//! The pages' sequences, written once more, whole and with one layer amiss.

use super::Direction::{Inbound, Outbound};
use super::*;
use crate::logic::layers::{Event, LAYERS};
use crate::logic::stealth::TcpFlags;

/// "TCP packet flows" and "UDP packet flows", row by row, in short names.
const PAGES: [(&str, Kinds, &str); 27] = [
    ("bind", Kinds::CALL, "BIND_REDIRECT ASSIGNMENT"),
    ("listen", Kinds::CALL, "LISTEN"),
    ("connect", Kinds::CALL, "CONNECT_REDIRECT CONNECT"),
    ("SYN out", Kinds::SYN, "OUT OUT_IP"),
    ("SYN in", Kinds::SYN, "IN_IP IN ACCEPT"),
    ("SYN-ACK out", Kinds::SYN_ACK, "OUT OUT_IP"),
    ("SYN-ACK in", Kinds::SYN_ACK, "IN_IP IN ESTABLISHED"),
    ("ACK out", Kinds::BARE, "OUT OUT_IP"),
    ("ACK in", Kinds::BARE, "IN_IP IN ESTABLISHED"),
    ("SYN, nobody listening", Kinds::SYN, "IN_IP IN-D"),
    ("RST out", Kinds::RST, "OUT OUT_IP"),
    ("data sent", Kinds::DATA, "STREAM OUT OUT_IP"),
    ("another segment of it", Kinds::DATA, "OUT OUT_IP"),
    ("data received", Kinds::DATA, "IN_IP IN STREAM"),
    ("reauthorization passes", Kinds::DATA, "IN_IP IN ACCEPT STREAM"),
    ("reauthorization fails", Kinds::DATA, "IN_IP IN ACCEPT ACCEPT-D"),
    ("endpoint closed", Kinds::CALL, "CLOSURE"),
    ("port freed", Kinds::CALL, "RELEASE"),
    ("UDP first send", Kinds::DATAGRAM, "CONNECT_REDIRECT CONNECT ESTABLISHED DATAGRAM OUT OUT_IP"),
    ("UDP first receive", Kinds::DATAGRAM, "IN_IP IN ACCEPT ESTABLISHED DATAGRAM"),
    ("UDP later send", Kinds::DATAGRAM, "DATAGRAM OUT OUT_IP"),
    ("UDP later receive", Kinds::DATAGRAM, "IN_IP IN DATAGRAM"),
    ("UDP no endpoint", Kinds::DATAGRAM, "IN_IP IN_IP-D"),
    ("ICMP unreachable", Kinds::DATAGRAM, "ERROR OUT OUT_IP"),
    ("UDP reauthorization passes", Kinds::DATAGRAM, "IN_IP IN ACCEPT DATAGRAM"),
    ("UDP reauthorization fails", Kinds::DATAGRAM, "IN_IP IN ACCEPT ACCEPT-D"),
    // Open: INBOUND_TRANSPORT before its twin.
    ("nobody listening, by way of the layer", Kinds::SYN, "IN_IP IN IN-D"),
];

/// One layer amiss after which a walk is on another row in order: `-` left
/// out, `+` doubled, `~` changed for the next, by position. Some are told by the
/// flow's [`Order`], see below; the rest no watcher without sequence numbers can
/// tell.
const OTHER_ROWS: [&str; 18] = [
    "listen -0",
    "listen +0",
    "SYN in -2",
    "SYN-ACK in -2",
    "ACK in -2",
    "data sent -0",
    "data received -2",
    "reauthorization passes -2",
    "reauthorization passes -3",
    "reauthorization fails -3",
    "endpoint closed -0",
    "endpoint closed +0",
    "port freed -0",
    "port freed +0",
    "UDP first receive -3",
    "UDP reauthorization passes -2",
    "nobody listening, by way of the layer -1",
    "nobody listening, by way of the layer -2",
];

/// One layer amiss where several rows were open: the walk names the layer that
/// was due on the first of them, not the one meant. What was seen is the first
/// layer with which no row goes on.
const OTHER_LAYER_DUE: [(&str, &str, &str); 27] = [
    ("SYN, nobody listening +0", "IN", "IN_IP"),
    ("SYN, nobody listening -1", "IN", ""),
    ("data sent ~0", "OUT_IP", "STREAM"),
    ("reauthorization passes +1", "STREAM", "IN"),
    ("reauthorization passes ~2", "", "ACCEPT"),
    ("reauthorization fails +1", "STREAM", "IN"),
    ("reauthorization fails -2", "STREAM", "ACCEPT-D"),
    ("reauthorization fails +2", "STREAM", "ACCEPT"),
    ("reauthorization fails ~2", "STREAM", "ACCEPT-D"),
    ("UDP first send -0", "DATAGRAM", "ESTABLISHED"),
    ("UDP first send ~0", "DATAGRAM", "CONNECT_REDIRECT"),
    ("UDP first receive ~3", "", "ESTABLISHED"),
    ("UDP later send -0", "CONNECT_REDIRECT", "OUT"),
    ("UDP later send ~0", "CONNECT_REDIRECT", "OUT"),
    ("UDP later receive +1", "ACCEPT", "IN"),
    ("UDP later receive -2", "ACCEPT", ""),
    ("UDP no endpoint +0", "IN", "IN_IP"),
    ("UDP no endpoint -1", "IN", ""),
    ("ICMP unreachable -0", "CONNECT_REDIRECT", "OUT"),
    ("ICMP unreachable ~0", "CONNECT_REDIRECT", "OUT"),
    ("UDP reauthorization passes +2", "ESTABLISHED", "ACCEPT"),
    ("UDP reauthorization passes ~2", "", "ACCEPT"),
    ("UDP reauthorization passes -3", "ESTABLISHED", ""),
    ("UDP reauthorization fails +2", "ESTABLISHED", "ACCEPT"),
    ("UDP reauthorization fails -3", "ESTABLISHED", ""),
    ("nobody listening, by way of the layer +1", "ACCEPT", "IN"),
    ("nobody listening, by way of the layer ~1", "", "IN"),
];

fn place(short: &str) -> Place {
    let (short, discard) = short.strip_suffix("-D").map_or((short, false), |short| (short, true));
    let long = match short {
        "BIND_REDIRECT" | "CONNECT_REDIRECT" => format!("ALE_{short}"),
        "ASSIGNMENT" => "ALE_RESOURCE_ASSIGNMENT".into(),
        "LISTEN" | "CONNECT" => format!("ALE_AUTH_{short}"),
        "ACCEPT" => "ALE_AUTH_RECV_ACCEPT".into(),
        "ESTABLISHED" => "ALE_FLOW_ESTABLISHED".into(),
        "CLOSURE" => "ALE_ENDPOINT_CLOSURE".into(),
        "RELEASE" => "ALE_RESOURCE_RELEASE".into(),
        "OUT" => "OUTBOUND_TRANSPORT".into(),
        "OUT_IP" => "OUTBOUND_IPPACKET".into(),
        "IN" => "INBOUND_TRANSPORT".into(),
        "IN_IP" => "INBOUND_IPPACKET".into(),
        "DATAGRAM" => "DATAGRAM_DATA".into(),
        "ERROR" => "OUTBOUND_ICMP_ERROR".into(),
        other => other.to_owned(),
    };
    if discard { Place::named(&long).discard() } else { Place::named(&long) }
}

fn places(sequence: &str) -> Vec<Place> {
    sequence.split(' ').map(place).collect()
}

/// Walks a sequence to its end.
fn walk(places: &[Place], kinds: Kinds, start: Start) -> Result<(), Deviation> {
    let mut walk = Walk::NEW;
    places.iter().try_for_each(|&place| walk.step(place, kinds, start))?;
    walk.end()
}

fn deviation(expected: Option<Place>, seen: Option<Place>) -> Result<(), Deviation> {
    Err(Deviation { expected, seen })
}

#[test]
fn every_documented_sequence_is_in_order() {
    for (name, kinds, sequence) in PAGES {
        for kinds in [kinds, Kinds::ALL] {
            for start in [Start::Whole, Start::Anywhere] {
                assert_eq!(walk(&places(sequence), kinds, start), Ok(()), "{name}");
            }
        }
        // Met in its middle.
        let places = places(sequence);
        for from in 0..places.len() {
            assert_eq!(walk(&places[from..], kinds, Start::Anywhere), Ok(()), "{name} from {from}");
        }
    }
}

/// A sequence with one layer amiss, what is amiss, and what was due and seen.
type Amiss = (String, Vec<Place>, (Option<Place>, Option<Place>));

fn each_layer_amiss(name: &str, whole: &[Place]) -> Vec<Amiss> {
    let mut all = Vec::new();
    for (at, &here) in whole.iter().enumerate() {
        let next = whole.get(at + 1).copied();
        let (mut dropped, mut doubled, mut swapped) = (whole.to_vec(), whole.to_vec(), whole.to_vec());
        dropped.remove(at);
        all.push((format!("{name} -{at}"), dropped, (Some(here), next)));
        doubled.insert(at, here);
        all.push((format!("{name} +{at}"), doubled, (next, Some(here))));
        if next.is_some() {
            swapped.swap(at, at + 1);
            all.push((format!("{name} ~{at}"), swapped, (Some(here), next)));
        }
    }
    all
}

#[test]
fn a_layer_amiss_is_reported_with_what_was_due_and_seen() {
    let (mut other_rows, mut other_layers) = (0, 0);
    for (name, kinds, sequence) in PAGES {
        for (what, amiss, (expected, seen)) in each_layer_amiss(name, &places(sequence)) {
            let result = walk(&amiss, kinds, Start::Whole);
            if OTHER_ROWS.contains(&&*what) {
                assert_eq!(result, Ok(()), "{what}");
                other_rows += 1;
            } else if let Some((_, due, seen)) = OTHER_LAYER_DUE.iter().find(|(which, ..)| *which == what) {
                let short = |short: &str| (!short.is_empty()).then(|| place(short));
                assert_eq!(result, deviation(short(due), short(seen)), "{what}");
                other_layers += 1;
            } else {
                assert_eq!(result, deviation(expected, seen), "{what}");
            }
        }
    }
    assert_eq!((other_rows, other_layers), (OTHER_ROWS.len(), OTHER_LAYER_DUE.len()));
}

#[test]
fn what_the_documents_do_not_list_is_let_pass() {
    for row in &ROWS {
        assert_eq!(walk(row.places, row.kinds, Start::Whole), Ok(()), "{}", row.name);
    }
    // A filter's drop at any layer with a twin.
    for (_, kinds, sequence) in PAGES {
        let whole = places(sequence);
        for at in 0..whole.len() {
            let dropped = whole.get(at).filter(|place| {
                !place.is_discard() && place.layer().is_some_and(|layer| layer.discard.is_some())
            });
            if let Some(twin) = dropped.map(|place| place.discard()) {
                let blocked = [&whole[..=at], &[twin]].concat();
                assert_eq!(walk(&blocked, kinds, Start::Whole), Ok(()), "{blocked:?}");
            }
        }
    }
}

#[test]
fn layers_are_first_met_where_their_table_says() {
    let event = |name: &str| match name {
        "bind" => Event::Bind,
        "listen" => Event::Listen,
        "connect" => Event::Connect,
        "SYN out" => Event::SynOut,
        "SYN in" => Event::SynIn,
        "SYN-ACK in" => Event::SynAckIn,
        "data sent" => Event::Data,
        _ => Event::Beside,
    };
    for layer in &LAYERS {
        let rows = PAGES.iter().filter(|(.., sequence)| places(sequence).contains(&Place::named(layer.name)));
        let first = rows.map(|(name, ..)| event(name)).min().unwrap_or(Event::Beside);
        assert_eq!(first, layer.first_met, "{}", layer.name);
    }
}

#[test]
fn packets_under_way_at_once_are_kept_apart() {
    let mut walks = Walks::<4>::default();
    let mut step = |mark, short| walks.step(mark, place(short), Kinds::DATA, Start::Whole);
    for short in ["IN_IP", "IN", "STREAM"] {
        for mark in 1..=4 {
            assert_eq!(step(mark, short), Ok(()));
        }
    }
    // Again with the same mark: a retransmission.
    assert_eq!(step(1, "IN_IP"), Ok(()));
    assert_eq!(step(1, "STREAM"), deviation(Some(place("IN")), Some(place("STREAM"))));
    // A fifth takes the oldest one's place, which is then met in its middle.
    assert_eq!(step(2, "IN_IP"), Ok(()));
    (5..=8).for_each(|mark| assert_eq!(step(mark, "IN_IP"), Ok(())));
    assert_eq!(step(2, "IN"), deviation(Some(place("IN_IP")), Some(place("IN"))));
    assert_eq!(walks.step(3, place("IN"), Kinds::DATA, Start::Anywhere), Ok(()));
    let mut none = Walks::<0>::default();
    assert_eq!(none.step(1, place("IN_IP"), Kinds::ALL, Start::Whole), Ok(()));
}

#[test]
fn flags_tell_the_kind() {
    for (flags, payload, expected) in [
        (0x02, false, Kinds::SYN),
        (0x02, true, Kinds::SYN),
        (0x12, false, Kinds::SYN_ACK),
        (0x10, false, Kinds::BARE),
        (0x18, true, Kinds::DATA),
        (0x11, true, Kinds::DATA),
        (0x11, false, Kinds::FIN),
        (0x14, true, Kinds::RST),
        (0x06, false, Kinds::RST),
    ] {
        assert_eq!(Kinds::of_segment(TcpFlags(flags), payload), expected, "{flags:#x}");
    }
}

/// A life of a connection, as its order sees it: layers by their short names,
/// `<` inbound, `>` outbound, with the kind.
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
        let step = Step { place: place(short), direction, kinds };
        if let Err(deviation) = order.step(step) {
            assert_eq!(order.deviation(), Some(deviation));
            return Some(deviation);
        }
    }
    None
}

#[test]
fn what_must_have_been_before_is_asked_for() {
    let pair = |due: &str, seen: &str| {
        let short = |short: &str| (!short.is_empty()).then(|| place(short));
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
        // Nothing asks for these but a walk.
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

#[test]
fn a_refused_flow_is_not_established() {
    let refused = [("IN", '<', Kinds::SYN), ("ACCEPT", '<', Kinds::SYN), ("ACCEPT-D", '<', Kinds::SYN)];
    let order = Order::whole();
    assert_eq!(live(&order, &refused), None);
    let established = [("ESTABLISHED", '<', Kinds::BARE)];
    let expected = Deviation { expected: None, seen: Some(place("ESTABLISHED")) };
    assert_eq!(live(&order, &established), Some(expected));
    // The first deviation is the one that is kept.
    let _later = order.step(Step { place: place("RELEASE"), direction: Inbound, kinds: Kinds::CALL });
    assert_eq!(order.deviation(), Some(expected));
}

/// Segments of one connection on two processors: any interleaving that keeps
/// each segment's own layers in order is in order.
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
fn a_flow_is_reported_once_whoever_finds_it() {
    let sight = |short, direction, kinds| Sight {
        place: place(short),
        direction: Some(direction),
        kinds,
        packet: Some(7),
        call: None,
    };
    // The flow knows that nothing was established, the walk that a layer is
    // missing; either is told once.
    let data = sight("STREAM", Outbound, Kinds::DATA);
    let order = Order::joined();
    let mut walks = Walks::<4>::default();
    let first = Deviation { expected: Some(place("ESTABLISHED")), seen: Some(place("STREAM")) };
    assert_eq!(data.deviation(Some(&order), Some(&mut walks)), Some(first));
    assert_eq!(order.deviation(), Some(first));
    assert_eq!(data.deviation(Some(&order), Some(&mut walks)), None);

    let order = Order::joined();
    let mut walks = Walks::<4>::default();
    let established = sight("ESTABLISHED", Inbound, Kinds::BARE);
    assert_eq!(established.deviation(Some(&order), None::<&mut Walks<4>>), None);
    let arrived = sight("IN_IP", Inbound, Kinds::DATA);
    assert_eq!(arrived.deviation(None, Some(&mut walks)), None);
    let skipped = sight("STREAM", Inbound, Kinds::DATA);
    let missing = Deviation { expected: Some(place("IN")), seen: Some(place("STREAM")) };
    assert_eq!(skipped.deviation(Some(&order), Some(&mut walks)), Some(missing));
    assert_eq!(order.deviation(), Some(missing), "the flow keeps what the walk found");
}

#[test]
fn an_order_knows_since_when_it_is_watched() {
    let order = Order::whole();
    assert_eq!(order.watch(), 0);
    for watch in [1, 700, u16::MAX] {
        order.restart(watch);
        let life: Life = &[("ESTABLISHED", '<', Kinds::BARE), ("STREAM", '>', Kinds::DATA)];
        assert_eq!(live(&order, life), None);
        assert_eq!(order.watch(), watch);
    }
}

/// A bare acknowledgement and the data behind it have the same sequence number.
#[test]
fn walks_go_on_where_their_flow_has_had_its_word() {
    let sight = |short, direction| Sight {
        place: place(short),
        direction: Some(direction),
        kinds: Kinds::BARE,
        packet: Some(9),
        call: None,
    };
    let (order, mut walks) = (Order::joined(), Walks::<4>::default());
    let mut see = |short, flow| sight(short, Outbound).deviation(flow, Some(&mut walks));
    let doubled = Deviation { expected: Some(place("OUT_IP")), seen: Some(place("OUT")) };
    assert_eq!(see("OUT", Some(&order)), None);
    assert_eq!(see("OUT", Some(&order)), Some(doubled));
    for _ in 0..3 {
        assert_eq!(see("OUT_IP", None), None);
        assert_eq!(see("OUT", Some(&order)), None);
    }
}
