//! A driver without any device: it refuses to start, does not return, or cannot be
//! unloaded.
#![no_std]
#![allow(non_snake_case, reason = "names of the NT API")]
#![allow(unexpected_cfgs, reason = "the test chooses what it does")]

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

include!(env!("DRIVER_RUNTIME"));
