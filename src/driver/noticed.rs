//! What has been noticed beside verdicts: seldom enough for all processors to
//! count in one place.

use core::sync::atomic::{AtomicU64, Ordering};

/// Counts since the start; each of them is said as an event, too.
///
/// In a debugger: it begins with the seventh word of `Shared`, see `Counters`.
#[derive(Default)]
#[repr(C)]
pub struct Noticed {
    /// Flows that are over.
    pub flows_ended: AtomicU64,
    /// Departures from the documented order.
    pub deviations: AtomicU64,
    /// Scans reported.
    pub scans: AtomicU64,
}

impl Noticed {
    /// A flow is over.
    pub fn flow_ended(&self) {
        self.flows_ended.fetch_add(1, Ordering::Relaxed);
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
