//! Pools of NET_BUFFER_LISTs and NET_BUFFERs, and generic objects.
#![expect(non_snake_case, reason = "the names are NDIS's own")]

use super::super::enter::enter;
use super::super::foreign;
use super::super::packets::PoolKind;
use super::super::types::{
    Address, HANDLE, NDIS_OBJECT_HEADER, NET_BUFFER_LIST_POOL_PARAMETERS, NET_BUFFER_POOL_PARAMETERS, Plain,
};
use super::super::{Kernel, Trouble};
use crate::verifier::{Violation, rules};

/// `NDIS_OBJECT_TYPE_DEFAULT` (`ntddndis.h`).
const OBJECT_TYPE_DEFAULT: u8 = 0x80;
/// Bytes of the member that revision 2 of both parameter structures adds.
const ADDED_BY_REVISION_2: usize = size_of::<u32>();

/// `NdisAllocateNetBufferListPool`. NULL if the header is not one of the documented
/// revisions, or if there is no memory.
pub extern "win64" fn NdisAllocateNetBufferListPool(NdisHandle: HANDLE, Parameters: Address) -> HANDLE {
    let kernel = enter!(NdisAllocateNetBufferListPool);
    let _ = NdisHandle;
    let read = parameters::<NET_BUFFER_LIST_POOL_PARAMETERS>(Parameters);
    let made = read.map(|parameters| match parameters {
        // Data belong to a NET_BUFFER, which the list must have.
        Some(it) if it.DataSize == 0 || it.fAllocateNetBuffer != 0 => make(
            &kernel,
            PoolKind::Lists {
                with_buffer: it.fAllocateNetBuffer != 0,
                data: it.DataSize,
                context: it.ContextSize,
            },
        ),
        _ => 0,
    });
    kernel.settle(made, 0)
}

/// `NdisFreeNetBufferListPool`. Its lists must be free.
pub extern "win64" fn NdisFreeNetBufferListPool(PoolHandle: HANDLE) {
    let kernel = enter!(NdisFreeNetBufferListPool);
    kernel.settle(free(&kernel, PoolHandle, |kind| matches!(kind, PoolKind::Lists { .. })), ());
}

/// `NdisAllocateNetBufferPool`. NULL as for `NdisAllocateNetBufferListPool`.
pub extern "win64" fn NdisAllocateNetBufferPool(NdisHandle: HANDLE, Parameters: Address) -> HANDLE {
    let kernel = enter!(NdisAllocateNetBufferPool);
    let _ = NdisHandle;
    let read = parameters::<NET_BUFFER_POOL_PARAMETERS>(Parameters);
    let made = read.map(|parameters| parameters.map_or(0, |_| make(&kernel, PoolKind::Buffers)));
    kernel.settle(made, 0)
}

/// `NdisFreeNetBufferPool`.
pub extern "win64" fn NdisFreeNetBufferPool(PoolHandle: HANDLE) {
    let kernel = enter!(NdisFreeNetBufferPool);
    kernel.settle(free(&kernel, PoolHandle, |kind| kind == PoolKind::Buffers), ());
}

/// `NdisAllocateGenericObject`. The object is a handle, which no driver reads; the
/// bytes that a driver may ask for are not modelled.
pub extern "win64" fn NdisAllocateGenericObject(DriverObject: Address, Tag: u32, Size: u16) -> HANDLE {
    let kernel = enter!(NdisAllocateGenericObject);
    let _ = (DriverObject, Tag);
    if Size != 0 {
        kernel.log("NdisAllocateGenericObject: the lab has no object with bytes of the driver's own");
        return 0;
    }
    make(&kernel, PoolKind::Generic)
}

/// `NdisFreeGenericObject`.
pub extern "win64" fn NdisFreeGenericObject(NdisObject: HANDLE) {
    let kernel = enter!(NdisFreeGenericObject);
    kernel.settle(free(&kernel, NdisObject, |kind| kind == PoolKind::Generic), ());
}

/// Reads parameters; `None` if their header is not documented. A structure of
/// revision 1 is shorter.
fn parameters<T: Plain>(address: Address) -> Result<Option<T>, Trouble> {
    let given: NDIS_OBJECT_HEADER = foreign::read(address)?;
    let least = match given.Revision {
        1 => size_of::<T>() - ADDED_BY_REVISION_2,
        _ => size_of::<T>(),
    };
    if given.Type != OBJECT_TYPE_DEFAULT || given.Revision == 0 || usize::from(given.Size) < least {
        return Ok(None);
    }
    Ok(Some(foreign::value_of(&foreign::read_bytes(address, least)?)))
}

fn make(kernel: &Kernel, kind: PoolKind) -> HANDLE {
    if kernel.pool().take_shortage() {
        return 0;
    }
    let (driver, handle) = (kernel.caller(), kernel.objects().opaque());
    kernel.packets().state().pools.insert(handle, (kind, driver));
    handle
}

fn free(kernel: &Kernel, handle: HANDLE, is: impl Fn(PoolKind) -> bool) -> Result<(), Violation> {
    let mut state = kernel.packets().state();
    if !state.pools.get(&handle).is_some_and(|(kind, _)| is(*kind)) {
        let text = format!("NDIS pool or object {handle:#x}");
        return Err(Violation::new(&rules::BAD_OBJECT, [handle as u64, 0, 0], text));
    }
    let left = state.lists.values().filter(|list| list.pool == handle).count();
    if left > 0 {
        let text = format!("{left} lists of {handle:#x} are not freed");
        return Err(Violation::new(&rules::PACKET_POOL_IN_USE, [handle as u64, left as u64, 0], text));
    }
    state.pools.remove(&handle);
    Ok(())
}
