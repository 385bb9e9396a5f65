//! A driver with one bug for each rule of the verifier, and none by default.
//!
//! The REG_DWORD `Bug` under its `Parameters` chooses the bug, by [`id`] of the rule's
//! name. [`BUGS`] has the bugs. All other code is correct, so the verifier can find
//! only the bug.
#![no_std]
#![allow(non_snake_case, reason = "names of the NT API")]

use core::arch::asm;
use core::cell::UnsafeCell;
use core::hint::black_box;
use core::panic::PanicInfo;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst};

/// Windows may take this function out of memory.
#[unsafe(link_section = "PAGE")]
#[inline(never)]
pub extern "system" fn pageable() {
    black_box(());
}

/// Windows frees this function after DriverEntry.
#[unsafe(link_section = "INIT")]
#[inline(never)]
pub extern "system" fn initial() {
    black_box(());
}

/// Windows frees this after DriverEntry.
#[unsafe(link_section = "INITDATA")]
static INITIAL: AtomicU64 = AtomicU64::new(7);

/// Windows may take this out of memory.
#[unsafe(link_section = "PAGEDATA")]
static PAGEABLE: AtomicU64 = AtomicU64::new(7);

#[path = "driver/actions.rs"]
mod actions;
#[path = "driver/bugs.rs"]
mod bugs;
#[path = "driver/correct.rs"]
mod correct;

use actions::*;
use bugs::{At, BUGS, commit, id};

include!(env!("DRIVER_NT"));

// The compiler calls these.
#[link(name = "ntoskrnl.exe", kind = "raw-dylib", modifiers = "+verbatim")]
unsafe extern "system" {
    pub fn memcpy(to: Ptr, from: Ptr, count: usize) -> Ptr;
    pub fn memset(to: Ptr, byte: i32, count: usize) -> Ptr;
    pub fn memmove(to: Ptr, from: Ptr, count: usize) -> Ptr;
    pub fn memcmp(one: Ptr, other: Ptr, count: usize) -> i32;
}

const TAG: u32 = u32::from_le_bytes(*b"plnt");
const NON_PAGED: u64 = 0x40;
const PAGED: u64 = 0x100;
const RAISE_ON_FAILURE: u64 = 0x20;
const EXECUTABLE: u64 = 0x80;
const PASSIVE: u8 = 0;
const DISPATCH: u8 = 2;
/// A device IRQL.
const DEVICE: u8 = 5;
/// 100 s from now, in 100 ns units.
const LATER: i64 = -1_000_000_000;
/// An unmapped kernel address.
const NOWHERE: Ptr = 0xFFFF_F800_1234_5000;

/// Memory for objects of the kernel.
#[repr(C, align(64))]
struct Memory<const N: usize>(UnsafeCell<[u64; N]>);

unsafe impl<const N: usize> Sync for Memory<N> {}

impl<const N: usize> Memory<N> {
    const fn new() -> Self {
        Self(UnsafeCell::new([0; N]))
    }

    fn at(&self) -> Ptr {
        self.0.get() as Ptr
    }
}

/// What a bug notes of the parameters that its bugcheck must have.
#[used]
static NOTED: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];

/// Notes a parameter. Returns it.
pub fn note(at: usize, value: Ptr) -> Ptr {
    NOTED[at].store(value as u64, SeqCst);
    value
}

static DATA: Memory<64> = Memory::new();
static SHARED: Memory<1> = Memory::new();
/// For one object at a time.
static OBJECT: Memory<32> = Memory::new();
static READ_ONLY: u64 = 0x5265_6164_4F6E_6C79;
static LOCK: Memory<1> = Memory::new();
static OTHER_LOCK: Memory<1> = Memory::new();
static THIRD_LOCK: Memory<1> = Memory::new();
static MUTEX: Memory<8> = Memory::new();
static RESOURCE: Memory<13> = Memory::new();
/// Acquired with the tag 2.
static REMOVE_LOCK: Memory<4> = Memory::new();
static PUSH_LOCK: Memory<1> = Memory::new();
/// A KLOCK_QUEUE_HANDLE.
static QUEUE_HANDLE: Memory<3> = Memory::new();
static EVENT: Memory<3> = Memory::new();
static RUNDOWN: Memory<1> = Memory::new();
static EXTRA_ITEM: Memory<4> = Memory::new();
static NOTICE: Memory<4> = Memory::new();
static STATUS_BLOCK: Memory<2> = Memory::new();

static BUG: AtomicU32 = AtomicU32::new(0);
static DRIVER: AtomicUsize = AtomicUsize::new(0);
static REGISTRY_PATH: AtomicUsize = AtomicUsize::new(0);
static DEVICE_OBJECT: AtomicUsize = AtomicUsize::new(0);
static KEY: AtomicUsize = AtomicUsize::new(0);
static WORK_ITEM: AtomicUsize = AtomicUsize::new(0);
static SUBSCRIPTION: AtomicUsize = AtomicUsize::new(0);
static PROVIDER: AtomicU64 = AtomicU64::new(0);
static CALLOUT_ID: AtomicU32 = AtomicU32::new(0);
static LAYER: AtomicU32 = AtomicU32::new(0);
/// Filters that notifyFn knows.
static FILTERS: AtomicU32 = AtomicU32::new(0);
/// The last process of which it was told.
static PROCESS: AtomicUsize = AtomicUsize::new(0);
/// Whether it is told of processes.
static TOLD: AtomicBool = AtomicBool::new(false);
static DONE: AtomicBool = AtomicBool::new(false);
/// FWPS_CLASSIFY_OUT0 and NET_BUFFER_LIST of the current classify.
static REQUEST: AtomicUsize = AtomicUsize::new(0);
/// Whether the bug has completed the current request, and what to return.
static ANSWERED: AtomicBool = AtomicBool::new(false);
static ANSWER: AtomicU32 = AtomicU32::new(0);
static OUT: AtomicU64 = AtomicU64::new(0);
static LIST: AtomicU64 = AtomicU64::new(0);
static META: AtomicUsize = AtomicUsize::new(0);
static INJECTION: AtomicUsize = AtomicUsize::new(0);
/// The pool of a list that was injected into the receive path.
static RECEIVED_POOL: AtomicUsize = AtomicUsize::new(0);
/// Offset of completionHandle in FWPS_INCOMING_METADATA_VALUES0.
const COMPLETION_HANDLE: usize = 104;
/// The classifyContext of the current classify.
static CONTEXT: AtomicU64 = AtomicU64::new(0);

#[repr(C)]
struct Callout {
    key: [u8; 16],
    flags: u32,
    classify: Ptr,
    notify: Ptr,
    flow_delete: Ptr,
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn DriverEntry(driver: Ptr, path: Ptr) -> i32 {
    DRIVER.store(driver, SeqCst);
    REGISTRY_PATH.store(path, SeqCst);
    // IRP_MJ_CREATE, CLOSE, WRITE, DEVICE_CONTROL, CLEANUP and SYSTEM_CONTROL.
    serve(driver, unload, dispatch, &[0, 2, 4, 14, 18, 23]);
    unsafe {
        let mut key: Ptr = 0;
        check(IoOpenDriverRegistryKey(driver, 0, 0x20019, 0, &raw mut key as Ptr));
        KEY.store(key, SeqCst);
        let bug = query(key, &[6, 6]);
        if bug != 0 && !BUGS.iter().any(|(known, ..)| *known == bug) {
            // STATUS_INVALID_PARAMETER: no such bug.
            return 0xC000_000D_u32 as i32;
        }
        BUG.store(bug, SeqCst);
        commit(At::Start);
        let mut device: Ptr = 0;
        let mut name = string(r"\Device\planted");
        check(IoCreateDevice(driver, 64, name.at(), 0x12, 0x100, 0, &raw mut device as Ptr));
        DEVICE_OBJECT.store(device, SeqCst);
        // DEVICE_OBJECT.Flags: DO_DIRECT_IO.
        let flags = (device + 48) as *mut u32;
        flags.write(flags.read() | 0x10);
        KeInitializeSpinLock(LOCK.at());
        KeInitializeSpinLock(OTHER_LOCK.at());
        KeInitializeSpinLock(THIRD_LOCK.at());
        KeInitializeEvent(EVENT.at(), 0, 0);
        // FAST_MUTEX: Count, and its event behind Owner and Contention.
        (MUTEX.at() as *mut i32).write(1);
        KeInitializeEvent(MUTEX.at() + 24, 1, 0);
        let callout = Callout {
            key: *b"planted callout.",
            flags: 0,
            classify: classify as *const () as Ptr,
            notify: notify as *const () as Ptr,
            flow_delete: flow_delete as *const () as Ptr,
        };
        let mut id = 0u32;
        check(FwpsCalloutRegister1(device, &raw const callout as Ptr, &raw mut id as Ptr));
        CALLOUT_ID.store(id, SeqCst);
        let mut subscription: Ptr = 0;
        let changed = changed as *const () as Ptr;
        check(FwpmBfeStateSubscribeChanges0(device, changed, 0, &raw mut subscription as Ptr));
        SUBSCRIPTION.store(subscription, SeqCst);
        let provider = b"planted provider";
        let mut handle = 0u64;
        let enabled = enabled as *const () as Ptr;
        check(EtwRegister(provider.as_ptr() as Ptr, enabled, 0, &raw mut handle as Ptr));
        PROVIDER.store(handle, SeqCst);
        INJECTION.store(injection_handle(), SeqCst);
        // Refused if the image does not force its integrity.
        let status = PsSetCreateProcessNotifyRoutineEx(told_of_process as *const () as Ptr, 0);
        TOLD.store(status >= 0, SeqCst);
        initial();
        correct::exercise();
        queue(work as *const () as Ptr);
        commit(At::Entry);
    }
    0
}

extern "system" fn unload(_: Ptr) {
    unsafe {
        commit(At::Unload);
        let keeps = |name| BUG.load(SeqCst) == id(name);
        // One bug trusts that each filter that was added is told to be deleted.
        let awaits_notice = keeps("CALLOUTS_LEFT__NOTICE_LOST") && FILTERS.load(SeqCst) != 0;
        // A flow context prevents that its callout is unregistered.
        if !keeps("CALLOUTS_LEFT") && !awaits_notice && !keeps("FLOW_CONTEXT_LEFT") {
            check(FwpsCalloutUnregisterById0(CALLOUT_ID.load(SeqCst)));
        }
        if TOLD.load(SeqCst) && !keeps("PROCESS_ROUTINE_LEFT") {
            check(PsSetCreateProcessNotifyRoutineEx(told_of_process as *const () as Ptr, 1));
        }
        if !keeps("ETW_REGISTRATION_LEFT") {
            check(EtwUnregister(PROVIDER.load(SeqCst)));
        }
        if !keeps("SUBSCRIPTION_LEFT") {
            check(FwpmBfeStateUnsubscribeChanges0(SUBSCRIPTION.load(SeqCst)));
        }
        check(FwpsInjectionHandleDestroy0(INJECTION.load(SeqCst)));
        let pool = RECEIVED_POOL.load(SeqCst);
        if pool != 0 {
            NdisFreeNetBufferListPool(pool);
        }
        if !keeps("WORK_ITEM_LEFT") {
            IoFreeWorkItem(WORK_ITEM.load(SeqCst));
        }
        if !keeps("HANDLE_LEFT") {
            check(ZwClose(KEY.load(SeqCst)));
        }
        // What is left refers to the device.
        let in_use = ["CALLOUTS_LEFT", "FLOW_CONTEXT_LEFT", "SUBSCRIPTION_LEFT", "WORK_ITEM_LEFT"];
        if !keeps("DEVICE_LEFT") && !awaits_notice && !in_use.into_iter().any(keeps) {
            IoDeleteDevice(DEVICE_OBJECT.load(SeqCst));
        }
    }
}

/// Answers requests. A bug at a write or a control request may answer it itself.
extern "system" fn dispatch(_: Ptr, irp: Ptr) -> i32 {
    REQUEST.store(irp, SeqCst);
    unsafe {
        // MajorFunction.
        match get::<u8>(location_of(irp)) {
            4 => commit(At::Write),
            14 => commit(At::Request),
            23 => commit(At::Wmi),
            _ => {}
        }
        if !ANSWERED.swap(false, SeqCst) {
            complete(irp, 0, 0);
        }
    }
    ANSWER.swap(0, SeqCst) as i32
}

extern "system" fn work(_: Ptr, _: Ptr) {
    unsafe { commit(At::Worker) };
}

extern "system" fn changed(_: Ptr, _: i32) {
    unsafe { commit(At::Bfe) };
}

extern "system" fn classify(values: Ptr, meta: Ptr, data: u64, context: u64, _: Ptr, _: u64, out: u64) {
    OUT.store(out, SeqCst);
    META.store(meta, SeqCst);
    CONTEXT.store(context, SeqCst);
    LIST.store(data, SeqCst);
    unsafe {
        // FWPS_INCOMING_VALUES0.layerId.
        LAYER.store((values as *const u16).read().into(), SeqCst);
        commit(At::Classify);
    }
}

extern "system" fn notify(kind: i32, _: Ptr, _: Ptr) -> i32 {
    // FWPS_CALLOUT_NOTIFY_ADD_FILTER and DELETE_FILTER.
    match kind {
        0 => FILTERS.fetch_add(1, SeqCst),
        1 => FILTERS.fetch_sub(1, SeqCst),
        _ => 0,
    };
    unsafe { commit(At::Notify) };
    0
}

extern "system" fn enabled(_: Ptr, _: u32, _: u8, _: u64, _: u64, _: Ptr, _: Ptr) {}

extern "system" fn flow_delete(_: u16, _: u32, _: u64) {}

fn check(status: i32) {
    if status < 0 {
        panic!();
    }
}

/// A symbol that object files with floating point need.
#[unsafe(no_mangle)]
static _fltused: i32 = 0;

/// A symbol that the unwind tables of `core` need. Nothing unwinds.
#[unsafe(no_mangle)]
extern "C" fn __CxxFrameHandler3() {}

#[panic_handler]
fn panic(_: &PanicInfo) -> ! {
    let nothing: *mut u8 = null_mut();
    loop {
        unsafe { asm!("int3", in("rax") nothing) };
    }
}
