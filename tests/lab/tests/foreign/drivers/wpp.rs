//! A WDM driver that does what one built with WPP does on Windows 10: it finds the functions of
//! tracing at run time, registers a classic provider, and writes messages while a session wants
//! them. It is a provider of WMI, too.
#![no_std]
#![allow(non_snake_case, reason = "names of the NT API")]
#![allow(unexpected_cfgs, reason = "the test chooses what is missing")]

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};

include!(env!("DRIVER_NT"));

const BUFFER_TOO_SMALL: u32 = 0xC000_0023;
const NOT_SUPPORTED: u32 = 0xC000_00BB;

type Version = extern "system" fn(Ptr, Ptr, Ptr, Ptr) -> u8;
type RegisterClassic = extern "system" fn(Ptr, u32, Ptr, Ptr, Ptr) -> i32;
type Unregister = extern "system" fn(u64) -> i32;
type TraceMessage = extern "system" fn(u64, u32, Ptr, u16, Ptr, usize, Ptr, usize, Ptr) -> i32;
type Query = extern "system" fn(i32, Ptr, u32, Ptr, Ptr) -> i32;

static PROVIDER: [u8; 16] = *b"a classic source";
static MESSAGES: [u8; 16] = *b"messages of file";
static DEVICE: AtomicUsize = AtomicUsize::new(0);
static HANDLE: AtomicU64 = AtomicU64::new(0);
/// The session's handle, level and flags.
static LOGGER: AtomicU64 = AtomicU64::new(0);
static LEVEL: AtomicU64 = AtomicU64::new(0);
static FLAGS: AtomicU64 = AtomicU64::new(0);
/// WmiTraceMessage, WmiQueryTraceInformation and EtwUnregister.
static FOUND: [AtomicUsize; 3] = [const { AtomicUsize::new(0) }; 3];

fn find<const N: usize>(name: &[u8; N]) -> Ptr {
    let name = wide(name);
    let name = name.string();
    unsafe { MmGetSystemRoutineAddress(&raw const name as Ptr) }
}

#[unsafe(no_mangle)]
pub extern "system" fn DriverEntry(driver: Ptr, _: Ptr) -> i32 {
    let name = wide(b"\\Device\\Wpp");
    let name = name.string();
    let mut device: Ptr = 0;
    let status =
        unsafe { IoCreateDevice(driver, 0, &raw const name as Ptr, 0x22, 0, 0, &raw mut device as Ptr) };
    if status < 0 {
        return status;
    }
    DEVICE.store(device, SeqCst);
    serve(driver, unload, dispatch, &[0, 2, 14, 18, 23]);
    let mut major = 0u32;
    let version: Version = unsafe { core::mem::transmute(find(b"PsGetVersion")) };
    version(&raw mut major as Ptr, 0, 0, 0);
    let found = [find(b"WmiTraceMessage"), find(b"WmiQueryTraceInformation"), find(b"EtwUnregister")];
    for (place, address) in FOUND.iter().zip(found) {
        place.store(address, SeqCst);
    }
    let register = find(b"EtwRegisterClassicProvider");
    if major < 6 || register == 0 || found.contains(&0) {
        return NOT_SUPPORTED as i32;
    }
    let register: RegisterClassic = unsafe { core::mem::transmute(register) };
    let mut handle = 0u64;
    let callback = enabled as *const () as Ptr;
    register(PROVIDER.as_ptr() as Ptr, 0, callback, FLAGS.as_ptr() as Ptr, &raw mut handle as Ptr);
    HANDLE.store(handle, SeqCst);
    unsafe { IoWMIRegistrationControl(device, 1) }
}

extern "system" fn unload(_: Ptr) {
    let unregister: Unregister = unsafe { core::mem::transmute(FOUND[2].load(SeqCst)) };
    unregister(HANDLE.load(SeqCst));
    unsafe {
        IoWMIRegistrationControl(DEVICE.load(SeqCst), 2);
        IoDeleteDevice(DEVICE.load(SeqCst));
    }
}

/// WppClassicProviderCallback. The third argument is a WPP_TRACE_ENABLE_CONTEXT.
extern "system" fn enabled(guid: Ptr, control: u8, enable: Ptr, context: Ptr) {
    if context != FLAGS.as_ptr() as Ptr || get::<[u8; 16]>(guid) != PROVIDER {
        return;
    }
    let is_on = control == 1;
    LOGGER.store(if is_on { get(enable) } else { 0 }, SeqCst);
    LEVEL.store(if is_on { get::<u8>(enable + 2).into() } else { 0 }, SeqCst);
    FLAGS.store(if is_on { get::<u32>(enable + 4).into() } else { 0 }, SeqCst);
}

/// Writes a message with two values, if a session wants it. Returns the status.
fn trace() -> u64 {
    let logger = LOGGER.load(SeqCst);
    let message: TraceMessage = unsafe { core::mem::transmute(FOUND[0].load(SeqCst)) };
    let (number, text) = (0x0102_0304u32, *b"text\0");
    // TRACE_MESSAGE_SEQUENCE, GUID, TIMESTAMP and SYSTEMINFO.
    let (messages, number_at) = (MESSAGES.as_ptr() as Ptr, &raw const number as Ptr);
    message(logger, 43, messages, 11, number_at, 4, text.as_ptr() as Ptr, 5, 0) as u32 as u64
}

/// The level of the session, as the system says it.
fn level() -> u64 {
    let query: Query = unsafe { core::mem::transmute(FOUND[1].load(SeqCst)) };
    let mut level = 0u32;
    // WNODE_HEADER.HistoricalContext.
    let header = [0, LOGGER.load(SeqCst), 0, 0, 0, 0];
    let status = query(3, &raw mut level as Ptr, 4, 0, &raw const header as Ptr);
    if status < 0 { status as u32 as u64 } else { level.into() }
}

extern "system" fn dispatch(_: Ptr, irp: Ptr) -> i32 {
    let location = location_of(irp);
    let (status, information) = match get::<u8>(location) {
        23 => wmi(location),
        14 => {
            let buffer: Ptr = get(irp + 24);
            let event = unsafe { ExAllocatePool2(0x40, 64, u32::from_le_bytes(*b"Wmie")) };
            // WNODE_HEADER.BufferSize and Guid.
            put(event, 64u32);
            put(event + 24, MESSAGES);
            let words = [
                trace(),
                level(),
                LEVEL.load(SeqCst),
                FLAGS.load(SeqCst),
                unsafe { IoWMIWriteEvent(event) } as u32 as u64,
            ];
            for (at, word) in words.into_iter().enumerate() {
                put(buffer + 8 * at, word);
            }
            (0, 40u64)
        }
        _ => (0, 0),
    };
    complete(irp, status, information)
}

/// IRP_MN_REGINFO_EX for this device: two blocks, in a buffer that is large enough.
fn wmi(location: Ptr) -> (u32, u64) {
    let [device, _, size, buffer]: [Ptr; 4] = get(location + 8);
    if get::<u8>(location + 1) != 11 || device != DEVICE.load(SeqCst) {
        return (NOT_SUPPORTED, 0);
    }
    if (size as u32) < 8000 {
        put(buffer, 8000u32);
        return (BUFFER_TOO_SMALL, 4);
    }
    // WMIREGINFO.BufferSize and GuidCount.
    put(buffer, 20u32 + 2 * 32);
    put(buffer + 16, 2u32);
    (0, 84)
}

include!(env!("DRIVER_RUNTIME"));
