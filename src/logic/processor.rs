//! What a processor keeps of what passes on it.

use super::counters::Counters;
use super::scan::{ROWS, Table, WAYS};

/// Remotes that one processor remembers, and cells for those that it cannot:
/// 32 KB each. What that means for floods is in [`crate::logic::scan`].
const SETS: usize = 512 / WAYS;
const CELLS: usize = ROWS * 1024;

/// One processor's own. Integers only, and empty where all of them are zero:
/// made in zeroed memory.
#[derive(Debug)]
#[repr(C)]
pub struct Processor {
    /// Who has met closed ports.
    pub remotes: Remotes,
    /// Of what passed at DISPATCH_LEVEL, where nobody else counts meanwhile; and
    /// of what passed below.
    pub counters: [Counters; 2],
}

/// Remotes that one processor has seen.
pub type Remotes = Table<SETS, CELLS>;
