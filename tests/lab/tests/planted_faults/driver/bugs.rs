//! The table of bugs, and where each is committed.

use core::arch::asm;
use core::hint::black_box;
use core::sync::atomic::Ordering::SeqCst;

use super::actions::*;
use super::imports::*;
use super::*;

/// Where a bug is committed.
#[derive(Clone, Copy, PartialEq)]
pub enum At {
    /// At the begin of DriverEntry.
    Start,
    /// At the end of DriverEntry.
    Entry,
    Worker,
    /// In the callback for changes of BFE.
    Bfe,
    Classify,
    Notify,
    /// At the begin of DriverUnload.
    Unload,
    /// DriverUnload does not release an object.
    Omission,
}

/// FNV-1a of a rule's name. The tests compute it, too.
pub const fn id(name: &str) -> u32 {
    let (bytes, mut hash, mut at) = (name.as_bytes(), 0x811C_9DC5_u32, 0);
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u32).wrapping_mul(0x0100_0193);
        at += 1;
    }
    hash
}

macro_rules! bugs {
    ($($at:ident $name:ident => $body:expr;)*) => {
        #[allow(unused_unsafe, reason = "some bugs do nothing")]
        pub static BUGS: &[(u32, At, unsafe fn())] = &[$((id(stringify!($name)), At::$at, || unsafe { $body; })),*];
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
    Unload SYMBOLIC_LINK_LEFT => link();
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
    Entry PAGEABLE_RAISED => {
        let block = ExAllocatePool2(PAGED, 32, TAG);
        at(DISPATCH, || memcpy(black_box(block), black_box(DATA.at()), 32))
    };
    Classify BAD_POINTER_RAISED => peek(NOWHERE);
    Entry READ_ONLY_WRITE => poke(&raw const READ_ONLY as Ptr, 1);
    Entry EXECUTE_DATA => run(DATA.at());
    Unload UNLOADED_CODE => { ZwClose(watch(slow as *const () as Ptr)); };
    Entry MALFORMED_STRING => query(KEY.load(SeqCst), &[3, 4]);
    Entry MEMCPY_OVERLAP => memcpy(black_box(DATA.at()), black_box(DATA.at() + 4), 32);
    Entry MDL_PAGEABLE => {
        MmBuildMdlForNonPagedPool(IoAllocateMdl(ExAllocatePool2(PAGED, 32, TAG), 32, 0, 0, 0))
    };
    Entry PROBE_MDL_FLAGS => MmProbeAndLockPages(mdl(true), 0, 0);
    Entry UNLOCK_NOT_LOCKED => MmUnlockPages(mdl(false));
    Entry UNLOCK_NONPAGED => MmUnlockPages(mdl(true));
    Entry LOCKED_PAGES_LEFT => MmProbeAndLockPages(own_mdl(), 0, 0);
    Entry MDL_BUGCHECK_ON_FAILURE => MmMapLockedPagesSpecifyCache(DATA.at(), 0, 1, 0, 1, 0);

    Entry ACCESS_VIOLATION => peek(0x28);
    Entry UNHANDLED_EXCEPTION => ExRaiseStatus(0xC000_0123_u32 as i32);
    Entry ILLEGAL_INSTRUCTION => asm!("ud2");
    Entry DIVIDE_BY_ZERO => asm!("div {0:e}", in(reg) 0, inout("eax") 1 => _, inout("edx") 0 => _);
    Entry BREAKPOINT => asm!("int3");
    Worker STACK_OVERFLOW => { recurse(100_000); };
    Entry FAST_FAIL => asm!("int 0x29", in("ecx") 7);
    Entry RING_0_INSTRUCTION => asm!("wbinvd");
    // openat.
    Entry SYSTEM_CALL => asm!("syscall", inout("rax") 257_u64 => _, out("rcx") _, out("r11") _);

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
    Entry PROBE_MDL_IRQL => at(DEVICE, || MmProbeAndLockPages(DATA.at(), 0, 0));
    Entry UNLOCK_MDL_IRQL => at(DEVICE, || MmUnlockPages(DATA.at()));
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
    Entry EVENT_WITHOUT_WAIT => { KeSetEvent(EVENT.at(), 0, 1); KeGetCurrentIrql() };
    Entry CRITICAL_REGION_UNDERFLOW => KeLeaveCriticalRegion();
    Entry AFFINITY_CHANGED => { on_the_second_processor(); };
    Entry PRIORITY_CHANGED => {
        let thread = this_thread();
        KeSetPriorityThread(thread, 31);
        ObfDereferenceObject(thread)
    };

    Classify SELF_DEADLOCK => {
        KeAcquireSpinLockAtDpcLevel(LOCK.at());
        KeAcquireSpinLockAtDpcLevel(LOCK.at())
    };
    Entry LOCK_ORDER => { nest(LOCK.at(), OTHER_LOCK.at()); nest(OTHER_LOCK.at(), LOCK.at()) };
    Entry LOCK_UNINITIALIZED => KeAcquireSpinLockRaiseToDpc(DATA.at());
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
        // Ends when the machine stops.
        while KeGetCurrentIrql() == DISPATCH {}
    };
    Classify LOCK_NOT_ACQUIRED => KeReleaseSpinLockFromDpcLevel(LOCK.at());
    Entry LOCK_MISMATCHED => {
        let old = ExAcquireSpinLockShared(SHARED.at());
        ExReleaseSpinLockExclusive(SHARED.at(), old)
    };
    Entry RESOURCE_APCS_ACQUIRE => { ExInitializeResourceLite(OBJECT.at()); ExAcquireResourceSharedLite(OBJECT.at(), 1) };
    Entry RESOURCE_APCS_RELEASE => {
        ExInitializeResourceLite(OBJECT.at());
        KeEnterCriticalRegion();
        ExAcquireResourceSharedLite(OBJECT.at(), 1);
        KeLeaveCriticalRegion();
        ExReleaseResourceLite(OBJECT.at())
    };
    Entry RESOURCE_AGAIN => { ExInitializeResourceLite(OBJECT.at()); ExInitializeResourceLite(OBJECT.at()) };
    Entry RESOURCE_UNKNOWN => ExDeleteResourceLite(OBJECT.at());
    Entry RESOURCE_FREED => { let block = allocate(128); ExInitializeResourceLite(block); free(block) };
    Entry PUSH_LOCK_APCS_ACQUIRE => ExAcquirePushLockSharedEx(SHARED.at(), 0);
    Entry PUSH_LOCK_APCS_RELEASE => {
        KeEnterCriticalRegion();
        ExAcquirePushLockSharedEx(SHARED.at(), 0);
        KeLeaveCriticalRegion();
        ExReleasePushLockSharedEx(SHARED.at(), 0)
    };
    Entry LOCK_PAGEABLE => KeInitializeEvent(ExAllocatePool2(PAGED, 24, TAG), 0, 0);
    Entry SPIN_LOCK_LEVEL => {
        KeAcquireSpinLockRaiseToDpc(LOCK.at());
        KeReleaseSpinLock(LOCK.at(), DISPATCH)
    };
    Entry EVENT_UNINITIALIZED => KeSetEvent(DATA.at(), 0, 0);
    Classify SPIN_LOCK_HELD => KeAcquireSpinLockAtDpcLevel(LOCK.at());
    Entry RUNDOWN_UNDERFLOW => {
        ExInitializeRundownProtection(RUNDOWN.at());
        ExReleaseRundownProtection(RUNDOWN.at())
    };
    Bfe CALLBACK_DEADLOCK => FwpmBfeStateUnsubscribeChanges0(SUBSCRIPTION.load(SeqCst));
    Notify CALLOUT_DEADLOCK => FwpsCalloutUnregisterById0(CALLOUT_ID.load(SeqCst));

    Entry LOOKASIDE_AGAIN => { lookaside(OBJECT.at(), 32); lookaside(OBJECT.at(), 32) };
    Entry LOOKASIDE_UNKNOWN => ExDeleteLookasideListEx(OBJECT.at());
    Entry LOOKASIDE_FREED => { let block = allocate(128); lookaside(block, 32); free(block) };
    Entry LOOKASIDE_BLOCK => lookaside(OBJECT.at(), 4);
    Entry TIMER_ACTIVE => {
        let block = allocate(64);
        KeInitializeTimer(block);
        KeSetTimer(block, LATER, 0);
        free(block)
    };
    Classify DPC_QUEUED => {
        let block = allocate(64);
        KeInitializeDpc(block, deferred as *const () as Ptr, 0);
        KeInsertQueueDpc(block, 0, 0);
        free(block)
    };
    Unload DPC_ROUTINE_ACTIVE => {
        // In memory that is neither pool nor of the image.
        let space = black_box([0u64; 16]);
        let (timer, dpc) = (space.as_ptr() as Ptr, space.as_ptr() as Ptr + 64);
        KeInitializeDpc(dpc, deferred as *const () as Ptr, 0);
        KeInitializeTimer(timer);
        KeSetTimer(timer, LATER, dpc)
    };
    Entry DPC_PROCESSOR => {
        KeInitializeDpc(OBJECT.at(), deferred as *const () as Ptr, 0);
        KeSetTargetProcessorDpc(OBJECT.at(), 63);
        KeInsertQueueDpc(OBJECT.at(), 0, 0)
    };
    Entry WAIT_OBJECTS => KeWaitForMultipleObjects(0, DATA.at(), 0, 0, 0, 0, 0, 0);

    Entry REFERENCE_BAD_HANDLE => ObReferenceObjectByHandle(0x1234, 0, 0, 0, DATA.at(), 0);
    Entry ERROR_LOG_ENTRY => {
        let entry = IoAllocateErrorLogEntry(DEVICE_OBJECT.load(SeqCst), 48);
        // DumpDataSize is no multiple of 4.
        poke(entry + 2, 3);
        IoWriteErrorLogEntry(entry)
    };
    Entry BAD_HANDLE => ZwClose(0x1234);
    Entry WORK_ITEM_QUEUED_TWICE => {
        let item = behind_a_slow_one();
        IoQueueWorkItem(item, nothing as *const () as Ptr, 1, 0)
    };
    Entry WORK_ITEM_FREED_ACTIVE => IoFreeWorkItem(behind_a_slow_one());
    Entry WORK_QUEUE_TYPE => {
        IoQueueWorkItem(IoAllocateWorkItem(DEVICE_OBJECT.load(SeqCst)), nothing as *const () as Ptr, 0, 0)
    };
    Entry WORK_ITEM_OF_DRIVER => {
        IoQueueWorkItem(IoAllocateWorkItem(DRIVER.load(SeqCst)), nothing as *const () as Ptr, 1, 0)
    };
    Unload DEVICE_IN_USE => IoDeleteDevice(DEVICE_OBJECT.load(SeqCst));
    Entry BAD_OBJECT => IoDeleteDevice(DATA.at());

    Classify ACTION_WITHOUT_RIGHT => answer(0, 0x2006, 0);
    Classify RIGHT_RAISED => answer(1, 0x1002, 0);
    Classify UNKNOWN_ACTION => answer(1, 0x1234, 0);
    Classify INVALID_ABSORB => answer(1, 0x1002, 1);
    Classify FLOW_ESTABLISHED_BLOCKED => answer(0, 0x1001, 0);
    Classify STREAM_INJECTED_WITHOUT_BLOCK => { inject_stream(); answer(1, 0x1002, 0) };
    Classify STREAM_CONTINUED_WHILE_INJECTING => {
        inject_stream();
        FwpsStreamContinue0(1, CALLOUT_ID.load(SeqCst), LAYER.load(SeqCst) as u16, 0)
    };
    Classify TCP_INJECTED_FROM_CLASSIFY => {
        FwpsInjectTransportReceiveAsync0(0, 0, 0, 0, 2, 1, 0, 0, DATA.at(), completed(), 0)
    };
    Classify PENDED_WITHOUT_BLOCK => {
        let handle = classify_handle();
        check(FwpsPendClassify0(handle, 0, 0, OUT.load(SeqCst) as Ptr));
        FwpsReleaseClassifyHandle0(handle)
    };
    Classify REDIRECT_REAUTHORIZED => {
        let mut data: Ptr = 0;
        let out = OUT.load(SeqCst) as Ptr;
        FwpsAcquireWritableLayerDataPointer0(classify_handle(), 0, 1, &raw mut data as Ptr, out)
    };
    Entry REDIRECT_HANDLE_AGAIN => { redirect_handle(); redirect_handle() };
    // Everywhere else, the driver's callout may leave the action as it is.
    Classify STREAM_WITHOUT_ACTION => {};
    Start STATE_BEFORE_SUBSCRIPTION => FwpmBfeStateGet0();
    Classify BLOCK_KEEPS_RIGHT => answer(1, 0x1001, 0);
    Classify PERMIT_KEEPS_RIGHT => answer(1, 0x1002, 0);
    Classify ALE_REQUIRED_BLOCKED => answer(0, 0x1001, 0);
    // With an engine that passes no action, or in another sublayer.
    Classify ACTION_UNSET => {};
    Classify SUBLAYER_NOT_LIGHTER => answer(1, 0x2006, 0);
    Classify NET_BUFFER_CHANGED => NdisAdvanceNetBufferDataStart(net_buffer(), 4, 0, 0);

    Entry LIST_FREED_TWICE => {
        let list = bare_list(packet_pool());
        FwpsFreeNetBufferList0(list);
        FwpsFreeNetBufferList0(list)
    };
    Classify LIST_FREED_WHILE_INJECTED => {
        let list = list(packet_pool());
        send(list);
        FwpsFreeNetBufferList0(list)
    };
    Entry LIST_FREED_BY_OTHER => FwpsFreeCloneNetBufferList0(bare_list(packet_pool()), 0);
    Classify LIST_INJECTED_TWICE => {
        let list = list(packet_pool());
        send(list);
        send(list)
    };
    Classify LIST_NOT_REFERENCED => FwpsDereferenceNetBufferList0(LIST.load(SeqCst) as Ptr, 1);
    Classify CLONE_CHANGED => {
        let clone = clone_list();
        let buffer = first_buffer(clone);
        NdisRetreatNetBufferDataStart(buffer, 200, 0, 0);
        NdisAdvanceNetBufferDataStart(buffer, 200, 0, 0);
        FwpsFreeCloneNetBufferList0(clone, 0)
    };
    Entry INJECTION_HANDLE => {
        FwpsInjectionHandleDestroy0(INJECTION.load(SeqCst));
        send(list(packet_pool()))
    };
    Classify OPERATION_NOT_ABSORBED => pend_operation();
    Classify OPERATION_COMPLETED_TWICE => {
        let operation = pend_operation();
        FwpsCompleteOperation0(operation, 0);
        FwpsCompleteOperation0(operation, 0)
    };
    Classify CLASSIFY_NOT_PENDED => FwpsCompleteClassify0(classify_handle(), 0, 0);
    Classify LAYER_DATA_NOT_APPLIED => {
        let (handle, mut data) = (classify_handle(), 0);
        let out = OUT.load(SeqCst) as Ptr;
        FwpsAcquireWritableLayerDataPointer0(handle, 0, 0, &raw mut data as *mut Ptr as Ptr, out);
        FwpsReleaseClassifyHandle0(handle)
    };
    Entry PACKET_POOL_IN_USE => {
        let pool = packet_pool();
        bare_list(pool);
        NdisFreeNetBufferListPool(pool)
    };

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
    Unload PROCESSOR_CALLBACK_LEFT => KeRegisterProcessorChangeCallback(nothing as *const () as Ptr, 0, 0);
    Unload CALLBACK_LEFT => { callback(); };
    Unload REFERENCE_LEFT => this_thread();
    Unload THREAD_LEFT => {
        let mut thread: Ptr = 0;
        PsCreateSystemThread(&raw mut thread as Ptr, 0, 0, 0, 0, lingers as *const () as Ptr, 0);
        ZwClose(thread)
    };
    Omission DEVICE_LEFT => {};
    Omission WORK_ITEM_LEFT => {};
    Omission HANDLE_LEFT => {};
    Classify CLONE_LEFT => clone_list();
    Unload LIST_LEFT => bare_list(packet_pool());
    Classify LIST_REFERENCE_LEFT => FwpsReferenceNetBufferList0(LIST.load(SeqCst) as Ptr, 0);
    Classify OPERATION_LOST => { pend_operation(); answer(0, 0x1001, 1) };
    Classify CLASSIFY_LOST => {
        let handle = classify_handle();
        check(FwpsPendClassify0(handle, 0, 0, OUT.load(SeqCst) as Ptr));
        FwpsReleaseClassifyHandle0(handle);
        answer(0, 0x1001, 0)
    };
    Unload PACKET_POOL_LEFT => packet_pool();
    Entry FILTER_OBJECT_LEFT => {
        let mut engine: Ptr = 0;
        FwpmEngineOpen0(0, 10, 0, 0, &raw mut engine as Ptr)
    };
}

/// Commits the chosen bug once, if this is its place.
pub unsafe fn commit(place: At) {
    let bug = BUG.load(SeqCst);
    let found = BUGS.iter().find(|(known, at, _)| *known == bug && *at == place);
    if let Some((_, _, commit)) = found
        && !DONE.swap(true, SeqCst)
    {
        unsafe { commit() };
    }
}

/// A thread that runs until the machine stops.
extern "system" fn lingers(_: Ptr) {
    unsafe { while KeGetCurrentIrql() == 0 {} }
}

pub extern "system" fn deferred(_: Ptr, _: Ptr, _: Ptr, _: Ptr) {}

pub extern "system" fn nothing(_: Ptr, _: Ptr) {}

pub extern "system" fn slow(_: Ptr, _: Ptr) {
    // 300 ms.
    let interval: i64 = -3_000_000;
    unsafe { KeDelayExecutionThread(0, 0, &raw const interval as Ptr) };
}

extern "system" fn releases(_: Ptr, _: Ptr) {
    unsafe { at(DISPATCH, || KeReleaseSpinLockFromDpcLevel(LOCK.at())) };
}
