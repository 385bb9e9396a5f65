//! A WDM driver that attaches a device to that of another driver, `\Device\Wdm`. It passes
//! requests down, and changes what comes back.
#![no_std]
#![allow(non_snake_case, reason = "names of the NT API")]
#![allow(unexpected_cfgs, reason = "the test chooses what it does")]

use core::sync::atomic::{AtomicUsize, Ordering::SeqCst};

type Ptr = usize;

const MORE_PROCESSING_REQUIRED: i32 = 0xC000_0016_u32 as i32;
/// SL_PENDING_RETURNED; SL_INVOKE_ON_CANCEL, ON_SUCCESS and ON_ERROR.
const PENDING_RETURNED: u8 = 1;
const ALWAYS: u8 = 0xE0;
/// The size of IO_STACK_LOCATION.
const LOCATION: usize = 72;

#[link(name = "ntoskrnl.exe", kind = "raw-dylib", modifiers = "+verbatim")]
unsafe extern "system" {
    fn IoCreateDevice(
        driver: Ptr,
        extension: u32,
        name: Ptr,
        kind: u32,
        characteristics: u32,
        exclusive: u8,
        device: Ptr,
    ) -> i32;
    fn IoDeleteDevice(device: Ptr);
    fn IoGetDeviceObjectPointer(name: Ptr, access: u32, file: Ptr, device: Ptr) -> i32;
    fn IoAttachDeviceToDeviceStack(source: Ptr, target: Ptr) -> Ptr;
    fn IoDetachDevice(target: Ptr);
    fn IofCallDriver(device: Ptr, irp: Ptr) -> i32;
    fn IofCompleteRequest(irp: Ptr, boost: i8);
    fn ObfDereferenceObject(object: Ptr) -> i64;
}

static DEVICE: AtomicUsize = AtomicUsize::new(0);
/// The device below.
static BELOW: AtomicUsize = AtomicUsize::new(0);

fn get<T: Copy>(address: Ptr) -> T {
    unsafe { (address as *const T).read_volatile() }
}

fn put<T>(address: Ptr, value: T) {
    unsafe { (address as *mut T).write_volatile(value) };
}

#[unsafe(no_mangle)]
pub extern "system" fn DriverEntry(driver: Ptr, _: Ptr) -> i32 {
    let text = *b"\\Device\\Wdm";
    let mut name = [0u16; 11];
    for (at, byte) in text.into_iter().enumerate() {
        name[at] = byte.into();
    }
    let string = [22 | 22 << 16, name.as_ptr() as u64];
    let (mut file, mut target, mut device): (Ptr, Ptr, Ptr) = (0, 0, 0);
    unsafe {
        let (at, file_at, target_at) = (&raw const string as Ptr, &raw mut file as Ptr, &raw mut target as Ptr);
        let status = IoGetDeviceObjectPointer(at, 3, file_at, target_at);
        if status < 0 {
            return status;
        }
        let status = IoCreateDevice(driver, 0, 0, 0x22, 0, 0, &raw mut device as Ptr);
        if status < 0 {
            ObfDereferenceObject(file);
            return status;
        }
        let below = IoAttachDeviceToDeviceStack(device, target);
        ObfDereferenceObject(file);
        BELOW.store(below, SeqCst);
        DEVICE.store(device, SeqCst);
        // DEVICE_OBJECT.Flags: DO_BUFFERED_IO and DO_DIRECT_IO of the device below.
        put(device + 48, get::<u32>(device + 48) | get::<u32>(below + 48) & 0x14);
        put(driver + 104, unload as *const () as Ptr);
        for major in [0, 2, 3, 4, 14, 18] {
            put(driver + 112 + 8 * major, dispatch as *const () as Ptr);
        }
    }
    0
}

extern "system" fn unload(_: Ptr) {
    unsafe {
        if !cfg!(forgets_to_detach) {
            IoDetachDevice(BELOW.load(SeqCst));
        }
        IoDeleteDevice(DEVICE.load(SeqCst));
    }
}

extern "system" fn dispatch(_: Ptr, irp: Ptr) -> i32 {
    // IRP.Tail.Overlay.CurrentStackLocation; MajorFunction and the I/O control code.
    let location: Ptr = get(irp + 184);
    let function = get::<u32>(location + 24) >> 2 & 0xFFF;
    match get::<u8>(location) {
        14 if function == 0x800 => copied(irp, location, completed),
        14 if function == 0x805 => {
            let status = copied(irp, location, keeps);
            // It is this driver's again: IRP.IoStatus.Information.
            put(irp + 56, 8u64);
            unsafe { IofCompleteRequest(irp, 0) };
            status
        }
        _ => skipped(irp, location),
    }
}

/// IoSkipCurrentIrpStackLocation, and IoCallDriver.
fn skipped(irp: Ptr, location: Ptr) -> i32 {
    // IRP.CurrentLocation.
    put(irp + 67, get::<i8>(irp + 67) + 1);
    put(irp + 184, location + LOCATION);
    unsafe { IofCallDriver(BELOW.load(SeqCst), irp) }
}

/// IoCopyCurrentIrpStackLocationToNext, IoSetCompletionRoutine, and IoCallDriver.
fn copied(irp: Ptr, location: Ptr, routine: extern "system" fn(Ptr, Ptr, Ptr) -> i32) -> i32 {
    let next = location - LOCATION;
    for at in (0..56).step_by(8) {
        put(next + at, get::<u64>(location + at));
    }
    put(next + 3, ALWAYS);
    put(next + 56, routine as *const () as Ptr);
    put(next + 64, irp);
    unsafe { IofCallDriver(BELOW.load(SeqCst), irp) }
}

/// Changes the first word of the buffer, which is the sum of what the program has sent.
extern "system" fn completed(device: Ptr, irp: Ptr, context: Ptr) -> i32 {
    if device != DEVICE.load(SeqCst) || context != irp {
        return 0;
    }
    // IRP.PendingReturned.
    if get::<u8>(irp + 65) != 0 {
        let location: Ptr = get(irp + 184);
        put(location + 3, get::<u8>(location + 3) | PENDING_RETURNED);
    }
    let buffer: Ptr = get(irp + 24);
    let sum: u64 = get(buffer);
    put(buffer, if cfg!(second) { sum * 10 } else { sum + 1 });
    0
}

extern "system" fn keeps(_: Ptr, _: Ptr, _: Ptr) -> i32 {
    MORE_PROCESSING_REQUIRED
}

include!(env!("DRIVER_RUNTIME"));
