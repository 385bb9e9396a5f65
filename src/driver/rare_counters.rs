//! Counts of rare events, shared by all processors.

use core::sync::atomic::{AtomicU64, Ordering};

/// Counts since the start. Each occurrence is also an event.
///
/// In a debugger: this begins at the seventh word of `Shared`, see `Counters`.
#[derive(Default)]
#[repr(C)]
pub struct RareCounters {
    /// Flows that have ended.
    pub flows_ended: AtomicU64,
    /// Deviations from the documented order.
    pub deviations: AtomicU64,
    /// Scans reported.
    pub scans: AtomicU64,
}

impl RareCounters {
    /// Counts a flow that has ended.
    pub fn flow_ended(&self) {
        self.flows_ended.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a deviation from the documented order.
    pub fn deviation(&self) {
        self.deviations.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a scan.
    pub fn scan(&self) {
        self.scans.fetch_add(1, Ordering::Relaxed);
    }
}
