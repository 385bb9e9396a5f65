//! Replacements for the driver's imports that are as short as the kernel's.
//!
//! The lab's exports count each call, check the IRQL and look for faults to inject.
//! That takes some hundred nanoseconds, where NT reads a word. For measurements of
//! time these functions are bound instead. Processor number and IRQL come from
//! thread-local storage (NT: the processor's block and CR8), the time from a shared
//! page (NT: KUSER_SHARED_DATA). An event is counted and dropped. All other imports
//! are bound to the checked exports.

use std::ffi::c_void;

use machine::image;

/// The replacement for an import, if there is one.
pub fn function(name: &str) -> Option<*const c_void> {
    Some(match name {
        "KeGetCurrentProcessorNumberEx" => image::processor_number as *const c_void,
        "KeGetCurrentIrql" => image::current_irql as *const c_void,
        "KeQueryUnbiasedInterruptTime" => image::unbiased_interrupt_time as *const c_void,
        "EtwWriteTransfer" => image::event_written as *const c_void,
        "FwpsQueryPacketInjectionState0" => image::not_injected as *const c_void,
        "memcpy" => image::copy as *const c_void,
        _ => return None,
    })
}
