//! Pages between guard pages, for everything the kernel hands to a driver.
#![expect(unsafe_code, reason = "maps memory")]

use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, mprotect, munmap};

use super::types::Plain;

/// Bytes in a page; the same on the lab's host and on Windows for x64.
pub const PAGE: usize = 4096;

/// Rounds up to whole pages.
pub fn round_to_pages(bytes: usize) -> usize {
    bytes.next_multiple_of(PAGE)
}

/// Address space reserved without access, parts of which can be opened.
#[derive(Debug)]
pub struct Reservation {
    base: NonNull<std::ffi::c_void>,
    bytes: usize,
}

// SAFETY: a reservation is a range of addresses; the kernel synchronizes
// changes of protection itself.
unsafe impl Send for Reservation {}
// SAFETY: as above.
unsafe impl Sync for Reservation {}

impl Reservation {
    /// Reserves `bytes`, rounded up to pages. `None` if the host has no room.
    pub fn new(bytes: usize) -> Option<Self> {
        let bytes = NonZeroUsize::new(round_to_pages(bytes))?;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: a fresh anonymous mapping at an address of the host's
        // choice disturbs nobody.
        let base = unsafe { mmap_anonymous(None, bytes, ProtFlags::PROT_NONE, flags) };
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

    /// Makes pages readable and writable. Fails when the host is out of
    /// mappings (`vm.max_map_count`).
    pub fn open(&self, address: usize, bytes: usize) -> bool {
        self.protect(address, bytes, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)
    }

    /// Takes pages away again; their contents are lost.
    pub fn close(&self, address: usize, bytes: usize) -> bool {
        let Some(start) = self.check(address, bytes) else {
            return false;
        };
        // SAFETY: the range is inside our own mapping, and whoever touches it
        // from now on is meant to fault.
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
        // SAFETY: the mapping is ours and nothing of the kernel outlives it.
        // A failure leaks address space, no more.
        let _ = unsafe { munmap(self.base, self.bytes) };
    }
}

/// Readable and writable pages with a guard page on each side.
#[derive(Debug)]
pub struct Guarded {
    reservation: Reservation,
    /// Bytes left out on each side of those that are used.
    left_out: usize,
    used: usize,
}

impl Guarded {
    /// Zeroed room for `bytes`.
    ///
    /// # Panics
    /// If the host has no memory left; the lab cannot go on then.
    pub fn new(bytes: usize) -> Self {
        Self::apart(bytes, 0)
    }

    /// The same without so many bytes on either side. Of rooms of which each
    /// leaves out another number of lines, what lies at the ends is not at one
    /// place in their pages, for which a cache has few places.
    ///
    /// # Panics
    /// As for [`new`](Self::new), and if nothing is left.
    pub fn apart(bytes: usize, left_out: usize) -> Self {
        let bytes = round_to_pages(bytes.max(1));
        assert!(2 * left_out < bytes, "something is left");
        let reservation = Reservation::new(bytes + 2 * PAGE).expect("the host has address space");
        let opened = reservation.open(reservation.base() + PAGE, bytes);
        assert!(opened, "the host has memory mappings left");
        Self { reservation, left_out, used: bytes - 2 * left_out }
    }

    /// First usable address.
    pub fn start(&self) -> usize {
        self.reservation.base() + PAGE + self.left_out
    }

    /// One past the last usable address: the guard page, unless something is left
    /// out.
    pub fn end(&self) -> usize {
        self.start() + self.used
    }

    /// Usable bytes.
    pub fn size(&self) -> usize {
        self.used
    }

    /// Whether the address is usable memory of this block.
    pub fn contains(&self, address: usize) -> bool {
        (self.start()..self.end()).contains(&address)
    }

    /// Writes a structure.
    ///
    /// # Panics
    /// If it would not lie inside, aligned: a fault of the lab.
    pub fn put<T: Plain>(&self, address: usize, value: &T) {
        self.check(address, size_of::<T>());
        assert!(address.is_multiple_of(align_of::<T>()));
        // SAFETY: inside our pages and aligned, both just checked; a driver
        // may write there at the same time, which raw writes tolerate.
        unsafe { (address as *mut T).write_volatile(*value) };
    }

    /// Reads a structure back.
    ///
    /// # Panics
    /// As [`put`](Self::put).
    pub fn get<T: Plain>(&self, address: usize) -> T {
        self.check(address, size_of::<T>());
        assert!(address.is_multiple_of(align_of::<T>()));
        // SAFETY: inside our pages and aligned, both just checked; `Plain`
        // types have no invalid bit pattern.
        unsafe { (address as *const T).read_volatile() }
    }

    /// Writes bytes.
    ///
    /// # Panics
    /// As [`put`](Self::put).
    pub fn put_bytes(&self, address: usize, bytes: &[u8]) {
        self.check(address, bytes.len());
        // SAFETY: inside our pages; the source is ours and cannot overlap,
        // for no slice into these pages is ever made.
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
