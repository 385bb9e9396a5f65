//! The memory of lists: NET_BUFFER_LIST, its NET_BUFFERs and MDLs in one block.
#![expect(unsafe_code, reason = "walks lists in foreign memory")]

use super::super::foreign::{self, BadPointer};
use super::super::memory::PAGE;
use super::super::pool;
use super::super::types::{
    Address, MDL, MDL_MAPPED_TO_SYSTEM_VA, MDL_SOURCE_IS_NONPAGED_POOL, NET_BUFFER, NET_BUFFER_DATA,
    NET_BUFFER_LIST, NET_BUFFER_LIST_CONTEXT, Plain,
};
use super::super::{Irql, Kernel};

/// The most bytes of a NET_BUFFER that are read.
const LARGEST: u64 = 16 << 20;
/// The most NET_BUFFERs of a list, and MDLs of a chain, that are read.
const MOST: usize = 1 << 16;

/// Reads a structure that a driver points to, on a packet's path.
pub(in crate::nt) fn peek<T: Plain>(address: Address) -> T {
    // SAFETY: a structure in kernel or driver memory. A bad pointer faults, and the
    // guest attributes the fault to the driver. `Plain` types have no invalid bit
    // pattern.
    unsafe { (address as *const T).read_unaligned() }
}

/// Writes a structure that a driver points to, on a packet's path.
pub(in crate::nt) fn poke<T: Plain>(address: Address, value: &T) {
    // SAFETY: as `peek`.
    unsafe { (address as *mut T).write_unaligned(*value) };
}

/// Computes the current MDL from the data's offset in the chain.
pub(in crate::nt) fn relocate(buffer: &mut NET_BUFFER_DATA) {
    let mut offset = buffer.DataOffset;
    let mut at = buffer.MdlChain;
    while at != 0 {
        let mdl: MDL = peek(at);
        if offset < mdl.ByteCount || mdl.Next == 0 {
            break;
        }
        offset -= mdl.ByteCount;
        at = mdl.Next;
    }
    buffer.CurrentMdl = at;
    buffer.CurrentMdlOffset = offset;
}

/// What a list consists of.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::nt) struct Wanted {
    /// Bytes of context, and of unused space before it.
    pub(in crate::nt) context: (usize, usize),
    pub(in crate::nt) buffers: usize,
    pub(in crate::nt) mdls: usize,
    /// Bytes of data.
    pub(in crate::nt) data: usize,
}

/// The addresses of a list's parts. Everything is zero but the links between them.
#[derive(Clone, Copy, Debug)]
pub(in crate::nt) struct Room {
    pub(in crate::nt) list: Address,
    pub(in crate::nt) buffers: Address,
    pub(in crate::nt) mdls: Address,
    pub(in crate::nt) data: Address,
}

impl Room {
    /// The address of a NET_BUFFER.
    pub(in crate::nt) fn buffer(&self, number: usize) -> Address {
        self.buffers + number * size_of::<NET_BUFFER>()
    }

    /// The address of an MDL.
    pub(in crate::nt) fn mdl(&self, number: usize) -> Address {
        self.mdls + number * size_of::<MDL>()
    }
}

/// An MDL over nonpaged bytes.
pub(in crate::nt) fn mdl_over(bytes: Address, count: u32, next: Address) -> MDL {
    MDL {
        Next: next,
        Size: size_of::<MDL>() as i16,
        MdlFlags: MDL_SOURCE_IS_NONPAGED_POOL,
        Process: 0,
        MappedSystemVa: bytes,
        StartVa: bytes & !(PAGE - 1),
        ByteCount: count,
        ByteOffset: (bytes % PAGE) as u32,
    }
}

impl super::Packets {
    /// Allocates a list. `None` if there is no memory.
    pub(in crate::nt) fn allocate(&self, kernel: &Kernel, tag: u32, wanted: Wanted) -> Option<Room> {
        if kernel.pool().take_shortage() {
            return None;
        }
        let Wanted { context: (used, backfill), buffers, mdls, data } = wanted;
        let context = match used + backfill {
            0 => 0,
            bytes => (size_of::<NET_BUFFER_LIST_CONTEXT>() + bytes).next_multiple_of(16),
        };
        let head = size_of::<NET_BUFFER_LIST>() + buffers * size_of::<NET_BUFFER>();
        let size = head + context + mdls * size_of::<MDL>() + data;
        let list = self.memory.allocate(pool::Wanted {
            size,
            tag: if tag == 0 { u32::from_le_bytes(*b"NBL ") } else { tag },
            paged: false,
            zeroed: true,
            cache_aligned: false,
            origin: kernel.origin(),
        });
        if list == 0 {
            return None;
        }
        let first = list + size_of::<NET_BUFFER_LIST>();
        let raw = NET_BUFFER_LIST {
            FirstNetBuffer: if buffers > 0 { first } else { 0 },
            Context: if context > 0 { list + head } else { 0 },
            ..NET_BUFFER_LIST::zeroed()
        };
        poke(list, &raw);
        if context > 0 {
            let (size, offset) = ((used + backfill) as u16, backfill as u16);
            poke(list + head, &NET_BUFFER_LIST_CONTEXT { Next: 0, Size: size, Offset: offset });
        }
        let mdls_at = list + head + context;
        Some(Room { list, buffers: first, mdls: mdls_at, data: mdls_at + mdls * size_of::<MDL>() })
    }

    /// Frees the memory of a list. A driver that has written beyond its parts is
    /// noticed as for pool.
    pub(in crate::nt) fn free(
        &self,
        kernel: &Kernel,
        list: Address,
    ) -> Result<(), crate::verifier::Violation> {
        self.memory.free(list, 0, Irql::PASSIVE, kernel.guest().frames()).map(drop)
    }
}

/// The addresses of a list's NET_BUFFERs.
pub(in crate::nt) fn buffers(list: Address) -> Result<Vec<Address>, BadPointer> {
    let raw: NET_BUFFER_LIST = foreign::read(list)?;
    let (mut at, mut all) = (raw.FirstNetBuffer, Vec::new());
    while at != 0 && all.len() < MOST {
        all.push(at);
        at = foreign::read::<NET_BUFFER_DATA>(at)?.Next;
    }
    Ok(all)
}

/// The pieces of a NET_BUFFER's data: address and length of each.
pub(in crate::nt) fn pieces(data: &NET_BUFFER_DATA) -> Result<Vec<(Address, usize)>, BadPointer> {
    let mut left = data.stDataLength.min(LARGEST) as usize;
    let (mut at, mut offset, mut all) = (data.CurrentMdl, data.CurrentMdlOffset as usize, Vec::new());
    while left > 0 && at != 0 && all.len() < MOST {
        let mdl: MDL = foreign::read(at)?;
        let part = (mdl.ByteCount as usize).saturating_sub(offset).min(left);
        if part > 0 {
            all.push((start_of(&mdl) + offset, part));
        }
        left -= part;
        offset = offset.saturating_sub(mdl.ByteCount as usize);
        at = mdl.Next;
    }
    Ok(all)
}

/// The address of an MDL's bytes. All memory of the lab is mapped.
fn start_of(mdl: &MDL) -> Address {
    match mdl.MdlFlags & (MDL_MAPPED_TO_SYSTEM_VA | MDL_SOURCE_IS_NONPAGED_POOL) {
        0 => mdl.StartVa.wrapping_add(mdl.ByteOffset as usize),
        _ => mdl.MappedSystemVa,
    }
}

/// The data of each NET_BUFFER. They are shorter than their lengths say if their MDLs
/// are.
pub(in crate::nt) fn bytes_of(list: Address) -> Result<Vec<Vec<u8>>, BadPointer> {
    let read = |buffer: Address| {
        let mut bytes = Vec::new();
        for (at, length) in pieces(&foreign::read(buffer)?)? {
            bytes.extend(foreign::read_bytes(at, length)?);
        }
        Ok(bytes)
    };
    buffers(list)?.into_iter().map(read).collect()
}
