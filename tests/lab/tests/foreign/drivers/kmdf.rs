//! A driver of the Kernel-Mode Driver Framework that does what a program asks.
//!
//! Its control device takes three requests: call a function of the framework, give the
//! addresses of the driver's callbacks, give the calls of these callbacks. It keeps
//! every other request until it is told what to do with it.
#![no_std]
#![allow(non_snake_case, reason = "names of the NT API")]
#![allow(unexpected_cfgs, reason = "the test chooses the version and the name")]

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicUsize, Ordering::SeqCst};

include!(env!("DRIVER_NT"));

/// The version for which the driver is built: its minor number, and the number of
/// functions in its table.
#[cfg(not(any(minor33, wrong_count)))]
const VERSION: (u32, u32) = (9, 396);
#[cfg(minor33)]
const VERSION: (u32, u32) = (33, 458);
#[cfg(wrong_count)]
const VERSION: (u32, u32) = (9, 400);

/// `CTL_CODE(FILE_DEVICE_UNKNOWN, 0x800.., METHOD_BUFFERED, FILE_ANY_ACCESS)`.
const CALL: u64 = 0x22_2000;
const ADDRESSES: u64 = 0x22_2004;
const CALLS: u64 = 0x22_2008;
/// Calls a function twice in one callback.
const CALL_TWICE: u64 = 0x22_200C;
/// Bugs: the callback raises the level, or enters a critical region.
const RAISE: u64 = 0x22_2010;
const ENTER_REGION: u64 = 0x22_2014;
/// The first code of those that the driver sees in the context of the program.
const CALLER_CONTEXT: u32 = 0x22_2600;

/// Places in the table of functions.
mod place {
    pub const CONTROL_DEVICE_INIT_ALLOCATE: usize = 25;
    pub const CONTROL_FINISH_INITIALIZING: usize = 27;
    pub const DEVICE_INIT_ASSIGN_NAME: usize = 67;
    pub const DEVICE_INIT_SET_FILE_OBJECT_CONFIG: usize = 71;
    pub const DEVICE_INIT_SET_CALLER_CONTEXT: usize = 74;
    pub const DEVICE_CREATE: usize = 75;
    pub const DEVICE_CREATE_SYMBOLIC_LINK: usize = 80;
    pub const DEVICE_ENQUEUE_REQUEST: usize = 91;
    pub const DRIVER_CREATE: usize = 116;
    pub const IO_QUEUE_CREATE: usize = 152;
    pub const REQUEST_COMPLETE: usize = 263;
    pub const REQUEST_COMPLETE_WITH_INFORMATION: usize = 265;
    pub const REQUEST_GET_PARAMETERS: usize = 266;
    pub const REQUEST_RETRIEVE_INPUT_BUFFER: usize = 269;
    pub const REQUEST_RETRIEVE_OUTPUT_BUFFER: usize = 270;
}

/// Memory that the framework and callbacks write.
#[repr(C, align(16))]
struct Memory<const N: usize>(UnsafeCell<[u64; N]>);

unsafe impl<const N: usize> Sync for Memory<N> {}

impl<const N: usize> Memory<N> {
    const fn new() -> Self {
        Self(UnsafeCell::new([0; N]))
    }

    fn at(&self) -> Ptr {
        self.0.get() as Ptr
    }

    fn get(&self, index: usize) -> u64 {
        unsafe { (self.at() as *const u64).add(index).read_volatile() }
    }

    fn set(&self, index: usize, value: u64) {
        unsafe { (self.at() as *mut u64).add(index).write_volatile(value) }
    }
}

static TABLE: Memory<458> = Memory::new();
static TABLE_ADDRESS: Memory<1> = Memory::new();
static GLOBALS: Memory<1> = Memory::new();
static BIND: Memory<6> = Memory::new();
/// Driver, device and default queue.
static OBJECTS: Memory<3> = Memory::new();
/// Calls of callbacks: its number and its first four arguments, each.
static LOG: Memory<{ 5 * 256 }> = Memory::new();
static LOGGED: AtomicUsize = AtomicUsize::new(0);
static DISPLACED_UNLOAD: AtomicUsize = AtomicUsize::new(0);

static COMPONENT: Wide<12> = wide(b"KmdfLibrary\0");
#[cfg(not(second))]
static NAME: Wide<14> = wide(b"\\Device\\Sample");
#[cfg(not(second))]
static LINK: Wide<10> = wide(b"\\??\\Sample");
#[cfg(second)]
static NAME: Wide<14> = wide(b"\\Device\\Second");
#[cfg(second)]
static LINK: Wide<10> = wide(b"\\??\\Second");

/// Calls a function of the framework.
fn call(place: usize, arguments: [u64; 7]) -> u64 {
    let [a, b, c, d, e, f, g] = arguments;
    let table = match VERSION.0 {
        // Newer versions get the table's address.
        14.. => TABLE_ADDRESS.get(0) as *const Ptr,
        _ => TABLE.at() as *const Ptr,
    };
    type Function = extern "system" fn(u64, u64, u64, u64, u64, u64, u64, u64) -> u64;
    let function: Function = unsafe { core::mem::transmute(table.add(place).read()) };
    function(GLOBALS.get(0), a, b, c, d, e, f, g)
}

fn call3(place: usize, a: u64, b: u64, c: u64) -> u64 {
    call(place, [a, b, c, 0, 0, 0, 0])
}

/// Ends DriverEntry with the status of a call that failed.
macro_rules! check {
    ($status:expr) => {
        let status = $status as u32 as i32;
        if status < 0 {
            return status;
        }
    };
}

#[unsafe(no_mangle)]
pub extern "system" fn DriverEntry(driver: Ptr, path: Ptr) -> i32 {
    BIND.set(0, 48);
    BIND.set(1, COMPONENT.0.as_ptr() as u64);
    BIND.set(2, 1 | u64::from(VERSION.0) << 32);
    BIND.set(3, 7600 | u64::from(VERSION.1) << 32);
    BIND.set(4, if VERSION.0 > 13 { TABLE_ADDRESS.at() } else { TABLE.at() } as u64);
    check!(unsafe { WdfVersionBind(driver, path, BIND.at(), GLOBALS.at()) });
    let status = create(driver, path);
    if status < 0 {
        unsafe { WdfVersionUnbind(path, BIND.at(), GLOBALS.get(0) as Ptr) };
    }
    status
}

fn create(driver: Ptr, path: Ptr) -> i32 {
    // WDF_DRIVER_CONFIG: size, EvtDriverDeviceAdd, EvtDriverUnload, NonPnpDriver.
    let config = [32u64, 0, unload as *const () as u64, 1];
    let config = config.as_ptr() as u64;
    let arguments = [driver as u64, path as u64, 0, config, OBJECTS.at() as u64, 0, 0];
    check!(call(place::DRIVER_CREATE, arguments));
    // As the framework's library does: DRIVER_OBJECT.DriverUnload.
    let unload_at = (driver + 104) as *mut Ptr;
    unsafe {
        DISPLACED_UNLOAD.store(unload_at.read(), SeqCst);
        unload_at.write(displaced_unload as *const () as Ptr);
    }
    let mut init = call3(place::CONTROL_DEVICE_INIT_ALLOCATE, OBJECTS.get(0), 0, 0);
    let (name, link) = (NAME.string(), LINK.string());
    check!(call3(place::DEVICE_INIT_ASSIGN_NAME, init, &raw const name as u64, 0));
    // WDF_FILEOBJECT_CONFIG: size, create, close, cleanup, WdfUseDefault and
    // WdfFileObjectWdfCanUseFsContext.
    let files = [40u64, 0, closed as *const () as u64, cleaned_up as *const () as u64, 2 | 2 << 32];
    call3(place::DEVICE_INIT_SET_FILE_OBJECT_CONFIG, init, files.as_ptr() as u64, 0);
    let in_context = in_caller_context as *const () as u64;
    call3(place::DEVICE_INIT_SET_CALLER_CONTEXT, init, in_context, 0);
    check!(call3(place::DEVICE_CREATE, &raw mut init as u64, 0, OBJECTS.at() as u64 + 8));
    check!(call3(place::DEVICE_CREATE_SYMBOLIC_LINK, OBJECTS.get(1), &raw const link as u64, 0));
    // WDF_IO_QUEUE_CONFIG: size and parallel, default queue, EvtIoDefault,
    // EvtIoDeviceControl, no limit.
    let mut queue = [0u64; 12];
    queue[0] = 96 | 2 << 32;
    queue[1] = 2 | 1 << 40;
    queue[2] = default as *const () as u64;
    queue[5] = control as *const () as u64;
    queue[10] = 0xFFFF_FFFF;
    let arguments = [OBJECTS.get(1), queue.as_ptr() as u64, 0, OBJECTS.at() as u64 + 16, 0, 0, 0];
    check!(call(place::IO_QUEUE_CREATE, arguments));
    call3(place::CONTROL_FINISH_INITIALIZING, OBJECTS.get(1), 0, 0);
    0
}

extern "system" fn displaced_unload(driver: Ptr) {
    let framework: extern "system" fn(Ptr) = unsafe { core::mem::transmute(DISPLACED_UNLOAD.load(SeqCst)) };
    framework(driver);
    unsafe { WdfVersionUnbind(0, BIND.at(), GLOBALS.get(0) as Ptr) };
}

/// Records a call of a callback.
fn record(number: u64, arguments: [u64; 4]) {
    let at = 5 * (LOGGED.fetch_add(1, SeqCst) % 256);
    LOG.set(at, number);
    for (index, argument) in arguments.into_iter().enumerate() {
        LOG.set(at + 1 + index, argument);
    }
}

/// A callback that only records its calls, one for each number.
extern "system" fn callback<const N: u64>(a: u64, b: u64, c: u64, d: u64) {
    record(N, [a, b, c, d]);
}

/// Records its calls with the IRQL.
extern "system" fn with_level(a: u64, b: u64, _: u64, _: u64) {
    let level: u64;
    unsafe { core::arch::asm!("mov {}, cr8", out(reg) level) };
    record(7, [a, b, level, 0]);
}

/// Records its begin, and its end 20 ms later.
extern "system" fn slow(a: u64) {
    record(6, [a, 0, 0, 0]);
    // KUSER_SHARED_DATA.InterruptTime, in 100 ns.
    let page = 0xFFFF_F780_0000_0000u64;
    let now = || {
        let time: u64;
        unsafe { core::arch::asm!("mov {0}, qword ptr [{1} + 8]", out(reg) time, in(reg) page) };
        time
    };
    let end = now() + 200_000;
    while now() < end {}
    record(6, [a, 1, 0, 0]);
}

extern "system" fn unload(driver: u64) {
    record(90, [driver, 0, 0, 0]);
}

extern "system" fn cleaned_up(file: u64) {
    record(91, [file, 0, 0, 0]);
}

extern "system" fn closed(file: u64) {
    record(92, [file, 0, 0, 0]);
}

/// EvtIoDefault: reads and writes.
extern "system" fn default(queue: u64, request: u64) {
    record(93, [queue, request, 0, 0]);
}

/// EvtIoInCallerContext. Keeps the requests whose codes are for it.
extern "system" fn in_caller_context(device: u64, request: u64) {
    // WDF_REQUEST_PARAMETERS: size and type; then the two lengths, and the code.
    let mut parameters = [40u64, 0, 0, 0, 0];
    call3(place::REQUEST_GET_PARAMETERS, request, parameters.as_mut_ptr() as u64, 0);
    let is_control = parameters[0] >> 32 == 0xE;
    if is_control && parameters[3] as u32 >= CALLER_CONTEXT {
        record(94, [device, request, parameters[1], parameters[2]]);
        return;
    }
    let status = call3(place::DEVICE_ENQUEUE_REQUEST, device, request, 0);
    if (status as u32 as i32) < 0 {
        call3(place::REQUEST_COMPLETE, request, status, 0);
    }
}

/// EvtIoDeviceControl of the default queue.
extern "system" fn control(queue: u64, request: u64, output: u64, input: u64, code: u64) {
    let code = code & 0xFFFF_FFFF;
    let done = match code {
        CALL => answer_call(request, input, 1),
        CALL_TWICE => answer_call(request, input, 2),
        RAISE => Ok(u64::from(unsafe { KfRaiseIrql(1) })),
        ENTER_REGION => {
            unsafe { KeEnterCriticalRegion() };
            Ok(0)
        }
        ADDRESSES => addresses(request),
        CALLS => calls(request),
        _ => {
            record(95, [queue, request, output, input]);
            return;
        }
    };
    let [status, information] = match done {
        Ok(information) => [0, information],
        Err(status) => [status, 0],
    };
    call3(place::REQUEST_COMPLETE_WITH_INFORMATION, request, status, information);
}

/// A buffer of a request, of at least this size.
fn buffer(place: usize, request: u64, size: u64) -> Result<*mut u64, u64> {
    let mut address = 0u64;
    let status = call(place, [request, size, &raw mut address as u64, 0, 0, 0, 0]);
    if (status as u32 as i32) < 0 { Err(status) } else { Ok(address as *mut u64) }
}

/// Calls the function at the place that the input begins with; its arguments follow.
fn answer_call(request: u64, size: u64, times: usize) -> Result<u64, u64> {
    let input = buffer(place::REQUEST_RETRIEVE_INPUT_BUFFER, request, 8)?;
    let output = buffer(place::REQUEST_RETRIEVE_OUTPUT_BUFFER, request, 8)?;
    let count = (size / 8) as usize;
    let word = |at: usize| if at < count { unsafe { input.add(at).read() } } else { 0 };
    let arguments = [word(1), word(2), word(3), word(4), word(5), word(6), word(7)];
    let mut result = 0;
    for place in [word(0) as usize; 2].into_iter().take(times) {
        result = call(place, arguments);
    }
    unsafe { output.write(result) };
    Ok(8)
}

/// Gives driver, device, default queue, and the addresses of callbacks 0 to 5, of the
/// slow one and of the one with its level.
fn addresses(request: u64) -> Result<u64, u64> {
    let output = buffer(place::REQUEST_RETRIEVE_OUTPUT_BUFFER, request, 88)?;
    let callbacks = [
        callback::<0> as *const (),
        callback::<1> as *const (),
        callback::<2> as *const (),
        callback::<3> as *const (),
        callback::<4> as *const (),
        callback::<5> as *const (),
        slow as *const (),
        with_level as *const (),
    ];
    for at in 0..3 {
        unsafe { output.add(at).write(OBJECTS.get(at)) };
    }
    for (at, callback) in callbacks.into_iter().enumerate() {
        unsafe { output.add(3 + at).write(callback as u64) };
    }
    Ok(88)
}

/// Gives the recorded calls, and forgets them.
fn calls(request: u64) -> Result<u64, u64> {
    let output = buffer(place::REQUEST_RETRIEVE_OUTPUT_BUFFER, request, 5 * 8 * 256)?;
    let count = 5 * LOGGED.swap(0, SeqCst).min(256);
    for at in 0..count {
        unsafe { output.add(at).write(LOG.get(at)) };
    }
    Ok(8 * count as u64)
}

include!(env!("DRIVER_RUNTIME"));
