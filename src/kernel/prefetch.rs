//! Fetching a cache line ahead of its use.

use core::arch::asm;

/// Starts to fetch the first cache line of a value, for writing. It does not wait,
/// changes no memory, and cannot fault.
///
/// Every processor that this driver's Windows supports has the instruction: x64
/// needs PREFETCHW since Windows 8.1 ("Windows processor requirements").
#[inline(always)]
pub fn for_write<T>(value: &T) {
    let at = core::ptr::from_ref(value);
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which reads and writes nothing as far as the program goes.
    unsafe {
        asm!("prefetchw [{}]", in(reg) at, options(nostack, preserves_flags, readonly));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a hint, which reads and writes nothing as far as the program goes.
    unsafe {
        asm!("prfm pstl1keep, [{}]", in(reg) at, options(nostack, preserves_flags, readonly));
    }
}
