//! A driver whose DriverEntry never returns.
#![no_std]

use core::ffi::c_void;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    spin_for_good()
}

/// The entry point.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the linker looks for this name")]
pub extern "C" fn DriverEntry(_driver: *mut c_void, _path: *mut c_void) -> i32 {
    spin_for_good()
}

#[inline(never)]
fn spin_for_good() -> ! {
    loop {
        core::hint::spin_loop();
    }
}
