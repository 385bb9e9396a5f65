//! A driver without any device: it refuses to start, does not return, or cannot be
//! unloaded.
#![no_std]
#![allow(non_snake_case, reason = "names of the NT API")]
#![allow(unexpected_cfgs, reason = "the test chooses what it does")]

use core::panic::PanicInfo;

#[unsafe(no_mangle)]
pub extern "system" fn DriverEntry(_: usize, _: usize) -> i32 {
    #[cfg(spins)]
    loop {
        core::hint::spin_loop();
    }
    // STATUS_INSUFFICIENT_RESOURCES, or STATUS_SUCCESS without a DriverUnload.
    #[cfg(not(spins))]
    if cfg!(refuses) { 0xC000_009A_u32 as i32 } else { 0 }
}

/// A symbol that object files with floating point need.
#[unsafe(no_mangle)]
static _fltused: i32 = 0;

/// A symbol that the unwind tables of `core` need. Nothing unwinds.
#[unsafe(no_mangle)]
extern "C" fn __CxxFrameHandler3() {}

#[panic_handler]
fn panic(_: &PanicInfo) -> ! {
    loop {
        unsafe { core::arch::asm!("int3") };
    }
}
