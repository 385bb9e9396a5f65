//! NET_BUFFER_LISTs for injection (`fwpsk.h`).
#![expect(non_snake_case, reason = "the names are fwpkclnt's own")]

use super::super::enter::enter;
use super::super::foreign;
use super::super::packets::{List, Made, PoolKind, Wanted, poke, relocate};
use super::super::types::{Address, HANDLE, NET_BUFFER, NET_BUFFER_DATA, NET_BUFFER_LIST, NTSTATUS};
use super::super::{Kernel, Trouble};
use super::REFUSED;
use crate::status::Status;
use crate::verifier::{Violation, rules};

/// `MEMORY_ALLOCATION_ALIGNMENT` of x64 (`ntdef.h`).
const ALIGNMENT: u16 = 16;

/// `FwpsAllocateNetBufferAndNetBufferList0`. The pool must give each list a NET_BUFFER
/// without data (`NdisAllocateNetBufferListPool`, remarks).
pub extern "win64" fn FwpsAllocateNetBufferAndNetBufferList0(
    poolHandle: HANDLE,
    contextSize: u16,
    contextBackFill: u16,
    mdlChain: Address,
    dataOffset: u32,
    dataLength: usize,
    netBufferList: Address,
) -> NTSTATUS {
    let kernel = enter!(FwpsAllocateNetBufferAndNetBufferList0);
    let context = (contextSize, contextBackFill);
    let data = (mdlChain, dataOffset, dataLength);
    kernel.settle(allocate(&kernel, poolHandle, context, data, netBufferList), REFUSED).0
}

fn allocate(
    kernel: &Kernel,
    pool: HANDLE,
    (context, backfill): (u16, u16),
    (chain, offset, length): (Address, u32, usize),
    out: Address,
) -> Result<Status, Trouble> {
    match kernel.packets().state().pools.get(&pool) {
        Some((PoolKind::Lists { with_buffer: true, data: 0, .. }, _)) => {}
        Some(_) => return Ok(Status::INVALID_PARAMETER),
        None => {
            let text = format!("pool of NET_BUFFER_LISTs {pool:#x}");
            return Err(Violation::new(&rules::BAD_OBJECT, [pool as u64, 0, 0], text).into());
        }
    }
    if !context.is_multiple_of(ALIGNMENT) || !backfill.is_multiple_of(ALIGNMENT) {
        return Ok(Status::INVALID_PARAMETER);
    }
    foreign::write(out, &0usize)?;
    let wanted = Wanted { context: (context.into(), backfill.into()), buffers: 1, ..Wanted::default() };
    let Some(room) = kernel.packets().allocate(kernel, 0, wanted) else {
        return Ok(Status::INSUFFICIENT_RESOURCES);
    };
    let mut data = NET_BUFFER_DATA {
        MdlChain: chain,
        DataOffset: offset,
        stDataLength: length as u64,
        ..NET_BUFFER_DATA::zeroed()
    };
    relocate(&mut data);
    poke(room.buffer(0), &NET_BUFFER { Data: data, NdisPoolHandle: pool, ..NET_BUFFER::zeroed() });
    let raw: NET_BUFFER_LIST = foreign::read(room.list)?;
    poke(room.list, &NET_BUFFER_LIST { NdisPoolHandle: pool, ..raw });
    let list = List {
        made: Made::Allocated,
        pool,
        injected: false,
        injections: None,
        origin: None,
        chain: Vec::new(),
        extra: Vec::new(),
        made_by: kernel.origin(),
    };
    kernel.packets().state().lists.insert(room.list, list);
    foreign::write(out, &room.list)?;
    Ok(Status::SUCCESS)
}

/// `FwpsFreeNetBufferList0`, for lists of `FwpsAllocateNetBufferAndNetBufferList0`. The
/// driver frees the MDLs itself.
pub extern "win64" fn FwpsFreeNetBufferList0(netBufferList: Address) {
    let kernel = enter!(FwpsFreeNetBufferList0);
    let freed = kernel.packets().take(netBufferList, |made| made == Made::Allocated).map(drop);
    kernel.settle(freed.and_then(|()| kernel.packets().free(&kernel, netBufferList)), ());
}
