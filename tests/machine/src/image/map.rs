//! Reserves pages, protects them exactly, and does not reuse addresses for long.
#![expect(unsafe_code, reason = "maps and protects memory")]

use std::io;
use std::ops::Range;
use std::ptr::NonNull;

use super::arena;
use super::pe::PAGE;

/// Address space with a guard page on each side.
///
/// After a revocation, a late access faults at an address that still identifies the
/// image, until the reservation is dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    base: NonNull<u8>,
    size: usize,
    /// Whether dropping this value unmaps the addresses.
    owns: bool,
}

// SAFETY: the pages belong to the process, not to a thread.
unsafe impl Send for Reservation {}
// SAFETY: every method that changes pages takes `&mut self`.
unsafe impl Sync for Reservation {}

/// What may be done with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protection {
    None,
    Read,
    ReadWrite,
    ReadExecute,
    /// What a section that is writable and executable gets.
    All,
}

impl Protection {
    fn bits(self) -> i32 {
        match self {
            Self::None => libc::PROT_NONE,
            Self::Read => libc::PROT_READ,
            Self::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
            Self::ReadExecute => libc::PROT_READ | libc::PROT_EXEC,
            Self::All => libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
        }
    }
}

impl Reservation {
    /// Reserves `size` bytes, a multiple of the page size, without access.
    pub fn new(size: usize) -> io::Result<Self> {
        let guard = PAGE as usize;
        let (at, flags) = match arena::take(size + 2 * guard) {
            Some(at) => (std::ptr::with_exposed_provenance_mut(at? as usize), libc::MAP_FIXED),
            None => (std::ptr::null_mut(), 0),
        };
        // SAFETY: an anonymous mapping at an address of the kernel's choice, or over
        // pages of the arena that nothing uses.
        let start = unsafe { map_none(at, size + 2 * guard, flags) }?;
        // SAFETY: the mapping is longer than one guard page.
        let base = unsafe { start.add(guard) };
        Ok(Self { base, size, owns: true })
    }

    /// Number of reserved bytes.
    pub fn size(&self) -> u64 {
        self.size as u64
    }

    /// Address of the first reserved byte.
    pub fn base(&self) -> u64 {
        self.base.addr().get() as u64
    }

    /// Replaces the whole content. No page is accessible afterwards.
    pub fn fill(&mut self, content: &[u8]) -> io::Result<()> {
        assert!(content.len() <= self.size, "content fits the reservation");
        self.protect(0..self.size, Protection::ReadWrite)?;
        // SAFETY: the pages were just made writable. `content` lies elsewhere,
        // because nothing else refers to the reservation.
        unsafe { self.base.copy_from_nonoverlapping(NonNull::from(content).cast(), content.len()) };
        self.protect(0..self.size, Protection::None)
    }

    /// Changes the protection of whole pages, given as offsets.
    pub fn protect(&mut self, range: Range<usize>, protection: Protection) -> io::Result<()> {
        assert!(range.start <= range.end && range.end <= self.size, "pages of the reservation");
        // SAFETY: `range.start` is at most the size.
        let start = unsafe { self.base.add(range.start) };
        // SAFETY: the pages are ours, and Rust holds no reference into them.
        let result = unsafe { libc::mprotect(start.as_ptr().cast(), range.len(), protection.bits()) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Frees the memory. The returned value keeps the addresses reserved, without
    /// access.
    pub fn revoke(&mut self) -> io::Result<Self> {
        // SAFETY: replaces exactly the pages of this reservation.
        unsafe { map_none(self.base.as_ptr(), self.size, libc::MAP_FIXED) }?;
        let kept = Self { base: self.base, size: self.size, owns: self.owns };
        self.owns = false;
        Ok(kept)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.owns {
            return;
        }
        let guard = PAGE as usize;
        // SAFETY: the mapping begins one guard page below the base.
        let start = unsafe { self.base.sub(guard) };
        // SAFETY: unmaps exactly the mapping of `new`, for its last owner. A
        // failure only leaks address space.
        let _unmapped = unsafe { libc::munmap(start.as_ptr().cast(), self.size + 2 * guard) };
    }
}

/// Maps inaccessible pages.
///
/// # Safety
/// With `MAP_FIXED` the range must belong to the caller.
unsafe fn map_none(address: *mut u8, size: usize, flags: i32) -> io::Result<NonNull<u8>> {
    let flags = flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: per this function's contract.
    let start = unsafe { libc::mmap(address.cast(), size, libc::PROT_NONE, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at address zero"))
}
