//! Pages between guard pages, for everything that the kernel passes to a driver.
#![expect(unsafe_code, reason = "maps memory")]

use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, mprotect, munmap};

use super::types::Plain;

/// Bytes in a page, on the lab's host as on Windows for x64.
pub const PAGE: usize = 4096;

/// Rounds up to whole pages.
pub fn round_to_pages(bytes: usize) -> usize {
    bytes.next_multiple_of(PAGE)
}

/// Address space reserved without access. Parts of it can be opened.
#[derive(Debug)]
pub struct Reservation {
    base: NonNull<std::ffi::c_void>,
    bytes: usize,
}

// SAFETY: a reservation is a range of addresses. The host's kernel synchronizes
// changes of protection.
unsafe impl Send for Reservation {}
// SAFETY: as above.
unsafe impl Sync for Reservation {}

impl Reservation {
    /// Reserves `bytes`, rounded up to pages. `None` if the host has no address
    /// space left.
    pub fn new(bytes: usize) -> Option<Self> {
        Self::at(None, bytes)
    }

    /// Reserves `bytes`, at this address if it is free.
    pub fn at(wanted: Option<NonZeroUsize>, bytes: usize) -> Option<Self> {
        let bytes = NonZeroUsize::new(round_to_pages(bytes))?;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: without MAP_FIXED a new anonymous mapping affects no other memory.
        let base = unsafe { mmap_anonymous(wanted, bytes, ProtFlags::PROT_NONE, flags) };
        Some(Self { base: base.ok()?, bytes: bytes.get() })
    }

    /// First address.
    pub fn base(&self) -> usize {
        self.base.as_ptr() as usize
    }

    /// Size in bytes.
    pub fn size(&self) -> usize {
        self.bytes
    }

    /// Whether the address lies in the reservation.
    pub fn contains(&self, address: usize) -> bool {
        (self.base()..self.base() + self.bytes).contains(&address)
    }

    /// Makes pages readable and writable. `false` if the host has no mappings left
    /// (`vm.max_map_count`).
    pub fn open(&self, address: usize, bytes: usize) -> bool {
        self.protect(address, bytes, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)
    }

    /// Makes pages inaccessible. Their contents are lost.
    pub fn close(&self, address: usize, bytes: usize) -> bool {
        let Some(start) = self.check(address, bytes) else {
            return false;
        };
        // SAFETY: the range is inside our own mapping. Later accesses are meant to
        // fault.
        let discarded = unsafe { madvise(start, bytes, MmapAdvise::MADV_DONTNEED) };
        discarded.is_ok() && self.protect(address, bytes, ProtFlags::PROT_NONE)
    }

    fn protect(&self, address: usize, bytes: usize, protection: ProtFlags) -> bool {
        let Some(start) = self.check(address, bytes) else {
            return false;
        };
        // SAFETY: the range is inside our own mapping, which holds no Rust
        // object.
        unsafe { mprotect(start, bytes, protection) }.is_ok()
    }

    fn check(&self, address: usize, bytes: usize) -> Option<NonNull<std::ffi::c_void>> {
        let end = address.checked_add(bytes)?;
        let inside = address >= self.base() && end <= self.base() + self.bytes;
        assert!(inside, "pages outside the reservation");
        NonNull::new(address as *mut std::ffi::c_void)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing of the machine outlives it. A
        // failure only leaks address space.
        let _ = unsafe { munmap(self.base, self.bytes) };
    }
}

/// Readable and writable pages with a guard page on each side.
#[derive(Debug)]
pub struct Guarded {
    reservation: Reservation,
    /// Bytes left unused at each end.
    margin: usize,
    used: usize,
}

impl Guarded {
    /// Makes zeroed pages for `bytes`.
    ///
    /// # Panics
    /// If the host has no memory left.
    pub fn new(bytes: usize) -> Self {
        Self::with_margin(bytes, 0)
    }

    /// Makes zeroed pages for `bytes`, with `margin` unused bytes at each end.
    /// Different margins place structures at different cache sets, so that they do
    /// not evict each other.
    ///
    /// # Panics
    /// If the host has no memory left, or the margins leave no bytes.
    pub fn with_margin(bytes: usize, margin: usize) -> Self {
        let bytes = round_to_pages(bytes.max(1));
        assert!(2 * margin < bytes, "the margins leave no bytes");
        let reservation = Reservation::new(bytes + 2 * PAGE).expect("the host has address space");
        let opened = reservation.open(reservation.base() + PAGE, bytes);
        assert!(opened, "the host has memory mappings left");
        Self { reservation, margin, used: bytes - 2 * margin }
    }

    /// Lets the pages be accessed, or not. They keep their contents.
    ///
    /// # Panics
    /// If the host has no memory mappings left.
    pub fn set_accessible(&self, accessible: bool) {
        let protection =
            if accessible { ProtFlags::PROT_READ | ProtFlags::PROT_WRITE } else { ProtFlags::PROT_NONE };
        let bytes = self.used + 2 * self.margin;
        let set = self.reservation.protect(self.reservation.base() + PAGE, bytes, protection);
        assert!(set, "the host has memory mappings left");
    }

    /// First usable address.
    pub fn start(&self) -> usize {
        self.reservation.base() + PAGE + self.margin
    }

    /// Makes all pages inaccessible, for good. The addresses stay taken.
    pub fn revoke(&self) {
        let (start, bytes) = (self.reservation.base() + PAGE, self.reservation.size() - 2 * PAGE);
        assert!(self.reservation.close(start, bytes), "the host has mappings left");
    }

    /// The address after the last usable byte. It is in the guard page if there is
    /// no margin.
    pub fn end(&self) -> usize {
        self.start() + self.used
    }

    /// Number of usable bytes.
    pub fn size(&self) -> usize {
        self.used
    }

    /// Whether an address is usable memory of these pages.
    pub fn contains(&self, address: usize) -> bool {
        (self.start()..self.end()).contains(&address)
    }

    /// Writes a structure.
    ///
    /// # Panics
    /// If it is not inside the usable bytes, or is misaligned. This is a bug in the
    /// lab.
    pub fn put<T: Plain>(&self, address: usize, value: &T) {
        self.check(address, size_of::<T>());
        assert!(address.is_multiple_of(align_of::<T>()));
        // SAFETY: inside our pages and aligned, as checked above. A driver may
        // write there at the same time, which a volatile write tolerates.
        unsafe { (address as *mut T).write_volatile(*value) };
    }

    /// Reads a structure.
    ///
    /// # Panics
    /// As [`put`](Self::put).
    pub fn get<T: Plain>(&self, address: usize) -> T {
        self.check(address, size_of::<T>());
        assert!(address.is_multiple_of(align_of::<T>()));
        // SAFETY: inside our pages and aligned, as checked above. `Plain` types
        // have no invalid bit pattern.
        unsafe { (address as *const T).read_volatile() }
    }

    /// Writes bytes.
    ///
    /// # Panics
    /// As [`put`](Self::put).
    pub fn put_bytes(&self, address: usize, bytes: &[u8]) {
        self.check(address, bytes.len());
        // SAFETY: inside our pages. The source does not overlap, because no slice
        // of these pages is ever made.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len());
        }
    }

    fn check(&self, address: usize, bytes: usize) {
        let end = address.checked_add(bytes);
        assert!(
            address >= self.start() && end.is_some_and(|end| end <= self.end()),
            "outside the guarded pages"
        );
    }
}
