//! The documented order of layers, and the comparison with what was seen.
//!
//! The table is Microsoft's (*TCP Packet Flows*; for datagrams *UDP Packet Flows*),
//! row by row, written independently of the host's code. The name of a layer stands
//! for both families: *"IPv6 follows the IPv4 pattern"*.

use std::fmt;

use super::log::{Block, Event};
use crate::wire::protocol;

/// One position in a documented sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// The layer, once.
    Layer(&'static str),
    /// A layer that may or may not come, because the documents leave it open.
    Open(&'static str),
    /// One or more of these layers in this order, because the documents name one and
    /// real machines another.
    SomeOf(&'static [&'static str]),
    /// These layers, once or repeatedly, because data may take several segments.
    Segments(&'static [&'static str]),
}

use Expected::{Layer, Open, Segments, SomeOf};

const OUT: &[&str] = &["OUTBOUND_TRANSPORT", "OUTBOUND_IPPACKET"];

/// The document that lists a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// *TCP Packet Flows*.
    Tcp,
    /// *UDP Packet Flows*.
    Udp,
    /// Two rows of *TCP Packet Flows*: one segment is the handshake's ACK and data.
    TcpCombined,
    /// The reference of `FWPS_STREAM_DATA0`: the flags for FIN and RST.
    StreamData,
    /// *ALE Reauthorization*.
    Reauthorization,
    /// *ALE Stateful Filtering*.
    StatefulFiltering,
    /// *ALE Endpoint Lifetime Management*.
    EndpointLifetime,
}

impl Page {
    /// The title of the document.
    pub fn title(self) -> &'static str {
        match self {
            Self::Tcp => "TCP Packet Flows",
            Self::Udp => "UDP Packet Flows",
            Self::TcpCombined => "TCP Packet Flows, two rows in one segment",
            Self::StreamData => "FWPS_STREAM_DATA0, which supersedes TCP Packet Flows",
            Self::Reauthorization => "ALE Reauthorization",
            Self::StatefulFiltering => "ALE Stateful Filtering",
            Self::EndpointLifetime => "ALE Endpoint Lifetime Management, which supersedes TCP Packet Flows",
        }
    }

    /// Whether the document is one of the two pages of flows. `None` if it is another
    /// one, otherwise the protocol of its flows.
    pub fn protocol(self) -> Option<u8> {
        match self {
            Self::Tcp => Some(protocol::TCP),
            Self::Udp => Some(protocol::UDP),
            _ => None,
        }
    }
}

/// A flow: what happens, and the layers that it passes, in order.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct Flow {
    pub page: Page,
    pub event: Event,
    pub layers: &'static [Expected],
}

const fn flow(page: Page, event: Event, layers: &'static [Expected]) -> Flow {
    Flow { page, event, layers }
}

const BIND: &[Expected] = &[Layer("ALE_BIND_REDIRECT"), Layer("ALE_RESOURCE_ASSIGNMENT")];
const SEGMENT_OUT: &[Expected] = &[Layer("OUTBOUND_TRANSPORT"), Layer("OUTBOUND_IPPACKET")];
const ESTABLISHED: &[Expected] =
    &[Layer("INBOUND_IPPACKET"), Layer("INBOUND_TRANSPORT"), Layer("ALE_FLOW_ESTABLISHED")];
const REAUTHORIZATION_FAILS: &[Expected] = &[
    Layer("INBOUND_IPPACKET"),
    Layer("INBOUND_TRANSPORT"),
    Layer("ALE_AUTH_RECV_ACCEPT"),
    Layer("ALE_AUTH_RECV_ACCEPT_DISCARD"),
];
const DATA_SENT: &[Expected] = &[Layer("STREAM"), Segments(OUT)];
const FIRST_RECEIVE: &[Expected] = &[
    Layer("INBOUND_IPPACKET"),
    Layer("INBOUND_TRANSPORT"),
    Layer("ALE_AUTH_RECV_ACCEPT"),
    Layer("ALE_FLOW_ESTABLISHED"),
    Layer("DATAGRAM_DATA"),
];
const LATER_SEND: &[Expected] =
    &[Layer("DATAGRAM_DATA"), Layer("OUTBOUND_TRANSPORT"), Layer("OUTBOUND_IPPACKET")];

/// Every documented flow, in the order of the pages.
pub static FLOWS: [Flow; 36] = [
    // TCP connection establishment. Both sides bind.
    flow(Page::Tcp, Event::Bind, BIND),
    flow(Page::Tcp, Event::Listen, &[Layer("ALE_AUTH_LISTEN")]),
    flow(Page::Tcp, Event::Connect, &[Layer("ALE_CONNECT_REDIRECT"), Layer("ALE_AUTH_CONNECT")]),
    flow(Page::Tcp, Event::SynOut, SEGMENT_OUT),
    flow(
        Page::Tcp,
        Event::SynIn,
        &[Layer("INBOUND_IPPACKET"), Layer("INBOUND_TRANSPORT"), Layer("ALE_AUTH_RECV_ACCEPT")],
    ),
    flow(Page::Tcp, Event::SynAckOut, SEGMENT_OUT),
    flow(Page::Tcp, Event::SynAckIn, ESTABLISHED),
    flow(Page::Tcp, Event::AckOut, SEGMENT_OUT),
    flow(Page::TcpCombined, Event::AckOutWithData, DATA_SENT),
    flow(Page::Tcp, Event::AckIn, ESTABLISHED),
    flow(
        Page::TcpCombined,
        Event::AckInWithData,
        &[
            Layer("INBOUND_IPPACKET"),
            Layer("INBOUND_TRANSPORT"),
            Layer("ALE_FLOW_ESTABLISHED"),
            Layer("STREAM"),
        ],
    ),
    // "Listen completes. Server can perform an accept." No layer shows it.
    flow(Page::Tcp, Event::Accept, &[]),
    // TCP SYN received with no one listening on the port or protocol.
    flow(
        Page::Tcp,
        Event::SynNobodyListening,
        &[Layer("INBOUND_IPPACKET"), Open("INBOUND_TRANSPORT"), Layer("INBOUND_TRANSPORT_DISCARD")],
    ),
    flow(Page::Tcp, Event::RstOut, SEGMENT_OUT),
    // Data transmitted over a TCP connection.
    flow(Page::Tcp, Event::DataSent, DATA_SENT),
    flow(
        Page::Tcp,
        Event::DataReceived,
        &[Layer("INBOUND_IPPACKET"), Layer("INBOUND_TRANSPORT"), Layer("STREAM")],
    ),
    // Successful and failed reauthorization of a TCP packet.
    flow(
        Page::Tcp,
        Event::ReauthorizationPasses,
        &[
            Layer("INBOUND_IPPACKET"),
            Layer("INBOUND_TRANSPORT"),
            Layer("ALE_AUTH_RECV_ACCEPT"),
            Layer("STREAM"),
        ],
    ),
    flow(Page::Tcp, Event::ReauthorizationFails, REAUTHORIZATION_FAILS),
    // A connect that a callout pended and completed.
    flow(Page::Reauthorization, Event::CompletionPasses, &[Layer("ALE_AUTH_CONNECT")]),
    flow(
        Page::Reauthorization,
        Event::CompletionFails,
        &[Layer("ALE_AUTH_CONNECT"), Layer("ALE_AUTH_CONNECT_DISCARD")],
    ),
    // The end of a connection. "TCP Packet Flows" says that no layer shows it.
    flow(Page::StreamData, Event::FinOut, DATA_SENT),
    flow(
        Page::StreamData,
        Event::FinIn,
        &[
            Layer("INBOUND_IPPACKET"),
            Layer("INBOUND_TRANSPORT"),
            // If it completes the handshake.
            Open("ALE_FLOW_ESTABLISHED"),
            Layer("STREAM"),
        ],
    ),
    // A connection that is not established has no stream.
    flow(
        Page::StreamData,
        Event::RstIn,
        &[Layer("INBOUND_IPPACKET"), Layer("INBOUND_TRANSPORT"), Open("STREAM")],
    ),
    // UDP connection establishment. Both sides bind.
    flow(Page::Udp, Event::Bind, BIND),
    flow(
        Page::Udp,
        Event::FirstDatagramOut,
        &[
            Layer("ALE_CONNECT_REDIRECT"),
            Layer("ALE_AUTH_CONNECT"),
            Layer("ALE_FLOW_ESTABLISHED"),
            Layer("DATAGRAM_DATA"),
            Layer("OUTBOUND_TRANSPORT"),
            Layer("OUTBOUND_IPPACKET"),
        ],
    ),
    flow(Page::Udp, Event::DatagramIn, FIRST_RECEIVE),
    // UDP message received with no one listening on the port or protocol.
    flow(
        Page::Udp,
        Event::EndpointlessDatagram,
        // The page names the second one; security events of real machines show the first.
        &[Layer("INBOUND_IPPACKET"), SomeOf(&["INBOUND_TRANSPORT_DISCARD", "INBOUND_IPPACKET_DISCARD"])],
    ),
    flow(
        Page::Udp,
        Event::IcmpErrorOut,
        &[Layer("OUTBOUND_ICMP_ERROR"), Layer("OUTBOUND_TRANSPORT"), Layer("OUTBOUND_IPPACKET")],
    ),
    // Successful and failed reauthorization of a UDP packet.
    flow(
        Page::Udp,
        Event::DatagramReauthorizationPasses,
        &[
            Layer("INBOUND_IPPACKET"),
            Layer("INBOUND_TRANSPORT"),
            Layer("ALE_AUTH_RECV_ACCEPT"),
            Layer("DATAGRAM_DATA"),
        ],
    ),
    flow(Page::Udp, Event::DatagramReauthorizationFails, REAUTHORIZATION_FAILS),
    // "All non-TCP packet flows follow the same pattern as UDP packet flows."
    flow(Page::StatefulFiltering, Event::EchoRequestIn, FIRST_RECEIVE),
    // Later packets of a flow are authorized already.
    flow(Page::StatefulFiltering, Event::DatagramOut, LATER_SEND),
    flow(Page::StatefulFiltering, Event::EchoReplyOut, LATER_SEND),
    flow(
        Page::StatefulFiltering,
        Event::LaterDatagramIn,
        &[Layer("INBOUND_IPPACKET"), Layer("INBOUND_TRANSPORT"), Layer("DATAGRAM_DATA")],
    ),
    flow(Page::EndpointLifetime, Event::EndpointClosed, &[Layer("ALE_ENDPOINT_CLOSURE")]),
    flow(Page::EndpointLifetime, Event::PortFreed, &[Layer("ALE_RESOURCE_RELEASE")]),
];

/// The documents that list the layers of an event.
pub fn pages(event: Event) -> impl Iterator<Item = Page> {
    FLOWS.iter().filter(move |flow| flow.event == event).map(|flow| flow.page)
}

/// The documented layers of an event; `None` if no document lists them.
pub fn sequence(event: Event) -> Option<&'static [Expected]> {
    FLOWS.iter().find(|flow| flow.event == event).map(|flow| flow.layers)
}

/// The result of a comparison with the documents.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Comparison {
    /// The documented order.
    Match,
    /// No document lists the layers of the event.
    Undocumented,
    /// The first position at which they differ; `None` means the end.
    Deviation {
        /// The number of layers that match.
        position: usize,
        /// The documented layer.
        expected: Option<&'static str>,
        /// The layer that was seen.
        seen: Option<String>,
    },
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Match => f.write_str("as documented"),
            Self::Undocumented => f.write_str("not documented"),
            Self::Deviation { position, expected, seen } => write!(
                f,
                "deviates at layer {}: documented {}, seen {}",
                position + 1,
                expected.unwrap_or("the end"),
                seen.as_deref().unwrap_or("the end")
            ),
        }
    }
}

/// Compares the layers seen during an event with the documented ones.
///
/// `seen` holds layer names with or without family (`STREAM_V4`, `STREAM`).
/// `stopped` is the last block by a filter ([`Record::stopped`]). The sequence ends
/// after its discard layer, or after the layer itself if the packet was absorbed or
/// the layer has no discard layer. A segment that follows starts again. `watched` tells which layers the observer sees, by
/// name without family; the others are not expected.
///
/// [`Record::stopped`]: super::Record::stopped
pub fn compare<'a>(
    event: Event,
    seen: impl IntoIterator<Item = &'a str>,
    stopped: Option<Block>,
    watched: impl Fn(&str) -> bool,
) -> Comparison {
    let Some(sequence) = sequence(event) else {
        return Comparison::Undocumented;
    };
    let is_listed = |name: &String| name != UNLISTED;
    let seen: Vec<String> = seen.into_iter().map(without_family).filter(is_listed).collect();
    let mut matcher = Matcher { seen: &seen, position: 0, stopped: stopped.is_some() };
    for expected in sequence {
        let (layers, optional, repeated) = match expected {
            SomeOf(names) => {
                let names = names.iter().copied().filter(|name| watched(name));
                let before = matcher.position;
                let last =
                    names.inspect(|name| matcher.position += usize::from(matcher.next_is(name))).last();
                match last {
                    Some(name) if matcher.position == before => return matcher.deviation(name),
                    _ => continue,
                }
            }
            Layer(name) => (std::slice::from_ref(name), false, false),
            Open(name) => (std::slice::from_ref(name), true, false),
            Segments(names) => (*names, false, true),
        };
        let layers: Vec<&'static str> = layers.iter().copied().filter(|n| watched(n)).collect();
        loop {
            let found = matcher.take(&layers, repeated);
            if matcher.at_end() && stopped.is_some_and(|block| block.ends(&seen, &watched)) {
                return Comparison::Match;
            }
            if let Err(name) = found
                && !optional
            {
                return matcher.deviation(name);
            }
            if !repeated || layers.is_empty() || matcher.at_end() {
                break;
            }
        }
    }
    match seen.get(matcher.position) {
        None => Comparison::Match,
        Some(extra) => {
            Comparison::Deviation { position: matcher.position, expected: None, seen: Some(extra.clone()) }
        }
    }
}

/// A layer that no document has in a sequence.
const UNLISTED: &str = "STREAM_PACKET";

/// Layers that have no discard layer in use.
const WITHOUT_DISCARD: [&str; 3] = ["ALE_BIND_REDIRECT", "ALE_CONNECT_REDIRECT", "STREAM"];

impl Block {
    /// Whether these layers end as the block demands.
    fn ends(&self, seen: &[String], watched: impl Fn(&str) -> bool) -> bool {
        let layer = without_family(self.layer);
        let twin = format!("{layer}_DISCARD");
        let needs_twin = !self.absorbed && !WITHOUT_DISCARD.contains(&&*layer) && watched(&twin);
        match seen.last() {
            None => false,
            // It may stand anywhere, and has no discard layer.
            Some(_) if layer == UNLISTED => true,
            Some(last) if needs_twin => *last == twin,
            Some(last) => *last == layer || *last == twin || !watched(&layer),
        }
    }
}

/// The progress of a comparison.
struct Matcher<'a> {
    seen: &'a [String],
    position: usize,
    stopped: bool,
}

impl Matcher<'_> {
    fn at_end(&self) -> bool {
        self.position == self.seen.len()
    }

    fn deviation(&self, expected: &'static str) -> Comparison {
        let seen = self.seen.get(self.position).cloned();
        Comparison::Deviation { position: self.position, expected: Some(expected), seen }
    }

    fn next_is(&self, name: &str) -> bool {
        self.seen.get(self.position).is_some_and(|seen| seen == name)
    }

    /// Moves past these layers. The error is the missing layer. Of several
    /// segments, one that was blocked counts up to its last layer.
    fn take(&mut self, layers: &[&'static str], segment: bool) -> Result<(), &'static str> {
        for (index, &name) in layers.iter().enumerate() {
            if !self.next_is(name) {
                let cut_short = segment && self.stopped && index > 0 && self.next_is(layers[0]);
                return if cut_short { Ok(()) } else { Err(name) };
            }
            self.position += 1;
            if self.stopped && self.next_is(&format!("{name}_DISCARD")) {
                self.position += 1;
                return Ok(());
            }
        }
        Ok(())
    }
}

/// The name of a layer, without its family.
pub fn without_family(name: &str) -> String {
    name.replacen("_V4", "", 1).replacen("_V6", "", 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(event: Event, seen: &[&str]) -> Comparison {
        compare(event, seen.iter().copied(), None, |_| true)
    }

    fn check_stopped(event: Event, seen: &[&str], layer: &'static str, absorbed: bool) -> Comparison {
        compare(event, seen.iter().copied(), Some(Block { layer, absorbed }), |_| true)
    }

    #[test]
    fn repeated_segments_and_open_layers_match() {
        let two = [
            "STREAM_V4",
            "OUTBOUND_TRANSPORT_V4",
            "OUTBOUND_IPPACKET_V4",
            "OUTBOUND_TRANSPORT_V4",
            "OUTBOUND_IPPACKET_V4",
        ];
        assert_eq!(check(Event::DataSent, &two), Comparison::Match);
        for seen in [
            &["INBOUND_IPPACKET", "INBOUND_TRANSPORT_DISCARD"][..],
            &["INBOUND_IPPACKET", "INBOUND_TRANSPORT", "INBOUND_TRANSPORT_DISCARD"],
        ] {
            assert_eq!(check(Event::SynNobodyListening, seen), Comparison::Match);
        }
    }

    #[test]
    fn a_datagram_without_endpoint_meets_one_discard_layer_or_both() {
        const IN: &str = "INBOUND_IPPACKET";
        let (transport, network) = ("INBOUND_TRANSPORT_DISCARD", "INBOUND_IPPACKET_DISCARD");
        for seen in [&[IN, transport][..], &[IN, network], &[IN, transport, network]] {
            assert_eq!(check(Event::EndpointlessDatagram, seen), Comparison::Match);
        }
        for seen in [&[IN][..], &[IN, network, transport], &[transport], &[IN, "STREAM"]] {
            assert_ne!(check(Event::EndpointlessDatagram, seen), Comparison::Match, "{seen:?}");
        }
    }

    #[test]
    fn the_first_deviation_is_named() {
        let deviation = |position, expected, seen: Option<&str>| Comparison::Deviation {
            position,
            expected,
            seen: seen.map(str::to_owned),
        };
        assert_eq!(
            check(Event::SynIn, &["INBOUND_IPPACKET_V6", "ALE_AUTH_RECV_ACCEPT_V6"]),
            deviation(1, Some("INBOUND_TRANSPORT"), Some("ALE_AUTH_RECV_ACCEPT"))
        );
        assert_eq!(
            check(Event::SynOut, &["OUTBOUND_TRANSPORT", "OUTBOUND_IPPACKET", "STREAM"]),
            deviation(2, None, Some("STREAM"))
        );
        assert_eq!(
            check(Event::DataSent, &["STREAM", "OUTBOUND_TRANSPORT"]),
            deviation(2, Some("OUTBOUND_IPPACKET"), None)
        );
        assert_eq!(check(Event::DataSent, &["STREAM"]), deviation(1, Some("OUTBOUND_TRANSPORT"), None));
    }

    #[test]
    fn a_block_ends_the_sequence() {
        const IN: &str = "INBOUND_IPPACKET";
        const TRANSPORT: &str = "INBOUND_TRANSPORT";
        const TWIN: &str = "INBOUND_TRANSPORT_DISCARD";
        for (seen, layer, absorbed) in [
            (&[IN][..], IN, true),
            (&[IN, "INBOUND_IPPACKET_DISCARD"], IN, false),
            (&[IN, TRANSPORT], TRANSPORT, true),
            (&[IN, TRANSPORT, TWIN], TRANSPORT, false),
        ] {
            assert_eq!(check_stopped(Event::SynIn, seen, layer, absorbed), Comparison::Match, "{seen:?}");
            assert_ne!(check(Event::SynIn, seen), Comparison::Match);
        }
        for wrong in
            [&[TRANSPORT][..], &[IN], &[IN, TRANSPORT], &[IN, TWIN], &[IN, TRANSPORT, TWIN, "STREAM"]]
        {
            let comparison = check_stopped(Event::SynIn, wrong, TRANSPORT, false);
            assert!(matches!(comparison, Comparison::Deviation { .. }), "{wrong:?}");
        }
        let (out, ip) = ("OUTBOUND_TRANSPORT", "OUTBOUND_IPPACKET");
        let discard = "OUTBOUND_TRANSPORT_DISCARD";
        for (seen, layer) in [
            (&["STREAM"][..], "STREAM"),
            (&["STREAM", out, discard, out, ip], out),
            (&["STREAM", out, out, ip], out),
            (&["STREAM", out, ip, out, discard], out),
        ] {
            assert_eq!(check_stopped(Event::DataSent, seen, layer, false), Comparison::Match, "{seen:?}");
        }
        let comparison = check_stopped(Event::DataSent, &["STREAM", ip], out, false);
        assert!(matches!(comparison, Comparison::Deviation { .. }));
    }

    /// A failed reauthorization ends with the discard layer, unless the packet was
    /// absorbed.
    #[test]
    fn a_failed_reauthorization_ends_with_its_discard_layer() {
        const ACCEPT: &str = "ALE_AUTH_RECV_ACCEPT";
        let all = ["INBOUND_IPPACKET", "INBOUND_TRANSPORT", ACCEPT, "ALE_AUTH_RECV_ACCEPT_DISCARD"];
        for event in [Event::ReauthorizationFails, Event::DatagramReauthorizationFails] {
            for absorbed in [false, true] {
                for count in 1..=all.len() {
                    let is_right = count == if absorbed { 3 } else { 4 };
                    let compared = check_stopped(event, &all[..count], ACCEPT, absorbed);
                    let allowed = is_right || count == 4;
                    assert_eq!(compared == Comparison::Match, allowed, "{event}, {absorbed}, {count}");
                }
            }
        }
    }

    #[test]
    fn only_watched_layers_count() {
        let transport_only = |name: &str| name.starts_with("OUTBOUND_TRANSPORT");
        assert_eq!(
            compare(
                Event::DataSent,
                ["OUTBOUND_TRANSPORT_V4", "OUTBOUND_TRANSPORT_V4"],
                None,
                transport_only
            ),
            Comparison::Match
        );
        assert_eq!(compare(Event::DataSent, [], None, |_| false), Comparison::Match);
        assert_eq!(check(Event::LaterAckOut, &[]), Comparison::Undocumented);
        assert_eq!(check(Event::Accept, &[]), Comparison::Match);
        assert_ne!(check(Event::Accept, &["STREAM"]), Comparison::Match);
    }
}
