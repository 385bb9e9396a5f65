//! Memory manager: mapping and locking MDLs (`wdm.h`).
#![expect(non_snake_case, reason = "the names are the NT API's own")]

mod lock;
mod mdl;

use super::cpu::Irql;
use super::enter::enter;
use super::foreign;
use super::types::{
    Address, MDL, MDL_MAPPED_TO_SYSTEM_VA, MDL_PAGES_LOCKED, MDL_PARTIAL, MDL_PARTIAL_HAS_BEEN_MAPPED,
    MDL_SOURCE_IS_NONPAGED_POOL, NTSTATUS,
};
use super::{Kernel, Trouble};
use crate::status::Status;
use crate::verifier::{Rule, Violation, rules};

pub(super) use lock::Mdls;
pub use lock::*;
pub use mdl::*;

/// `KernelMode` (`wdm.h`).
const KERNEL_MODE: i8 = 0;
/// `MdlMappingNoExecute` (`wdm.h`), in a mapping's priority.
const NO_EXECUTE: u32 = 0x4000_0000;

/// `MmMapLockedPagesSpecifyCache`. The memory of all MDLs is already readable, so
/// the mapping is its address. NULL while the lab makes allocations fail, as when
/// system page table entries run out.
pub extern "win64" fn MmMapLockedPagesSpecifyCache(
    MemoryDescriptorList: Address,
    AccessMode: i8,
    CacheType: i32,
    RequestedAddress: Address,
    BugCheckOnFailure: u32,
    Priority: u32,
) -> Address {
    let kernel = enter!(MmMapLockedPagesSpecifyCache, ceiling(AccessMode));
    // The machine has one cache type. The requested address is for user mode.
    let _ = (CacheType, RequestedAddress);
    let checked = check_mapping(&kernel, MemoryDescriptorList, AccessMode, BugCheckOnFailure, Priority);
    kernel.settle(checked, ());
    if kernel.pool().take_shortage() {
        return 0;
    }
    kernel.settle(map(&kernel, MemoryDescriptorList, AccessMode), 0)
}

fn check_mapping(
    kernel: &Kernel,
    address: Address,
    access_mode: i8,
    fatal: u32,
    priority: u32,
) -> Result<(), Trouble> {
    let mdl: MDL = foreign::read(address)?;
    // The argument means nothing for user mode.
    if fatal != 0 && access_mode == KERNEL_MODE {
        return Err(about(&rules::MDL_BUGCHECK_ON_FAILURE, address, &mdl, 0).into());
    }
    let rule = &rules::MDL_EXECUTABLE_MAPPING;
    if priority & NO_EXECUTE == 0 && kernel.verifier().checks(rule) {
        let parameters = [kernel.call_site(), priority.into(), 0];
        return Err(Violation::new(rule, parameters, format!("MDL {address:#x}")).into());
    }
    Ok(())
}

/// A breach about an MDL: its address, its flags, and another parameter.
fn about(rule: &'static Rule, address: Address, mdl: &MDL, third: i16) -> Violation {
    let flags = mdl.MdlFlags as u16;
    let text = format!("MDL {address:#x} with flags {flags:#x}");
    Violation::new(rule, [address as u64, flags.into(), (third as u16).into()], text)
}

fn map(kernel: &Kernel, address: Address, access_mode: i8) -> Result<Address, Trouble> {
    let mut mdl: MDL = foreign::read(address)?;
    let mapping = mdl.StartVa.wrapping_add(mdl.ByteOffset as usize);
    let wanted = MDL_PAGES_LOCKED | MDL_SOURCE_IS_NONPAGED_POOL | MDL_PARTIAL;
    if mdl.MdlFlags & wanted == 0 {
        return Err(about(&rules::MDL_MAPPED_UNLOCKED, address, &mdl, wanted).into());
    }
    if access_mode != KERNEL_MODE {
        kernel.mdls().for_user.insert(address);
        return Ok(mapping);
    }
    let mapped = mdl.MdlFlags & MDL_MAPPED_TO_SYSTEM_VA;
    if mapped != 0 {
        return Err(about(&rules::MDL_MAPPED_TWICE, address, &mdl, mapped).into());
    }
    mdl.MappedSystemVa = mapping;
    mdl.MdlFlags |= MDL_MAPPED_TO_SYSTEM_VA;
    if mdl.MdlFlags & MDL_PARTIAL != 0 {
        mdl.MdlFlags |= MDL_PARTIAL_HAS_BEEN_MAPPED;
    }
    foreign::write(address, &mdl)?;
    Ok(mdl.MappedSystemVa)
}

/// `MmUnmapLockedPages`.
pub extern "win64" fn MmUnmapLockedPages(BaseAddress: Address, MemoryDescriptorList: Address) {
    let for_user = Kernel::current().mdls().for_user.contains(&MemoryDescriptorList);
    let kernel = enter!(MmUnmapLockedPages, if for_user { Irql::APC } else { Irql::DISPATCH });
    let unmapped = unmap(&kernel, BaseAddress, MemoryDescriptorList);
    kernel.settle(unmapped, ());
}

fn unmap(kernel: &Kernel, base: Address, address: Address) -> Result<(), Trouble> {
    if kernel.mdls().for_user.remove(&address) {
        return Ok(());
    }
    let mut mdl: MDL = foreign::read(address)?;
    let partial = mdl.MdlFlags & MDL_PARTIAL;
    if partial != 0 && mdl.MdlFlags & MDL_PARTIAL_HAS_BEEN_MAPPED == 0 {
        return Err(about(&rules::MDL_PARTIAL_UNMAPPED, address, &mdl, partial).into());
    }
    if mdl.MdlFlags & MDL_MAPPED_TO_SYSTEM_VA == 0 {
        return Err(about(&rules::MDL_NOT_MAPPED, address, &mdl, MDL_MAPPED_TO_SYSTEM_VA).into());
    }
    if mdl.MappedSystemVa == base {
        mdl.MdlFlags &= !(MDL_MAPPED_TO_SYSTEM_VA | MDL_PARTIAL_HAS_BEEN_MAPPED);
        // The mapping of nonpaged pool is the pool's own.
        if mdl.MdlFlags & MDL_SOURCE_IS_NONPAGED_POOL == 0 {
            mdl.MappedSystemVa = 0;
        }
        foreign::write(address, &mdl)?;
    }
    Ok(())
}

/// Allocates an MDL for a driver's buffer, and locks the pages. Returns 0 if there is no
/// memory, or the pages cannot be accessed.
pub(super) fn allocate_locked(
    kernel: &Kernel,
    buffer: Address,
    length: u32,
    write: bool,
) -> Result<Address, Trouble> {
    let address = mdl::allocate(kernel, buffer, length, (false, 0))?;
    if address != 0 && lock::probe_and_lock(kernel, address, KERNEL_MODE, write)?.is_some() {
        mdl::free(kernel, address)?;
        return Ok(0);
    }
    Ok(address)
}

/// Unlocks the pages of an MDL, and frees it.
pub(super) fn release_locked(kernel: &Kernel, address: Address) -> Result<(), Trouble> {
    lock::unlock(kernel, address)?;
    Ok(mdl::free(kernel, address)?)
}

/// `MmProtectMdlSystemAddress`. The lab keeps the access as it is.
pub extern "win64" fn MmProtectMdlSystemAddress(MemoryDescriptorList: Address, NewProtect: u32) -> NTSTATUS {
    /// `PAGE_EXECUTE`, `_READ`, `_READWRITE` and `_WRITECOPY` (`wdm.h`).
    const EXECUTE: u32 = 0xF0;
    let kernel = enter!(MmProtectMdlSystemAddress);
    let rule = &rules::MDL_EXECUTABLE_PROTECTION;
    if NewProtect & EXECUTE != 0 && kernel.verifier().checks(rule) {
        let text = format!("MDL {MemoryDescriptorList:#x}");
        kernel.violate(Violation::new(rule, [kernel.call_site(), NewProtect.into(), 0], text));
    }
    let mapped = foreign::read::<MDL>(MemoryDescriptorList);
    let outcome = mapped.map(|mdl| match mdl.MdlFlags & MDL_MAPPED_TO_SYSTEM_VA {
        0 => Status::NOT_IMPLEMENTED,
        _ => Status::SUCCESS,
    });
    kernel.settle(outcome, Status::UNSUCCESSFUL).0
}

/// Kernel-mode mappings may be made at DISPATCH_LEVEL.
fn ceiling(access_mode: i8) -> Irql {
    match access_mode {
        KERNEL_MODE => Irql::DISPATCH,
        _ => Irql::APC,
    }
}
