//! Tests of every walk in both families, with a fake filter engine and a peer.

mod changes;
mod datagrams;
mod fake;
mod fragments;
mod groups;
mod headers;
mod hostile;
mod loopback;
mod offers;
mod reauthorization;
mod received_errors;
mod refusals;
mod sockets;
mod stream_packets;
mod world;

use super::documented::{Comparison, compare};
use super::{Event, Record};

/// Panics unless each record's layers are those of the documents, and each event of
/// `wanted` occurs.
fn assert_documented<'a>(records: impl IntoIterator<Item = &'a Record>, wanted: &[Event]) {
    let mut seen = Vec::new();
    for record in records {
        match compare(record.event, record.layers(), record.stopped(), |_| true) {
            Comparison::Match => seen.push(record.event),
            Comparison::Undocumented => {}
            deviation @ Comparison::Deviation { .. } => panic!("{record}\n{deviation}"),
        }
    }
    for event in wanted {
        assert!(seen.contains(event), "no {event} among {seen:?}");
    }
}
