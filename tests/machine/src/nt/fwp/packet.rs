//! A packet laid out as NET_BUFFER_LIST, NET_BUFFER and a chain of MDLs.

use super::super::memory::{Guarded, PAGE};
use super::super::types::{
    Address, MDL, MDL_MAPPED_TO_SYSTEM_VA, MDL_PAGES_LOCKED, MDL_SOURCE_IS_NONPAGED_POOL, NET_BUFFER,
    NET_BUFFER_DATA, NET_BUFFER_LIST,
};

/// How a packet's bytes are divided among MDLs. In every layout, the last byte ends
/// at a guard page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NblLayout {
    /// One MDL.
    #[default]
    Contiguous,
    /// Two MDLs. The second starts this many bytes after the data start, which
    /// splits a header.
    SplitAt(usize),
    /// MDLs of this many bytes each, at least 1.
    Pieces(usize),
}

/// Whether MDLs are mapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MdlMapping {
    /// Over nonpaged pool, and so mapped.
    #[default]
    Mapped,
    /// Locked pages. A reader must map them, which can fail.
    Unmapped,
}

/// Bytes between the buffers of two MDLs. A callout must not read them.
const GAP: usize = 16;
/// `MappedSystemVa` of an MDL that is not mapped: not initialized, or stale. Nothing is
/// there.
const STALE: Address = 0x1000;
/// Content of the gaps.
const GAP_FILL: u8 = 0xA5;

/// Pages for one packet at a time. They grow, and are reused.
#[derive(Debug)]
pub(in crate::nt) struct PacketRoom {
    /// NET_BUFFER_LIST and NET_BUFFER.
    head: Guarded,
    /// Further lists, and then further NET_BUFFERs.
    others: Option<Guarded>,
    mdls: Guarded,
    data: Guarded,
}

/// The addresses of a packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Laid {
    /// The `NET_BUFFER_LIST`.
    pub(super) list: Address,
    /// The `NET_BUFFER`.
    pub(super) buffer: Address,
    /// MDL of the data start, offset in it, and length of the data.
    pub(super) start: (Address, u32, u64),
}

impl Default for PacketRoom {
    fn default() -> Self {
        Self {
            head: Guarded::new(PAGE),
            others: None,
            mdls: Guarded::new(PAGE),
            data: Guarded::new(2 * PAGE),
        }
    }
}

impl PacketRoom {
    /// Uses pages that these functions make.
    pub(super) fn apart([head, mdls, data]: [impl Fn(usize) -> Guarded; 3]) -> Self {
        Self { head: head(PAGE), others: None, mdls: mdls(PAGE), data: data(2 * PAGE) }
    }

    /// Whether an address is in these pages.
    pub(super) fn contains(&self, address: Address) -> bool {
        let rooms = [&self.head, &self.mdls, &self.data];
        rooms.into_iter().chain(&self.others).any(|room| room.contains(address))
    }

    /// The address after the last byte of a contiguous packet.
    pub(super) fn end(&self) -> Address {
        self.data.end()
    }

    /// Lays out `bytes` with the data starting at `data_start`. The bytes before it
    /// stay readable as unused space.
    ///
    /// # Panics
    /// If the data start is beyond the packet. This is a bug in the lab.
    pub(super) fn lay(
        &mut self,
        bytes: &[u8],
        data_start: usize,
        layout: NblLayout,
        mapping: MdlMapping,
    ) -> Laid {
        assert!(data_start <= bytes.len(), "the data start is beyond the packet");
        let pieces = cut(bytes.len(), data_start, layout);
        let gaps = GAP * pieces.len();
        grow(&mut self.data, bytes.len() + gaps);
        grow(&mut self.mdls, pieces.len() * size_of::<MDL>());
        let first_mdl = self.mdls.end() - pieces.len() * size_of::<MDL>();
        let mdl_at = |index: usize| first_mdl + index * size_of::<MDL>();
        let mut at = self.data.end();
        let mut start = (mdl_at(0), 0);
        for (index, piece) in pieces.iter().enumerate().rev() {
            at -= piece.len();
            self.data.put_bytes(at, &bytes[piece.clone()]);
            let next = if index + 1 < pieces.len() { mdl_at(index + 1) } else { 0 };
            self.mdls.put(mdl_at(index), &mdl(at, piece.len(), next, mapping));
            let last = index + 1 == pieces.len();
            if piece.contains(&data_start) || (last && data_start == bytes.len()) {
                start = (mdl_at(index), (data_start - piece.start) as u32);
            }
            if index > 0 {
                at -= GAP;
                self.data.put_bytes(at, &[GAP_FILL; GAP]);
            }
        }
        let length = (bytes.len() - data_start) as u64;
        let buffer_at = self.head.start() + size_of::<NET_BUFFER_LIST>();
        let data = NET_BUFFER_DATA {
            CurrentMdl: start.0,
            CurrentMdlOffset: start.1,
            stDataLength: length,
            MdlChain: mdl_at(0),
            DataOffset: data_start as u32,
            ..NET_BUFFER_DATA::zeroed()
        };
        let buffer = NET_BUFFER { Data: data, ..NET_BUFFER::zeroed() };
        self.head.put(buffer_at, &buffer);
        let list = NET_BUFFER_LIST { FirstNetBuffer: buffer_at, ..NET_BUFFER_LIST::zeroed() };
        self.head.put(self.head.start(), &list);
        Laid { list: self.head.start(), buffer: buffer_at, start: (start.0, start.1, length) }
    }

    /// Extends the list to a chain of `lists` lists of `buffers` NET_BUFFERs each. Each
    /// NET_BUFFER has the packet's bytes, but its length is one less than the length of the
    /// previous one.
    pub(super) fn fill_lists(&mut self, laid: &Laid, lists: usize, buffers: usize) {
        let all = lists * buffers;
        if all <= 1 {
            return;
        }
        let first: NET_BUFFER = self.head.get(laid.buffer);
        let head: NET_BUFFER_LIST = self.head.get(laid.list);
        let others = self.others.get_or_insert_with(|| Guarded::new(PAGE));
        let size = lists * size_of::<NET_BUFFER_LIST>() + all * size_of::<NET_BUFFER>();
        grow(others, size);
        let (lists_at, buffers_at) = (others.start(), others.start() + lists * size_of::<NET_BUFFER_LIST>());
        let list_at = |list: usize| match list {
            0 => laid.list,
            other => lists_at + other * size_of::<NET_BUFFER_LIST>(),
        };
        let buffer_at = |number: usize| match number {
            0 => laid.buffer,
            other => buffers_at + other * size_of::<NET_BUFFER>(),
        };
        for list in 0..lists {
            let next = if list + 1 < lists { list_at(list + 1) } else { 0 };
            let shown = NET_BUFFER_LIST { Next: next, FirstNetBuffer: buffer_at(list * buffers), ..head };
            if list == 0 { &self.head } else { &*others }.put(list_at(list), &shown);
        }
        for number in 0..all {
            let mut shown = first;
            shown.Data.stDataLength = laid.start.2.saturating_sub(number as u64);
            shown.Data.Next = if (number + 1) % buffers == 0 { 0 } else { buffer_at(number + 1) };
            if number == 0 { &self.head } else { &*others }.put(buffer_at(number), &shown);
        }
    }

    /// The address of the last MDL.
    pub(super) fn last_mdl(&self) -> Address {
        self.mdls.end() - size_of::<MDL>()
    }

    /// Maps the last MDL, as another callout may do on another processor: the address
    /// first, then the flag. Or unmaps it.
    pub(super) fn set_mapped(&self, mapped: bool) {
        let mut mdl: MDL = self.mdls.get(self.last_mdl());
        if mapped {
            mdl.MappedSystemVa = mdl.StartVa.wrapping_add(mdl.ByteOffset as usize);
            self.mdls.put(self.last_mdl(), &mdl);
            mdl.MdlFlags |= MDL_MAPPED_TO_SYSTEM_VA;
        } else {
            mdl.MdlFlags &= !MDL_MAPPED_TO_SYSTEM_VA;
            self.mdls.put(self.last_mdl(), &mdl);
            mdl.MappedSystemVa = STALE;
        }
        self.mdls.put(self.last_mdl(), &mdl);
    }

    /// The NET_BUFFER after the driver's call.
    pub(super) fn buffer(&self, laid: &Laid) -> NET_BUFFER_DATA {
        self.head.get(laid.buffer)
    }
}

fn grow(room: &mut Guarded, bytes: usize) {
    if room.size() < bytes {
        *room = Guarded::new(bytes.next_power_of_two());
    }
}

/// Ranges of the pieces, in order; at least one.
fn cut(length: usize, data_start: usize, layout: NblLayout) -> Vec<std::ops::Range<usize>> {
    let split_at = |at: usize| vec![0..at, at..length];
    match layout {
        NblLayout::SplitAt(after) if (1..length).contains(&(data_start + after)) => {
            split_at(data_start + after)
        }
        NblLayout::Pieces(size) if length > 0 => {
            let size = size.max(1);
            let starts = (0..length).step_by(size);
            starts.map(|start| start..(start + size).min(length)).collect()
        }
        _ => std::iter::once(0..length).collect(),
    }
}

fn mdl(at: Address, length: usize, next: Address, mapping: MdlMapping) -> MDL {
    let pages = (at % PAGE + length).div_ceil(PAGE);
    let (flags, mapped) = match mapping {
        MdlMapping::Mapped => (MDL_SOURCE_IS_NONPAGED_POOL, at),
        MdlMapping::Unmapped => (MDL_PAGES_LOCKED, STALE),
    };
    MDL {
        Next: next,
        // The size of an MDL includes its page frame numbers. The lab does not
        // write those.
        Size: i16::try_from(size_of::<MDL>() + 8 * pages).unwrap_or(i16::MAX),
        MdlFlags: flags,
        Process: 0,
        MappedSystemVa: mapped,
        StartVa: at & !(PAGE - 1),
        ByteCount: length as u32,
        ByteOffset: (at % PAGE) as u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_the_packet() {
        let one = |range: std::ops::Range<usize>| vec![range];
        assert_eq!(cut(10, 4, NblLayout::Contiguous), one(0..10));
        assert_eq!(cut(10, 4, NblLayout::SplitAt(2)), [0..6, 6..10]);
        assert_eq!(cut(10, 4, NblLayout::SplitAt(6)), one(0..10));
        assert_eq!(cut(5, 0, NblLayout::Pieces(2)), [0..2, 2..4, 4..5]);
        assert_eq!(cut(0, 0, NblLayout::Pieces(1)), one(0..0));
    }
}
