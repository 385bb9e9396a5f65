//! What a measured driver imports, as short as the kernel's own.
//!
//! The lab's exports count each call, check the IRQL and look for faults to
//! inject: some hundred nanoseconds, where NT reads a word. So while time is
//! measured these are bound instead, and do what the kernel's do: the number of
//! the processor and the IRQL come from where the thread has them (NT: the
//! processor's own block and CR8), the time from a page that all share (NT:
//! KUSER_SHARED_DATA); an event is counted and goes nowhere. Whatever is not here goes the checked way.

use std::ffi::c_void;

use machine::image;

/// The function for an import, if it is one of these.
pub fn function(name: &str) -> Option<*const c_void> {
    Some(match name {
        "KeGetCurrentProcessorNumberEx" => image::processor_number as *const c_void,
        "KeGetCurrentIrql" => image::current_irql as *const c_void,
        "KeQueryUnbiasedInterruptTime" => image::unbiased_interrupt_time as *const c_void,
        "EtwWriteTransfer" => image::event_written as *const c_void,
        "memcpy" => image::copy as *const c_void,
        _ => return None,
    })
}
