//! Pool: every block has its own pages, and ends at a guard page.
//!
//! A block of a page or more starts at a page boundary (`ExAllocatePool2`
//! documentation). A smaller block ends as near to the guard page as an alignment
//! of 16 permits. The rest of its pages holds a pattern, which is checked when the
//! block is freed. Freed pages stay inaccessible while they are in quarantine.
#![expect(unsafe_code, reason = "fills and checks the pages of blocks")]

mod report;

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::mman::ProtFlags;

use super::cpu::Irql;
use super::memory::{PAGE, Reservation, round_to_pages};
use super::paging;
use crate::driver::Origin;
use crate::verifier::{Rule, Violation, rules};

use report::Block;
pub(super) use report::pool_type;
pub use report::{Leak, PoolTag, Shortage, Wanted, Where};

/// `MEMORY_ALLOCATION_ALIGNMENT` on x64.
const ALIGNMENT: usize = 16;
/// A cache line, for `POOL_FLAG_CACHE_ALIGNED`.
const CACHE_LINE: usize = 64;
/// Address space for blocks. It is so large that pages in quarantine are not reused
/// early.
const ARENA: usize = 16 << 30;
/// Number of freed blocks that stay inaccessible before their pages are reused.
const QUARANTINE: usize = 4096;
/// Content of uninitialized blocks.
const UNINITIALIZED: u8 = 0xCC;
/// Content of the rest of a block's pages.
const SLACK: u8 = 0xA5;

#[derive(Debug, Default)]
struct State {
    /// Blocks by their first page.
    blocks: BTreeMap<usize, Block>,
    quarantine: VecDeque<usize>,
    /// First pages of reusable page runs, by the number of pages.
    free: BTreeMap<usize, Vec<usize>>,
    next: usize,
    shortage: Shortage,
    allocations: u64,
    bytes: usize,
    most_bytes: usize,
}

/// The pool of one machine.
#[derive(Debug)]
pub struct Pool {
    arena: Reservation,
    state: Mutex<State>,
}

impl Default for Pool {
    fn default() -> Self {
        let arena = Reservation::at(wanted_address(), ARENA).expect("the host has address space");
        Self { arena, state: Mutex::default() }
    }
}

/// Where the arena of the calling thread's machines begins, if nothing else is there. All
/// machines that a thread makes one after the other have it at one address. So what a
/// driver makes of addresses, such as the key of a hash, is the same in each run.
fn wanted_address() -> Option<NonZeroUsize> {
    /// Addresses that the host gives out last.
    const FIRST: usize = 0x2000_0000_0000;
    const PLACES: usize = 1024;
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static NUMBER: usize = THREADS.fetch_add(1, Ordering::Relaxed));
    NonZeroUsize::new(FIRST + NUMBER.with(|number| number % PLACES) * ARENA)
}

impl Drop for Pool {
    fn drop(&mut self) {
        paging::remove(&(self.arena.base()..self.arena.base() + self.arena.size()));
    }
}

impl Pool {
    /// Allocates a block. Returns its address, or 0 if there is no memory.
    pub fn allocate(&self, wanted: Wanted) -> usize {
        let mut state = self.state();
        state.allocations += 1;
        match state.short(wanted.size) {
            true => 0,
            false => self.open_block(&mut state, wanted, false),
        }
    }

    /// Allocates a block for the system itself. No driver has to free it, and it
    /// never fails. It is not initialized.
    ///
    /// # Panics
    /// If the host has no memory left.
    pub(super) fn allocate_for_system(&self, size: usize, tag: u32) -> usize {
        let wanted = Wanted {
            size,
            tag,
            paged: false,
            zeroed: false,
            cache_aligned: false,
            origin: Origin::default(),
        };
        let address = self.open_block(&mut self.state(), wanted, true);
        assert_ne!(address, 0, "the host has memory left");
        address
    }

    fn open_block(&self, state: &mut State, wanted: Wanted, of_system: bool) -> usize {
        let pages = round_to_pages(wanted.size) / PAGE;
        let first = state.take_pages(pages, &self.arena);
        let Some(first) = first.filter(|&first| self.arena.open(first, pages * PAGE)) else {
            return 0;
        };
        let align = if wanted.cache_aligned { CACHE_LINE } else { ALIGNMENT };
        let start = match wanted.size {
            PAGE.. => first,
            size => first + PAGE - size.next_multiple_of(align),
        };
        let fill = if wanted.zeroed { 0 } else { UNINITIALIZED };
        let end = start + wanted.size;
        self.fill(first, start, SLACK);
        self.fill(start, end, fill);
        self.fill(end, first + pages * PAGE, SLACK);
        state.bytes += wanted.size;
        state.most_bytes = state.most_bytes.max(state.bytes);
        if wanted.paged {
            let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
            paging::add(self.id(), first..first + pages * PAGE, access);
        }
        let block = Block {
            start,
            size: wanted.size,
            tag: wanted.tag,
            paged: wanted.paged,
            pages,
            origin: wanted.origin,
            of_system,
            freed: None,
        };
        state.blocks.insert(first, block);
        start
    }

    /// Frees a block and returns its size. `tag` 0 stands for any tag. The block is
    /// also freed after a violation, if it is clear which block was meant.
    pub fn free(&self, address: usize, tag: u32, irql: Irql, stack: Vec<u64>) -> Result<usize, Violation> {
        let mut state = self.state();
        let bad = |rule: &'static Rule, text: String| Err(Violation::new(rule, [address as u64, 0, 0], text));
        let Some((first, block)) = state.find(address) else {
            return bad(&rules::POOL_BAD_FREE, format!("{address:#x} is in no pool block"));
        };
        if block.start != address {
            let text = format!("{address:#x} is not the start of {}", block.describe(address));
            return bad(&rules::POOL_BAD_FREE, text);
        }
        if block.freed.is_some() {
            let text = block.describe(address);
            let parameters = [0, address as u64, u64::from(block.tag)];
            return Err(Violation::new(&rules::POOL_DOUBLE_FREE, parameters, text));
        }
        let outcome = self.check_block(first, block, tag, irql).map(|()| block.size);
        self.release(&mut state, first, stack);
        outcome
    }

    /// What identifies the machine's pageable memory.
    pub(super) fn id(&self) -> usize {
        self.arena.base()
    }

    /// Takes all pageable memory of the machine out, until it is used below
    /// DISPATCH_LEVEL.
    pub(super) fn take_out_pageable(&self) {
        paging::take_out(self.id());
    }

    /// Addresses of the block that holds an address.
    pub(super) fn range_of(&self, address: usize) -> Option<Range<usize>> {
        let state = self.state();
        let (_, block) = state.find(address)?;
        Some(block.start..block.start + block.size)
    }

    fn check_block(&self, first: usize, block: &Block, tag: u32, irql: Irql) -> Result<(), Violation> {
        let address = block.start as u64;
        let (limit, rule) = match block.paged {
            true => (Irql::APC, &rules::POOL_FREE_PAGED_IRQL),
            false => (Irql::DISPATCH, &rules::POOL_FREE_IRQL),
        };
        let text = block.describe(block.start);
        if irql > limit {
            let parameters = [u64::from(irql.0), block.pool_type(), address];
            return Err(Violation::new(rule, parameters, format!("{text} at {irql}")));
        }
        if tag != 0 && tag != block.tag {
            let parameters = [address, u64::from(block.tag), u64::from(tag)];
            let text = format!("{text} freed as {}", PoolTag(tag));
            return Err(Violation::new(&rules::POOL_WRONG_TAG, parameters, text));
        }
        paging::bring_in(first..first + block.pages * PAGE);
        let end = block.start + block.size;
        let sides = [
            (first, block.start, &rules::POOL_UNDERRUN),
            (end, first + block.pages * PAGE, &rules::POOL_OVERRUN),
        ];
        for (from, to, rule) in sides {
            if let Some(changed) = self.first_change(from, to) {
                let text = format!("{text}: byte at {changed:#x} was written");
                return Err(Violation::new(rule, [address, changed as u64, 0], text));
            }
        }
        Ok(())
    }

    fn release(&self, state: &mut State, first: usize, stack: Vec<u64>) {
        let Some(block) = state.blocks.get_mut(&first) else {
            return;
        };
        block.freed = Some(stack);
        if block.paged {
            paging::remove(&(first..first + block.pages * PAGE));
        }
        state.bytes -= block.size;
        let closed = self.arena.close(first, block.pages * PAGE);
        assert!(closed, "the host has memory mappings left");
        state.quarantine.push_back(first);
        if state.quarantine.len() > QUARANTINE
            && let Some(oldest) = state.quarantine.pop_front()
            && let Some(block) = state.blocks.remove(&oldest)
        {
            state.free.entry(block.pages).or_default().push(oldest);
        }
    }

    /// Sets which of the next allocations fail. Replaces the previous setting.
    pub fn set_shortage(&self, shortage: Shortage) {
        self.state().shortage = shortage;
    }

    /// Makes the next `count` allocations fail.
    pub fn fail_next(&self, count: u64) {
        self.set_shortage(Shortage { fail: count, ..Shortage::default() });
    }

    /// Makes every allocation of more than `bytes` fail.
    pub fn fail_above(&self, bytes: usize) {
        self.set_shortage(Shortage { above: Some(bytes), ..Shortage::default() });
    }

    /// Whether another allocation of the kernel fails. Counts as an allocation.
    pub fn take_shortage(&self) -> bool {
        let mut state = self.state();
        state.allocations += 1;
        state.short(0)
    }

    /// Number of allocations so far, including failed ones.
    pub fn allocations(&self) -> u64 {
        self.state().allocations
    }

    /// Number of bytes allocated now, and its maximum so far.
    pub fn bytes(&self) -> (usize, usize) {
        let state = self.state();
        (state.bytes, state.most_bytes)
    }

    /// Blocks that are not freed, in address order.
    pub fn leaks(&self) -> Vec<Leak> {
        let state = self.state();
        let live = state.blocks.values().filter(|block| block.freed.is_none() && !block.of_system);
        live.map(|block| Leak {
            address: block.start,
            size: block.size,
            tag: PoolTag(block.tag),
            origin: block.origin.clone(),
        })
        .collect()
    }

    /// The kind of pool memory at an address, and its description.
    pub fn describe(&self, address: usize) -> Option<(Where, String)> {
        self.state().describe(address)
    }

    /// Like [`Self::describe`], for a fault handler, which must not wait. Also
    /// `None` while the pool is locked.
    pub fn try_describe(&self, address: usize) -> Option<(Where, String)> {
        self.state.try_lock().ok()?.describe(address)
    }

    /// Whether an address is in a block of paged pool.
    pub fn is_paged(&self, address: usize) -> bool {
        self.state().find(address).is_some_and(|(_, block)| block.paged)
    }

    fn fill(&self, from: usize, to: usize, value: u8) {
        assert!(self.arena.contains(from));
        // SAFETY: pages of a block that were just opened for writing. The driver
        // does not know them yet.
        unsafe { std::ptr::write_bytes(from as *mut u8, value, to - from) };
    }

    fn first_change(&self, from: usize, to: usize) -> Option<usize> {
        (from..to).find(|&address| {
            // SAFETY: the slack of a live block, whose pages are readable. The read
            // is volatile, because a faulty driver may write at the same time.
            unsafe { (address as *const u8).read_volatile() != SLACK }
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn short(&mut self, size: usize) -> bool {
        let shortage = &mut self.shortage;
        if shortage.above.is_some_and(|above| size > above) {
            return true;
        }
        if shortage.fail == 0 {
            return false;
        }
        if shortage.skip > 0 {
            shortage.skip -= 1;
            return false;
        }
        shortage.fail -= 1;
        true
    }

    /// Takes `pages` closed pages. The page after them stays closed.
    fn take_pages(&mut self, pages: usize, arena: &Reservation) -> Option<usize> {
        if let Some(page) = self.free.get_mut(&pages).and_then(Vec::pop) {
            return Some(page);
        }
        // The arena's first page guards the first block from below.
        let first = arena.base() + PAGE + self.next;
        let taken = pages.checked_add(1)?.checked_mul(PAGE)?;
        let end = self.next.checked_add(taken)?;
        if end > arena.size() - PAGE {
            return None;
        }
        self.next = end;
        Some(first)
    }

    fn describe(&self, address: usize) -> Option<(Where, String)> {
        let (first, block) = self.find(address)?;
        let place = match &block.freed {
            Some(_) => Where::Freed,
            None if address >= first + block.pages * PAGE => Where::Beyond,
            None => Where::Live,
        };
        Some((place, block.describe(address)))
    }

    /// The block whose pages, or guard page, hold an address.
    fn find(&self, address: usize) -> Option<(usize, &Block)> {
        let (&first, block) = self.blocks.range(..=address).next_back()?;
        (address < first + (block.pages + 1) * PAGE).then_some((first, block))
    }
}
