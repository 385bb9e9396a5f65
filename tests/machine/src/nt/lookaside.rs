//! Executive: lookaside lists (`wdm.h`).
//!
//! Drivers allocate and free by inline functions, which use the list's head, and call its
//! routines when the list is empty or full. As under Driver Verifier, a list keeps no
//! entries (its depth is 0), so that each block is a block of pool with its own checks.
#![expect(non_snake_case, reason = "the names are the NT API's own")]

use std::mem::offset_of;
use std::ops::Range;

use super::cpu;
use super::enter::enter;
use super::foreign;
use super::slist;
use super::types::{Address, GENERAL_LOOKASIDE, GENERAL_LOOKASIDE_POOL, NTSTATUS};
use super::{Kernel, Trouble};
use crate::status::Status;
use crate::verifier::{Violation, rules};

/// `EX_LOOKASIDE_LIST_EX_FLAGS_*` (`wdm.h`).
const RAISE_ON_FAIL: u32 = 1;
const FAIL_NO_RAISE: u32 = 2;
/// `POOL_RAISE_IF_ALLOCATION_FAILURE` (`wdm.h`).
const POOL_RAISE: i32 = 16;
/// `PagedPool` (`wdm.h`): set in the types of paged pool.
const PAGED_POOL: i32 = 1;
/// The smallest block (`LOOKASIDE_MINIMUM_BLOCK_SIZE`, `wdm.h`): it holds a list entry.
const SMALLEST_BLOCK: usize = 8;

/// A list that a driver has initialized.
#[derive(Clone, Copy, Debug)]
pub struct Lookaside {
    /// Bytes of its structure.
    size: usize,
    /// Whether its routines get the list, too.
    extended: bool,
}

fn remember(kernel: &Kernel, list: Address, entry: Lookaside, block: usize) -> Result<(), Violation> {
    if kernel.objects().lookasides.contains_key(&list) {
        let text = format!("the lookaside list at {list:#x}");
        return Err(Violation::new(&rules::LOOKASIDE_AGAIN, [list as u64, 0, 0], text));
    }
    if block < SMALLEST_BLOCK {
        let parameters = [list as u64, block as u64, SMALLEST_BLOCK as u64];
        let text = format!("the lookaside list at {list:#x}: blocks of {block} bytes");
        return Err(Violation::new(&rules::LOOKASIDE_BLOCK, parameters, text));
    }
    kernel.objects().lookasides.insert(list, entry);
    Ok(())
}

/// The routine that a driver gave, or the system's own.
fn routine(kernel: &Kernel, given: Address, own: &str) -> Address {
    if given != 0 { given } else { kernel.link("ntoskrnl.exe", own) }
}

/// `ExInitializeLookasideListEx`. `Depth` must be 0.
pub extern "win64" fn ExInitializeLookasideListEx(
    Lookaside: Address,
    Allocate: Address,
    Free: Address,
    PoolType: i32,
    Flags: u32,
    Size: usize,
    Tag: u32,
    Depth: u16,
) -> NTSTATUS {
    let kernel = enter!(ExInitializeLookasideListEx);
    let _ = Depth;
    if Flags & !(RAISE_ON_FAIL | FAIL_NO_RAISE) != 0 || Flags == RAISE_ON_FAIL | FAIL_NO_RAISE {
        return Status::INVALID_PARAMETER.0;
    }
    let list = || {
        if PoolType & PAGED_POOL == 0 {
            kernel.resident(Lookaside)?;
        }
        let size = size_of::<GENERAL_LOOKASIDE_POOL>();
        remember(&kernel, Lookaside, self::Lookaside { size, extended: true }, Size)?;
        let raise = if Flags & RAISE_ON_FAIL != 0 { POOL_RAISE } else { 0 };
        let list = GENERAL_LOOKASIDE_POOL {
            MaximumDepth: 256,
            Type: PoolType | raise,
            Tag,
            Size: Size as u32,
            AllocateEx: routine(&kernel, Allocate, "ExAllocatePoolWithTag"),
            FreeEx: routine(&kernel, Free, "ExFreePool"),
            ..GENERAL_LOOKASIDE_POOL::zeroed()
        };
        Ok::<_, Trouble>(foreign::write(Lookaside, &list)?)
    };
    kernel.settle(list(), ());
    Status::SUCCESS.0
}

fn initialize(
    kernel: &Kernel,
    list: Address,
    [allocate, free]: [Address; 2],
    pool: i32,
    flags: u32,
    (size, tag): (usize, u32),
) {
    let write = || {
        if pool & PAGED_POOL == 0 {
            kernel.resident(list)?;
        }
        let own = size_of::<GENERAL_LOOKASIDE>();
        remember(kernel, list, Lookaside { size: own, extended: false }, size)?;
        let structure = GENERAL_LOOKASIDE {
            MaximumDepth: 256,
            Type: pool | flags as i32,
            Tag: tag,
            Size: size as u32,
            Allocate: routine(kernel, allocate, "ExAllocatePoolWithTag"),
            Free: routine(kernel, free, "ExFreePool"),
            ..GENERAL_LOOKASIDE::zeroed()
        };
        Ok::<_, Trouble>(foreign::write(list, &structure)?)
    };
    kernel.settle(write(), ());
}

/// `ExInitializeNPagedLookasideList`. `Flags`: bits of the pool type.
pub extern "win64" fn ExInitializeNPagedLookasideList(
    Lookaside: Address,
    Allocate: Address,
    Free: Address,
    Flags: u32,
    Size: usize,
    Tag: u32,
    Depth: u16,
) {
    let kernel = enter!(ExInitializeNPagedLookasideList);
    let _ = Depth;
    /// `NonPagedPool`, as drivers with this structure get it without `POOL_NX_ALLOCATION`.
    const NON_PAGED: i32 = 0;
    initialize(&kernel, Lookaside, [Allocate, Free], NON_PAGED, Flags, (Size, Tag));
}

/// `ExInitializePagedLookasideList`.
pub extern "win64" fn ExInitializePagedLookasideList(
    Lookaside: Address,
    Allocate: Address,
    Free: Address,
    Flags: u32,
    Size: usize,
    Tag: u32,
    Depth: u16,
) {
    let kernel = enter!(ExInitializePagedLookasideList);
    let _ = Depth;
    initialize(&kernel, Lookaside, [Allocate, Free], PAGED_POOL, Flags, (Size, Tag));
}

/// Frees the entries of a list with its routine.
fn flush(kernel: &Kernel, list: Address, extended: bool) {
    // Both structures have it at one place.
    let routine = foreign::read::<Address>(list + offset_of!(GENERAL_LOOKASIDE, Free));
    let routine = kernel.settle(routine, 0);
    loop {
        let entry = slist::pop(list);
        if entry == 0 || routine == 0 {
            return;
        }
        let arguments = [entry as u64, list as u64];
        let count = if extended { 2 } else { 1 };
        let _ = kernel.call_driver(routine, &arguments[..count], cpu::irql(), "routine of a lookaside list");
        kernel.leave_if_stopped();
    }
}

fn delete(kernel: &Kernel, list: Address) {
    let removed = kernel.objects().lookasides.remove(&list);
    match removed {
        Some(entry) => flush(kernel, list, entry.extended),
        None => {
            let text = format!("the lookaside list at {list:#x}");
            kernel.violate(Violation::new(&rules::LOOKASIDE_UNKNOWN, [list as u64, 0, 0], text));
        }
    }
}

/// `ExDeleteLookasideListEx`.
pub extern "win64" fn ExDeleteLookasideListEx(Lookaside: Address) {
    let kernel = enter!(ExDeleteLookasideListEx);
    delete(&kernel, Lookaside);
}

/// `ExDeleteNPagedLookasideList`.
pub extern "win64" fn ExDeleteNPagedLookasideList(Lookaside: Address) {
    let kernel = enter!(ExDeleteNPagedLookasideList);
    delete(&kernel, Lookaside);
}

/// `ExDeletePagedLookasideList`.
pub extern "win64" fn ExDeletePagedLookasideList(Lookaside: Address) {
    let kernel = enter!(ExDeletePagedLookasideList);
    delete(&kernel, Lookaside);
}

/// `ExFlushLookasideListEx`.
pub extern "win64" fn ExFlushLookasideListEx(Lookaside: Address) {
    let kernel = enter!(ExFlushLookasideListEx);
    flush(&kernel, Lookaside, true);
}

/// `ExAllocateFromLookasideListEx`, which newer headers import.
pub extern "win64" fn ExAllocateFromLookasideListEx(Lookaside: Address) -> Address {
    let kernel = enter!(ExAllocateFromLookasideListEx);
    match slist::pop(Lookaside) {
        0 => {
            let list = foreign::read::<GENERAL_LOOKASIDE_POOL>(Lookaside);
            let list = kernel.settle(list, GENERAL_LOOKASIDE_POOL::zeroed());
            let arguments = [list.Type as u32 as u64, list.Size.into(), list.Tag.into(), Lookaside as u64];
            call(&kernel, list.AllocateEx, &arguments)
        }
        entry => entry,
    }
}

/// `ExFreeToLookasideListEx`, which newer headers import.
pub extern "win64" fn ExFreeToLookasideListEx(Lookaside: Address, Entry: Address) {
    let kernel = enter!(ExFreeToLookasideListEx);
    let list = foreign::read::<GENERAL_LOOKASIDE_POOL>(Lookaside);
    let list = kernel.settle(list, GENERAL_LOOKASIDE_POOL::zeroed());
    call(&kernel, list.FreeEx, &[Entry as u64, Lookaside as u64]);
}

fn call(kernel: &Kernel, routine: Address, arguments: &[u64]) -> Address {
    let value = kernel.call_driver(routine, arguments, cpu::irql(), "routine of a lookaside list");
    kernel.leave_if_stopped();
    value.unwrap_or(0) as Address
}

impl Kernel {
    /// Checks that memory which is freed holds no lookaside list.
    pub(super) fn check_lookasides(&self, memory: Range<Address>) -> Result<(), Violation> {
        let objects = self.objects();
        let overlaps = |list: Address, size: usize| list < memory.end && memory.start < list + size;
        let found = objects.lookasides.iter().find(|(list, entry)| overlaps(**list, entry.size));
        match found {
            None => Ok(()),
            Some((list, _)) => {
                let parameters = [*list as u64, memory.start as u64, (memory.end - memory.start) as u64];
                let text = format!("the lookaside list at {list:#x} is in freed memory");
                Err(Violation::new(&rules::LOOKASIDE_FREED, parameters, text))
            }
        }
    }
}
