//! NDIS: access to NET_BUFFERs (`nblapi.h`); `lists` has their pools.
//!
//! These exports are on a packet's path. They read structures directly, and a bad
//! pointer faults as it does in ndis.sys.
#![expect(unsafe_code, reason = "walks MDL chains in foreign memory")]
#![expect(non_snake_case, reason = "the names are NDIS's own")]

mod lists;

use super::Kernel;
use super::enter::enter;
use super::foreign::{self, BadPointer};
use super::memory::{Guarded, PAGE};
use super::packets::{mdl_over, peek, pieces, poke, relocate};
use super::types::{
    Address, BOOLEAN, MDL, MDL_MAPPED_TO_SYSTEM_VA, MDL_SOURCE_IS_NONPAGED_POOL, NET_BUFFER_DATA,
    NET_BUFFER_LIST, NTSTATUS,
};
use crate::status::Status;

pub use lists::*;

// A NET_BUFFER begins with its NET_BUFFER_DATA. The exports use nothing else of it.

/// The address of an MDL's bytes. Maps the MDL if necessary; `None` if that fails
/// because the lab makes allocations fail.
fn mapped(kernel: &Kernel, address: Address, mdl: &MDL) -> Option<Address> {
    if mdl.MdlFlags & (MDL_MAPPED_TO_SYSTEM_VA | MDL_SOURCE_IS_NONPAGED_POOL) != 0 {
        return Some(mdl.MappedSystemVa);
    }
    if kernel.pool().take_shortage() {
        return None;
    }
    let start = mdl.StartVa.wrapping_add(mdl.ByteOffset as usize);
    let mapped = MDL { MappedSystemVa: start, MdlFlags: mdl.MdlFlags | MDL_MAPPED_TO_SYSTEM_VA, ..*mdl };
    poke(address, &mapped);
    Some(start)
}

/// `NdisGetDataBuffer`. Returns a pointer into the packet if the bytes are
/// contiguous and aligned as requested, else a copy in `Storage`, else NULL.
pub extern "win64" fn NdisGetDataBuffer(
    NetBuffer: Address,
    BytesNeeded: u32,
    Storage: Address,
    AlignMultiple: u32,
    AlignOffset: u32,
) -> Address {
    let kernel = enter!(NdisGetDataBuffer);
    let buffer: NET_BUFFER_DATA = peek(NetBuffer);
    let needed = BytesNeeded as usize;
    if needed == 0 || u64::from(BytesNeeded) > buffer.stDataLength {
        return 0;
    }
    let mut at = buffer.CurrentMdl;
    let mut mdl: MDL = peek(at);
    let mut offset = buffer.CurrentMdlOffset as usize;
    // The data may begin in a later MDL.
    while offset >= mdl.ByteCount as usize && mdl.Next != 0 {
        offset -= mdl.ByteCount as usize;
        at = mdl.Next;
        mdl = peek(at);
    }
    let Some(start) = mapped(&kernel, at, &mdl) else {
        return 0;
    };
    let pointer = start + offset;
    let multiple = AlignMultiple.max(1) as usize;
    let aligned = pointer % multiple == AlignOffset as usize % multiple;
    if (mdl.ByteCount as usize).saturating_sub(offset) >= needed && aligned {
        return pointer;
    }
    match Storage != 0 && copy(&kernel, at, offset, needed, Storage) {
        true => Storage,
        false => 0,
    }
}

/// Copies `needed` bytes of a chain from `offset` in the MDL at `at`.
fn copy(kernel: &Kernel, at: Address, offset: usize, needed: usize, storage: Address) -> bool {
    let (mut at, mut offset, mut done) = (at, offset, 0);
    while done < needed {
        if at == 0 {
            return false;
        }
        let mdl: MDL = peek(at);
        let Some(start) = mapped(kernel, at, &mdl) else {
            return false;
        };
        let part = (mdl.ByteCount as usize).saturating_sub(offset).min(needed - done);
        // SAFETY: the MDL gives the address of its bytes, and the driver gives the
        // destination. If one of them is wrong, the fault is attributed to the
        // driver.
        unsafe {
            let from = (start + offset) as *const u8;
            std::ptr::copy(from, (storage + done) as *mut u8, part);
        }
        done += part;
        offset = offset.saturating_sub(mdl.ByteCount as usize);
        at = mdl.Next;
    }
    true
}

/// `NdisRetreatNetBufferDataStart`. If the unused space before the data is too
/// small, an MDL is inserted before the chain, which can fail. The lab does not
/// call a driver's allocation handler: such a retreat fails.
pub extern "win64" fn NdisRetreatNetBufferDataStart(
    NetBuffer: Address,
    DataOffsetDelta: u32,
    DataBackFill: u32,
    AllocateMdlHandler: Address,
) -> NTSTATUS {
    let kernel = enter!(NdisRetreatNetBufferDataStart);
    retreat(&kernel, NetBuffer, DataOffsetDelta, DataBackFill, AllocateMdlHandler).0
}

fn retreat(kernel: &Kernel, net_buffer: Address, delta: u32, backfill: u32, handler: Address) -> Status {
    let mut buffer: NET_BUFFER_DATA = peek(net_buffer);
    if delta <= buffer.DataOffset {
        buffer.DataOffset -= delta;
    } else {
        if handler != 0 {
            kernel.log("NdisRetreatNetBufferDataStart: AllocateMdlHandler is not called");
            return Status::INSUFFICIENT_RESOURCES;
        }
        let missing = delta - buffer.DataOffset;
        let bytes = missing.saturating_add(backfill);
        let front = prepend(kernel, buffer.MdlChain, bytes);
        if front == 0 {
            return Status::INSUFFICIENT_RESOURCES;
        }
        buffer.MdlChain = front;
        buffer.DataOffset = backfill;
    }
    buffer.stDataLength += u64::from(delta);
    relocate(&mut buffer);
    poke(net_buffer, &buffer);
    Status::SUCCESS
}

/// A new MDL of `bytes` bytes before `next`. 0 while the lab makes allocations
/// fail.
fn prepend(kernel: &Kernel, next: Address, bytes: u32) -> Address {
    if kernel.pool().take_shortage() {
        return 0;
    }
    let memory = Guarded::new(PAGE + bytes as usize);
    let address = memory.start();
    let data = memory.end() - bytes as usize;
    let mdl = mdl_over(data, bytes, next);
    memory.put(address, &mdl);
    kernel.objects().mdls.insert(address, memory);
    address
}

/// `NdisAdvanceNetBufferDataStart`. With `FreeMdl`, frees MDLs that a retreat
/// inserted and that hold no more data.
pub extern "win64" fn NdisAdvanceNetBufferDataStart(
    NetBuffer: Address,
    DataOffsetDelta: u32,
    FreeMdl: BOOLEAN,
    FreeMdlHandler: Address,
) {
    let kernel = enter!(NdisAdvanceNetBufferDataStart);
    // The handler belongs to an allocation handler, which is never called.
    let _ = FreeMdlHandler;
    advance(&kernel, NetBuffer, DataOffsetDelta, FreeMdl != 0);
}

fn advance(kernel: &Kernel, net_buffer: Address, delta: u32, free: bool) {
    let mut buffer: NET_BUFFER_DATA = peek(net_buffer);
    buffer.DataOffset = buffer.DataOffset.saturating_add(delta);
    buffer.stDataLength = buffer.stDataLength.saturating_sub(delta.into());
    relocate(&mut buffer);
    while free && buffer.MdlChain != buffer.CurrentMdl {
        let front: MDL = peek(buffer.MdlChain);
        if kernel.objects().mdls.remove(&buffer.MdlChain).is_none() {
            break;
        }
        buffer.MdlChain = front.Next;
        buffer.DataOffset -= front.ByteCount;
    }
    poke(net_buffer, &buffer);
}

/// `NdisRetreatNetBufferListDataStart`. If a NET_BUFFER cannot be retreated, those before
/// it are advanced again.
pub extern "win64" fn NdisRetreatNetBufferListDataStart(
    NetBufferList: Address,
    DataOffsetDelta: u32,
    DataBackFill: u32,
    AllocateMdlHandler: Address,
    FreeMdlHandler: Address,
) -> NTSTATUS {
    let kernel = enter!(NdisRetreatNetBufferListDataStart);
    let _ = FreeMdlHandler;
    let first = first_buffer(NetBufferList);
    let mut at = first;
    while at != 0 {
        let status = retreat(&kernel, at, DataOffsetDelta, DataBackFill, AllocateMdlHandler);
        if !status.is_success() {
            let mut done = first;
            while done != at {
                advance(&kernel, done, DataOffsetDelta, true);
                done = next(done);
            }
            return status.0;
        }
        at = next(at);
    }
    Status::SUCCESS.0
}

/// `NdisAdvanceNetBufferListDataStart`.
pub extern "win64" fn NdisAdvanceNetBufferListDataStart(
    NetBufferList: Address,
    DataOffsetDelta: u32,
    FreeMdl: BOOLEAN,
    FreeMdlHandler: Address,
) {
    let kernel = enter!(NdisAdvanceNetBufferListDataStart);
    let _ = FreeMdlHandler;
    let mut at = first_buffer(NetBufferList);
    while at != 0 {
        advance(&kernel, at, DataOffsetDelta, FreeMdl != 0);
        at = next(at);
    }
}

fn first_buffer(list: Address) -> Address {
    peek::<NET_BUFFER_LIST>(list).FirstNetBuffer
}

fn next(buffer: Address) -> Address {
    peek::<NET_BUFFER_DATA>(buffer).Next
}

/// `NdisCopyFromNetBufferToNetBuffer`. The destination's MDLs limit what is copied, not
/// its length, which the caller updates.
pub extern "win64" fn NdisCopyFromNetBufferToNetBuffer(
    Destination: Address,
    DestinationOffset: u32,
    BytesToCopy: u32,
    Source: Address,
    SourceOffset: u32,
    BytesCopied: Address,
) -> NTSTATUS {
    let kernel = enter!(NdisCopyFromNetBufferToNetBuffer);
    let ends = [(Destination, DestinationOffset), (Source, SourceOffset)];
    kernel.settle(copy_between(ends, BytesToCopy as usize, BytesCopied), Status::UNSUCCESSFUL).0
}

fn copy_between(
    [(to, to_offset), (from, from_offset)]: [(Address, u32); 2],
    most: usize,
    copied: Address,
) -> Result<Status, BadPointer> {
    let room = NET_BUFFER_DATA { stDataLength: u64::MAX, ..foreign::read(to)? };
    let mut bytes = Vec::new();
    for (at, length) in pieces(&foreign::read(from)?)? {
        bytes.extend(foreign::read_bytes(at, length)?);
    }
    let mut rest = bytes.get(from_offset as usize..).unwrap_or_default();
    rest = &rest[..rest.len().min(most)];
    let (mut skip, wanted) = (to_offset as usize, rest.len());
    for (at, length) in pieces(&room)? {
        let here = skip.min(length);
        skip -= here;
        let part = (length - here).min(rest.len());
        foreign::write_bytes(at + here, &rest[..part])?;
        rest = &rest[part..];
    }
    foreign::write(copied, &((wanted - rest.len()) as u32))?;
    Ok(Status::SUCCESS)
}
