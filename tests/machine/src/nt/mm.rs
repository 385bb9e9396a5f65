//! Memory manager: mapping MDLs (`wdm.h`).
#![expect(non_snake_case, reason = "the names are the NT API's own")]

mod lock;
mod mdl;

use super::cpu::Irql;
use super::enter::enter;
use super::foreign::{self, BadPointer};
use super::types::{Address, MDL, MDL_MAPPED_TO_SYSTEM_VA, MDL_SOURCE_IS_NONPAGED_POOL};
use crate::verifier::{Violation, rules};

pub use lock::*;
pub use mdl::*;

/// `KernelMode` (`wdm.h`).
const KERNEL_MODE: i8 = 0;

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
    // The machine has one cache type and one priority. The requested address is for
    // user mode.
    let _ = (CacheType, RequestedAddress, Priority);
    if BugCheckOnFailure != 0 {
        let parameters = [MemoryDescriptorList as u64, 0, 0];
        let text = String::new();
        kernel.violate(Violation::new(&rules::MDL_BUGCHECK_ON_FAILURE, parameters, text));
    }
    if kernel.pool().take_shortage() {
        return 0;
    }
    kernel.settle(map(MemoryDescriptorList), 0)
}

fn map(address: Address) -> Result<Address, BadPointer> {
    let mut mdl: MDL = foreign::read(address)?;
    mdl.MappedSystemVa = mdl.StartVa.wrapping_add(mdl.ByteOffset as usize);
    mdl.MdlFlags |= MDL_MAPPED_TO_SYSTEM_VA;
    foreign::write(address, &mdl)?;
    Ok(mdl.MappedSystemVa)
}

/// `MmUnmapLockedPages`.
pub extern "win64" fn MmUnmapLockedPages(BaseAddress: Address, MemoryDescriptorList: Address) {
    let kernel = enter!(MmUnmapLockedPages);
    let unmapped = unmap(BaseAddress, MemoryDescriptorList);
    kernel.settle(unmapped, ());
}

fn unmap(base: Address, address: Address) -> Result<(), BadPointer> {
    let mut mdl: MDL = foreign::read(address)?;
    // Nonpaged pool stays mapped.
    if mdl.MappedSystemVa == base && mdl.MdlFlags & MDL_SOURCE_IS_NONPAGED_POOL == 0 {
        mdl.MdlFlags &= !MDL_MAPPED_TO_SYSTEM_VA;
        mdl.MappedSystemVa = 0;
        foreign::write(address, &mdl)?;
    }
    Ok(())
}

/// Kernel-mode mappings may be made at DISPATCH_LEVEL.
fn ceiling(access_mode: i8) -> Irql {
    match access_mode {
        KERNEL_MODE => Irql::DISPATCH,
        _ => Irql::APC,
    }
}
