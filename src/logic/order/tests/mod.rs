//! Tests both checks against a second copy of the documented sequences.

mod flow;
mod pages;
mod ties;
mod walks;

use std::num::NonZeroU64;

use super::*;

/// The layer with a short name; `-D` means its discard layer.
fn layer(short: &str) -> LayerIndex {
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
    if discard { LayerIndex::named(&long).discard() } else { LayerIndex::named(&long) }
}

fn layers(sequence: &str) -> Vec<LayerIndex> {
    sequence.split(' ').map(layer).collect()
}

fn deviation(expected: Option<LayerIndex>, seen: Option<LayerIndex>) -> Result<(), Deviation> {
    Err(Deviation { expected, seen })
}

/// Shows one classify to the walks and to the flow, as the driver does.
fn classify(
    short: &str,
    direction: Direction,
    kinds: Kinds,
    flow: Option<&Order>,
    walks: Option<&Walks<4>>,
) -> Option<Deviation> {
    const MARK: NonZeroU64 = NonZeroU64::new(7).unwrap();
    let layer = OrderLayer::of(layer(short));
    let of_walk = walks.and_then(|walks| walks.step_of(MARK, layer, kinds, 0));
    match flow {
        Some(order) => order.step_with_walk(Some(Step { layer: layer.index, direction, kinds }), of_walk),
        None => of_walk,
    }
}
