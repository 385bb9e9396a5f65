//! Reads the driver's counters from pool memory.
//!
//! Both builds have one layout, so their memory can be compared.

use std::mem::{offset_of, size_of};

use hushport_native_driver::logic::callouts::COUNT;
use hushport_native_driver::logic::processor::Processor;
use hushport_native_driver::logic::stealth::Verdict;
use machine::nt::{Kernel, foreign};

/// Alignment of one processor's counters.
const LINE: usize = 64;

/// Alignment of pool blocks (`ExAllocatePool2`).
const POOL: usize = 16;

/// Address of the counters on a machine with one processor.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    start: usize,
}

impl Kept {
    /// # Panics
    /// If the driver has no counters, or the machine has more processors.
    pub fn find(kernel: &Kernel) -> Self {
        assert_eq!(kernel.options().processors, 1, "one set of counters");
        let blocks = kernel.pool().leaks();
        let block = blocks.iter().find(|block| block.size == size_of::<Processor>() + LINE - POOL);
        let processor = block.expect("the counters are in pool").address.next_multiple_of(LINE);
        Self { start: processor + offset_of!(Processor, counters) }
    }

    /// All counters: the verdicts of one callout after those of another.
    ///
    /// # Panics
    /// If the driver has freed them.
    pub fn all(self) -> Vec<u64> {
        let memory = self.memory();
        (0..COUNT).flat_map(|callout| verdicts(&memory, callout)).collect()
    }

    /// The verdicts of one callout, by its number.
    ///
    /// # Panics
    /// If the driver has freed them.
    pub fn row(self, callout: usize) -> Vec<u64> {
        verdicts(&self.memory(), callout).collect()
    }

    fn memory(self) -> Vec<u8> {
        const SIZE: usize = COUNT * Verdict::COUNT * size_of::<u64>();
        foreign::read_bytes(self.start, SIZE).expect("the counters can be read")
    }
}

/// The verdicts of one callout. In memory a row is a verdict.
fn verdicts(memory: &[u8], callout: usize) -> impl Iterator<Item = u64> {
    let places = (0..Verdict::COUNT).map(move |row| (row * COUNT + callout) * size_of::<u64>());
    places.map(|at| u64::from_ne_bytes(memory[at..][..size_of::<u64>()].try_into().expect("eight bytes")))
}

/// All counters of a machine with one processor: the verdicts of one callout after those
/// of another.
///
/// # Panics
/// If the driver keeps none, or the machine has more processors.
pub fn read(kernel: &Kernel) -> Vec<u64> {
    Kept::find(kernel).all()
}

/// Callout, verdict and increase of each counter that increased.
pub fn rises(before: &[u64], after: &[u64]) -> Vec<(usize, usize, u64)> {
    let changed = before.iter().zip(after).enumerate().filter(|(_, (before, after))| before != after);
    let risen = changed.map(|(index, (before, after))| {
        (index / Verdict::COUNT, index % Verdict::COUNT, after.wrapping_sub(*before))
    });
    risen.collect()
}
