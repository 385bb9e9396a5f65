//! Executive: interlocked lists (`wdm.h`).
#![expect(unsafe_code, reason = "follows lists in driver memory")]
#![expect(non_snake_case, reason = "the names are the NT API's own")]

use std::sync::{Mutex, PoisonError};

use super::enter::enter;
use super::types::Address;

/// All lists change under one lock; no driver code changes them without a call.
static LISTS: Mutex<()> = Mutex::new(());

/// `SLIST_HEADER` of x64: depth in the lowest 16 bits and a sequence number; then the
/// first entry, whose address is a multiple of 16.
#[derive(Clone, Copy)]
#[repr(C)]
struct Header {
    depth: u64,
    next: u64,
}

const DEPTH: u64 = 0xFFFF;

fn change(list: Address, f: impl FnOnce(&mut Header)) {
    let place = list as *mut Header;
    // Fault before the lock is taken, because nothing is released then.
    // SAFETY: a list header in driver memory. A bad pointer faults, and the guest
    // attributes the fault to the driver.
    unsafe { place.read_volatile() };
    let _lock = LISTS.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: as above; readable as just now.
    let mut header = unsafe { place.read_volatile() };
    f(&mut header);
    // SAFETY: as above. Only these functions write list headers.
    unsafe { place.write_volatile(header) };
}

fn first(header: &Header) -> Address {
    (header.next & !15) as Address
}

/// Counts a change of the depth.
fn count(header: &mut Header, depth: u64) {
    let sequence = (header.depth >> 16).wrapping_add(1);
    header.depth = sequence << 16 | depth & DEPTH;
}

/// The entry after one.
fn following(entry: Address) -> Address {
    // SAFETY: an entry of a list of the driver's. If it is freed memory, the access
    // faults, and the guest attributes the fault to the driver.
    unsafe { (entry as *const Address).read_volatile() }
}

/// `InitializeSListHead`.
pub extern "win64" fn InitializeSListHead(SListHead: Address) {
    enter!(InitializeSListHead);
    change(SListHead, |header| *header = Header { depth: 0, next: 0 });
}

/// The first entry, removed; 0 if there is none.
pub(super) fn pop(list: Address) -> Address {
    let mut entry = 0;
    change(list, |header| entry = first(header));
    if entry != 0 {
        // An entry in freed memory faults here, before the lock is taken.
        following(entry);
    }
    change(list, |header| {
        entry = first(header);
        if entry != 0 {
            let depth = (header.depth & DEPTH).wrapping_sub(1);
            header.next = following(entry) as u64;
            count(header, depth);
        }
    });
    entry
}

/// Adds an entry. Returns the first one before.
pub(super) fn push(list: Address, entry: Address) -> Address {
    // SAFETY: an entry of the driver's. A bad pointer faults before the lock is taken.
    unsafe { (entry as *mut Address).write_volatile(0) };
    let mut before = 0;
    change(list, |header| {
        before = first(header);
        // SAFETY: writable as just now.
        unsafe { (entry as *mut Address).write_volatile(before) };
        let depth = (header.depth & DEPTH).wrapping_add(1);
        header.next = entry as u64;
        count(header, depth);
    });
    before
}

/// `ExpInterlockedPopEntrySList`.
pub extern "win64" fn ExpInterlockedPopEntrySList(ListHead: Address) -> Address {
    enter!(ExpInterlockedPopEntrySList);
    pop(ListHead)
}

/// `ExpInterlockedPushEntrySList`.
pub extern "win64" fn ExpInterlockedPushEntrySList(ListHead: Address, ListEntry: Address) -> Address {
    enter!(ExpInterlockedPushEntrySList);
    push(ListHead, ListEntry)
}

/// `ExpInterlockedFlushSList`. Returns the first of all entries, which are linked.
pub extern "win64" fn ExpInterlockedFlushSList(ListHead: Address) -> Address {
    enter!(ExpInterlockedFlushSList);
    let mut all = 0;
    change(ListHead, |header| {
        all = first(header);
        header.next = 0;
        count(header, 0);
    });
    all
}

/// `ExQueryDepthSList`.
pub extern "win64" fn ExQueryDepthSList(SListHead: Address) -> u16 {
    enter!(ExQueryDepthSList);
    let mut depth = 0;
    change(SListHead, |header| depth = (header.depth & DEPTH) as u16);
    depth
}
