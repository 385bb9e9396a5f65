//! A driver with one bug for each rule of the verifier, and none unless asked.
//!
//! The REG_DWORD `Bug` under its `Parameters` chooses the bug, by [`id`] of the
//! rule's name; `BUGS` says where each is committed. Everything else is done as
//! it should be, so that nothing but the bug can be found.
#![no_std]
#![allow(non_snake_case, reason = "names of the NT API")]

use core::arch::asm;
use core::cell::UnsafeCell;
use core::hint::black_box;
use core::panic::PanicInfo;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst};

#[path = "driver/imports.rs"]
mod imports;

use imports::*;

type Ptr = usize;

const TAG: u32 = u32::from_le_bytes(*b"plnt");
const NON_PAGED: u64 = 0x40;
const PAGED: u64 = 0x100;
const RAISE_ON_FAILURE: u64 = 0x20;
const EXECUTABLE: u64 = 0x80;
const PASSIVE: u8 = 0;
const DISPATCH: u8 = 2;
/// A level of devices.
const DEVICE: u8 = 5;
/// An address of the kernel's half where nothing is.
const NOWHERE: Ptr = 0xFFFF_F800_1234_5000;

/// Where a bug is committed.
#[derive(Clone, Copy, PartialEq)]
enum At {
    /// At the end of DriverEntry, with everything else in place.
    Entry,
    Worker,
    /// In the callback for changes of BFE's state.
    Bfe,
    Classify,
    Notify,
    /// First thing in DriverUnload.
    Unload,
    /// Something is not given back in DriverUnload.
    Omission,
}

/// FNV-1a of a rule's name; the tests compute it, too.
const fn id(name: &str) -> u32 {
    let (bytes, mut hash, mut at) = (name.as_bytes(), 0x811C_9DC5_u32, 0);
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u32).wrapping_mul(0x0100_0193);
        at += 1;
    }
    hash
}

macro_rules! bugs {
    ($($at:ident $name:ident => $body:expr;)*) => {
        #[allow(unused_unsafe, reason = "some bugs are that nothing is done")]
        static BUGS: &[(u32, At, unsafe fn())] = &[$((id(stringify!($name)), At::$at, || unsafe { $body; })),*];
    };
}

bugs! {
    Entry POOL_ZERO_BYTES => ExAllocatePool2(NON_PAGED, 0, TAG);
    Entry POOL_PAGED_IRQL => at(DISPATCH, || ExAllocatePool2(PAGED, 32, TAG));
    Entry POOL_IRQL => at(DEVICE, || ExAllocatePool2(NON_PAGED, 32, TAG));
    Entry POOL_BAD_FREE => free(DATA.at());
    Entry POOL_FREE_PAGED_IRQL => { let block = ExAllocatePool2(PAGED, 32, TAG); at(DISPATCH, || free(block)) };
    Entry POOL_FREE_IRQL => { let block = allocate(32); at(DEVICE, || free(block)) };
    Entry POOL_DOUBLE_FREE => { let block = allocate(32); free(block); free(block) };
    Unload POOL_LEAK => leak();
    Entry POOL_EXECUTABLE => ExAllocatePool2(EXECUTABLE, 32, TAG);
    Entry POOL_UNDERRUN => { let block = allocate(100); poke(block - 1, 1); free(block) };
    Entry POOL_OVERRUN => { let block = allocate(100); poke(block + 100, 1); free(block) };
    Entry POOL_WRONG_TAG => ExFreePoolWithTag(allocate(32), TAG + 1);
    Entry POOL_ZERO_TAG => ExAllocatePool2(NON_PAGED, 32, 0);
    Entry POOL_RAISE => ExAllocatePool2(NON_PAGED | RAISE_ON_FAILURE, 1 << 40, TAG);
    Entry POOL_BAD_FLAGS => ExAllocatePool2(NON_PAGED | PAGED, 32, TAG);

    Classify FREED_POOL_ACCESS => { let block = allocate(32); free(block); peek(block) };
    Classify BEYOND_POOL_ACCESS => poke(allocate(4096) + 4096, 1);
    Entry BAD_POINTER => peek(NOWHERE);
    Classify BAD_POINTER_RAISED => peek(NOWHERE);
    Entry READ_ONLY_WRITE => poke(&raw const READ_ONLY as Ptr, 1);
    Entry EXECUTE_DATA => run(DATA.at());
    Unload UNLOADED_CODE => { ZwClose(watch(slow as *const () as Ptr)); };
    Entry MALFORMED_STRING => query(KEY.load(SeqCst), &[3, 4]);
    Entry MEMCPY_OVERLAP => memcpy(black_box(DATA.at()), black_box(DATA.at() + 4), 32);
    Entry MDL_BUGCHECK_ON_FAILURE => MmMapLockedPagesSpecifyCache(DATA.at(), 0, 1, 0, 1, 0);

    Entry ACCESS_VIOLATION => peek(0x28);
    Entry ILLEGAL_INSTRUCTION => asm!("ud2");
    Entry DIVIDE_BY_ZERO => asm!("div {0:e}", in(reg) 0, inout("eax") 1 => _, inout("edx") 0 => _);
    Entry BREAKPOINT => asm!("int3");
    Worker STACK_OVERFLOW => { recurse(100_000); };
    Entry FAST_FAIL => asm!("int 0x29", in("ecx") 7);
    Entry RING_0_INSTRUCTION => asm!("mov {}, cr8", out(reg) _);

    Entry RAISE_IRQL => { KfRaiseIrql(DISPATCH); KfRaiseIrql(PASSIVE) };
    Entry LOWER_IRQL => KeLowerIrql(DISPATCH);
    Entry RELEASE_SPIN_LOCK_IRQL => {
        let old = KeAcquireSpinLockRaiseToDpc(LOCK.at());
        KeLowerIrql(old);
        KeReleaseSpinLock(LOCK.at(), old)
    };
    Entry ACQUIRE_FAST_MUTEX_IRQL => at(DISPATCH, || ExAcquireFastMutex(MUTEX.at()));
    Entry RELEASE_FAST_MUTEX_IRQL => {
        ExAcquireFastMutex(MUTEX.at());
        KeLowerIrql(PASSIVE);
        ExReleaseFastMutex(MUTEX.at())
    };
    Entry ACQUIRE_AT_DPC_IRQL => KeAcquireSpinLockAtDpcLevel(LOCK.at());
    Entry RELEASE_FROM_DPC_IRQL => {
        let old = KeAcquireSpinLockRaiseToDpc(LOCK.at());
        KeLowerIrql(old);
        KeReleaseSpinLockFromDpcLevel(LOCK.at())
    };
    Entry ACQUIRE_SPIN_LOCK_IRQL => at(DEVICE, || KeAcquireSpinLockRaiseToDpc(LOCK.at()));
    Entry MAP_MDL_IRQL => at(DEVICE, || MmMapLockedPagesSpecifyCache(DATA.at(), 0, 1, 0, 0, 0));
    Entry UNMAP_MDL_IRQL => at(DEVICE, || MmUnmapLockedPages(DATA.at(), DATA.at()));
    Entry SET_EVENT_IRQL => at(DEVICE, || KeSetEvent(EVENT.at(), 0, 0));
    Entry WAIT_ABOVE_DISPATCH => at(DEVICE, || wait(Some(0)));
    Classify WAIT_FOREVER_AT_DISPATCH => wait(None);
    Classify WAIT_AT_DISPATCH => wait(Some(-1));
    Classify API_IRQL => IoDeleteDevice(DEVICE_OBJECT.load(SeqCst));
    Classify ZW_IRQL => ZwClose(KEY.load(SeqCst));
    Worker WORKER_IRQL => KfRaiseIrql(DISPATCH);
    Notify IRQL_CHANGED => KfRaiseIrql(DISPATCH);

    Worker WORKER_APCS_DISABLED => KeEnterCriticalRegion();
    Notify APCS_DISABLED => KeEnterCriticalRegion();
    Entry CRITICAL_REGION_UNDERFLOW => KeLeaveCriticalRegion();
    Entry AFFINITY_CHANGED => { on_the_second_processor(); };

    Classify SELF_DEADLOCK => {
        KeAcquireSpinLockAtDpcLevel(LOCK.at());
        KeAcquireSpinLockAtDpcLevel(LOCK.at())
    };
    Entry LOCK_ORDER => { nest(LOCK.at(), OTHER_LOCK.at()); nest(OTHER_LOCK.at(), LOCK.at()) };
    Entry LOCK_RELEASE_ORDER => {
        let old = KeAcquireSpinLockRaiseToDpc(LOCK.at());
        KeAcquireSpinLockAtDpcLevel(OTHER_LOCK.at());
        KeReleaseSpinLockFromDpcLevel(LOCK.at());
        KeReleaseSpinLock(OTHER_LOCK.at(), old)
    };
    Entry LOCK_RELEASED_ELSEWHERE => {
        KeAcquireSpinLockRaiseToDpc(LOCK.at());
        let item = IoAllocateWorkItem(DEVICE_OBJECT.load(SeqCst));
        IoQueueWorkItem(item, releases as *const () as Ptr, 1, 0);
        // Until the machine stops, and this with it.
        while KeGetCurrentIrql() == DISPATCH {}
    };
    Classify LOCK_NOT_ACQUIRED => KeReleaseSpinLockFromDpcLevel(LOCK.at());
    Entry LOCK_PAGEABLE => KeInitializeEvent(ExAllocatePool2(PAGED, 24, TAG), 0, 0);
    Classify SPIN_LOCK_HELD => KeAcquireSpinLockAtDpcLevel(LOCK.at());
    Entry RUNDOWN_UNDERFLOW => {
        ExInitializeRundownProtection(RUNDOWN.at());
        ExReleaseRundownProtection(RUNDOWN.at())
    };
    Bfe CALLBACK_DEADLOCK => FwpmBfeStateUnsubscribeChanges0(SUBSCRIPTION.load(SeqCst));
    Notify CALLOUT_DEADLOCK => FwpsCalloutUnregisterById0(CALLOUT_ID.load(SeqCst));

    Entry BAD_HANDLE => ZwClose(0x1234);
    Entry WORK_ITEM_QUEUED_TWICE => {
        let item = behind_a_slow_one();
        IoQueueWorkItem(item, nothing as *const () as Ptr, 1, 0)
    };
    Entry WORK_ITEM_FREED_ACTIVE => IoFreeWorkItem(behind_a_slow_one());
    Entry BAD_OBJECT => IoDeleteDevice(DATA.at());

    Classify ACTION_WITHOUT_RIGHT => answer(0, 0x2006, 0);
    Classify RIGHT_RAISED => answer(1, 0x1002, 0);
    Classify UNKNOWN_ACTION => answer(1, 0x1234, 0);
    Classify INVALID_ABSORB => answer(1, 0x1002, 1);
    Classify NET_BUFFER_CHANGED => NdisAdvanceNetBufferDataStart(net_buffer(), 4, 0, 0);

    Unload ETW_BAD_UNREGISTER => {
        EtwUnregister(PROVIDER.load(SeqCst));
        EtwUnregister(PROVIDER.load(SeqCst))
    };
    Unload ETW_AFTER_UNREGISTER => {
        EtwUnregister(PROVIDER.load(SeqCst));
        write_event(PROVIDER.load(SeqCst), &[7])
    };
    Entry ETW_BAD_HANDLE => write_event(0x1234, &[7]);
    Classify ETW_MALFORMED_EVENT => write_event(PROVIDER.load(SeqCst), &[7, 8]);

    Omission CALLOUTS_LEFT => {};
    Classify FLOW_CONTEXT_LEFT => FwpsFlowAssociateContext0(1, LAYER.load(SeqCst) as u16, CALLOUT_ID.load(SeqCst), 7);
    Omission SUBSCRIPTION_LEFT => {};
    Omission ETW_REGISTRATION_LEFT => {};
    Unload NOTIFICATION_LEFT => watch(nothing as *const () as Ptr);
    Unload THREAD_LEFT => {
        let mut thread: Ptr = 0;
        PsCreateSystemThread(&raw mut thread as Ptr, 0, 0, 0, 0, lingers as *const () as Ptr, 0);
        ZwClose(thread)
    };
    Omission DEVICE_LEFT => {};
    Omission WORK_ITEM_LEFT => {};
    Omission HANDLE_LEFT => {};
    Entry FILTER_OBJECT_LEFT => {
        let mut engine: Ptr = 0;
        FwpmEngineOpen0(0, 10, 0, 0, &raw mut engine as Ptr)
    };
}

/// A thread that runs until the machine stops.
extern "system" fn lingers(_: Ptr) {
    unsafe { while KeGetCurrentIrql() == 0 {} }
}

/// Memory that the kernel gets a pointer to.
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

static DATA: Memory<64> = Memory::new();
static READ_ONLY: u64 = 0x5265_6164_4F6E_6C79;
static LOCK: Memory<1> = Memory::new();
static OTHER_LOCK: Memory<1> = Memory::new();
static MUTEX: Memory<8> = Memory::new();
static EVENT: Memory<3> = Memory::new();
static RUNDOWN: Memory<1> = Memory::new();
static NOTICE: Memory<4> = Memory::new();
static STATUS_BLOCK: Memory<2> = Memory::new();

static BUG: AtomicU32 = AtomicU32::new(0);
static DRIVER: AtomicUsize = AtomicUsize::new(0);
static DEVICE_OBJECT: AtomicUsize = AtomicUsize::new(0);
static KEY: AtomicUsize = AtomicUsize::new(0);
static WORK_ITEM: AtomicUsize = AtomicUsize::new(0);
static SUBSCRIPTION: AtomicUsize = AtomicUsize::new(0);
static PROVIDER: AtomicU64 = AtomicU64::new(0);
static CALLOUT_ID: AtomicU32 = AtomicU32::new(0);
static LAYER: AtomicU32 = AtomicU32::new(0);
static DONE: AtomicBool = AtomicBool::new(false);
/// The classify under way: its FWPS_CLASSIFY_OUT0 and its NET_BUFFER_LIST.
static OUT: AtomicU64 = AtomicU64::new(0);
static LIST: AtomicU64 = AtomicU64::new(0);

#[repr(C)]
struct Callout {
    key: [u8; 16],
    flags: u32,
    classify: Ptr,
    notify: Ptr,
    flow_delete: Ptr,
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn DriverEntry(driver: Ptr, _: Ptr) -> i32 {
    DRIVER.store(driver, SeqCst);
    unsafe {
        // DRIVER_OBJECT.DriverUnload.
        ((driver + 104) as *mut Ptr).write(unload as *const () as Ptr);
        let mut key: Ptr = 0;
        check(IoOpenDriverRegistryKey(driver, 0, 0x20019, 0, &raw mut key as Ptr));
        KEY.store(key, SeqCst);
        let bug = query(key, &[6, 6]);
        if bug != 0 && !BUGS.iter().any(|(known, ..)| *known == bug) {
            // STATUS_INVALID_PARAMETER: no such bug.
            return 0xC000_000D_u32 as i32;
        }
        BUG.store(bug, SeqCst);
        let mut device: Ptr = 0;
        check(IoCreateDevice(driver, 0, 0, 0x12, 0x100, 0, &raw mut device as Ptr));
        DEVICE_OBJECT.store(device, SeqCst);
        KeInitializeSpinLock(LOCK.at());
        KeInitializeSpinLock(OTHER_LOCK.at());
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
        check(FwpsCalloutRegister1(device, &callout, &raw mut id as Ptr));
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
        exercise();
        queue(work as *const () as Ptr);
        commit(At::Entry);
    }
    0
}

/// Does properly what most bugs do wrong.
unsafe fn exercise() {
    unsafe {
        let block = allocate(100);
        poke(block + 99, 1);
        free(block);
        let old = KeAcquireSpinLockRaiseToDpc(LOCK.at());
        KeAcquireSpinLockAtDpcLevel(OTHER_LOCK.at());
        KeReleaseSpinLockFromDpcLevel(OTHER_LOCK.at());
        KeReleaseSpinLock(LOCK.at(), old);
        ExAcquireFastMutex(MUTEX.at());
        nest(LOCK.at(), OTHER_LOCK.at());
        ExReleaseFastMutex(MUTEX.at());
        wait(Some(0));
        wait(Some(-1));
        at(DISPATCH, || wait(Some(0)));
        KeSetEvent(EVENT.at(), 0, 0);
        wait(None);
        KeEnterCriticalRegion();
        KeLeaveCriticalRegion();
        let mut before = on_the_second_processor();
        KeRevertToUserGroupAffinityThread(before.as_mut_ptr() as Ptr);
        check(write_event(PROVIDER.load(SeqCst), &[7]));
    }
}

/// Binds this thread to the machine's second processor; the GROUP_AFFINITY of
/// before.
unsafe fn on_the_second_processor() -> [u64; 2] {
    let (mut there, mut before) = ([0b10u64, 0], [0; 2]);
    unsafe { KeSetSystemGroupAffinityThread(there.as_mut_ptr() as Ptr, before.as_mut_ptr() as Ptr) };
    before
}

extern "system" fn unload(_: Ptr) {
    unsafe {
        commit(At::Unload);
        let keeps = |name| BUG.load(SeqCst) == id(name);
        // A context keeps its callout; all there is to do with one is in Classify.
        if !keeps("CALLOUTS_LEFT") && !keeps("FLOW_CONTEXT_LEFT") {
            check(FwpsCalloutUnregisterById0(CALLOUT_ID.load(SeqCst)));
        }
        if !keeps("ETW_REGISTRATION_LEFT") {
            check(EtwUnregister(PROVIDER.load(SeqCst)));
        }
        if !keeps("SUBSCRIPTION_LEFT") {
            check(FwpmBfeStateUnsubscribeChanges0(SUBSCRIPTION.load(SeqCst)));
        }
        if !keeps("WORK_ITEM_LEFT") {
            IoFreeWorkItem(WORK_ITEM.load(SeqCst));
        }
        if !keeps("HANDLE_LEFT") {
            check(ZwClose(KEY.load(SeqCst)));
        }
        if !keeps("DEVICE_LEFT") {
            IoDeleteDevice(DEVICE_OBJECT.load(SeqCst));
        }
    }
}

/// Commits the chosen bug, once, if this is the place.
unsafe fn commit(place: At) {
    let bug = BUG.load(SeqCst);
    let found = BUGS.iter().find(|(known, at, _)| *known == bug && *at == place);
    if let Some((_, _, commit)) = found
        && !DONE.swap(true, SeqCst)
    {
        unsafe { commit() };
    }
}

extern "system" fn work(_: Ptr, _: Ptr) {
    unsafe { commit(At::Worker) };
}

extern "system" fn nothing(_: Ptr, _: Ptr) {}

extern "system" fn slow(_: Ptr, _: Ptr) {
    // 300 ms.
    let interval: i64 = -3_000_000;
    unsafe { KeDelayExecutionThread(0, 0, &raw const interval as Ptr) };
}

extern "system" fn releases(_: Ptr, _: Ptr) {
    unsafe { at(DISPATCH, || KeReleaseSpinLockFromDpcLevel(LOCK.at())) };
}

extern "system" fn changed(_: Ptr, _: i32) {
    unsafe { commit(At::Bfe) };
}

extern "system" fn classify(values: Ptr, _: Ptr, data: u64, _: Ptr, _: Ptr, _: u64, out: u64) {
    OUT.store(out, SeqCst);
    LIST.store(data, SeqCst);
    unsafe {
        // FWPS_INCOMING_VALUES0.layerId.
        LAYER.store((values as *const u16).read().into(), SeqCst);
        commit(At::Classify);
    }
}

extern "system" fn notify(_: i32, _: Ptr, _: Ptr) -> i32 {
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

unsafe fn allocate(size: usize) -> Ptr {
    unsafe { ExAllocatePool2(NON_PAGED, size, TAG) }
}

unsafe fn free(block: Ptr) {
    unsafe { ExFreePoolWithTag(block, TAG) };
}

/// The function that a leak's report must name.
#[inline(never)]
unsafe fn leak() -> Ptr {
    // Not by a jump, which would leave no frame.
    black_box(unsafe { ExAllocatePool2(NON_PAGED, 48, TAG) })
}

unsafe fn at<R>(level: u8, f: impl FnOnce() -> R) -> R {
    unsafe {
        let old = KfRaiseIrql(level);
        let result = f();
        KeLowerIrql(old);
        result
    }
}

unsafe fn peek(address: Ptr) -> u8 {
    unsafe { (black_box(address) as *const u8).read_volatile() }
}

unsafe fn poke(address: Ptr, byte: u8) {
    unsafe { (black_box(address) as *mut u8).write_volatile(byte) };
}

unsafe fn run(address: Ptr) {
    let routine: extern "system" fn() = unsafe { core::mem::transmute(black_box(address)) };
    routine();
}

/// Two locks, the second inside the first.
unsafe fn nest(outer: Ptr, inner: Ptr) {
    unsafe {
        let old = KeAcquireSpinLockRaiseToDpc(outer);
        KeAcquireSpinLockAtDpcLevel(inner);
        KeReleaseSpinLockFromDpcLevel(inner);
        KeReleaseSpinLock(outer, old);
    }
}

unsafe fn wait(timeout: Option<i64>) -> i32 {
    let at = timeout.as_ref().map_or(0, |timeout| timeout as *const i64 as Ptr);
    unsafe { KeWaitForSingleObject(EVENT.at(), 0, 0, 0, at) }
}

/// The REG_DWORD `Bug`, asked for by a string of the given lengths; 0 if there
/// is none.
unsafe fn query(key: Ptr, lengths: &[u16; 2]) -> u32 {
    let name = ['B' as u16, 'u' as u16, 'g' as u16];
    #[repr(C)]
    struct UnicodeString([u16; 2], Ptr);
    let string = UnicodeString(*lengths, name.as_ptr() as Ptr);
    // KEY_VALUE_PARTIAL_INFORMATION: index, type, length, data.
    let mut information = [0u32; 4];
    let mut length = 0u32;
    let status = unsafe {
        ZwQueryValueKey(
            key,
            &raw const string as Ptr,
            2,
            &raw mut information as Ptr,
            16,
            &raw mut length as Ptr,
        )
    };
    if status == 0 { information[3] } else { 0 }
}

/// Queues the driver's work item, made on first use.
unsafe fn queue(routine: Ptr) {
    unsafe {
        let mut item = WORK_ITEM.load(SeqCst);
        if item == 0 {
            item = IoAllocateWorkItem(DEVICE_OBJECT.load(SeqCst));
            WORK_ITEM.store(item, SeqCst);
        }
        IoQueueWorkItem(item, routine, 1, 0);
    }
}

/// A queued work item that cannot run yet.
unsafe fn behind_a_slow_one() -> Ptr {
    // Slow ones for all workers that the lab's kernel has.
    const WORKERS: usize = 4;
    unsafe {
        let device = DEVICE_OBJECT.load(SeqCst);
        for _ in 0..WORKERS {
            IoQueueWorkItem(IoAllocateWorkItem(device), slow as *const () as Ptr, 1, 0);
        }
        let item = IoAllocateWorkItem(device);
        IoQueueWorkItem(item, nothing as *const () as Ptr, 1, 0);
        item
    }
}

/// A handle of its own on the driver's key, whose changes queue `routine`.
unsafe fn watch(routine: Ptr) -> Ptr {
    unsafe {
        let mut key: Ptr = 0;
        check(IoOpenDriverRegistryKey(DRIVER.load(SeqCst), 0, 0x20019, 0, &raw mut key as Ptr));
        // WORK_QUEUE_ITEM: list entry, routine, parameter.
        ((NOTICE.at() + 16) as *mut Ptr).write(routine);
        let status = ZwNotifyChangeKey(key, 0, NOTICE.at(), 1, STATUS_BLOCK.at(), 4, 0, 0, 0, 1);
        check(status);
        key
    }
}

/// Writes an event with a byte for a field, or with more than the field tells
/// of.
unsafe fn write_event(handle: u64, values: &[u8]) -> i32 {
    #[repr(C)]
    struct Descriptor {
        id: u16,
        version: u8,
        channel: u8,
        level: u8,
        opcode: u8,
        task: u16,
        keyword: u64,
    }
    #[repr(C)]
    struct Part(Ptr, u32, u32);
    // Lengths of all; the event's tag; names with their zeros; TlgInUINT8.
    static TRAITS: [u8; 10] = *b"\x0a\x00Planted\0";
    static EVENT: [u8; 9] = *b"\x09\x00\x00Ev\0N\0\x04";
    let event = Descriptor { id: 0, version: 0, channel: 11, level: 4, opcode: 0, task: 0, keyword: 1 };
    let part = |bytes: &[u8], kind| Part(bytes.as_ptr() as Ptr, bytes.len() as u32, kind);
    let parts = [part(&TRAITS, 2), part(&EVENT, 1), part(values, 0)];
    unsafe { EtwWriteTransfer(handle, &raw const event as Ptr, 0, 0, 3, &raw const parts as Ptr) }
}

/// Writes the answer of the classify under way.
unsafe fn answer(rights: u32, action: u32, flags: u32) {
    // FWPS_CLASSIFY_OUT0: actionType, outContext, filterId, rights, flags.
    let out = OUT.load(SeqCst) as Ptr;
    unsafe {
        (out as *mut u32).write(action);
        ((out + 24) as *mut u32).write(rights);
        ((out + 28) as *mut u32).write(flags);
    }
}

/// The NET_BUFFER of the classify under way.
unsafe fn net_buffer() -> Ptr {
    // NET_BUFFER_LIST: Next, FirstNetBuffer.
    unsafe { ((LIST.load(SeqCst) + 8) as *const Ptr).read() }
}

#[inline(never)]
unsafe fn recurse(depth: u64) -> u64 {
    let mut frame = [depth; 32];
    black_box(&mut frame);
    if depth == 0 {
        frame[0]
    } else {
        unsafe { recurse(depth - 1) + frame[31] }
    }
}

/// Named by every object file that computes with floating point.
#[unsafe(no_mangle)]
static _fltused: i32 = 0;

/// Named by the unwind tables of `core`; nothing unwinds.
#[unsafe(no_mangle)]
extern "C" fn __CxxFrameHandler3() {}

#[panic_handler]
fn panic(_: &PanicInfo) -> ! {
    let nothing: *mut u8 = null_mut();
    loop {
        unsafe { asm!("int3", in("rax") nothing) };
    }
}
