//! Counts the ports of remotes that have no slot in the table.

use core::sync::atomic::{AtomicU64, Ordering};

use super::{Seed, mix, scale};

/// The cells of each remote, one in each row.
pub const ROWS: usize = 4;

/// The number of a window in the upper 16 bits. Below it one bit for each port that
/// the remotes of this cell met in it.
#[derive(Debug, Default)]
pub struct Cell(AtomicU64);

const PORT_BITS: u32 = 48;
const PORTS: u64 = (1 << PORT_BITS) - 1;

/// [`ROWS`] rows of cells. A remote has one cell in each row, by hash, and shares it
/// with different remotes in each row. A port whose bit is set in all of them was
/// met by the remote, or by others in each row. With eight sources to a cell that is
/// one bit in 1700.
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

    /// Sets the bit of a port for the remote with this hash. Returns how many ports
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
                // A bit that another thread sets in between is lost. Then the remote
                // needs one more port.
                cell.store(next, Ordering::Relaxed);
            }
            met &= ports;
        }
        met.count_ones()
    }
}
