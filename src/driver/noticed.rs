//! What has been noticed beside verdicts: seldom enough for all processors to
//! count in one place.

use core::sync::atomic::{AtomicU64, Ordering};

use super::flows::Ended;
use crate::logic::order::Deviation;
use crate::logic::scan::Scan;

/// Counts since the start.
///
/// In a debugger: the seventh word of `Shared` (see `Counters`) leads to a count
/// of owners, and this lies behind it.
#[derive(Default)]
#[repr(C)]
pub struct Noticed {
    /// Flows that are over.
    flows_ended: AtomicU64,
    /// Those of them whose order was watched and kept.
    flows_in_order: AtomicU64,
    /// Their packets and bytes, by direction.
    packets: [AtomicU64; 2],
    bytes: [AtomicU64; 2],
    /// Departures from the documented order.
    deviations: AtomicU64,
    /// Scans reported.
    scans: AtomicU64,
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
    pub fn deviation(&self, _: &Deviation) {
        self.deviations.fetch_add(1, Ordering::Relaxed);
    }

    /// Somebody scans.
    pub fn scan(&self, _: &Scan) {
        self.scans.fetch_add(1, Ordering::Relaxed);
    }
}
