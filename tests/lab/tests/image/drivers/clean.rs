//! A driver that keeps every rule, with space for bad instructions.
#![no_std]
#![allow(non_snake_case, reason = "names of the NT API")]

use core::arch::asm;
use core::panic::PanicInfo;

#[link(name = "ntoskrnl.exe", kind = "raw-dylib", modifiers = "+verbatim")]
unsafe extern "system" {
    fn LabKernel() -> i32;
}

#[link(name = "ndis.sys", kind = "raw-dylib", modifiers = "+verbatim")]
unsafe extern "system" {
    fn LabNdis() -> i32;
}

static TABLE: [extern "system" fn() -> i32; 2] = [leaf, calls];

#[unsafe(no_mangle)]
pub extern "system" fn DriverEntry(index: usize, _: usize) -> i32 {
    TABLE.get(index).map_or(-1, |routine| routine())
}

/// A leaf without `.pdata` entry. The tests overwrite its `nop`s.
#[inline(never)]
extern "system" fn leaf() -> i32 {
    unsafe { asm!(".rept 32", "nop", ".endr") };
    0
}

#[inline(never)]
extern "system" fn calls() -> i32 {
    unsafe { LabKernel() + LabNdis() }
}

#[panic_handler]
fn panic(_: &PanicInfo) -> ! {
    loop {}
}
