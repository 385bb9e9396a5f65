//! Reading a packet's bytes where they are, before its data start too.
//!
//! Nothing is moved: retreating a NET_BUFFER may allocate, and the bytes that
//! the stack has stepped over are still in the chain of MDLs.

use core::marker::PhantomData;
use core::ptr;

use crate::ffi;

/// The most MDLs looked at: many times what a headers' worth of packet has.
const MOST_MDLS: usize = 64;

/// A NET_BUFFER that lives for `'a`.
pub struct NetBuffer<'a> {
    chain: *const ffi::MDL,
    data_offset: u32,
    of_list: PhantomData<&'a ffi::NET_BUFFER_LIST>,
}

impl NetBuffer<'_> {
    /// The first of a list.
    ///
    /// # Safety
    /// `list` is NULL or leads to a NET_BUFFER_LIST whose buffers and MDLs live
    /// as long as what is returned.
    pub unsafe fn first(list: *const ffi::NET_BUFFER_LIST) -> Option<Self> {
        // SAFETY: by this function's contract.
        let list = unsafe { list.as_ref() }?;
        // SAFETY: the union's members are views of the same plain words.
        let links = unsafe { list.__bindgen_anon_1.__bindgen_anon_1 };
        // SAFETY: a list's buffers live as long as the list.
        let buffer = unsafe { links.FirstNetBuffer.as_ref() }?;
        // SAFETY: the union's members are views of the same plain words.
        let data = unsafe { buffer.__bindgen_anon_1.__bindgen_anon_1 };
        Some(Self { chain: data.MdlChain, data_offset: data.DataOffset, of_list: PhantomData })
    }

    /// Fills `to` with the bytes from `back` bytes before the data start on;
    /// `None` where they are not all there and mapped.
    pub fn copy_from(&self, back: u32, to: &mut [u8]) -> Option<()> {
        self.copy_within(back, 0, to)
    }

    /// The same from `skip` bytes further on, before the data start or behind
    /// it.
    pub fn copy_within(&self, back: u32, skip: u32, to: &mut [u8]) -> Option<()> {
        let mut skip = self.data_offset.checked_sub(back)?.checked_add(skip)? as usize;
        let mut rest = to;
        let mut next = self.chain;
        for _ in 0..MOST_MDLS {
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

/// Where an MDL's bytes are mapped, if they are (MmGetSystemAddressForMdlSafe,
/// wdm.h, which would map them now and may fail).
fn mapped(mdl: &ffi::MDL) -> Option<*const u8> {
    let mapped = (ffi::MDL_MAPPED_TO_SYSTEM_VA | ffi::MDL_SOURCE_IS_NONPAGED_POOL) as ffi::CSHORT;
    let address = mdl.MappedSystemVa.cast_const().cast::<u8>();
    (mdl.MdlFlags & mapped != 0 && !address.is_null()).then_some(address)
}
