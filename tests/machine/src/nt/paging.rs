//! Pageable memory, which Windows takes out of memory when it checks the IRQL.
//!
//! Driver Verifier's force IRQL checking takes all pageable memory out each time that a
//! driver raises the IRQL to DISPATCH_LEVEL. An access below that level brings it back;
//! one at DISPATCH_LEVEL or above cannot. Here the pages lose their access, and the
//! fault handler gives it back.
//!
//! The table has no lock, because the fault handler reads it.
#![expect(unsafe_code, reason = "protects pages")]

use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};

use nix::sys::mman::{ProtFlags, mprotect};

use super::cpu::{self, Irql};
use super::memory::round_to_pages;

/// Most ranges of pageable memory of all machines. More are never taken out.
const MOST: usize = 1 << 14;

/// Whole pages that can be taken out.
struct Pages {
    /// What identifies the machine; 0 for a free row. It is written last and cleared first.
    owner: AtomicUsize,
    start: AtomicUsize,
    end: AtomicUsize,
    /// Access while the pages are in memory.
    access: AtomicI32,
    present: AtomicBool,
    /// How often the pages are locked in memory.
    locks: AtomicUsize,
}

static TABLE: [Pages; MOST] = [const {
    Pages {
        owner: AtomicUsize::new(0),
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        access: AtomicI32::new(0),
        present: AtomicBool::new(true),
        locks: AtomicUsize::new(0),
    }
}; MOST];

/// The rows that were ever used are those below.
static USED: AtomicUsize = AtomicUsize::new(0);

fn rows() -> &'static [Pages] {
    &TABLE[..USED.load(Ordering::Acquire)]
}

impl Pages {
    fn protect(&self, access: ProtFlags) {
        let (start, end) = (self.start.load(Ordering::Relaxed), self.end.load(Ordering::Relaxed));
        let Some(first) = NonNull::new(std::ptr::with_exposed_provenance_mut(start)) else { return };
        // SAFETY: pages of pool or of an image, which hold no Rust object. Their owner
        // removes the row before it unmaps them. A failure leaves the access as it is.
        let _ = unsafe { mprotect(first, end - start, access) };
    }

    fn bring_in(&self) {
        self.protect(ProtFlags::from_bits_truncate(self.access.load(Ordering::Relaxed)));
        self.present.store(true, Ordering::Release);
    }

    fn overlaps(&self, range: &Range<usize>) -> bool {
        self.owner.load(Ordering::Acquire) != 0
            && self.start.load(Ordering::Relaxed) < range.end
            && range.start < self.end.load(Ordering::Relaxed)
    }
}

/// Makes whole pages of the machine `owner` pageable. They are in memory now.
pub(super) fn add(owner: usize, pages: Range<usize>, access: ProtFlags) {
    /// The owner of a row that is being written. No machine has this identity.
    const WRITING: usize = usize::MAX;
    let free = |row: &&Pages| {
        let taken = row.owner.compare_exchange(0, WRITING, Ordering::AcqRel, Ordering::Relaxed);
        taken.is_ok()
    };
    if let Some((at, row)) = TABLE.iter().enumerate().find(|(_, row)| free(row)) {
        row.start.store(pages.start, Ordering::Relaxed);
        row.end.store(pages.start + round_to_pages(pages.len()), Ordering::Relaxed);
        row.access.store(access.bits(), Ordering::Relaxed);
        row.locks.store(0, Ordering::Relaxed);
        row.present.store(true, Ordering::Relaxed);
        row.owner.store(owner, Ordering::Release);
        USED.fetch_max(at + 1, Ordering::AcqRel);
    }
}

/// Forgets all pageable pages in a range.
pub(super) fn remove(range: &Range<usize>) {
    for row in rows().iter().filter(|row| row.overlaps(range)) {
        row.bring_in();
        row.owner.store(0, Ordering::Release);
    }
}

/// Takes the pageable memory of a machine out, except what is locked. May run in the
/// fault handler.
pub(super) fn take_out(owner: usize) {
    for row in rows().iter().filter(|row| row.owner.load(Ordering::Acquire) == owner) {
        if row.locks.load(Ordering::Acquire) == 0 && row.present.swap(false, Ordering::AcqRel) {
            row.protect(ProtFlags::PROT_NONE);
        }
    }
}

/// Brings in what is pageable in a range, as the pager does below DISPATCH_LEVEL. Returns
/// whether there is any. May run in the fault handler.
pub(super) fn bring_in(range: Range<usize>) -> bool {
    if cpu::irql() >= Irql::DISPATCH {
        return false;
    }
    rows().iter().filter(|row| row.overlaps(&range)).map(Pages::bring_in).count() > 0
}

/// Brings in the page at an address. For the fault handler.
pub(super) fn bring_in_page(address: u64) -> bool {
    let address = address as usize;
    bring_in(address..address.saturating_add(1))
}

/// Whether an address is in pageable memory that is not locked.
pub(super) fn is_pageable(address: usize) -> bool {
    let range = address..address.saturating_add(1);
    rows().iter().any(|row| row.overlaps(&range) && row.locks.load(Ordering::Acquire) == 0)
}

/// Locks what is pageable in a range in memory, or unlocks it.
pub(super) fn lock(range: Range<usize>, locks: bool) {
    for row in rows().iter().filter(|row| row.overlaps(&range)) {
        match locks {
            true => {
                row.locks.fetch_add(1, Ordering::AcqRel);
                row.bring_in();
            }
            false => {
                let _ = row.locks.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |n| n.checked_sub(1));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::{Guarded, PAGE};
    use super::*;

    #[test]
    fn pages_are_taken_out_and_brought_in_unless_they_are_locked() {
        let pages = Guarded::new(2 * PAGE);
        let range = pages.start()..pages.start() + PAGE;
        let owner = 0x1234_5670;
        add(owner, range.clone(), ProtFlags::PROT_READ | ProtFlags::PROT_WRITE);
        assert!(is_pageable(range.start) && !is_pageable(range.end));
        let readable = || super::super::foreign::read_present(range.start, 1).is_ok();
        take_out(owner + 16);
        assert!(readable());
        take_out(owner);
        assert!(!readable());
        assert!(bring_in_page(range.start as u64) && readable());
        lock(range.clone(), true);
        take_out(owner);
        assert!(readable() && !is_pageable(range.start));
        lock(range.clone(), false);
        take_out(owner);
        assert!(!readable());
        remove(&range);
        assert!(readable() && !is_pageable(range.start));
    }
}
