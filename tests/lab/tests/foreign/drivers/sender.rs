//! A WDM driver that makes requests of its own and sends them to the device of another driver,
//! `\Device\Wdm`. A program asks for one with a control request, and gets the outcome.
#![no_std]
#![allow(non_snake_case, reason = "names of the NT API")]

use core::sync::atomic::{AtomicUsize, Ordering::SeqCst};

include!(env!("DRIVER_NT"));

/// The size of IRP.
const IRP: usize = 208;
const TAG: u32 = u32::from_le_bytes(*b"send");

static DEVICE: AtomicUsize = AtomicUsize::new(0);
/// The device of the other driver, and the file object that keeps it.
static TARGET: AtomicUsize = AtomicUsize::new(0);
static FILE: AtomicUsize = AtomicUsize::new(0);

#[unsafe(no_mangle)]
pub extern "system" fn DriverEntry(driver: Ptr, _: Ptr) -> i32 {
    let (name, other) = (wide(b"\\Device\\Sender"), wide(b"\\Device\\Wdm"));
    let (name, other) = (name.string(), other.string());
    let (mut file, mut target, mut device): (Ptr, Ptr, Ptr) = (0, 0, 0);
    unsafe {
        let (file_at, target_at) = (&raw mut file as Ptr, &raw mut target as Ptr);
        let status = IoGetDeviceObjectPointer(&raw const other as Ptr, 3, file_at, target_at);
        if status < 0 {
            return status;
        }
        let status =
            IoCreateDevice(driver, 0, &raw const name as Ptr, 0x22, 0, 0, &raw mut device as Ptr);
        if status < 0 {
            ObfDereferenceObject(file);
            return status;
        }
    }
    FILE.store(file, SeqCst);
    TARGET.store(target, SeqCst);
    DEVICE.store(device, SeqCst);
    serve(driver, unload, dispatch, &[0, 2, 14, 18]);
    0
}

extern "system" fn unload(_: Ptr) {
    unsafe {
        ObfDereferenceObject(FILE.load(SeqCst));
        IoDeleteDevice(DEVICE.load(SeqCst));
    }
}

extern "system" fn dispatch(_: Ptr, irp: Ptr) -> i32 {
    let location = location_of(irp);
    let mut information = 0u64;
    if get::<u8>(location) == 14 {
        let buffer: Ptr = get(irp + 24);
        let outcome = send(function_of(location), get::<u64>(buffer));
        for (at, word) in outcome.into_iter().enumerate() {
            put(buffer + 8 * at, word);
        }
        information = 32;
    }
    complete(irp, 0, information)
}

/// What a completion routine has seen: its device, status and information.
#[repr(C)]
struct Seen {
    event: [u64; 3],
    device: Ptr,
    status: u64,
    information: u64,
}

fn seen() -> Seen {
    Seen { event: [0; 3], device: 0, status: 0, information: 0 }
}

/// Keeps the request, and tells its driver.
extern "system" fn kept(device: Ptr, irp: Ptr, context: Ptr) -> i32 {
    put(context + 24, device);
    put(context + 32, get::<u64>(irp + 48));
    put(context + 40, get::<u64>(irp + 56));
    unsafe { KeSetEvent(context, 0, 0) };
    MORE_PROCESSING_REQUIRED
}

/// As [`kept`], and frees the request with what the I/O manager has made for it.
extern "system" fn freed(device: Ptr, irp: Ptr, context: Ptr) -> i32 {
    unsafe {
        let (mdl, copy): (Ptr, Ptr) = (get(irp + 8), get(irp + 24));
        if mdl != 0 {
            MmUnlockPages(mdl);
            IoFreeMdl(mdl);
        }
        if copy != 0 {
            ExFreePoolWithTag(copy, 0);
        }
        kept(device, irp, context);
        IoFreeIrp(irp);
    }
    MORE_PROCESSING_REQUIRED
}

/// Fills in the next stack location: IRP_MJ_DEVICE_CONTROL, sizes and code. Sets the routine.
fn prepare(irp: Ptr, code: u32, buffer: Ptr, seen: &mut Seen) {
    let next = location_of(irp) - LOCATION;
    put(next, 14u8);
    put(next + 8, 8u32);
    put(next + 16, 4u32);
    put(next + 24, code);
    // IRP.AssociatedIrp.SystemBuffer.
    put(irp + 24, buffer);
    set_routine(irp, kept, seen);
}

fn set_routine(irp: Ptr, routine: extern "system" fn(Ptr, Ptr, Ptr) -> i32, seen: &mut Seen) {
    let next = location_of(irp) - LOCATION;
    put(next + 3, ALWAYS);
    put(next + 56, routine as *const () as Ptr);
    put(next + 64, &raw mut *seen as Ptr);
}

fn wait(event: Ptr) {
    unsafe { KeWaitForSingleObject(event, 0, 0, 0, 0) };
}

/// Sends a request to the other device. Returns the status that came back, the information,
/// the first eight bytes of the buffer, and one value more.
fn send(function: u32, argument: u64) -> [u64; 4] {
    let target = TARGET.load(SeqCst);
    // DEVICE_OBJECT.StackSize.
    let locations: i8 = get(target + 76);
    let mut seen = seen();
    let at = &raw mut seen as Ptr;
    unsafe {
        KeInitializeEvent(at, 1, 0);
        let buffer = ExAllocatePool2(0x40, 64, TAG);
        put(buffer, 0xFA_03_02_01u32);
        let mut block = [0u64; 2];
        let block_at = &raw mut block as Ptr;
        let mut more = 0;
        match function {
            // Allocated; with a routine by IoSetCompletionRoutineEx; with a location of its own.
            0x800..=0x802 => {
                let own = function == 0x802;
                let irp = IoAllocateIrp(locations + i8::from(own), 0);
                if own {
                    // IoSetNextIrpStackLocation, and the device of that location.
                    put(irp + 67, get::<i8>(irp + 67) - 1);
                    put(irp + 184, location_of(irp) - LOCATION);
                    put(location_of(irp) + 40, DEVICE.load(SeqCst));
                }
                prepare(irp, 0x22_2000, buffer, &mut seen);
                if function == 0x801 {
                    let routine = kept as *const () as Ptr;
                    IoSetCompletionRoutineEx(DEVICE.load(SeqCst), irp, routine, at, 1, 1, 1);
                }
                IofCallDriver(target, irp);
                wait(at);
                IoFreeIrp(irp);
                more = u64::from(seen.device == DEVICE.load(SeqCst));
            }
            // A control request, built with the method of the argument.
            0x803 => {
                let code = 0x22_2000 | argument as u32;
                let output = buffer + 32;
                let irp =
                    IoBuildDeviceIoControlRequest(code, target, buffer, 4, output, 8, 0, at, block_at);
                if IofCallDriver(target, irp) == PENDING {
                    wait(at);
                }
                [seen.status, seen.information] = block;
                // KEVENT.Header.SignalState.
                more = u64::from(get::<u32>(at + 4));
                put(buffer, get::<u64>(output));
            }
            // A read and a write, built for this thread.
            0x804 | 0x805 => {
                let major = function - 0x801;
                let mut offset = 0u64;
                let offset_at = &raw mut offset as Ptr;
                let irp =
                    IoBuildSynchronousFsdRequest(major, target, buffer, 4, offset_at, at, block_at);
                if IofCallDriver(target, irp) == PENDING {
                    wait(at);
                }
                [seen.status, seen.information] = block;
                more = u64::from(get::<u32>(at + 4));
            }
            // A write whose routine frees everything.
            0x806 => {
                let irp = IoBuildAsynchronousFsdRequest(4, target, buffer, 4, 0, block_at);
                set_routine(irp, freed, &mut seen);
                IofCallDriver(target, irp);
                wait(at);
            }
            // A request that waits there, and is cancelled.
            0x807 => {
                let irp = IoAllocateIrp(locations, 0);
                prepare(irp, 0x22_2004, buffer, &mut seen);
                more = u64::from(IofCallDriver(target, irp) == PENDING);
                IoCancelIrp(irp);
                wait(at);
                IoFreeIrp(irp);
            }
            // In memory of its own, used twice.
            0x808 => {
                let irp = ExAllocatePool2(0x40, IRP + LOCATION, TAG);
                IoInitializeIrp(irp, (IRP + LOCATION) as u16, locations);
                prepare(irp, 0x22_2000, buffer, &mut seen);
                IofCallDriver(target, irp);
                wait(at);
                more = get(buffer);
                put(buffer, 7u64);
                IoReuseIrp(irp, 0);
                prepare(irp, 0x22_2000, buffer, &mut seen);
                IofCallDriver(target, irp);
                wait(at);
                ExFreePoolWithTag(irp, TAG);
            }
            _ => {}
        }
        let value = get(buffer);
        ExFreePoolWithTag(buffer, TAG);
        [seen.status, seen.information, value, more]
    }
}

include!(env!("DRIVER_RUNTIME"));
