//! Memory descriptor lists (`wdm.h`).
#![expect(non_snake_case, reason = "the names are the NT API's own")]

use std::mem::offset_of;

use super::super::cpu;
use super::super::enter::enter;
use super::super::foreign::{self, BadPointer};
use super::super::memory::PAGE;
use super::super::pool::Wanted;
use super::super::types::{
    Address, BOOLEAN, MDL, MDL_MAPPED_TO_SYSTEM_VA, MDL_PARTIAL, MDL_SOURCE_IS_NONPAGED_POOL,
};
use super::super::{Kernel, Trouble};
use crate::verifier::{Violation, rules};

/// The pool tag of MDLs.
pub(super) const TAG: u32 = u32::from_le_bytes(*b"Mdl ");
/// The most MDLs of an IRP.
const MOST_MDLS: usize = 1 << 16;
/// Offset of `IRP.MdlAddress` (`wdm.h`).
const IRP_MDL_ADDRESS: usize = 8;
/// The most bytes that an MDL of a driver describes: 4 GB less a page.
const MOST_BYTES: u32 = u32::MAX - PAGE as u32;

/// `IoAllocateMdl`. The MDL is in nonpaged pool, so a leak of it is a leak of pool.
/// NULL if there is no memory or the buffer is too large.
pub extern "win64" fn IoAllocateMdl(
    VirtualAddress: Address,
    Length: u32,
    SecondaryBuffer: BOOLEAN,
    ChargeQuota: BOOLEAN,
    Irp: Address,
) -> Address {
    let kernel = enter!(IoAllocateMdl);
    // "Reserved for system use. Drivers must set this parameter to FALSE."
    let _ = ChargeQuota;
    kernel.settle(allocate(&kernel, VirtualAddress, Length, (SecondaryBuffer != 0, Irp)), 0)
}

pub(super) fn allocate(
    kernel: &Kernel,
    buffer: Address,
    length: u32,
    (secondary, irp): (bool, Address),
) -> Result<Address, Trouble> {
    if length > MOST_BYTES {
        return Ok(0);
    }
    let pages = (buffer % PAGE + length as usize).div_ceil(PAGE);
    let size = size_of::<MDL>() + pages * size_of::<u64>();
    let origin = kernel.origin();
    let wanted = Wanted { size, tag: TAG, paged: false, zeroed: true, cache_aligned: false, origin };
    let at = kernel.pool().allocate(wanted);
    if at == 0 {
        return Ok(0);
    }
    let mdl = MDL {
        Size: i16::try_from(size).unwrap_or(i16::MAX),
        StartVa: buffer & !(PAGE - 1),
        ByteOffset: (buffer % PAGE) as u32,
        ByteCount: length,
        ..MDL::zeroed()
    };
    foreign::write(at, &mdl)?;
    if irp != 0 {
        foreign::write(last_link(irp, secondary)?, &at)?;
    }
    Ok(at)
}

/// The link that a new MDL of an IRP gets: the IRP's own, or that of its last MDL.
fn last_link(irp: Address, secondary: bool) -> Result<Address, BadPointer> {
    let mut link = irp.wrapping_add(IRP_MDL_ADDRESS);
    for _ in 0..if secondary { MOST_MDLS } else { 0 } {
        match foreign::read::<Address>(link)? {
            0 => break,
            mdl => link = mdl + offset_of!(MDL, Next),
        }
    }
    Ok(link)
}

/// `IoFreeMdl`.
pub extern "win64" fn IoFreeMdl(Mdl: Address) {
    let kernel = enter!(IoFreeMdl);
    kernel.settle(free(&kernel, Mdl), ());
}

pub(super) fn free(kernel: &Kernel, address: Address) -> Result<(), Violation> {
    not_mapped(kernel, address)?;
    kernel.pool().free(address, TAG, cpu::irql(), kernel.guest().frames()).map(drop)
}

/// Whether an MDL may be freed: nothing is mapped by it.
fn not_mapped(kernel: &Kernel, address: Address) -> Result<(), Violation> {
    // What is no MDL is found when its pool is freed.
    let Ok(mdl) = foreign::read::<MDL>(address) else { return Ok(()) };
    let for_user = kernel.mdls().for_user.contains(&address);
    let mapped = mdl.MdlFlags & (MDL_MAPPED_TO_SYSTEM_VA | MDL_PARTIAL) == MDL_MAPPED_TO_SYSTEM_VA;
    match mapped || for_user {
        true => Err(super::about(&rules::MDL_FREED_MAPPED, address, &mdl, 0)),
        false => Ok(()),
    }
}

/// `MmBuildMdlForNonPagedPool`. The MDL's memory is resident, so it needs no mapping.
pub extern "win64" fn MmBuildMdlForNonPagedPool(MemoryDescriptorList: Address) {
    let kernel = enter!(MmBuildMdlForNonPagedPool);
    kernel.settle(build(&kernel, MemoryDescriptorList), ());
}

fn build(kernel: &Kernel, address: Address) -> Result<(), Trouble> {
    let mut mdl: MDL = foreign::read(address)?;
    let buffer = mdl.StartVa.wrapping_add(mdl.ByteOffset as usize);
    if kernel.is_pageable(buffer) {
        let text = format!("the MDL at {address:#x} describes {buffer:#x}");
        let flags = u64::from(mdl.MdlFlags as u16);
        let parameters = [cpu::irql().0.into(), address as u64, flags];
        return Err(Violation::new(&rules::MDL_PAGEABLE, parameters, text).into());
    }
    mdl.MappedSystemVa = buffer;
    mdl.MdlFlags |= MDL_SOURCE_IS_NONPAGED_POOL;
    Ok(foreign::write(address, &mdl)?)
}
