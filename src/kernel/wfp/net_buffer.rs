//! Reads a packet's bytes in place, also before its data start.
//!
//! The data start is not moved: retreating a NET_BUFFER may allocate memory. The
//! bytes that the stack has advanced over are still in the MDL chain.
//!
//! Others may write to these structures meanwhile: another callout may map an MDL on
//! another processor. So no reference covers one of them, and each field is read by
//! itself, through a raw pointer.

use core::marker::PhantomData;
use core::ptr;
use core::sync::atomic::{AtomicI16, AtomicPtr, Ordering};

use crate::ffi;
use crate::logic::bytes::Bytes;
use crate::logic::flow::CUT;

/// The most MDLs that are followed. A packet's headers need far fewer.
const MAX_MDLS: usize = 64;

/// The most NET_BUFFERs and further lists that are visited to count what an indication
/// shows. Each may miss the cache, so a visit takes up to a tenth of a microsecond.
const MAX_VISITS: usize = 1024;

/// A NET_BUFFER that lives for `'a`.
pub struct NetBuffer<'a> {
    chain: *const ffi::MDL,
    data_offset: u32,
    data_length: u32,
    next: *const ffi::NET_BUFFER,
    /// The list that the packet was found in. Only the first NET_BUFFER of the first list
    /// is given out.
    list: *const ffi::NET_BUFFER_LIST,
    of_list: PhantomData<&'a ffi::NET_BUFFER_LIST>,
}

/// Reads a field of a NET_BUFFER_LIST, NET_BUFFER or MDL that is alive. No reference
/// to the structure is made.
macro_rules! read {
    ($structure:expr, $($field:tt)+) => {{
        // SAFETY: the structure is alive: callers have the address from a live list,
        // which its buffers and MDLs outlast, and have compared it with NULL.
        let field = unsafe { &raw const (*$structure).$($field)+ };
        // SAFETY: as above; the members of unions are views of the same plain words.
        unsafe { field.read() }
    }};
}

impl<'a> NetBuffer<'a> {
    /// The NET_BUFFERs of its list, and those of the lists that follow it.
    #[inline(always)]
    pub fn lists(&self) -> Lists<'a> {
        Lists { first: self.list, of_list: PhantomData }
    }
}

impl NetBuffer<'_> {
    /// The first NET_BUFFER of a list.
    ///
    /// # Safety
    /// `list` is NULL or points to a NET_BUFFER_LIST whose NET_BUFFERs and MDLs live
    /// as long as the result.
    #[inline(always)]
    pub unsafe fn first(list: *const ffi::NET_BUFFER_LIST) -> Option<Self> {
        if list.is_null() {
            return None;
        }
        // SAFETY: a list's buffers live as long as the list.
        unsafe { Self::at(first_buffer(list), list) }
    }

    /// # Safety
    /// `buffer` is NULL or points to a NET_BUFFER that lives, with its MDLs, as long
    /// as the result.
    #[inline(always)]
    unsafe fn at(buffer: *const ffi::NET_BUFFER, list: *const ffi::NET_BUFFER_LIST) -> Option<Self> {
        if buffer.is_null() {
            return None;
        }
        Some(Self {
            chain: read!(buffer, __bindgen_anon_1.__bindgen_anon_1.MdlChain),
            data_offset: read!(buffer, __bindgen_anon_1.__bindgen_anon_1.DataOffset),
            // 32 bits; a view as SIZE_T has them in its lower half.
            data_length: read!(buffer, __bindgen_anon_1.__bindgen_anon_1.__bindgen_anon_1.DataLength),
            next: read!(buffer, __bindgen_anon_1.__bindgen_anon_1.Next),
            list,
            of_list: PhantomData,
        })
    }

    /// The end of the packet's data, counted like `DataOffset`. Bytes behind it do
    /// not belong to the packet, even if the MDLs map them.
    #[inline(always)]
    fn end(&self) -> u32 {
        self.data_offset.saturating_add(self.data_length)
    }

    /// Bytes from `back` bytes before the data start to the end of the data.
    #[inline(always)]
    pub fn length_from(&self, back: u32) -> u64 {
        u64::from(self.data_length) + u64::from(back)
    }

    /// The bytes of its data, if no NET_BUFFER and no list follows.
    #[inline(always)]
    pub fn single(&self) -> Option<u64> {
        (self.next.addr() | next_list(self.list).addr() == 0).then_some(self.data_length.into())
    }

    /// The bytes of its data, if no list follows. Received lists have one NET_BUFFER each:
    /// only for "outgoing data" there can be more ("Packet Indication Format").
    #[inline(always)]
    pub fn received(&self) -> Option<u64> {
        next_list(self.list).is_null().then_some(self.data_length.into())
    }

    /// The bytes behind headers of this many bytes each, which begin `back` bytes
    /// before the data start, in all NET_BUFFERs of the indication. `None` if the headers
    /// are longer, or if there are more NET_BUFFERs than are counted.
    #[inline(always)]
    pub fn payload(&self, back: u32, headers: u32) -> Option<u64> {
        let (packets, bytes) = match self.single() {
            Some(bytes) => (1, bytes),
            None => self.lists().totals(),
        };
        if packets & CUT != 0 {
            return None;
        }
        let packets = u64::from(packets);
        (bytes + packets * u64::from(back)).checked_sub(packets * u64::from(headers))
    }

    /// `N` bytes that begin `back` bytes before the data start and end at or before
    /// it, if the first MDL maps them. So they belong to the packet whatever its
    /// length, which saves one comparison over a [`Contiguous`].
    #[inline(always)]
    pub fn piece<const N: usize>(&self, back: u32) -> Option<[u8; N]> {
        let mdl = self.first_mdl()?;
        if self.data_offset > read!(mdl, ByteCount) || (back as usize) < N {
            return None;
        }
        let at = self.data_offset.checked_sub(back)?;
        let from = mapped(mdl)?.wrapping_add(at as usize);
        // SAFETY: the MDL maps as many bytes as it says, and these are among
        // them; bytes have no alignment.
        Some(unsafe { from.cast::<[u8; N]>().read_unaligned() })
    }

    /// The contiguous bytes from `back` bytes before the data start on: the packet's
    /// part of the first MDL, if it is mapped.
    #[inline(always)]
    pub fn contiguous(&self, back: u32) -> Option<Contiguous<'_>> {
        let mdl = self.first_mdl()?;
        let at = self.data_offset.checked_sub(back)?;
        let length = self.end().min(read!(mdl, ByteCount)).checked_sub(at)?;
        Some(Contiguous { start: mapped(mdl)?.wrapping_add(at as usize), length, of_buffer: PhantomData })
    }

    /// The first MDL of the chain, which lives as long as the buffer.
    #[inline(always)]
    fn first_mdl(&self) -> Option<*const ffi::MDL> {
        (!self.chain.is_null()).then_some(self.chain)
    }

    /// The bytes from `back` bytes before the data start on, in any number of MDLs.
    pub fn scattered(&self, back: u32) -> Scattered<'_> {
        Scattered { buffer: self, back }
    }

    /// Fills `to` with bytes that begin `skip` bytes behind the place that is `back`
    /// bytes before the data start. `None` if they do not all belong to the packet
    /// or are not all mapped.
    #[inline(never)]
    pub fn copy_within(&self, back: u32, skip: u32, to: &mut [u8]) -> Option<()> {
        let mut skip = self.data_offset.checked_sub(back)?.checked_add(skip)? as usize;
        if skip + to.len() > self.end() as usize {
            return None;
        }
        let mut rest = to;
        let mut mdl = self.first_mdl()?;
        for _ in 0..MAX_MDLS {
            let length = read!(mdl, ByteCount) as usize;
            if let Some(here) = length.checked_sub(skip).filter(|here| *here != 0) {
                let here = here.min(rest.len());
                let (filled, left) = rest.split_at_mut_checked(here)?;
                let from = mapped(mdl)?.wrapping_add(skip);
                // SAFETY: the MDL maps `length` bytes, of which `here` lie
                // behind `skip`; a local is never part of a packet.
                unsafe { ptr::copy_nonoverlapping(from, filled.as_mut_ptr(), here) };
                rest = left;
            }
            skip = skip.saturating_sub(length);
            if rest.is_empty() {
                break;
            }
            // The chain ends with NULL.
            mdl = read!(mdl, Next);
            if mdl.is_null() {
                return None;
            }
        }
        rest.is_empty().then_some(())
    }
}

/// A list, and those that follow it. Outbound a list may have several NET_BUFFERs ("Packet
/// Indication Format"). The page says that only STREAM and the forward path show several
/// lists. A field report contradicts it: UDP that software coalesces on receipt comes as a
/// chain of up to 255 lists.
#[derive(Clone, Copy)]
pub struct Lists<'a> {
    first: *const ffi::NET_BUFFER_LIST,
    of_list: PhantomData<&'a ffi::NET_BUFFER_LIST>,
}

impl Lists<'_> {
    /// No list is shown. It counts as one packet without bytes.
    pub const NONE: Self = Self { first: ptr::null(), of_list: PhantomData };

    /// The NET_BUFFERs, with the mark [`CUT`] if there are more than are counted, and the
    /// bytes of their data.
    #[cold]
    #[inline(never)]
    pub fn totals(self) -> (u32, u64) {
        if self.first.is_null() {
            return (1, 0);
        }
        let (mut packets, mut bytes, mut list) = (0, 0, self.first);
        let mut next = first_buffer(list);
        for _ in 0..=MAX_VISITS {
            // SAFETY: a list's buffers live as long as the list, and the last one's link is
            // NULL.
            if let Some(buffer) = unsafe { NetBuffer::at(next, list) } {
                packets += 1;
                bytes += u64::from(buffer.data_length);
                next = buffer.next;
                continue;
            }
            list = next_list(list);
            if list.is_null() {
                return (packets, bytes);
            }
            next = first_buffer(list);
        }
        let is_cut = !next.is_null() || !next_list(list).is_null();
        (if is_cut { packets | CUT } else { packets }, bytes)
    }
}

/// The first NET_BUFFER of a list that is alive.
#[inline(always)]
fn first_buffer(list: *const ffi::NET_BUFFER_LIST) -> *const ffi::NET_BUFFER {
    read!(list, __bindgen_anon_1.__bindgen_anon_1.FirstNetBuffer)
}

/// The list that follows a list that is alive.
#[inline(always)]
fn next_list(list: *const ffi::NET_BUFFER_LIST) -> *const ffi::NET_BUFFER_LIST {
    read!(list, __bindgen_anon_1.__bindgen_anon_1.Next)
}

/// Contiguous bytes of a packet.
pub struct Contiguous<'a> {
    start: *const u8,
    length: u32,
    of_buffer: PhantomData<&'a u8>,
}

impl Bytes for Contiguous<'_> {
    #[inline(always)]
    fn at<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        if u64::from(offset) + N as u64 > u64::from(self.length) {
            return None;
        }
        let from = self.start.wrapping_add(offset as usize);
        // SAFETY: the MDL maps as many bytes as `contiguous` found, and these are
        // among them; bytes have no alignment.
        Some(unsafe { from.cast::<[u8; N]>().read_unaligned() })
    }
}

/// Bytes of a packet, in one MDL or several.
pub struct Scattered<'a> {
    buffer: &'a NetBuffer<'a>,
    back: u32,
}

impl Bytes for Scattered<'_> {
    fn at<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.buffer.copy_within(self.back, offset, &mut bytes).map(|()| bytes)
    }
}

/// The address at which an MDL's bytes are mapped. It reads what
/// MmGetSystemAddressForMdlSafe (wdm.h) reads, in the same order, but does not map
/// them, which may fail.
///
/// The flags come first: before the MDL is mapped the address is not initialized, and
/// after it is unmapped the address is stale.
#[inline(always)]
fn mapped(mdl: *const ffi::MDL) -> Option<*const u8> {
    let mapped = (ffi::MDL_MAPPED_TO_SYSTEM_VA | ffi::MDL_SOURCE_IS_NONPAGED_POOL) as ffi::CSHORT;
    // SAFETY: the MDL is alive (see `first_mdl`).
    let flags = unsafe { &raw const (*mdl).MdlFlags };
    // SAFETY: the field is alive and aligned; the driver only loads it.
    let flags = unsafe { AtomicI16::from_ptr(flags.cast_mut()) }.load(Ordering::Acquire);
    if flags & mapped == 0 {
        return None;
    }
    // SAFETY: as above.
    let address = unsafe { &raw const (*mdl).MappedSystemVa };
    // SAFETY: as above.
    let address = unsafe { AtomicPtr::from_ptr(address.cast_mut()) }.load(Ordering::Relaxed);
    if address.is_null() { None } else { Some(address.cast_const().cast()) }
}
