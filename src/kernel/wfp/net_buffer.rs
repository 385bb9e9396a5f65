//! Reads a packet's bytes in place, also before its data start.
//!
//! The data start is not moved: retreating a NET_BUFFER may allocate memory. The
//! bytes that the stack has advanced over are still in the MDL chain.

use core::marker::PhantomData;
use core::ptr;

use crate::ffi;
use crate::logic::bytes::Bytes;

/// The most MDLs that are followed. A packet's headers need far fewer.
const MAX_MDLS: usize = 64;

/// The most NET_BUFFERs of a list that are counted. A segment of the largest offload
/// (64 KB, in packets of 1 KB) needs no more.
const MAX_BUFFERS: usize = 64;

/// A NET_BUFFER that lives for `'a`.
pub struct NetBuffer<'a> {
    chain: *const ffi::MDL,
    data_offset: u32,
    data_length: u32,
    next: *const ffi::NET_BUFFER,
    of_list: PhantomData<&'a ffi::NET_BUFFER_LIST>,
}

impl NetBuffer<'_> {
    /// The first NET_BUFFER of a list.
    ///
    /// # Safety
    /// `list` is NULL or points to a NET_BUFFER_LIST whose NET_BUFFERs and MDLs live
    /// as long as the result.
    #[inline(always)]
    pub unsafe fn first(list: *const ffi::NET_BUFFER_LIST) -> Option<Self> {
        // SAFETY: by this function's contract.
        let list = unsafe { list.as_ref() }?;
        // SAFETY: the union's members are views of the same plain words.
        let links = unsafe { list.__bindgen_anon_1.__bindgen_anon_1 };
        // SAFETY: a list's buffers live as long as the list.
        unsafe { Self::at(links.FirstNetBuffer) }
    }

    /// # Safety
    /// `buffer` is NULL or points to a NET_BUFFER that lives, with its MDLs, as long
    /// as the result.
    #[inline(always)]
    unsafe fn at(buffer: *const ffi::NET_BUFFER) -> Option<Self> {
        // SAFETY: by this function's contract.
        let buffer = unsafe { buffer.as_ref() }?;
        // SAFETY: the union's members are views of the same plain words.
        let data = unsafe { buffer.__bindgen_anon_1.__bindgen_anon_1 };
        // SAFETY: as above. The length has 32 bits; a view as SIZE_T has them in its
        // lower half.
        let data_length = unsafe { data.__bindgen_anon_1.DataLength };
        let (chain, data_offset, next) = (data.MdlChain, data.DataOffset, data.Next.cast_const());
        Some(Self { chain, data_offset, data_length, next, of_list: PhantomData })
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

    /// The NET_BUFFERs of the list from this one on, and the bytes of their data. At
    /// most [`MAX_BUFFERS`] are counted.
    pub fn totals(&self) -> (u32, u64) {
        let (mut packets, mut bytes, mut next) = (1, u64::from(self.data_length), self.next);
        for _ in 1..MAX_BUFFERS {
            // SAFETY: a list's buffers live as long as the list, and the last
            // one's link is NULL.
            let Some(buffer) = (unsafe { Self::at(next) }) else { break };
            packets += 1;
            bytes += u64::from(buffer.data_length);
            next = buffer.next;
        }
        (packets, bytes)
    }

    /// The bytes behind headers of this many bytes each, which begin `back` bytes
    /// before the data start, in all NET_BUFFERs of the list. `None` if the headers
    /// are longer.
    #[inline(always)]
    pub fn payload(&self, back: u32, headers: u32) -> Option<u64> {
        let (packets, bytes) = if self.next.is_null() { (1, self.data_length.into()) } else { self.totals() };
        let packets = u64::from(packets);
        (bytes + packets * u64::from(back)).checked_sub(packets * u64::from(headers))
    }

    /// `N` bytes that begin `back` bytes before the data start and end at or before
    /// it, if the first MDL maps them. So they belong to the packet whatever its
    /// length, which saves one comparison over a [`Contiguous`].
    #[inline(always)]
    pub fn piece<const N: usize>(&self, back: u32) -> Option<[u8; N]> {
        // SAFETY: a buffer's MDLs live as long as the buffer.
        let mdl = unsafe { self.chain.as_ref() }?;
        if (back as usize) < N || self.data_offset > mdl.ByteCount {
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
        // SAFETY: a buffer's MDLs live as long as the buffer.
        let mdl = unsafe { self.chain.as_ref() }?;
        let at = self.data_offset.checked_sub(back)?;
        let length = self.end().min(mdl.ByteCount).checked_sub(at)?;
        Some(Contiguous { start: mapped(mdl)?.wrapping_add(at as usize), length, of_buffer: PhantomData })
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
        let mut next = self.chain;
        for _ in 0..MAX_MDLS {
            if rest.is_empty() {
                break;
            }
            // SAFETY: a buffer's MDLs live as long as the buffer; the chain
            // ends with NULL.
            let mdl = unsafe { next.as_ref() }?;
            next = mdl.Next;
            let length = mdl.ByteCount as usize;
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
        }
        rest.is_empty().then_some(())
    }
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
/// MmGetSystemAddressForMdlSafe (wdm.h) reads, but does not map them, which may
/// fail.
#[inline(always)]
fn mapped(mdl: &ffi::MDL) -> Option<*const u8> {
    let mapped = (ffi::MDL_MAPPED_TO_SYSTEM_VA | ffi::MDL_SOURCE_IS_NONPAGED_POOL) as ffi::CSHORT;
    let address = mdl.MappedSystemVa.cast_const().cast::<u8>();
    if mdl.MdlFlags & mapped != 0 && !address.is_null() { Some(address) } else { None }
}
