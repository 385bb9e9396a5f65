//! A driver with a security cookie, as with /GS.
//!
//! Its entry returns the cookie, or stops the machine if the cookie still has the
//! compiler's value.
#![no_std]
#![allow(non_snake_case, non_upper_case_globals, reason = "names of the NT API")]
#![allow(unexpected_cfgs, reason = "given on the command line")]

use core::arch::asm;
use core::panic::PanicInfo;

const DEFAULT: u64 = 0x0000_2B99_2DDF_A232;

#[unsafe(no_mangle)]
static mut __security_cookie: u64 = if cfg!(own_cookie) { 0x1234_5678 } else { DEFAULT };

/// `IMAGE_LOAD_CONFIG_DIRECTORY64` up to the cookie. The linker finds it by its name.
#[repr(C)]
pub struct LoadConfig {
    size: u32,
    unused: [u32; 21],
    security_cookie: *mut u64,
}

unsafe impl Sync for LoadConfig {}

#[unsafe(no_mangle)]
pub static _load_config_used: LoadConfig = LoadConfig {
    size: size_of::<LoadConfig>() as u32,
    unused: [0; 21],
    security_cookie: &raw mut __security_cookie,
};

#[unsafe(no_mangle)]
pub extern "system" fn DriverEntry(_: usize, _: usize) -> u64 {
    let cookie = unsafe { (&raw const __security_cookie).read_volatile() };
    if cookie == DEFAULT {
        // __fastfail(FAST_FAIL_SECURITY_COOKIE_INIT)
        unsafe { asm!("int 0x29", in("ecx") 6, options(noreturn)) };
    }
    cookie
}

#[panic_handler]
fn panic(_: &PanicInfo) -> ! {
    loop {}
}
