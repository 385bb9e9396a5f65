//! How a machine is made.

use std::time::Duration;

use super::cpu::Irql;
use super::fwp::{MdlMapping, NblLayout};

/// How a machine is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// Simulated processors, 1 to 64.
    pub processors: u32,
    /// The level classify runs at; the documents allow up to DISPATCH_LEVEL
    /// and name no layer's own (facts, "per-layer IRQL").
    pub classify_irql: Irql,
    /// How packets are cut into MDLs.
    pub nbl_layout: NblLayout,
    /// Whether packets' MDLs are mapped already.
    pub mdl_mapping: MdlMapping,
    /// Build number that `RtlGetVersion` reports.
    pub build: u32,
    /// How long unload waits for work items to end.
    pub drain_limit: Duration,
    /// A wait without a timeout that lasts longer than this is a deadlock.
    pub hang_limit: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            processors: 4,
            classify_irql: Irql::DISPATCH,
            nbl_layout: NblLayout::Contiguous,
            mdl_mapping: MdlMapping::Mapped,
            build: 22621,
            drain_limit: Duration::from_secs(5),
            hang_limit: Duration::from_secs(30),
        }
    }
}
