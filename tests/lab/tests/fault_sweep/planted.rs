//! A driver that acquires three resources and releases them.
//!
//! Each `--cfg` plants one fault:
//!
//! | cfg | fault |
//! |---|---|
//! | `unchecked` | writes to an allocation without a NULL check |
//! | `leaks` | leaks the memory if the device cannot be created |
//! | `keeps_device` | leaks the device if the callout cannot be registered |
//! | `hides_cause` | returns one status for every failure |
//! | `impatient` | unloads while a callout is busy |
#![no_std]
#![allow(non_snake_case, reason = "names of the NT API")]
#![allow(unexpected_cfgs, reason = "given on the command line, one at a time")]

use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};

#[link(name = "ntoskrnl.exe", kind = "raw-dylib", modifiers = "+verbatim")]
unsafe extern "system" {
    fn ExAllocatePool2(flags: u64, bytes: usize, tag: u32) -> *mut u8;
    fn ExFreePoolWithTag(block: *mut u8, tag: u32);
    fn IoCreateDevice(
        driver: usize,
        extension: u32,
        name: usize,
        kind: u32,
        characteristics: u32,
        exclusive: u8,
        device: *mut usize,
    ) -> i32;
    fn IoDeleteDevice(device: usize);
}

#[link(name = "fwpkclnt.sys", kind = "raw-dylib", modifiers = "+verbatim")]
unsafe extern "system" {
    fn FwpsCalloutRegister3(device: usize, callout: *const Callout, id: *mut u32) -> i32;
    fn FwpsCalloutUnregisterById0(id: u32) -> i32;
}

/// `FWPS_CALLOUT3`.
#[repr(C)]
struct Callout {
    key: [u32; 4],
    flags: u32,
    classify: extern "system" fn(),
    notify: extern "system" fn() -> i32,
    flow_delete: usize,
}

const NON_PAGED: u64 = 0x40;
const TAG: u32 = u32::from_le_bytes(*b"plnt");
const INSUFFICIENT_RESOURCES: i32 = 0xC000_009A_u32 as i32;
const CALLOUT_NOT_FOUND: i32 = 0xC022_0001_u32 as i32;
/// `DRIVER_OBJECT.DriverUnload`, x64.
const UNLOAD: usize = 0x68;

static MEMORY: AtomicUsize = AtomicUsize::new(0);
static DEVICE: AtomicUsize = AtomicUsize::new(0);
static CALLOUT: AtomicU32 = AtomicU32::new(0);

#[unsafe(no_mangle)]
pub unsafe extern "system" fn DriverEntry(object: usize, _: usize) -> i32 {
    match unsafe { start(object) } {
        Ok(()) => 0,
        Err(_) if cfg!(hides_cause) => 0xC000_0001_u32 as i32,
        Err(status) => status,
    }
}

unsafe fn start(object: usize) -> Result<(), i32> {
    let memory = unsafe { ExAllocatePool2(NON_PAGED, 64, TAG) };
    if memory.is_null() && !cfg!(unchecked) {
        return Err(INSUFFICIENT_RESOURCES);
    }
    unsafe { memory.write_volatile(1) };
    let mut device = 0;
    let status = unsafe { IoCreateDevice(object, 0, 0, 0x12, 0, 0, &mut device) };
    if status < 0 {
        if !cfg!(leaks) {
            unsafe { ExFreePoolWithTag(memory, TAG) };
        }
        return Err(status);
    }
    let callout =
        Callout { key: [1, 2, 3, 4], flags: 0, classify: nothing, notify: succeed, flow_delete: 0 };
    let mut id = 0;
    let status = unsafe { FwpsCalloutRegister3(device, &callout, &mut id) };
    if status < 0 {
        if !cfg!(keeps_device) {
            unsafe { IoDeleteDevice(device) };
        }
        unsafe { ExFreePoolWithTag(memory, TAG) };
        return Err(status);
    }
    MEMORY.store(memory as usize, Relaxed);
    DEVICE.store(device, Relaxed);
    CALLOUT.store(id, Relaxed);
    unsafe { ((object + UNLOAD) as *mut unsafe extern "system" fn(usize)).write(unload) };
    Ok(())
}

unsafe extern "system" fn unload(_: usize) {
    loop {
        let status = unsafe { FwpsCalloutUnregisterById0(CALLOUT.load(Relaxed)) };
        if status >= 0 || status == CALLOUT_NOT_FOUND || cfg!(impatient) {
            break;
        }
    }
    unsafe { IoDeleteDevice(DEVICE.load(Relaxed)) };
    unsafe { ExFreePoolWithTag(MEMORY.load(Relaxed) as *mut u8, TAG) };
}

extern "system" fn nothing() {}

extern "system" fn succeed() -> i32 {
    0
}

#[panic_handler]
fn panic(_: &PanicInfo) -> ! {
    loop {}
}
