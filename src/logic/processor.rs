//! The state of one processor.

use super::counters::Counters;
use super::scan::{ROWS, Table, WAYS};

/// The remotes that one processor remembers, and the cells for others: 32 KB each.
/// [`crate::logic::scan`] describes what happens under a flood.
const SETS: usize = 512 / WAYS;
const CELLS: usize = ROWS * 1024;

/// The state of one processor. The type contains only integers, and zero means
/// empty, so that it can be made in zeroed memory.
#[derive(Debug)]
#[repr(C)]
pub struct Processor {
    /// The remotes that have met closed ports.
    pub remotes: Remotes,
    /// The counts. Only this processor counts here, at DISPATCH_LEVEL.
    pub counters: Counters,
}

/// The remotes that one processor has seen.
pub type Remotes = Table<SETS, CELLS>;
