//! Counts the ports of remotes for whom the table has no slot.

use core::sync::atomic::{AtomicU64, Ordering};

use super::{Seed, mix, scale};

/// Cells a remote has.
pub const ROWS: usize = 4;

/// A window's number in the upper 16 bits, below it the ports met in it by
/// whoever shares the cell.
#[derive(Debug, Default)]
pub struct Cell(AtomicU64);

const PORT_BITS: u32 = 48;
const PORTS: u64 = (1 << PORT_BITS) - 1;

/// As many rows of cells as [`ROWS`]; a remote has one in each, by hash, and
/// shares it with others, in each row with different ones. A port that is
/// marked in all of them is one that the remote has met, or that others have
/// met in each: with eight sources to a cell, one bit in 1700.
#[derive(Debug)]
#[repr(C)]
pub struct Queue<const CELLS: usize> {
    cells: [Cell; CELLS],
}

impl<const CELLS: usize> Queue<CELLS> {
    #[cfg(test)]
    pub fn empty() -> Self {
        Self { cells: core::array::from_fn(|_| Cell::default()) }
    }

    /// ConditionFlags a port met by the remote with this hash, and says how many ports
    /// it has met in this window.
    pub fn meet(&self, remote: u64, port: u16, Seed(seed): Seed, window: u16) -> u32 {
        let per_row = CELLS / ROWS;
        let port = 1 << scale(mix(port.into(), !seed), PORT_BITS as usize);
        let mut met = PORTS;
        for (row, cells) in self.cells.chunks_exact(per_row.max(1)).take(ROWS).enumerate() {
            let Some(Cell(cell)) = cells.get(scale(mix(remote, row as u64), cells.len())) else { return 0 };
            let current = cell.load(Ordering::Relaxed);
            let ports = if (current >> PORT_BITS) as u16 == window { current & PORTS } else { 0 };
            let ports = ports | port;
            let next = u64::from(window) << PORT_BITS | ports;
            if next != current {
                // A mark that another thread makes in between is lost: then
                // the remote waits for one more port.
                cell.store(next, Ordering::Relaxed);
            }
            met &= ports;
        }
        met.count_ones()
    }
}
