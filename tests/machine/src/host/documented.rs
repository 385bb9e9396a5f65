//! The documented order of layers, and the comparison with what was seen.
//!
//! The table is Microsoft's (*TCP Packet Flows*; for datagrams *UDP Packet Flows*),
//! row by row, written independently of the host's code. The name of a layer stands
//! for both families: *"IPv6 follows the IPv4 pattern"*.

use std::fmt;

use super::log::Event;

/// One position in a documented sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// The layer, once.
    Layer(&'static str),
    /// A layer that may or may not come, because the documents leave it open.
    Open(&'static str),
    /// These layers, once or repeatedly, because data may take several segments.
    Segments(&'static [&'static str]),
}

use Expected::{Layer, Open, Segments};

const OUT: &[&str] = &["OUTBOUND_TRANSPORT", "OUTBOUND_IPPACKET"];

/// The documented layers of an event; `None` if no document lists them.
pub fn sequence(event: Event) -> Option<&'static [Expected]> {
    Some(match event {
        Event::Bind => &[Layer("ALE_BIND_REDIRECT"), Layer("ALE_RESOURCE_ASSIGNMENT")],
        Event::Listen => &[Layer("ALE_AUTH_LISTEN")],
        Event::Connect => &[Layer("ALE_CONNECT_REDIRECT"), Layer("ALE_AUTH_CONNECT")],
        Event::SynOut | Event::SynAckOut | Event::AckOut | Event::RstOut => {
            &[Layer("OUTBOUND_TRANSPORT"), Layer("OUTBOUND_IPPACKET")]
        }
        Event::SynIn => {
            &[Layer("INBOUND_IPPACKET"), Layer("INBOUND_TRANSPORT"), Layer("ALE_AUTH_RECV_ACCEPT")]
        }
        Event::SynAckIn | Event::AckIn => {
            &[Layer("INBOUND_IPPACKET"), Layer("INBOUND_TRANSPORT"), Layer("ALE_FLOW_ESTABLISHED")]
        }
        Event::SynNobodyListening => {
            &[Layer("INBOUND_IPPACKET"), Open("INBOUND_TRANSPORT"), Layer("INBOUND_TRANSPORT_DISCARD")]
        }
        Event::DataSent => &[Layer("STREAM"), Segments(OUT)],
        Event::DataReceived => &[Layer("INBOUND_IPPACKET"), Layer("INBOUND_TRANSPORT"), Layer("STREAM")],
        Event::ReauthorizationPasses => &[
            Layer("INBOUND_IPPACKET"),
            Layer("INBOUND_TRANSPORT"),
            Layer("ALE_AUTH_RECV_ACCEPT"),
            Layer("STREAM"),
        ],
        Event::ReauthorizationFails => &[
            Layer("INBOUND_IPPACKET"),
            Layer("INBOUND_TRANSPORT"),
            Layer("ALE_AUTH_RECV_ACCEPT"),
            Layer("ALE_AUTH_RECV_ACCEPT_DISCARD"),
        ],
        // From ALE Layers and ALE Endpoint Lifetime; the page of the flows does not
        // list them.
        Event::EndpointClosed => &[Layer("ALE_ENDPOINT_CLOSURE")],
        Event::PortFreed => &[Layer("ALE_RESOURCE_RELEASE")],
        Event::EndpointlessDatagram => &[Layer("INBOUND_IPPACKET"), Layer("INBOUND_IPPACKET_DISCARD")],
        Event::IcmpErrorOut => {
            &[Layer("OUTBOUND_ICMP_ERROR"), Layer("OUTBOUND_TRANSPORT"), Layer("OUTBOUND_IPPACKET")]
        }
        Event::EchoRequestIn | Event::DatagramIn => &[
            Layer("INBOUND_IPPACKET"),
            Layer("INBOUND_TRANSPORT"),
            Layer("ALE_AUTH_RECV_ACCEPT"),
            Layer("ALE_FLOW_ESTABLISHED"),
            Layer("DATAGRAM_DATA"),
        ],
        Event::FirstDatagramOut => &[
            Layer("ALE_CONNECT_REDIRECT"),
            Layer("ALE_AUTH_CONNECT"),
            Layer("ALE_FLOW_ESTABLISHED"),
            Layer("DATAGRAM_DATA"),
            Layer("OUTBOUND_TRANSPORT"),
            Layer("OUTBOUND_IPPACKET"),
        ],
        Event::EchoReplyOut | Event::DatagramOut => {
            &[Layer("DATAGRAM_DATA"), Layer("OUTBOUND_TRANSPORT"), Layer("OUTBOUND_IPPACKET")]
        }
        _ => return None,
    })
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
/// `stopped` tells whether a filter blocked ([`Record::stopped`]). Then the
/// sequence may end after the blocking layer or its discard layer, and the segment
/// that follows starts again. `watched` tells which layers the observer sees, by
/// name without family; the others are not expected.
///
/// [`Record::stopped`]: super::Record::stopped
pub fn compare<'a>(
    event: Event,
    seen: impl IntoIterator<Item = &'a str>,
    stopped: bool,
    watched: impl Fn(&str) -> bool,
) -> Comparison {
    let Some(sequence) = sequence(event) else {
        return Comparison::Undocumented;
    };
    let seen: Vec<String> = seen.into_iter().map(without_family).collect();
    let mut matcher = Matcher { seen: &seen, position: 0, stopped };
    for expected in sequence {
        let (layers, optional, repeated) = match expected {
            Layer(name) => (std::slice::from_ref(name), false, false),
            Open(name) => (std::slice::from_ref(name), true, false),
            Segments(names) => (*names, false, true),
        };
        let layers: Vec<&'static str> = layers.iter().copied().filter(|n| watched(n)).collect();
        loop {
            let found = matcher.take(&layers, repeated);
            if matcher.stopped && matcher.at_end() && matcher.position > 0 {
                return Comparison::Match;
            }
            if let Err(name) = found
                && !optional
            {
                return Comparison::Deviation {
                    position: matcher.position,
                    expected: Some(name),
                    seen: seen.get(matcher.position).cloned(),
                };
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
        compare(event, seen.iter().copied(), false, |_| true)
    }

    fn check_stopped(event: Event, seen: &[&str]) -> Comparison {
        compare(event, seen.iter().copied(), true, |_| true)
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
        for seen in [&[IN][..], &[IN, TRANSPORT], &[IN, TRANSPORT, TWIN]] {
            assert_eq!(check_stopped(Event::SynIn, seen), Comparison::Match);
            assert_ne!(check(Event::SynIn, seen), Comparison::Match);
        }
        for wrong in [&[TRANSPORT][..], &[IN, TWIN], &[IN, TRANSPORT, TWIN, "STREAM"]] {
            let comparison = check_stopped(Event::SynIn, wrong);
            assert!(matches!(comparison, Comparison::Deviation { .. }), "{wrong:?}");
        }
        let (out, ip) = ("OUTBOUND_TRANSPORT", "OUTBOUND_IPPACKET");
        let discard = "OUTBOUND_TRANSPORT_DISCARD";
        for seen in [
            &["STREAM"][..],
            &["STREAM", out, discard, out, ip],
            &["STREAM", out, out, ip],
            &["STREAM", out, ip, out],
        ] {
            assert_eq!(check_stopped(Event::DataSent, seen), Comparison::Match);
        }
        let comparison = check_stopped(Event::DataSent, &["STREAM", ip]);
        assert!(matches!(comparison, Comparison::Deviation { .. }));
    }

    #[test]
    fn only_watched_layers_count() {
        let transport_only = |name: &str| name.starts_with("OUTBOUND_TRANSPORT");
        assert_eq!(
            compare(
                Event::DataSent,
                ["OUTBOUND_TRANSPORT_V4", "OUTBOUND_TRANSPORT_V4"],
                false,
                transport_only
            ),
            Comparison::Match
        );
        assert_eq!(compare(Event::DataSent, [], false, |_| false), Comparison::Match);
        assert_eq!(check(Event::FinOut, &[]), Comparison::Undocumented);
    }
}
