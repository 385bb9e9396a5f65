//! What a measured driver imports, as short as the kernel's own.
//!
//! The lab's exports count each call, check the IRQL and look for faults to
//! inject: some hundred nanoseconds, where NT reads a word. So while time is
//! measured these are bound instead, and do what the kernel's do: the number of
//! the processor and the IRQL come from where the thread has them (NT: the
//! processor's own block and CR8), the time from a page that all share (NT:
//! KUSER_SHARED_DATA). Whatever is not here goes the checked way.

use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::image;
use crate::nt::cpu;

/// Units of 100 ns, and how many of them the machine slept.
static TIME: [AtomicU64; 2] = [AtomicU64::new(1 << 40), AtomicU64::new(1 << 20)];

/// The function for an import, if it is one of these.
pub fn function(name: &str) -> Option<*const c_void> {
    Some(match name {
        "KeGetCurrentProcessorNumberEx" => processor_number as *const c_void,
        "KeGetCurrentIrql" => current_irql as *const c_void,
        "KeQueryUnbiasedInterruptTime" => unbiased_interrupt_time as *const c_void,
        "memcpy" => image::copy as *const c_void,
        _ => return None,
    })
}

extern "win64" fn processor_number(_: usize) -> u32 {
    cpu::processor()
}

extern "win64" fn current_irql() -> u8 {
    cpu::irql().0
}

extern "win64" fn unbiased_interrupt_time() -> u64 {
    let [time, slept] = &TIME;
    time.load(Ordering::Relaxed).wrapping_sub(slept.load(Ordering::Relaxed))
}

/// Lets that time pass.
pub fn pass(milliseconds: u64) {
    TIME[0].fetch_add(milliseconds * 10_000, Ordering::Relaxed);
}
