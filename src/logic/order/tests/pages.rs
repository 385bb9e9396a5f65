//! Tests a second copy of the documented sequences, whole and with one fault.

use super::*;
use crate::logic::layers::{FlowEvent, LAYERS};

/// The rows of "TCP packet flows" and "UDP packet flows", in short names.
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
    // Open: INBOUND_TRANSPORT before its discard layer.
    ("nobody listening, by way of the layer", Kinds::SYN, "IN_IP IN IN-D"),
];

/// Faults after which a walk is on another row: `-` a layer left out, `+` doubled,
/// `~` exchanged with the next, by position. The flow's [`Order`] detects some of
/// them, see below. The others cannot be detected without sequence numbers.
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

/// Faults at which several rows were possible. The walk names the layer that was
/// expected on the first of them, which is not the one that was meant. The layer
/// seen is the first one with which no row continues.
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
/// Walks a sequence to its end.
fn walk(layers: &[LayerIndex], kinds: Kinds, start: Start) -> Result<(), Deviation> {
    let mut walk = Walk::NEW;
    layers.iter().try_for_each(|&layer| walk.step(layer, kinds, start))?;
    walk.end()
}

#[test]
fn every_documented_sequence_is_in_order() {
    for (name, kinds, sequence) in PAGES {
        for kinds in [kinds, Kinds::ALL] {
            for start in [Start::AtFirstLayer, Start::AtAnyLayer] {
                assert_eq!(walk(&layers(sequence), kinds, start), Ok(()), "{name}");
            }
        }
        // The walk is first seen in its middle.
        let layers = layers(sequence);
        for from in 0..layers.len() {
            assert_eq!(walk(&layers[from..], kinds, Start::AtAnyLayer), Ok(()), "{name} from {from}");
        }
    }
}

/// A sequence with one fault: its name, its layers, and what was expected and seen.
type Amiss = (String, Vec<LayerIndex>, (Option<LayerIndex>, Option<LayerIndex>));

fn each_layer_amiss(name: &str, whole: &[LayerIndex]) -> Vec<Amiss> {
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
fn a_fault_is_reported_with_the_layers_expected_and_seen() {
    let (mut other_rows, mut other_layers) = (0, 0);
    for (name, kinds, sequence) in PAGES {
        for (what, faulty, (expected, seen)) in each_layer_amiss(name, &layers(sequence)) {
            let result = walk(&faulty, kinds, Start::AtFirstLayer);
            if OTHER_ROWS.contains(&&*what) {
                assert_eq!(result, Ok(()), "{what}");
                other_rows += 1;
            } else if let Some((_, due, seen)) = OTHER_LAYER_DUE.iter().find(|(which, ..)| *which == what) {
                let short = |short: &str| (!short.is_empty()).then(|| layer(short));
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
fn tolerated_rows_and_filter_drops_are_in_order() {
    for row in &ROWS {
        assert_eq!(walk(row.layers, row.kinds, Start::AtFirstLayer), Ok(()), "{}", row.name);
    }
    // A filter may drop at any layer that has a discard layer.
    for (_, kinds, sequence) in PAGES {
        let whole = layers(sequence);
        for at in 0..whole.len() {
            let dropped = whole.get(at).filter(|layer| {
                !layer.is_discard() && layer.layer().is_some_and(|layer| layer.discard.is_some())
            });
            if let Some(twin) = dropped.map(|layer| layer.discard()) {
                let blocked = [&whole[..=at], &[twin]].concat();
                assert_eq!(walk(&blocked, kinds, Start::AtFirstLayer), Ok(()), "{blocked:?}");
            }
        }
    }
}

#[test]
fn first_met_matches_the_sequences() {
    let event = |name: &str| match name {
        "bind" => FlowEvent::Bind,
        "listen" => FlowEvent::Listen,
        "connect" => FlowEvent::Connect,
        "SYN out" => FlowEvent::SynOut,
        "SYN in" => FlowEvent::SynIn,
        "SYN-ACK in" => FlowEvent::SynAckIn,
        "data sent" => FlowEvent::Data,
        _ => FlowEvent::NotNamed,
    };
    for layer in &LAYERS {
        let rows =
            PAGES.iter().filter(|(.., sequence)| layers(sequence).contains(&LayerIndex::named(layer.name)));
        let first = rows.map(|(name, ..)| event(name)).min().unwrap_or(FlowEvent::NotNamed);
        assert_eq!(first, layer.first_met, "{}", layer.name);
    }
}

/// A segment that arrives: its kind, and the layers that it passes.
type Arrival = (Kinds, &'static str);

/// What loss, duplication, delay and reordering make of the segments of a correct
/// connection. STREAM is missing where the segment brings nothing to it, and where
/// it has no mark.
const ARRIVALS: [Arrival; 23] = [
    (Kinds::SYN, "IN_IP IN ACCEPT"),
    (Kinds::SYN, "IN_IP IN"),
    (Kinds::SYN, "IN_IP IN-D"),
    (Kinds::SYN_ACK, "IN_IP IN ESTABLISHED"),
    (Kinds::SYN_ACK, "IN_IP IN ACCEPT"),
    (Kinds::SYN_ACK, "IN_IP IN"),
    (Kinds::BARE, "IN_IP IN ESTABLISHED"),
    (Kinds::BARE, "IN_IP IN ACCEPT ESTABLISHED"),
    (Kinds::BARE, "IN_IP IN"),
    (Kinds::DATA, "IN_IP IN ESTABLISHED"),
    (Kinds::DATA, "IN_IP IN ESTABLISHED STREAM"),
    (Kinds::DATA, "IN_IP IN ACCEPT ESTABLISHED STREAM"),
    (Kinds::DATA, "IN_IP IN STREAM"),
    (Kinds::DATA, "IN_IP IN"),
    (Kinds::DATA, "IN_IP IN IN-D"),
    (Kinds::FIN, "IN_IP IN ESTABLISHED"),
    (Kinds::FIN, "IN_IP IN ESTABLISHED STREAM"),
    (Kinds::FIN, "IN_IP IN STREAM"),
    (Kinds::FIN, "IN_IP IN"),
    (Kinds::FIN, "IN_IP IN ACCEPT STREAM"),
    (Kinds::RST, "IN_IP IN STREAM"),
    (Kinds::RST, "IN_IP IN"),
    (Kinds::RST, "IN_IP IN-D"),
];

/// Segments with the same sequence number have the same mark, so they are one walk
/// after another.
#[test]
fn any_arrival_may_follow_another_with_its_mark() {
    for first in ARRIVALS {
        for second in ARRIVALS {
            let mut walk = Walk::NEW;
            for (kinds, sequence) in [first, second, first] {
                for layer in layers(sequence) {
                    assert_eq!(walk.step(layer, kinds, Start::AtFirstLayer), Ok(()), "{first:?}, {second:?}");
                }
            }
            assert_eq!(walk.end(), Ok(()), "{first:?}, {second:?}");
        }
    }
}

/// All sequences of these layers that may follow INBOUND_IPPACKET, and no other. So
/// a segment that cannot establish a flow does not.
#[test]
fn only_what_completes_a_handshake_establishes_a_flow() {
    const LAYERS: [&str; 4] = ["IN", "ACCEPT", "CONNECT", "ESTABLISHED"];
    let server: &[&str] = &["IN ACCEPT", "IN ESTABLISHED", "IN ACCEPT ESTABLISHED"];
    let expected: [(Kinds, &[&str], &[&str]); 6] = [
        (Kinds::SYN, &["IN ACCEPT"], &["IN CONNECT"]),
        (Kinds::SYN_ACK, &["IN ACCEPT", "IN ESTABLISHED"], &["IN CONNECT", "IN CONNECT ESTABLISHED"]),
        (Kinds::BARE, server, &["IN CONNECT", "IN CONNECT ESTABLISHED"]),
        (Kinds::DATA, server, &["IN CONNECT", "IN CONNECT ESTABLISHED"]),
        (Kinds::FIN, server, &["IN CONNECT", "IN CONNECT ESTABLISHED"]),
        (Kinds::RST, &["IN ACCEPT"], &["IN CONNECT"]),
    ];
    let longer = |sequences: &[String]| -> Vec<String> {
        sequences.iter().flat_map(|before| LAYERS.map(|layer| format!("{before} {layer}"))).collect()
    };
    let one = LAYERS.map(str::to_owned).to_vec();
    let two = longer(&one);
    let (three, mut detected) = (longer(&two), 0);
    for (kinds, of_servers, of_clients) in expected {
        let in_order = [&["IN"][..], of_servers, of_clients].concat();
        for sequence in [&one[..], &two, &three].concat() {
            let result = walk(&layers(&format!("IN_IP {sequence}")), kinds, Start::AtFirstLayer);
            assert_eq!(result.is_ok(), in_order.contains(&&*sequence), "{kinds:?}: {sequence}");
            detected += usize::from(result.is_err());
        }
    }
    assert_eq!(detected, 6 * (4 + 16 + 64) - 29, "29 are in order");
}
