//! Why no callout at these layers can tell a change.

use machine::host::documented::Flow;
use machine::host::{Event, Fault};

/// Why no callout at these layers can tell a change; `None` if no reason is known,
/// so that it must be told.
pub fn reason(flow: &Flow, layer: &str, fault: Fault) -> Option<&'static str> {
    let all = REASONS.iter().filter(|(known, _)| *known == fault);
    let mut found =
        all.flat_map(|(_, reasons)| *reasons).filter(|(event, at, _)| *event == flow.event && *at == layer);
    found.next().map(|(.., why)| *why)
}

type Reason = (Event, &'static str, &'static str);

const NOTHING_FOLLOWS: &str = "nothing follows that needs it, and a packet may be dropped before this layer";
const ABSORBED: &str = "a block with FWPS_CLASSIFY_OUT_FLAG_ABSORB shows no discard layer either";
const DROPPED: &str = "a datagram may be dropped before this layer, and the next one does not depend on it";
const COPY: &str = "a copy that another driver injects into the transport layer looks the same";
const AGAIN: &str = "an error for an equal datagram looks the same";

const REASONS: [(Fault, &[Reason]); 2] = [
    (
        Fault::Dropped,
        &[
            (Event::RstOut, "OUTBOUND_IPPACKET", NOTHING_FOLLOWS),
            (Event::ReauthorizationFails, "ALE_AUTH_RECV_ACCEPT_DISCARD", ABSORBED),
            (Event::FirstDatagramOut, "OUTBOUND_IPPACKET", NOTHING_FOLLOWS),
            (Event::DatagramIn, "DATAGRAM_DATA", DROPPED),
            (Event::IcmpErrorOut, "OUTBOUND_IPPACKET", NOTHING_FOLLOWS),
            (Event::DatagramReauthorizationPasses, "INBOUND_IPPACKET", COPY),
            (Event::DatagramReauthorizationPasses, "DATAGRAM_DATA", DROPPED),
            (Event::DatagramReauthorizationFails, "INBOUND_IPPACKET", COPY),
            (Event::DatagramReauthorizationFails, "ALE_AUTH_RECV_ACCEPT_DISCARD", ABSORBED),
        ],
    ),
    (
        Fault::Doubled,
        &[
            (Event::Listen, "ALE_AUTH_LISTEN", "a program may call listen again, for another backlog"),
            (Event::DataSent, "STREAM", "bytes that another callout removes from the stream look the same"),
            (Event::IcmpErrorOut, "OUTBOUND_ICMP_ERROR", AGAIN),
            (Event::IcmpErrorOut, "OUTBOUND_TRANSPORT", AGAIN),
            (Event::IcmpErrorOut, "OUTBOUND_IPPACKET", AGAIN),
        ],
    ),
];
