//! Having a line fetched from memory before it is wanted.

use core::arch::asm;

/// Has the processor fetch the first line of a value, to be written; the caller
/// does not wait for it. Memory is not changed, and nothing faults.
///
/// Every processor that runs this driver's Windows has the instruction: x64
/// needs PREFETCHW since Windows 8.1 ("Windows processor requirements").
#[inline(always)]
pub fn to_write<T>(value: &T) {
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
