//! A WDM driver with one device. It answers requests in its dispatch routines, keeps
//! some of them with a cancel routine, and has a bug that a program can ask for.
#![no_std]
#![allow(non_snake_case, reason = "names of the NT API")]
#![allow(unexpected_cfgs, reason = "the test chooses how reads pass their buffer")]

use core::sync::atomic::{AtomicUsize, Ordering::SeqCst};

include!(env!("DRIVER_NT"));

/// `DO_BUFFERED_IO`, `DO_DIRECT_IO` or neither.
#[cfg(not(any(direct, neither)))]
const TRANSFER: u32 = 4;
#[cfg(direct)]
const TRANSFER: u32 = 0x10;
#[cfg(neither)]
const TRANSFER: u32 = 0;

const INVALID_DEVICE_REQUEST: u32 = 0xC000_0010;
const CANCELLED: u32 = 0xC000_0120;

static NAME: Wide<11> = wide(b"\\Device\\Wdm");
static LINK: Wide<17> = wide(b"\\DosDevices\\Wdm-1");
static DEVICE: AtomicUsize = AtomicUsize::new(0);
static LOCK: AtomicUsize = AtomicUsize::new(0);
/// The request that waits to be cancelled.
static WAITING: AtomicUsize = AtomicUsize::new(0);

#[unsafe(no_mangle)]
pub unsafe extern "system" fn DriverEntry(driver: Ptr, _: Ptr) -> i32 {
    let (name, link) = (NAME.string(), LINK.string());
    let mut device: Ptr = 0;
    unsafe {
        let status = IoCreateDevice(driver, 16, &raw const name as Ptr, 0x22, 0, 1, &raw mut device as Ptr);
        if status < 0 {
            return status;
        }
        DEVICE.store(device, SeqCst);
        // DEVICE_OBJECT.Flags.
        put(device + 48, get::<u32>(device + 48) | TRANSFER);
        let status = IoCreateSymbolicLink(&raw const link as Ptr, &raw const name as Ptr);
        if status < 0 {
            IoDeleteDevice(device);
            return status;
        }
    }
    // IRP_MJ_CREATE, CLOSE, READ, WRITE, DEVICE_CONTROL, CLEANUP.
    serve(driver, unload, dispatch, &[0, 2, 3, 4, 14, 18]);
    0
}

extern "system" fn unload(_: Ptr) {
    let link = LINK.string();
    unsafe {
        IoDeleteSymbolicLink(&raw const link as Ptr);
        IoDeleteDevice(DEVICE.load(SeqCst));
    }
}

extern "system" fn dispatch(device: Ptr, irp: Ptr) -> i32 {
    let location = location_of(irp);
    let length = get::<u32>(location + 8) as usize;
    match get::<u8>(location) {
        3 => complete(irp, 0, fill(transfer(irp), length)),
        4 => complete(irp, 0, sum(transfer(irp), length)),
        14 => control(device, irp, location),
        _ => complete(irp, 0, 0),
    }
}

/// The buffer of a read or a write.
fn transfer(irp: Ptr) -> Ptr {
    match TRANSFER {
        // IRP.AssociatedIrp.SystemBuffer, IRP.MdlAddress, IRP.UserBuffer.
        4 => get(irp + 24),
        0x10 => mapped(irp),
        _ => get(irp + 112),
    }
}

fn mapped(irp: Ptr) -> Ptr {
    unsafe { MmMapLockedPagesSpecifyCache(get(irp + 8), 0, 1, 0, 0, 16) }
}

fn fill(buffer: Ptr, length: usize) -> u64 {
    for at in 0..length {
        put(buffer + at, at as u8);
    }
    length as u64
}

fn sum(buffer: Ptr, length: usize) -> u64 {
    (0..length).map(|at| u64::from(get::<u8>(buffer + at))).sum()
}

/// I/O control requests, by the function in their code.
fn control(device: Ptr, irp: Ptr, location: Ptr) -> i32 {
    let output = get::<u32>(location + 8) as usize;
    let input = get::<u32>(location + 16) as usize;
    let code: u32 = get(location + 24);
    let system: Ptr = get(irp + 24);
    match function_of(location) {
        // The sum of the input, into the output.
        0x800 => {
            let (from, to) = match code & 3 {
                0 => (system, system),
                3 => (get(location + 32), get(irp + 112)),
                _ => (system, mapped(irp)),
            };
            put(to, sum(from, input));
            complete(irp, 0, output.min(8) as u64)
        }
        // Waits for its cancellation.
        0x801 => {
            put(location + 3, get::<u8>(location + 3) | 1);
            WAITING.store(irp, SeqCst);
            put(irp + 104, canceled as *const () as Ptr);
            PENDING
        }
        // The ids of both processes, and the levels around a queued spin lock.
        0x802 => unsafe {
            let process = IoGetRequestorProcess(irp);
            ObfReferenceObject(process);
            put(system, PsGetProcessId(process) as u64);
            put(system + 8, PsGetProcessId(IoGetCurrentProcess()) as u64);
            ObfDereferenceObject(process);
            let mut handle = [0u64; 3];
            KeAcquireInStackQueuedSpinLock(LOCK.as_ptr() as Ptr, handle.as_mut_ptr() as Ptr);
            put(system + 16, u64::from(KeGetCurrentIrql()));
            KeReleaseInStackQueuedSpinLock(handle.as_mut_ptr() as Ptr);
            put(system + 24, u64::from(KeGetCurrentIrql()));
            complete(irp, 0, 32)
        },
        // An entry of the error log with two strings.
        0x803 => log_entry(device, irp, 0, 2, 48),
        // Strings, GUIDs and old pool: the text of a number, copied.
        0x804 => unsafe {
            let block = ExAllocatePoolWithTag(512, 16, u32::from_le_bytes(*b"Text"));
            let mut from = UnicodeString { length: 0, maximum: 16, buffer: block };
            let status = RtlIntegerToUnicodeString(0xBEEF, 16, &raw mut from as Ptr);
            let mut to = UnicodeString { length: 0, maximum: 6, buffer: system };
            RtlCopyUnicodeString(&raw mut to as Ptr, &raw const from as Ptr);
            put(system + 8, u64::from(to.length));
            ExFreePoolWithTag(block, u32::from_le_bytes(*b"Text"));
            ExUuidCreate(system + 16);
            complete(irp, status as u32, 32)
        },
        // What a driver reads without a call.
        0x805 => {
            let words = ring();
            for (at, word) in words.into_iter().enumerate() {
                put(system + 8 * at, word);
            }
            complete(irp, 0, 64)
        }
        // Bugs. The second string does not end, the strings begin beyond the entry, at an
        // odd address and in the dump data, the dump data are no multiple of 4 and too long.
        0x910 => log_entry(device, irp, 0, 3, 60),
        0x911 => log_entry(device, irp, 0, 1, 66),
        0x912 => log_entry(device, irp, 0, 1, 49),
        0x913 => log_entry(device, irp, 12, 2, 48),
        0x914 => log_entry(device, irp, 3, 2, 48),
        0x915 => log_entry(device, irp, 28, 0, 0),
        0x900 => complete(irp, 0, get::<u8>(system + input + 16).into()),
        0x901 => {
            complete(irp, 0, 0);
            unsafe { IofCompleteRequest(irp, 0) };
            0
        }
        0x902 => PENDING,
        0x903 => {
            put(location + 3, get::<u8>(location + 3) | 1);
            complete(irp, 0, 0)
        }
        0x904 => 0,
        0x905 => complete(irp, PENDING as u32, 0),
        0x906 => {
            put(irp + 104, canceled as *const () as Ptr);
            complete(irp, 0, 0)
        }
        0x907 => complete(irp, 0, 4096),
        // Its cancel routine runs in no process of a program.
        0x90A => {
            put(location + 3, get::<u8>(location + 3) | 1);
            WAITING.store(get(location + 32), SeqCst);
            put(irp + 104, late as *const () as Ptr);
            PENDING
        }
        0x90B => complete(irp, 0, get::<u8>(get::<Ptr>(irp + 112)).into()),
        0x908 => unsafe {
            KeStallExecutionProcessor(1);
            complete(irp, 0, 0)
        },
        0x909 => {
            put(system + 8, get::<u64>(system + input - 8));
            complete(irp, 0, 0);
            get::<u8>(system).into()
        }
        _ => complete(irp, INVALID_DEVICE_REQUEST, 0),
    }
}

/// Writes an entry of 64 bytes to the error log, with the strings "a" and "bc" at 48.
fn log_entry(device: Ptr, irp: Ptr, data: u16, strings: u16, offset: u16) -> i32 {
    unsafe {
        let entry = IoAllocateErrorLogEntry(device, 48 + 16);
        put(entry + 2, data);
        put(entry + 4, strings);
        put(entry + 6, offset);
        put(entry + 12, 0x4004_0001u32);
        for (at, unit) in [0x61u16, 0, 0x62, 0x63, 0, 0x64, 0x64, 0x64].into_iter().enumerate() {
            put(entry + 48 + 2 * at, unit);
        }
        IoWriteErrorLogEntry(entry);
        complete(irp, 0, 0)
    }
}

/// The IRQL before, between and after two writes of cr8; version and build of the
/// shared page; the high part of its interrupt time, twice; processor and thread.
fn ring() -> [u64; 8] {
    let (before, raised, after, major, is_ten, time, processor, thread): (u64, u64, u64, u64, u8, u64, u64, u64);
    unsafe {
        core::arch::asm!("mov {}, cr8", out(reg) before);
        core::arch::asm!("mov cr8, {}", in(reg) 2u64);
        core::arch::asm!("mov {}, cr8", out(reg) raised);
        core::arch::asm!("mov cr8, {}", in(reg) before);
        core::arch::asm!("mov {}, cr8", out(reg) after);
        let page = 0xFFFF_F780_0000_0000u64;
        core::arch::asm!("movzx {0:e}, byte ptr [{1} + 0x26c]", out(reg) major, in(reg) page);
        core::arch::asm!(
            "cmp dword ptr [{1} + 0x26c], 10", "sete {0}", out(reg_byte) is_ten, in(reg) page
        );
        core::arch::asm!("mov {0}, qword ptr [{1} + 8]", out(reg) time, in(reg) page);
        core::arch::asm!("mov {0:e}, dword ptr gs:[0x1a4]", out(reg) processor);
        core::arch::asm!("mov {}, qword ptr gs:[0x188]", out(reg) thread);
    }
    [before, raised, after, major, is_ten.into(), time, processor, thread]
}

extern "system" fn late(_: Ptr, irp: Ptr) {
    unsafe { IoReleaseCancelSpinLock(get(irp + 69)) };
    complete(irp, CANCELLED, get::<u8>(WAITING.load(SeqCst)).into());
}

extern "system" fn canceled(_: Ptr, irp: Ptr) {
    // IRP.CancelIrql.
    unsafe { IoReleaseCancelSpinLock(get(irp + 69)) };
    WAITING.store(0, SeqCst);
    complete(irp, CANCELLED, 0);
}

include!(env!("DRIVER_RUNTIME"));
