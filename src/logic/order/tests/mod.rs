//! The watchers, against the pages' sequences written once more.

mod flow;
mod pages;
mod walks;

use super::*;

/// The place with a short name; `-D` is a layer's twin.
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
fn deviation(expected: Option<Place>, seen: Option<Place>) -> Result<(), Deviation> {
    Err(Deviation { expected, seen })
}
