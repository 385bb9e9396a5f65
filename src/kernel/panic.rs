//! The panic handler and the symbols of a C runtime, without the WDK's crates.
//!
//! The shipping driver has no path that panics. Tests check that the linked image
//! has no symbol of `core::panicking`.

use core::panic::PanicInfo;

use crate::ffi;

/// The bug check's code: `hush`. It must not be one of Windows' own (KeBugCheckEx), which
/// are small or statuses of Microsoft. This one has the customer's bit of a status.
const PANIC: ffi::ULONG = u32::from_le_bytes(*b"hush");

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let location = info.location();
    let file = location.map_or(core::ptr::null(), |location| location.file().as_ptr());
    let length = location.map_or(0, |location| location.file().len());
    let line = location.map_or(0, |location| location.line());
    // SAFETY: takes numbers only and may be called at any IRQL.
    unsafe { ffi::KeBugCheckEx(PANIC, file as ffi::ULONG_PTR, length as ffi::ULONG_PTR, line.into(), 0) }
}

/// Compilers refer to this symbol where code uses floating point.
// SAFETY: no other object defines it, for there is no C runtime.
#[unsafe(no_mangle)]
static _fltused: i32 = 0;

/// EXCEPTION_DISPOSITION ExceptionContinueSearch (excpt.h).
const CONTINUE_SEARCH: i32 = 1;

/// The exception routine in the unwind tables of the prebuilt `core`. Nothing unwinds
/// under `panic = "abort"`. If an exception passes a function that names the routine,
/// the search for a handler goes on.
// SAFETY: no other object defines it, for there is no C runtime.
#[unsafe(no_mangle)]
extern "C" fn __CxxFrameHandler3() -> i32 {
    CONTINUE_SEARCH
}
