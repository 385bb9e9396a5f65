//! Clones of packets, and references to them (`fwpsk.h`).
//!
//! A packet is indicated in pages that the next indication uses again. As long as a
//! driver has clones of it or references to it, its pages are kept.
#![expect(non_snake_case, reason = "the names are fwpkclnt's own")]

use super::super::enter::enter;
use super::super::foreign;
use super::super::packets::{Count, List, Made, Wanted, buffers, mdl_over, peek, pieces, poke};
use super::super::types::{Address, BOOLEAN, HANDLE, NET_BUFFER, NET_BUFFER_DATA, NET_BUFFER_LIST, NTSTATUS};
use super::super::{Kernel, Trouble};
use super::inject::injections_of;
use super::{REFUSED, contract};
use crate::status::Status;
use crate::verifier::{Violation, rules};

/// `FwpsAllocateCloneNetBufferList0`. The clone has MDLs of its own over the bytes of
/// the original, from the start of its data on.
pub extern "win64" fn FwpsAllocateCloneNetBufferList0(
    originalNetBufferList: Address,
    netBufferListPoolHandle: HANDLE,
    netBufferPoolHandle: HANDLE,
    allocateCloneFlags: u32,
    netBufferList: Address,
) -> NTSTATUS {
    let kernel = enter!(FwpsAllocateCloneNetBufferList0);
    // "There are currently no flags defined."
    let _ = allocateCloneFlags;
    let pools = [netBufferListPoolHandle, netBufferPoolHandle];
    kernel.settle(clone(&kernel, originalNetBufferList, pools, netBufferList), REFUSED).0
}

fn clone(kernel: &Kernel, original: Address, pools: [HANDLE; 2], out: Address) -> Result<Status, Trouble> {
    foreign::write(out, &0usize)?;
    let Some(clone) = clone_list(kernel, original, pools)? else {
        return Ok(Status::INSUFFICIENT_RESOURCES);
    };
    foreign::write(out, &clone)?;
    Ok(Status::SUCCESS)
}

/// Clones a list. `None` if there is no memory.
pub(super) fn clone_list(
    kernel: &Kernel,
    original: Address,
    pools: [HANDLE; 2],
) -> Result<Option<Address>, Trouble> {
    let injections = injections_of(kernel, original)?;
    for pool in pools {
        if pool != 0 && !kernel.packets().state().pools.contains_key(&pool) {
            let text = format!("NDIS pool {pool:#x}");
            return Err(Violation::new(&rules::BAD_OBJECT, [pool as u64, 0, 0], text).into());
        }
    }
    let mut parts = Vec::new();
    for buffer in buffers(original)? {
        let data: NET_BUFFER_DATA = foreign::read(buffer)?;
        parts.push((data, pieces(&data)?));
    }
    let mdls = parts.iter().map(|(_, pieces)| pieces.len().max(1)).sum();
    let wanted = Wanted { buffers: parts.len(), mdls, ..Wanted::default() };
    let Some(room) = kernel.packets().allocate(kernel, 0, wanted) else { return Ok(None) };
    let (mut next_mdl, mut chain) = (0, Vec::new());
    for (number, (data, pieces)) in parts.iter().enumerate() {
        let (first, count) = (next_mdl, pieces.len().max(1));
        for at in 0..count {
            // A NET_BUFFER without data has an MDL, too.
            let (bytes, length) = pieces.get(at).copied().unwrap_or((room.list, 0));
            let next = if at + 1 < count { room.mdl(first + at + 1) } else { 0 };
            poke(room.mdl(first + at), &mdl_over(bytes, length as u32, next));
        }
        next_mdl += count;
        let own = NET_BUFFER_DATA {
            Next: if number + 1 < parts.len() { room.buffer(number + 1) } else { 0 },
            CurrentMdl: room.mdl(first),
            stDataLength: data.stDataLength,
            MdlChain: room.mdl(first),
            ..NET_BUFFER_DATA::zeroed()
        };
        poke(room.buffer(number), &NET_BUFFER { Data: own, ..NET_BUFFER::zeroed() });
        chain.push((room.buffer(number), room.mdl(first)));
    }
    let parent: NET_BUFFER_LIST = foreign::read(original)?;
    let raw: NET_BUFFER_LIST = peek(room.list);
    poke(
        room.list,
        &NET_BUFFER_LIST {
            ParentNetBufferList: original,
            NdisPoolHandle: pools[0],
            NetBufferListInfo: parent.NetBufferListInfo,
            ..raw
        },
    );
    let origin = contract::origin(original).or_else(|| kernel.packets().origin(original));
    let list = List {
        made: Made::Cloned { parent: original },
        pool: pools[0],
        injected: false,
        injections,
        origin,
        chain,
        extra: Vec::new(),
        made_by: kernel.origin(),
    };
    kernel.packets().state().lists.insert(room.list, list);
    kernel.packets().hold(kernel.caller(), original, Count::Clones, contract::hold(original));
    Ok(Some(room.list))
}

/// `FwpsFreeCloneNetBufferList0`. The driver must have undone its changes of the
/// clone's NET_BUFFERs and MDLs (`FwpsAllocateCloneNetBufferList0`, remarks).
pub extern "win64" fn FwpsFreeCloneNetBufferList0(netBufferList: Address, freeCloneFlags: u32) {
    let kernel = enter!(FwpsFreeCloneNetBufferList0);
    let _ = freeCloneFlags;
    kernel.settle(free_clone(&kernel, netBufferList), ());
}

/// Frees a clone.
pub(super) fn free_clone(kernel: &Kernel, clone: Address) -> Result<(), Trouble> {
    let list = kernel.packets().take(clone, |made| made != Made::Allocated)?;
    let mut chain = Vec::new();
    for buffer in buffers(clone)? {
        chain.push((buffer, foreign::read::<NET_BUFFER_DATA>(buffer)?.MdlChain));
    }
    if let Made::Cloned { parent } = list.made {
        kernel.packets().release(kernel.caller(), parent, Count::Clones);
    }
    for extra in list.extra {
        kernel.packets().free(kernel, extra)?;
    }
    kernel.packets().free(kernel, clone)?;
    match chain == list.chain {
        true => Ok(()),
        false => {
            let text = format!("NET_BUFFER_LIST {clone:#x}: {chain:x?}, first {:x?}", list.chain);
            Err(Violation::new(&rules::CLONE_CHANGED, [clone as u64, 0, 0], text).into())
        }
    }
}

/// `FwpsReferenceNetBufferList0`.
pub extern "win64" fn FwpsReferenceNetBufferList0(netBufferList: Address, intendToModify: BOOLEAN) {
    let kernel = enter!(FwpsReferenceNetBufferList0);
    let _ = intendToModify;
    let referenced = injections_of(&kernel, netBufferList).map(|_| {
        let indicated = contract::hold(netBufferList);
        kernel.packets().hold(kernel.caller(), netBufferList, Count::References, indicated);
    });
    kernel.settle(referenced, ());
}

/// `FwpsDereferenceNetBufferList0`.
pub extern "win64" fn FwpsDereferenceNetBufferList0(netBufferList: Address, dispatchLevel: BOOLEAN) {
    let kernel = enter!(FwpsDereferenceNetBufferList0);
    let _ = dispatchLevel;
    kernel.settle(dereference(&kernel, netBufferList), ());
}

fn dereference(kernel: &Kernel, list: Address) -> Result<(), Violation> {
    injections_of(kernel, list)?;
    if Count::References.get(list) <= 0 {
        let text = format!("NET_BUFFER_LIST {list:#x}");
        return Err(Violation::new(&rules::LIST_NOT_REFERENCED, [list as u64, 0, 0], text));
    }
    kernel.packets().release(kernel.caller(), list, Count::References);
    Ok(())
}
