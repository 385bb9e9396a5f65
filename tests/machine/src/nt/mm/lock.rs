//! Locking the pages that an MDL describes (`wdm.h`).

use std::mem::offset_of;

use super::super::enter::enter;
use super::super::foreign::{self, BadPointer};
use super::super::types::{
    Address, MDL, MDL_MAPPED_TO_SYSTEM_VA, MDL_PAGES_LOCKED, MDL_SOURCE_IS_NONPAGED_POOL,
};
use super::super::{Kernel, Trouble, seh};
use super::KERNEL_MODE;
use crate::verifier::{Violation, rules};

/// `MDL_PARTIAL` (`wdm.h`).
const MDL_PARTIAL: i16 = 0x10;
/// `IoReadAccess` (`wdm.h`). The other operations write.
const READ_ACCESS: i32 = 0;

/// `MmProbeAndLockPages`. Raises STATUS_ACCESS_VIOLATION if a page cannot be accessed.
pub extern "win64" fn MmProbeAndLockPages(MemoryDescriptorList: Address, AccessMode: i8, Operation: i32) {
    let kernel = enter!(MmProbeAndLockPages);
    let write = Operation != READ_ACCESS;
    let locked = lock(&kernel, MemoryDescriptorList, AccessMode, write);
    if let Some(address) = kernel.settle(locked, None) {
        seh::raise_access_violation(&kernel, address, write);
    }
}

/// Locks the pages. Returns the address that cannot be accessed.
fn lock(kernel: &Kernel, address: Address, mode: i8, write: bool) -> Result<Option<Address>, Trouble> {
    let mut mdl: MDL = foreign::read(address)?;
    let wrong = mdl.MdlFlags
        & (MDL_PAGES_LOCKED | MDL_MAPPED_TO_SYSTEM_VA | MDL_SOURCE_IS_NONPAGED_POOL | MDL_PARTIAL);
    if wrong != 0 {
        let text = format!("the MDL at {address:#x} has the flags {:#x}", mdl.MdlFlags);
        let parameters = [address as u64, flags(&mdl), u64::from(wrong as u16)];
        return Err(Violation::new(&rules::PROBE_MDL_FLAGS, parameters, text).into());
    }
    let (start, length) = (mdl.StartVa.wrapping_add(mdl.ByteOffset as usize), mdl.ByteCount as usize);
    if mode != KERNEL_MODE && !seh::is_users_range(kernel, start, length) {
        return Ok(Some(start));
    }
    if let Some(bad) = seh::first_inaccessible(start, length, write) {
        return Ok(Some(bad));
    }
    mdl.MdlFlags |= MDL_PAGES_LOCKED;
    write_flags(address, &mdl)?;
    kernel.lock_users(start);
    let driver = kernel.caller();
    kernel.objects().locked_mdls.insert(address, driver);
    Ok(None)
}

/// `MmUnlockPages`. Also unmaps the pages.
pub extern "win64" fn MmUnlockPages(MemoryDescriptorList: Address) {
    let kernel = enter!(MmUnlockPages);
    kernel.settle(unlock(&kernel, MemoryDescriptorList), ());
}

fn unlock(kernel: &Kernel, address: Address) -> Result<(), Trouble> {
    let mut mdl: MDL = foreign::read(address)?;
    let broken = |rule| {
        let text = format!("the MDL at {address:#x} has the flags {:#x}", mdl.MdlFlags);
        Err(Violation::new(rule, [address as u64, flags(&mdl), 0], text).into())
    };
    if mdl.MdlFlags & MDL_SOURCE_IS_NONPAGED_POOL != 0 {
        return broken(&rules::UNLOCK_NONPAGED);
    }
    if mdl.MdlFlags & MDL_PAGES_LOCKED == 0 {
        return broken(&rules::UNLOCK_NOT_LOCKED);
    }
    mdl.MdlFlags &= !(MDL_PAGES_LOCKED | MDL_MAPPED_TO_SYSTEM_VA);
    mdl.MappedSystemVa = 0;
    write_flags(address, &mdl)?;
    foreign::write(address + offset_of!(MDL, MappedSystemVa), &mdl.MappedSystemVa)?;
    kernel.objects().locked_mdls.remove(&address);
    Ok(())
}

fn flags(mdl: &MDL) -> u64 {
    u64::from(mdl.MdlFlags as u16)
}

fn write_flags(address: Address, mdl: &MDL) -> Result<(), BadPointer> {
    foreign::write(address + offset_of!(MDL, MdlFlags), &mdl.MdlFlags)
}
