//! How a machine is made.

use std::ops::Range;
use std::time::Duration;

use super::cpu::Irql;
use super::fwp::{MdlMapping, NblLayout};

/// How a machine is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// Simulated processors, 1 to 64.
    pub processors: u32,
    /// Processors in a group, but for the last group. Windows makes groups of up
    /// to 64, and smaller ones where it is told to (bcdedit's `groupsize`).
    pub group_size: u32,
    /// The level classify runs at; the documents allow up to DISPATCH_LEVEL
    /// and name no layer's own (facts, "per-layer IRQL").
    pub classify_irql: Irql,
    /// How packets are cut into MDLs.
    pub nbl_layout: NblLayout,
    /// Whether packets' MDLs are mapped already.
    pub mdl_mapping: MdlMapping,
    /// NET_BUFFERs in a list at the outbound layers: the packet, and others like
    /// it, each a byte shorter than the one before.
    pub net_buffers: usize,
    /// Build number that `RtlGetVersion` reports.
    pub build: u32,
    /// How long unload waits for work items to end.
    pub drain_limit: Duration,
    /// A wait without a timeout that lasts longer than this is a deadlock.
    pub hang_limit: Duration,
}

impl Options {
    /// A processor's group, and its number in that.
    pub(super) fn group_and_number(&self, processor: u32) -> (u16, u8) {
        ((processor / self.group_size) as u16, (processor % self.group_size) as u8)
    }

    /// A group's processors, by their numbers over all groups.
    pub(super) fn group(&self, group: u16) -> Range<u32> {
        let first = u32::from(group).saturating_mul(self.group_size).min(self.processors);
        first..first.saturating_add(self.group_size).min(self.processors)
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            processors: 4,
            group_size: 64,
            classify_irql: Irql::DISPATCH,
            nbl_layout: NblLayout::Contiguous,
            mdl_mapping: MdlMapping::Mapped,
            net_buffers: 1,
            build: 22621,
            drain_limit: Duration::from_secs(5),
            hang_limit: Duration::from_secs(30),
        }
    }
}
