//! Pages of MDLs: locked in memory, allocated, described in parts (`wdm.h`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{MutexGuard, PoisonError};

use super::super::enter::enter;
use super::super::memory::{Guarded, PAGE, round_to_pages};
use super::super::pool::Wanted;
use super::super::types::{
    Address, LARGE_INTEGER, MDL, MDL_MAPPED_TO_SYSTEM_VA, MDL_PAGES_LOCKED, MDL_PARTIAL,
    MDL_SOURCE_IS_NONPAGED_POOL, MDL_WRITE_OPERATION,
};
use super::super::{Kernel, Trouble, foreign, paging, seh};
use super::{KERNEL_MODE, about};
use crate::driver::DriverId;
use crate::verifier::{Violation, rules};

/// `IoReadAccess` (`wdm.h`). The other operations write.
const READ_ACCESS: i32 = 0;

/// What the memory manager knows of MDLs besides what is in them.
#[derive(Debug, Default)]
pub(in crate::nt) struct Mdls {
    /// Those that are mapped for a program.
    pub(super) for_user: BTreeSet<Address>,
    /// Those whose pages a driver locked, with the driver and their number of pages.
    locked: BTreeMap<Address, (DriverId, usize)>,
    /// The pages of MDLs that `MmAllocatePagesForMdlEx` made.
    pages: BTreeMap<Address, Guarded>,
}

impl Kernel {
    /// What is known of MDLs.
    pub(super) fn mdls(&self) -> MutexGuard<'_, Mdls> {
        self.mdls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports pages that a driver left locked: the address of the lock's record, which
    /// the lab does not have, the MDL and the number of pages.
    pub(in crate::nt) fn check_locked_pages(&self, driver: DriverId) {
        let mdls = self.mdls();
        let own = mdls.locked.iter().filter(|(_, (of, _))| *of == driver);
        let locked: Vec<(Address, usize)> = own.map(|(at, (_, pages))| (*at, *pages)).collect();
        drop(mdls);
        if let Some((mdl, pages)) = locked.first() {
            let text = format!("{} MDLs, the first at {mdl:#x}", locked.len());
            let violation = Violation::new(&rules::MDL_PAGES_LEFT_LOCKED, [0, 0, *mdl as u64], text);
            self.condemn_driver(driver, violation.with_fourth(*pages as u64));
        }
    }
}

/// The bytes that an MDL describes.
fn bytes_of(mdl: &MDL) -> std::ops::Range<Address> {
    let start = mdl.StartVa.wrapping_add(mdl.ByteOffset as usize);
    start..start.saturating_add(mdl.ByteCount as usize)
}

fn page_count(mdl: &MDL) -> usize {
    (mdl.ByteOffset as usize + mdl.ByteCount as usize).div_ceil(PAGE)
}

/// `MmProbeAndLockPages`. Raises STATUS_ACCESS_VIOLATION if a page cannot be accessed.
pub extern "win64" fn MmProbeAndLockPages(MemoryDescriptorList: Address, AccessMode: i8, Operation: i32) {
    let kernel = enter!(MmProbeAndLockPages);
    let write = Operation != READ_ACCESS;
    let locked = probe_and_lock(&kernel, MemoryDescriptorList, AccessMode, write);
    if let Some(address) = kernel.settle(locked, None) {
        seh::raise_access_violation(&kernel, address, write);
    }
}

/// Locks the pages. Returns the address that cannot be accessed.
pub(super) fn probe_and_lock(
    kernel: &Kernel,
    address: Address,
    mode: i8,
    write: bool,
) -> Result<Option<Address>, Trouble> {
    let mut mdl: MDL = foreign::read(address)?;
    let wrong = MDL_PAGES_LOCKED | MDL_SOURCE_IS_NONPAGED_POOL | MDL_PARTIAL | MDL_MAPPED_TO_SYSTEM_VA;
    let wrong = mdl.MdlFlags & wrong;
    if wrong != 0 {
        return Err(about(&rules::MDL_LOCKED_AGAIN, address, &mdl, wrong).into());
    }
    let bytes = bytes_of(&mdl);
    if mode != KERNEL_MODE && !seh::is_users_range(kernel, bytes.start, bytes.len()) {
        return Ok(Some(bytes.start));
    }
    if let Some(bad) = seh::first_inaccessible(bytes.start, bytes.len(), write) {
        return Ok(Some(bad));
    }
    kernel.lock_users(bytes.start);
    paging::lock(bytes, true);
    mdl.MdlFlags |= MDL_PAGES_LOCKED;
    if write {
        mdl.MdlFlags |= MDL_WRITE_OPERATION;
    }
    foreign::write(address, &mdl)?;
    let driver = kernel.caller();
    kernel.mdls().locked.insert(address, (driver, page_count(&mdl)));
    Ok(None)
}

/// `MmUnlockPages`. A mapping of the pages ends, too.
pub extern "win64" fn MmUnlockPages(MemoryDescriptorList: Address) {
    let kernel = enter!(MmUnlockPages);
    kernel.settle(unlock(&kernel, MemoryDescriptorList), ());
}

pub(super) fn unlock(kernel: &Kernel, address: Address) -> Result<(), Trouble> {
    let mut mdl: MDL = foreign::read(address)?;
    let has = |flag| mdl.MdlFlags & flag != 0;
    if has(MDL_PARTIAL) {
        return Err(about(&rules::MDL_PARTIAL_UNLOCKED, address, &mdl, MDL_PARTIAL).into());
    }
    if has(MDL_SOURCE_IS_NONPAGED_POOL) {
        return Err(about(&rules::MDL_NONPAGED_UNLOCKED, address, &mdl, 0).into());
    }
    if !has(MDL_PAGES_LOCKED) {
        return Err(about(&rules::MDL_NOT_LOCKED, address, &mdl, 0).into());
    }
    paging::lock(bytes_of(&mdl), false);
    mdl.MdlFlags &= !(MDL_PAGES_LOCKED | MDL_MAPPED_TO_SYSTEM_VA | MDL_WRITE_OPERATION);
    mdl.MappedSystemVa = 0;
    foreign::write(address, &mdl)?;
    kernel.mdls().locked.remove(&address);
    Ok(())
}

/// `IoBuildPartialMdl`. A length of 0 stands for all from the address on.
pub extern "win64" fn IoBuildPartialMdl(
    SourceMdl: Address,
    TargetMdl: Address,
    VirtualAddress: Address,
    Length: u32,
) {
    let kernel = enter!(IoBuildPartialMdl);
    let build = || {
        let source: MDL = foreign::read(SourceMdl)?;
        let mut target: MDL = foreign::read(TargetMdl)?;
        let rest = bytes_of(&source).end.wrapping_sub(VirtualAddress) as u32;
        target.StartVa = VirtualAddress & !(PAGE - 1);
        target.ByteOffset = (VirtualAddress % PAGE) as u32;
        target.ByteCount = if Length == 0 { rest } else { Length };
        let mapped = source.MdlFlags & (MDL_MAPPED_TO_SYSTEM_VA | MDL_SOURCE_IS_NONPAGED_POOL) != 0;
        target.MappedSystemVa = if mapped { VirtualAddress } else { 0 };
        target.MdlFlags |= MDL_PARTIAL | source.MdlFlags & MDL_SOURCE_IS_NONPAGED_POOL;
        foreign::write(TargetMdl, &target)
    };
    kernel.settle(build(), ());
}

/// `MmAllocatePagesForMdlEx`. The pages are zeroed and locked; physical addresses mean
/// nothing in the lab. NULL while the lab makes allocations fail.
pub extern "win64" fn MmAllocatePagesForMdlEx(
    LowAddress: LARGE_INTEGER,
    HighAddress: LARGE_INTEGER,
    SkipBytes: LARGE_INTEGER,
    TotalBytes: usize,
    CacheType: i32,
    Flags: u32,
) -> Address {
    let kernel = enter!(MmAllocatePagesForMdlEx);
    let _ = (LowAddress, HighAddress, SkipBytes, CacheType, Flags);
    kernel.settle(allocate_pages(&kernel, TotalBytes), 0)
}

/// The most bytes that the lab allocates for an MDL.
const MOST_BYTES: usize = 1 << 28;

fn allocate_pages(kernel: &Kernel, bytes: usize) -> Result<Address, Trouble> {
    if bytes == 0 || bytes > MOST_BYTES {
        return Ok(0);
    }
    let bytes = round_to_pages(bytes);
    let size = size_of::<MDL>() + bytes / PAGE * size_of::<u64>();
    let origin = kernel.origin();
    let tag = super::mdl::TAG;
    let wanted = Wanted { size, tag, paged: false, zeroed: true, cache_aligned: false, origin };
    let address = kernel.pool().allocate(wanted);
    if address == 0 {
        return Ok(0);
    }
    let pages = Guarded::new(bytes);
    let mdl = MDL {
        Size: i16::try_from(size).unwrap_or(i16::MAX),
        MdlFlags: MDL_PAGES_LOCKED,
        StartVa: pages.start(),
        ByteCount: bytes as u32,
        ..MDL::zeroed()
    };
    foreign::write(address, &mdl)?;
    kernel.mdls().pages.insert(address, pages);
    Ok(address)
}

/// `MmFreePagesFromMdl`. The driver frees the MDL itself.
pub extern "win64" fn MmFreePagesFromMdl(MemoryDescriptorList: Address) {
    let kernel = enter!(MmFreePagesFromMdl);
    let free = || {
        let mut mdl: MDL = foreign::read(MemoryDescriptorList)?;
        if kernel.mdls().pages.remove(&MemoryDescriptorList).is_none() {
            return Err(Trouble::from(about(&rules::MDL_NOT_LOCKED, MemoryDescriptorList, &mdl, 0)));
        }
        mdl.MdlFlags &= !MDL_PAGES_LOCKED;
        Ok(foreign::write(MemoryDescriptorList, &mdl)?)
    };
    kernel.settle(free(), ());
}
