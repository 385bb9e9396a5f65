//! NET_BUFFERs through the NDIS exports, in every layout.

use super::super::fwp::{MdlMapping, NblLayout};
use super::super::mm::{MmMapLockedPagesSpecifyCache, MmUnmapLockedPages};
use super::super::ndis::*;
use super::super::types::{MDL, NET_BUFFER_DATA};
use super::super::{Irql, Kernel, foreign};
use super::classify::with_packet;
use super::{clean, drive, machine, peek, stopped_by};
use crate::status::Status;
use crate::verifier::rules;

const BYTES: [u8; 60] = {
    let mut bytes = [0; 60];
    let mut at = 0;
    while at < 60 {
        bytes[at] = at as u8;
        at += 1;
    }
    bytes
};

const LAYOUTS: [NblLayout; 4] =
    [NblLayout::Contiguous, NblLayout::SplitAt(4), NblLayout::Pieces(1), NblLayout::Pieces(7)];

fn bytes_at(address: usize, count: usize) -> Vec<u8> {
    (address..address + count).map(peek::<u8>).collect()
}

/// Runs `f` for every layout and mapping, with the data starting at byte 20.
fn every(f: impl Fn(&Kernel, usize, NblLayout)) {
    for layout in LAYOUTS {
        for mapping in [MdlMapping::Mapped, MdlMapping::Unmapped] {
            with_packet(&BYTES, 20, layout, mapping, |kernel, buffer| {
                f(kernel, buffer, layout);
            });
        }
    }
}

#[test]
fn data_is_the_same_in_every_layout() {
    every(|_, buffer, layout| {
        let storage = [0u8; 64];
        let at = storage.as_ptr() as usize;
        let found = NdisGetDataBuffer(buffer, 20, at, 1, 0);
        assert_eq!(bytes_at(found, 20), BYTES[20..40]);
        assert_eq!(found == at, layout != NblLayout::Contiguous, "{layout:?}");
        assert_eq!(NdisGetDataBuffer(buffer, 41, at, 1, 0), 0, "more bytes than the packet has");
        assert_eq!(NdisGetDataBuffer(buffer, 0, at, 1, 0), 0);
        if layout != NblLayout::Contiguous {
            assert_eq!(NdisGetDataBuffer(buffer, 20, 0, 1, 0), 0, "no storage for the copy");
        }
    });
}

#[test]
fn misaligned_data_is_copied() {
    with_packet(&BYTES, 21, NblLayout::Contiguous, MdlMapping::Mapped, |_, buffer| {
        let storage = [0u64; 8];
        let at = storage.as_ptr() as usize;
        let unaligned = NdisGetDataBuffer(buffer, 8, at, 1, 0);
        assert_ne!(unaligned, at);
        let residue = (unaligned % 8) as u32;
        assert_eq!(NdisGetDataBuffer(buffer, 8, at, 8, residue), unaligned);
        assert_eq!(NdisGetDataBuffer(buffer, 8, at, 8, (residue + 1) % 8), at);
        assert_eq!(bytes_at(at, 8), BYTES[21..29]);
    });
}

#[test]
fn retreat_and_advance_move_the_data_start() {
    every(|_, buffer, _| {
        let before: NET_BUFFER_DATA = peek(buffer);
        assert_eq!(NdisRetreatNetBufferDataStart(buffer, 20, 0, 0), 0);
        let storage = [0u8; 64];
        let found = NdisGetDataBuffer(buffer, 60, storage.as_ptr() as usize, 1, 0);
        assert_eq!(bytes_at(found, 60), BYTES);
        NdisAdvanceNetBufferDataStart(buffer, 20, 0, 0);
        let after: NET_BUFFER_DATA = peek(buffer);
        let start = |b: NET_BUFFER_DATA| (b.CurrentMdl, b.CurrentMdlOffset, b.stDataLength);
        assert_eq!(start(before), start(after));
    });
}

#[test]
fn a_retreat_beyond_the_packet_needs_an_mdl() {
    every(|kernel, buffer, _| {
        let before: NET_BUFFER_DATA = peek(buffer);
        kernel.pool().fail_next(1);
        let refused = NdisRetreatNetBufferDataStart(buffer, 30, 6, 0);
        assert_eq!(refused, Status::INSUFFICIENT_RESOURCES.0);
        assert_eq!(NdisRetreatNetBufferDataStart(buffer, 30, 6, 0), 0);
        let grown: NET_BUFFER_DATA = peek(buffer);
        assert_eq!((grown.stDataLength, grown.DataOffset), (70, 6));
        let front: MDL = peek(grown.MdlChain);
        assert_eq!((front.ByteCount, front.Next), (16, before.MdlChain));
        NdisAdvanceNetBufferDataStart(buffer, 30, 1, 0);
        let after: NET_BUFFER_DATA = peek(buffer);
        assert_eq!((after.MdlChain, after.DataOffset), (before.MdlChain, 20));
        assert!(kernel.objects().mdls.is_empty(), "the MDL must be freed");
    });
}

#[test]
fn a_packet_ends_at_a_guard_page() {
    with_packet(&BYTES, 20, NblLayout::Contiguous, MdlMapping::Mapped, |_, buffer| {
        let found = NdisGetDataBuffer(buffer, 40, 0, 1, 0);
        assert!(foreign::read::<u8>(found + 39).is_ok());
        assert!(foreign::read::<u8>(found + 40).is_err());
    });
}

#[test]
fn mapping_can_fail() {
    with_packet(&BYTES, 20, NblLayout::Contiguous, MdlMapping::Unmapped, |kernel, buffer| {
        let mdl = peek::<NET_BUFFER_DATA>(buffer).CurrentMdl;
        kernel.pool().fail_next(2);
        assert_eq!(NdisGetDataBuffer(buffer, 8, 0, 1, 0), 0);
        assert_eq!(MmMapLockedPagesSpecifyCache(mdl, 0, 1, 0, 0, 0), 0);
        let mapped = MmMapLockedPagesSpecifyCache(mdl, 0, 1, 0, 0, 0);
        assert_eq!(bytes_at(mapped, 60), BYTES);
        assert_eq!(peek::<MDL>(mdl).MdlFlags & 1, 1);
        MmUnmapLockedPages(mapped, mdl);
        assert_eq!(peek::<MDL>(mdl).MdlFlags & 1, 0);
    });
    let kernel = machine();
    let mdl = MDL::zeroed();
    let outcome = drive(&kernel, Irql::DISPATCH, || {
        MmMapLockedPagesSpecifyCache(std::ptr::from_ref(&mdl) as usize, 0, 1, 0, 1, 0)
    });
    stopped_by(&kernel, outcome, &rules::MDL_BUGCHECK_ON_FAILURE);
}

#[test]
fn memory_functions_follow_the_c_standard() {
    use super::super::rtl::*;
    let kernel = machine();
    let buffer = *b"abcdefgh";
    let at = buffer.as_ptr() as usize;
    let outcome = drive(&kernel, Irql::DISPATCH, || {
        memmove(at + 1, at, 4);
        memset(at + 6, i32::from(b'z'), 2);
        memcpy(at + 5, at, 1);
        (memcmp(at, at + 1, 1), memcmp(at, at + 2, 3) < 0, memcmp(at, at, 8))
    });
    assert_eq!(clean(&kernel, outcome), (0, true, 0));
    assert_eq!(bytes_at(at, 8), b"aabcdazz");
    let outcome = drive(&kernel, Irql::DISPATCH, || memcpy(at + 1, at, 4));
    stopped_by(&kernel, outcome, &rules::MEMCPY_OVERLAP);
}

#[test]
fn strings_and_versions() {
    use super::super::rtl::*;
    use super::super::types::{RTL_OSVERSIONINFOEXW, UNICODE_STRING};
    let kernel = machine();
    let (string, text) = (UNICODE_STRING::zeroed(), [b'a'.into(), b'b'.into(), 0u16]);
    let version = RTL_OSVERSIONINFOEXW { dwOSVersionInfoSize: 284, ..RTL_OSVERSIONINFOEXW::zeroed() };
    let (string, version) = (&raw const string as usize, &raw const version as usize);
    let outcome = drive(&kernel, Irql::PASSIVE, || {
        RtlInitUnicodeString(string, text.as_ptr() as usize);
        RtlGetVersion(version)
    });
    assert_eq!(clean(&kernel, outcome), 0);
    let string: UNICODE_STRING = peek(string);
    assert_eq!((string.Length, string.MaximumLength), (4, 6));
    let version: RTL_OSVERSIONINFOEXW = peek(version);
    assert_eq!((version.dwMajorVersion, version.dwBuildNumber), (10, 22621));
    assert_eq!(version.wProductType, 1);
}
