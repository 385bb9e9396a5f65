//! What has been noticed beside verdicts: seldom enough for all processors to
//! count in one place.

use core::sync::atomic::{AtomicU64, Ordering};

use super::flows::Ended;

/// Counts since the start.
///
/// In a debugger: it begins with the seventh word of `Shared`, see `Counters`.
#[derive(Default)]
#[repr(C)]
pub struct Noticed {
    /// Flows that are over.
    pub flows_ended: AtomicU64,
    /// Those of them whose order was watched and kept.
    flows_in_order: AtomicU64,
    /// Their packets and bytes, by direction.
    packets: [AtomicU64; 2],
    bytes: [AtomicU64; 2],
    /// Departures from the documented order.
    pub deviations: AtomicU64,
    /// Scans reported.
    pub scans: AtomicU64,
}

impl Noticed {
    /// A flow is over.
    pub fn flow_ended(&self, ended: &Ended) {
        self.flows_ended.fetch_add(1, Ordering::Relaxed);
        if ended.watched && ended.deviation.is_none() {
            self.flows_in_order.fetch_add(1, Ordering::Relaxed);
        }
        let (of, own) = ([&self.packets, &self.bytes], [ended.totals.packets, ended.totals.bytes]);
        for (all, own) in of.into_iter().flatten().zip(own.into_iter().flatten()) {
            all.fetch_add(own, Ordering::Relaxed);
        }
    }

    /// Something left the documented order.
    pub fn deviation(&self) {
        self.deviations.fetch_add(1, Ordering::Relaxed);
    }

    /// Somebody scans.
    pub fn scan(&self) {
        self.scans.fetch_add(1, Ordering::Relaxed);
    }
}
