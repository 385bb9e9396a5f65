//! The bytes of a packet around its data start, and how its MDLs hold them.

use crate::ffi;

/// Bytes of the window before the data start.
const BEFORE: i32 = 96;
/// Bytes of the window from the data start on.
const AFTER: i32 = 128;
const SIZE: usize = (BEFORE + AFTER) as usize;

/// The most MDLs that are followed.
const MAX_MDLS: u32 = 512;

/// A copy of the bytes around the data start of a NET_BUFFER. Positions are relative to
/// the data start.
pub struct Window {
    bytes: [u8; SIZE],
    present: [bool; SIZE],
    /// Number of MDLs that hold bytes of the packet.
    pub mdls: u32,
    /// Whether an MDL is mapped.
    pub mapped: bool,
    /// Whether an MDL is not mapped.
    pub unmapped: bool,
}

impl Window {
    /// The window of a list's first NET_BUFFER.
    ///
    /// # Safety
    /// `list` is NULL or points to a NET_BUFFER_LIST whose NET_BUFFERs and MDLs live
    /// until the return.
    pub unsafe fn of_list(list: *const ffi::NET_BUFFER_LIST) -> Option<Self> {
        // SAFETY: by this function's contract.
        let list = unsafe { list.as_ref() }?;
        // SAFETY: the union's members are views of the same plain words.
        let first = unsafe { list.__bindgen_anon_1.__bindgen_anon_1 }.FirstNetBuffer;
        // SAFETY: by this function's contract.
        let buffer = unsafe { first.as_ref() }?;
        // SAFETY: the union's members are views of the same plain words.
        let data = unsafe { buffer.__bindgen_anon_1.__bindgen_anon_1 };
        // SAFETY: as above.
        let length = unsafe { data.__bindgen_anon_1.DataLength };
        let (start, end) = (i64::from(data.DataOffset), i64::from(data.DataOffset) + i64::from(length));
        let mut window =
            Self { bytes: [0; SIZE], present: [false; SIZE], mdls: 0, mapped: false, unmapped: false };
        let (mut next, mut at) = (data.MdlChain, 0i64);
        for _ in 0..MAX_MDLS {
            // SAFETY: a buffer's MDLs live as long as the buffer, and the last
            // one's link is NULL.
            let Some(mdl) = (unsafe { next.as_ref() }) else { break };
            let size = i64::from(mdl.ByteCount);
            window.mdls += u32::from(size > 0);
            let mapping = ffi::MDL_MAPPED_TO_SYSTEM_VA | ffi::MDL_SOURCE_IS_NONPAGED_POOL;
            let is_mapped = u32::from(mdl.MdlFlags as u16) & mapping != 0 && !mdl.MappedSystemVa.is_null();
            window.mapped |= is_mapped;
            window.unmapped |= !is_mapped;
            if is_mapped {
                window.copy(mdl, at, start, end);
            }
            (next, at) = (mdl.Next, at + size);
        }
        Some(window)
    }

    /// Copies the part of a mapped MDL, which begins at `at` in the chain.
    fn copy(&mut self, mdl: &ffi::MDL, at: i64, start: i64, end: i64) {
        let first = at.max(start - i64::from(BEFORE));
        let last = (at + i64::from(mdl.ByteCount)).min(end).min(start + i64::from(AFTER));
        let mut position = first;
        while position < last {
            let from = mdl.MappedSystemVa.cast::<u8>().wrapping_add((position - at) as usize);
            // SAFETY: the MDL maps as many bytes as it says, and this is one.
            let byte = unsafe { from.read() };
            let place = (position - start + i64::from(BEFORE)) as usize;
            if let (Some(to), Some(present)) = (self.bytes.get_mut(place), self.present.get_mut(place)) {
                (*to, *present) = (byte, true);
            }
            position += 1;
        }
    }

    /// The byte at a position.
    pub fn byte(&self, position: i32) -> Option<u8> {
        let place = usize::try_from(position + BEFORE).ok()?;
        let present = *self.present.get(place)?;
        self.bytes.get(place).copied().filter(|_| present)
    }

    /// The number of two bytes at a position, in the order of the network.
    pub fn word(&self, position: i32) -> Option<u16> {
        Some(u16::from_be_bytes([self.byte(position)?, self.byte(position + 1)?]))
    }
}
