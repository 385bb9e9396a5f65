//! A WDM driver that attaches a device to that of another driver, `\Device\Wdm`. It passes
//! requests down, and changes what comes back.
#![no_std]
#![allow(non_snake_case, reason = "names of the NT API")]
#![allow(unexpected_cfgs, reason = "the test chooses what it does")]

use core::sync::atomic::{AtomicUsize, Ordering::SeqCst};

include!(env!("DRIVER_NT"));

static DEVICE: AtomicUsize = AtomicUsize::new(0);
/// The device below.
static BELOW: AtomicUsize = AtomicUsize::new(0);

#[unsafe(no_mangle)]
pub extern "system" fn DriverEntry(driver: Ptr, _: Ptr) -> i32 {
    let name = wide(b"\\Device\\Wdm");
    let name = name.string();
    let (mut file, mut target, mut device): (Ptr, Ptr, Ptr) = (0, 0, 0);
    unsafe {
        let (at, file_at, target_at) = (&raw const name as Ptr, &raw mut file as Ptr, &raw mut target as Ptr);
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
    }
    serve(driver, unload, dispatch, &[0, 2, 3, 4, 14, 18]);
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
    let location = location_of(irp);
    let function = function_of(location);
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
        let location = location_of(irp);
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
