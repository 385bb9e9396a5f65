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
    /// In the dispatch routine, for a control request.
    Request,
    /// In the dispatch routine, for a write.
    Write,
    /// In the dispatch routine, for a request of WMI.
    Wmi,
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
    Entry POOL_BAD_FREE => free(note(0, DATA.at()));
    Entry POOL_FREE_PAGED_IRQL => {
        let block = note(0, ExAllocatePool2(PAGED, 32, TAG));
        at(DISPATCH, || free(block))
    };
    Entry POOL_FREE_IRQL => { let block = note(0, allocate(32)); at(DEVICE, || free(block)) };
    Entry POOL_DOUBLE_FREE => { let block = note(0, allocate(32)); free(block); free(block) };
    Request POOL_IRP_FREED => ExFreePoolWithTag(request(), 0);
    Entry POOL_WORK_ITEM_FREED => {
        let block = note(0, allocate(32));
        note(1, block + 32);
        ((block + 16) as *mut Ptr).write(nothing as *const () as Ptr);
        occupy_workers();
        ExQueueWorkItem(block, 1);
        free(block)
    };
    Entry POOL_WRONG_TAG__STRING => {
        let mut string = [0, note(0, allocate(32)) as u64];
        RtlFreeUnicodeString(string.as_mut_ptr() as Ptr)
    };
    Unload POOL_LEAK__STRING => { translated(); };
    Entry POOL_RESOURCE_FREED => {
        let block = note(0, allocate(104));
        ExInitializeResourceLite(block);
        free(block)
    };
    Unload POOL_LEAK => leak();
    Unload SYMBOLIC_LINK_LEFT => link();
    Entry POOL_EXECUTABLE => ExAllocatePool2(EXECUTABLE, 32, TAG);
    Entry POOL_UNDERRUN => { let block = note(0, allocate(100)); poke(note(1, block - 1), 1); free(block) };
    Entry POOL_OVERRUN => { let block = note(0, allocate(100)); poke(note(1, block + 100), 1); free(block) };
    Entry POOL_WRONG_TAG => ExFreePoolWithTag(note(0, allocate(32)), TAG + 1);
    Entry POOL_ZERO_TAG => ExAllocatePoolWithTag(512, 32, 0);
    Entry POOL_BAD_TAG => ExAllocatePoolWithTag(512, 32, 0x0102_0304);
    Entry POOL_DEFAULT_TAG => ExAllocatePoolWithTag(512, 32, u32::from_le_bytes(*b"Wdm "));
    Entry POOL_RAISE => ExAllocatePool2(NON_PAGED | RAISE_ON_FAILURE, 1 << 40, TAG);

    Classify FREED_POOL_ACCESS => { let block = note(0, allocate(32)); free(block); peek(block) };
    Classify BEYOND_POOL_ACCESS => poke(note(0, allocate(4096) + 4096), 1);
    Entry FREED_POOL_TOUCHED => {
        let block = note(0, allocate(32));
        free(block);
        EtwRegister(block, 0, 0, 0)
    };
    Classify FREED_POOL_TOUCHED__DIRECTLY => {
        let block = note(0, allocate(32));
        free(block);
        KeSetEvent(block, 0, 0)
    };
    Entry BEYOND_POOL_TOUCHED => {
        let block = allocate(4096);
        note(0, block + 4096);
        memset(block + 4096, 0, 1)
    };
    Entry PAGEABLE_TOUCHED => {
        let block = note(0, ExAllocatePool2(PAGED, 32, TAG));
        at(DISPATCH, || memset(block, 0, 8))
    };
    Entry PAGEABLE_TOUCHED__COPIED => {
        let block = note(0, ExAllocatePool2(PAGED, 32, TAG));
        at(DISPATCH, || MmProbeAndLockPages(block, 0, 0))
    };
    Entry PAGEABLE_CODE => at(DISPATCH, || run(note(0, pageable as *const () as Ptr)));
    Entry PAGEABLE_CODE__DATA => at(DISPATCH, || peek(note(0, PAGEABLE.as_ptr() as Ptr)));
    Entry BAD_POINTER => peek(NOWHERE);
    Entry BAD_POINTER__WRITE => poke(NOWHERE, 1);
    Unload BAD_POINTER__REGISTRY_PATH => peek(note(0, REGISTRY_PATH.load(SeqCst)));
    // DriverEntry must have returned.
    Worker BAD_POINTER__DISCARDED => { slow(0, 0); run(note(0, initial as *const () as Ptr)) };
    Worker BAD_POINTER__DISCARDED_DATA => { slow(0, 0); peek(note(0, INITIAL.as_ptr() as Ptr)) };
    Classify BAD_POINTER_RAISED__DISCARDED => run(note(0, initial as *const () as Ptr));
    Classify BAD_POINTER_RAISED => peek(NOWHERE);
    Entry BAD_POINTER_RAISED__PAGED_POOL => {
        let block = note(0, ExAllocatePool2(PAGED, 32, TAG));
        at(DISPATCH, || poke(block, 1))
    };
    Entry READ_ONLY_WRITE => poke(note(0, &raw const READ_ONLY as Ptr), 1);
    Entry EXECUTE_DATA => run(note(0, DATA.at()));
    Unload UNLOADED_CODE => { ZwClose(watch(note(0, slow as *const () as Ptr))); };
    Entry MALFORMED_STRING => query(KEY.load(SeqCst), &[3, 4]);
    Entry MALFORMED_STRING__ODD_MAXIMUM => query(KEY.load(SeqCst), &[4, 5]);
    Entry MALFORMED_STRING_ELSEWHERE => {
        let malformed = [3u64 | 4 << 16, DATA.at() as u64];
        IoCreateSymbolicLink(malformed.as_ptr() as Ptr, malformed.as_ptr() as Ptr)
    };
    Entry MEMCPY_OVERLAP => memcpy(black_box(note(0, DATA.at())), black_box(note(1, DATA.at() + 4)), 32);

    Entry MDL_PAGEABLE => {
        let mdl = note(0, IoAllocateMdl(ExAllocatePool2(PAGED, 32, TAG), 32, 0, 0, 0));
        MmBuildMdlForNonPagedPool(mdl)
    };
    Entry MDL_BUGCHECK_ON_FAILURE => MmMapLockedPagesSpecifyCache(note(0, nonpaged_mdl()), 0, 1, 0, 1, 0);
    Entry MDL_LOCK_IRQL => at(DEVICE, || MmProbeAndLockPages(note(0, DATA.at()), 0, 0));
    Entry MDL_UNLOCK_IRQL => at(DEVICE, || MmUnlockPages(note(0, DATA.at())));
    Entry MDL_ALLOCATE_IRQL => at(DEVICE, || MmFreePagesFromMdl(DATA.at()));
    Entry MDL_NOT_LOCKED => MmUnlockPages(note(0, IoAllocateMdl(DATA.at(), 20, 0, 0, 0)));
    Entry MDL_NONPAGED_UNLOCKED => MmUnlockPages(note(0, nonpaged_mdl()));
    Entry MDL_LOCKED_AGAIN => MmProbeAndLockPages(note(0, nonpaged_mdl()), 0, 0);
    Entry MDL_MAPPED_TWICE => { let mdl = note(0, locked_mdl()); map(mdl); map(mdl) };
    Entry MDL_MAPPED_UNLOCKED => map(note(0, IoAllocateMdl(DATA.at(), 20, 0, 0, 0)));
    Entry MDL_PARTIAL_UNLOCKED => {
        let part = note(0, IoAllocateMdl(DATA.at(), 8, 0, 0, 0));
        IoBuildPartialMdl(nonpaged_mdl(), part, DATA.at(), 8);
        MmUnlockPages(part)
    };
    Entry MDL_PARTIAL_UNMAPPED => {
        let part = note(0, IoAllocateMdl(DATA.at(), 8, 0, 0, 0));
        IoBuildPartialMdl(nonpaged_mdl(), part, DATA.at(), 8);
        MmUnmapLockedPages(DATA.at(), part)
    };
    Entry MDL_NOT_MAPPED => MmUnmapLockedPages(DATA.at(), note(0, nonpaged_mdl()));
    Entry MDL_FREED_MAPPED => { let mdl = note(0, locked_mdl()); map(mdl); IoFreeMdl(mdl) };
    Unload MDL_PAGES_LEFT_LOCKED => IoFreeMdl(note(0, locked_mdl()));
    Entry MDL_EXECUTABLE_MAPPING => MmMapLockedPagesSpecifyCache(locked_mdl(), 0, 1, 0, 0, 16);
    Entry MDL_EXECUTABLE_PROTECTION => { let mdl = locked_mdl(); map(mdl); MmProtectMdlSystemAddress(mdl, 0x40) };
    Write MDL_INVARIANT => {
        // IRP.MdlAddress.
        let mdl = ((request() + 8) as *const Ptr).read();
        note(1, DEVICE_OBJECT.load(SeqCst));
        poke(note(2, map(mdl)), 0xFF)
    };

    Entry ACCESS_VIOLATION => peek(0x28);
    Entry UNHANDLED_EXCEPTION => ExRaiseStatus(0xC000_0123_u32 as i32);
    Request ACCESS_VIOLATION__IN_A_PROGRAM => peek(0x28);
    Entry ILLEGAL_INSTRUCTION => asm!("ud2");
    Entry DIVIDE_BY_ZERO => asm!("div {0:e}", in(reg) 0, inout("eax") 1 => _, inout("edx") 0 => _);
    Entry BREAKPOINT => asm!("int3");
    Worker STACK_OVERFLOW => { recurse(100_000); };
    Classify STACK_OVERFLOW__LITTLE_LEFT => { recurse(28); };
    Entry FAST_FAIL => asm!("int 0x29", in("ecx") 7);
    Entry RING_0_INSTRUCTION => asm!("wbinvd");
    // openat.
    Entry SYSTEM_CALL => asm!("syscall", inout("rax") 257_u64 => _, out("rcx") _, out("r11") _);

    Entry RAISE_IRQL => { KfRaiseIrql(DISPATCH); KfRaiseIrql(PASSIVE) };
    Entry LOWER_IRQL => KeLowerIrql(DISPATCH);
    Entry LOWER_IRQL__IN_A_DPC => {
        KeInitializeDpc(OBJECT.at(), lowers_the_level as *const () as Ptr, 0);
        KeInsertQueueDpc(OBJECT.at(), 0, 0);
        KeFlushQueuedDpcs()
    };
    Entry RELEASE_SPIN_LOCK_IRQL => released_below();
    Entry ACQUIRE_FAST_MUTEX_IRQL => at(DISPATCH, || ExAcquireFastMutex(note(0, MUTEX.at())));
    Entry RELEASE_FAST_MUTEX_IRQL => {
        ExAcquireFastMutex(note(0, MUTEX.at()));
        KeLowerIrql(PASSIVE);
        ExReleaseFastMutex(MUTEX.at())
    };
    Entry RELEASE_QUEUED_LOCK_IRQL => {
        let lock = note(0, spin_lock());
        KeAcquireInStackQueuedSpinLock(lock, QUEUE_HANDLE.at());
        KeLowerIrql(PASSIVE);
        KeReleaseInStackQueuedSpinLock(QUEUE_HANDLE.at())
    };
    Entry ACQUIRE_UNSAFE_MUTEX_IRQL => ExAcquireFastMutexUnsafe(note(0, MUTEX.at()));
    Entry RELEASE_UNSAFE_MUTEX_IRQL => {
        critical(|| ExAcquireFastMutexUnsafe(note(0, MUTEX.at())));
        ExReleaseFastMutexUnsafe(MUTEX.at())
    };
    Entry ENTER_CRITICAL_REGION_IRQL => at(DISPATCH, || KeEnterCriticalRegion());
    Entry LEAVE_CRITICAL_REGION_IRQL => {
        KeEnterCriticalRegion();
        at(DISPATCH, || KeLeaveCriticalRegion())
    };
    Entry ACQUIRE_AT_DPC_IRQL => KeAcquireSpinLockAtDpcLevel(note(0, LOCK.at()));
    Entry RELEASE_FROM_DPC_IRQL => {
        let old = KeAcquireSpinLockRaiseToDpc(note(0, LOCK.at()));
        KeLowerIrql(old);
        KeReleaseSpinLockFromDpcLevel(LOCK.at())
    };
    Entry ACQUIRE_SPIN_LOCK_IRQL => at(DEVICE, || KeAcquireSpinLockRaiseToDpc(note(0, LOCK.at())));
    Entry MAP_MDL_IRQL => at(DEVICE, || MmMapLockedPagesSpecifyCache(note(0, DATA.at()), 0, 1, 0, 0, 0));
    Entry MAP_MDL_USER_IRQL => {
        at(DISPATCH, || MmMapLockedPagesSpecifyCache(note(0, DATA.at()), 1, 1, 0, 0, 0))
    };
    Entry UNMAP_MDL_IRQL => at(DEVICE, || MmUnmapLockedPages(note(0, DATA.at()), note(1, DATA.at() + 8)));
    Entry UNMAP_MDL_USER_IRQL => {
        let mdl = note(1, locked_mdl());
        let mapping = note(0, MmMapLockedPagesSpecifyCache(mdl, 1, 1, 0, 0, 0x4000_0010));
        at(DISPATCH, || MmUnmapLockedPages(mapping, mdl))
    };
    Entry SET_EVENT_IRQL => at(DEVICE, || KeSetEvent(note(0, EVENT.at()), 0, 0));
    Entry WAIT_ABOVE_DISPATCH => at(DEVICE, || { note(0, EVENT.at()); wait(Some(0)) });
    Classify WAIT_FOREVER_AT_DISPATCH => { note(0, EVENT.at()); wait(None) };
    Classify WAIT_AT_DISPATCH => { note(0, EVENT.at()); wait(Some(-1)) };
    Entry WAIT_ON_STACK => {
        let (mut event, zero) = ([0u64; 3], 0i64);
        let event = note(0, event.as_mut_ptr() as Ptr);
        KeInitializeEvent(event, 0, 1);
        KeWaitForSingleObject(event, 0, 1, 0, &raw const zero as Ptr)
    };
    Entry API_IRQL => at(DEVICE, || IoAllocateWorkItem(DEVICE_OBJECT.load(SeqCst)));
    Classify ZW_IRQL => ZwCreateEvent(DATA.at(), 0, 0, 0, 0);
    Entry ZW_IRQL__GUARDED => { KeEnterGuardedRegion(); ZwClose(KEY.load(SeqCst)) };
    Classify CALL_IRQL => FwpmEngineOpen0(0, 10, 0, 0, DATA.at());
    Worker WORKER_IRQL => { note(0, WORK_ITEM.load(SeqCst)); KfRaiseIrql(DISPATCH) };
    Notify IRQL_CHANGED => KfRaiseIrql(DISPATCH);
    Request DISPATCH_IRQL_CHANGED => KfRaiseIrql(1);

    Entry DDI_IRQL_DISPATCH => KeAcquireSpinLockAtDpcLevel(LOCK.at());
    Entry DDI_IRQL_EX_ALLOCATE_POOL => at(DISPATCH, || ExAllocatePoolWithTag(1, 32, TAG));
    Entry DDI_IRQL_EX_APC_LTE_1 => at(DISPATCH, || ExAcquireFastMutex(MUTEX.at()));
    Entry DDI_IRQL_EX_APC_LTE_2 => at(DISPATCH, || ProbeForRead(0x1_0000, 0, 1));
    Entry DDI_IRQL_EX_APC_LTE_3 => at(DISPATCH, || ExAcquireResourceExclusiveLite(RESOURCE.at(), 0));
    Entry DDI_IRQL_EX_PASSIVE => at(DISPATCH, || ExUuidCreate(DATA.at()));
    Classify DDI_IRQL_IO_APC_LTE => IoDeleteDevice(DEVICE_OBJECT.load(SeqCst));
    Entry DDI_IRQL_IO_PASSIVE_1 => at(DISPATCH, || IoCreateDevice(0, 0, 0, 0, 0, 0, DATA.at()));
    Entry DDI_IRQL_IO_PASSIVE_3 => at(DISPATCH, || IoCreateSymbolicLink(DATA.at(), DATA.at()));
    Entry DDI_IRQL_IO_PASSIVE_4 => at(DISPATCH, || IoDeleteSymbolicLink(DATA.at()));
    Classify DDI_IRQL_KE_APC_LTE_1 => KeDelayExecutionThread(0, 0, DATA.at());
    Classify DDI_IRQL_KE_APC_LTE_2 => KeEnterCriticalRegion();
    Entry DDI_IRQL_KE_DISPATCH_LTE => at(DEVICE, || KeClearEvent(EVENT.at()));
    Entry DDI_IRQL_KE_RELEASE_SPIN_LOCK => released_below();
    Entry DDI_IRQL_KE_SET_EVENT => at(DISPATCH, || KeSetEvent(EVENT.at(), 0, 1));
    Entry DDI_IRQL_MM_APC_LTE => at(DEVICE, || MmFreePagesFromMdl(DATA.at()));
    Entry DDI_IRQL_OB_PASSIVE => {
        at(DISPATCH, || ObReferenceObjectByHandle(KEY.load(SeqCst), 0, 0, 0, DATA.at(), 0))
    };
    Classify DDI_IRQL_PS_PASSIVE => PsCreateSystemThread(DATA.at(), 0, 0, 0, 0, lingers as *const () as Ptr, 0);
    Request DDI_IRQL_RETURN => KfRaiseIrql(1);
    Entry DDI_IRQL_RTL_PASSIVE => at(DISPATCH, || RtlDeleteRegistryValue(0, DATA.at(), DATA.at()));
    Classify DDI_IRQL_ZW_PASSIVE => ZwClose(KEY.load(SeqCst));
    Request DDI_CRITICAL_REGIONS => KeEnterCriticalRegion();
    Request DDI_QUEUED_SPIN_LOCK => {
        KeAcquireInStackQueuedSpinLock(spin_lock(), QUEUE_HANDLE.at());
        KeLowerIrql(PASSIVE)
    };
    Entry DDI_QUEUED_SPIN_LOCK_RELEASE => {
        KeAcquireInStackQueuedSpinLock(spin_lock(), QUEUE_HANDLE.at());
        KeReleaseInStackQueuedSpinLock(QUEUE_HANDLE.at());
        at(DISPATCH, || KeReleaseInStackQueuedSpinLock(QUEUE_HANDLE.at()))
    };
    Request DDI_SPIN_LOCK => { KeAcquireSpinLockRaiseToDpc(LOCK.at()); KeLowerIrql(PASSIVE) };
    Classify DDI_SPIN_LOCK_RELEASE => KeReleaseSpinLockFromDpcLevel(LOCK.at());
    Entry DDI_GUARDED_REGIONS => KeLeaveGuardedRegion();
    Notify DDI_GUARDED_REGIONS__NOT_LEFT => KeEnterGuardedRegion();

    Worker WORKER_APCS_DISABLED => KeEnterCriticalRegion();
    Worker WORKER_APCS_DISABLED__GUARDED => KeEnterGuardedRegion();
    Notify APCS_DISABLED => KeEnterCriticalRegion();
    Entry EVENT_WITHOUT_WAIT => { KeSetEvent(EVENT.at(), 0, 1); KeGetCurrentIrql() };
    Request DISPATCH_APCS_DISABLED => KeEnterCriticalRegion();
    Entry CRITICAL_REGION_UNDERFLOW => KeLeaveCriticalRegion();
    Entry AFFINITY_CHANGED => { on_the_second_processor(); };
    Entry PRIORITY_CHANGED => {
        let thread = this_thread();
        KeSetPriorityThread(thread, 31);
        ObfDereferenceObject(thread)
    };

    Classify SELF_DEADLOCK => {
        KeAcquireSpinLockAtDpcLevel(note(0, LOCK.at()));
        KeAcquireSpinLockAtDpcLevel(LOCK.at())
    };
    Entry SELF_DEADLOCK__RESOURCE => {
        KeEnterCriticalRegion();
        ExAcquireResourceSharedLite(resource(), 1);
        ExAcquireResourceExclusiveLite(RESOURCE.at(), 1)
    };
    Entry LOCK_NOT_INITIALIZED__NEVER => KeAcquireSpinLockRaiseToDpc(note(0, DATA.at()));
    Entry LOCK_ORDER => { nest(OTHER_LOCK.at(), LOCK.at()); nest(LOCK.at(), note(0, OTHER_LOCK.at())) };
    Entry LOCK_RELEASE_ORDER => {
        let old = KeAcquireSpinLockRaiseToDpc(note(0, LOCK.at()));
        KeAcquireSpinLockAtDpcLevel(note(1, THIRD_LOCK.at()));
        KeReleaseSpinLockFromDpcLevel(LOCK.at());
        KeReleaseSpinLock(THIRD_LOCK.at(), old)
    };
    Entry LOCK_NOT_INITIALIZED => {
        let lock = note(0, ExAllocatePoolWithTag(512, 8, TAG));
        KeAcquireSpinLockRaiseToDpc(lock)
    };
    Entry LOCK_INITIALIZED_HELD => {
        KeAcquireSpinLockRaiseToDpc(note(0, LOCK.at()));
        KeInitializeSpinLock(LOCK.at())
    };
    Entry LOCK_WRONG_ACQUIRE => KeAcquireInStackQueuedSpinLock(note(0, LOCK.at()), QUEUE_HANDLE.at());
    Entry LOCK_WRONG_RELEASE => {
        let lock = note(0, spin_lock());
        KeAcquireInStackQueuedSpinLock(lock, QUEUE_HANDLE.at());
        KeReleaseSpinLock(lock, PASSIVE)
    };
    Entry LOCK_THREAD_ENDED => {
        let mut thread: Ptr = 0;
        PsCreateSystemThread(&raw mut thread as Ptr, 0, 0, 0, 0, keeps_a_lock as *const () as Ptr, 0);
        ZwClose(thread);
        // Ends when the machine stops.
        loop { slow(0, 0) }
    };
    Entry LOCK_FREED_HELD => {
        let lock = note(0, spin_lock());
        KeAcquireSpinLockRaiseToDpc(lock);
        free(lock)
    };
    Entry LOCK_RELEASED_ELSEWHERE => {
        KeAcquireSpinLockRaiseToDpc(note(0, LOCK.at()));
        let item = IoAllocateWorkItem(DEVICE_OBJECT.load(SeqCst));
        IoQueueWorkItem(item, releases as *const () as Ptr, 1, 0);
        // Ends when the machine stops.
        while KeGetCurrentIrql() == DISPATCH {}
    };
    Classify LOCK_NOT_ACQUIRED => KeReleaseSpinLockFromDpcLevel(note(0, LOCK.at()));
    Entry LOCK_WRONG_RELEASE__SHARED => {
        let old = ExAcquireSpinLockShared(note(0, SHARED.at()));
        ExReleaseSpinLockExclusive(SHARED.at(), old)
    };
    Entry LOCK_PAGEABLE => KeInitializeEvent(note(0, ExAllocatePool2(PAGED, 24, TAG)), 0, 0);
    Entry LOCK_PAGEABLE__ACQUIRED => {
        let mutex = note(0, ExAllocatePool2(PAGED, 64, TAG));
        (mutex as *mut i32).write(1);
        ExAcquireFastMutex(mutex)
    };
    Entry LOCK_PAGEABLE__SECTION => KeInitializeSpinLock(note(0, PAGEABLE.as_ptr() as Ptr));
    Entry RESOURCE_ACQUIRE_APCS => ExAcquireResourceExclusiveLite(resource(), 0);
    Entry RESOURCE_RELEASE_APCS => {
        critical(|| ExAcquireResourceExclusiveLite(resource(), 0));
        ExReleaseResourceLite(RESOURCE.at())
    };
    Entry RESOURCE_UNALIGNED => critical(|| ExAcquireResourceExclusiveLite(note(0, RESOURCE.at() + 4), 0));
    Entry RESOURCE_INITIALIZED_AGAIN => ExInitializeResourceLite(resource());
    Entry RESOURCE_NOT_INITIALIZED => ExDeleteResourceLite(note(0, RESOURCE.at()));
    Entry RESOURCE_NOT_OWNED => critical(|| ExReleaseResourceLite(resource()));
    Entry PUSH_LOCK_ACQUIRE_APCS => ExAcquirePushLockExclusiveEx(note(0, PUSH_LOCK.at()), 0);
    Entry PUSH_LOCK_RELEASE_APCS => {
        critical(|| ExAcquirePushLockExclusiveEx(note(0, PUSH_LOCK.at()), 0));
        ExReleasePushLockExclusiveEx(PUSH_LOCK.at(), 0)
    };
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
    Entry PROCESS_ROUTINE_DEADLOCK => PsSetCreateProcessNotifyRoutineEx(removes_itself as *const () as Ptr, 0);
    Notify CALLOUT_DEADLOCK => FwpsCalloutUnregisterById0(CALLOUT_ID.load(SeqCst));

    Entry LOOKASIDE_AGAIN => { lookaside(note(0, OBJECT.at()), 32); lookaside(OBJECT.at(), 32) };
    Entry LOOKASIDE_UNKNOWN => ExDeleteLookasideListEx(note(0, OBJECT.at()));
    Entry LOOKASIDE_FREED => { let block = note(0, allocate(128)); lookaside(block, 32); free(block) };
    Entry LOOKASIDE_BLOCK => lookaside(note(0, OBJECT.at()), 4);
    Entry TIMER_ACTIVE => {
        let block = note(0, allocate(64));
        note(1, block + 64);
        KeInitializeTimer(block);
        KeSetTimer(block, LATER, 0);
        free(block)
    };
    Classify DPC_QUEUED => {
        let block = note(0, allocate(64));
        note(1, block + 64);
        KeInitializeDpc(block, deferred as *const () as Ptr, 0);
        KeInsertQueueDpc(block, 0, 0);
        free(block)
    };
    Unload DPC_ROUTINE_ACTIVE => {
        // In memory that is neither pool nor of the image.
        let space = black_box([0u64; 16]);
        let (timer, dpc) = (space.as_ptr() as Ptr, space.as_ptr() as Ptr + 64);
        KeInitializeDpc(dpc, note(0, deferred as *const () as Ptr), 0);
        KeInitializeTimer(timer);
        KeSetTimer(timer, LATER, dpc)
    };
    Entry DPC_PROCESSOR => {
        KeInitializeDpc(note(0, OBJECT.at()), deferred as *const () as Ptr, 0);
        KeSetTargetProcessorDpc(OBJECT.at(), 63);
        KeInsertQueueDpc(OBJECT.at(), 0, 0)
    };
    Entry DPC_APCS_CHANGED => {
        KeInitializeDpc(OBJECT.at(), note(0, takes_a_mutex as *const () as Ptr), 0);
        KeInitializeMutex(OBJECT.at() + 128, 0);
        KeInsertQueueDpc(OBJECT.at(), 0, 0);
        KeFlushQueuedDpcs()
    };
    Entry WAIT_OBJECTS => KeWaitForMultipleObjects(0, DATA.at(), 0, 0, 0, 0, 0, 0);

    Entry BAD_HANDLE => ZwClose(CLOSED);
    Entry HANDLE_NOT_OPEN => query(CLOSED, &[6, 6]);
    Entry ENGINE_HANDLE => FwpmEngineClose0(0x1234);
    Entry REFERENCE_BAD_HANDLE => ObReferenceObjectByHandle(0x1234, 0, 0, 0, DATA.at(), 0);
    Entry REFERENCE_NULL_HANDLE => ObReferenceObjectByHandle(0, 0, 0, 0, DATA.at(), 0);
    Request REFERENCE_USER_HANDLE => ObReferenceObjectByHandle(0x1234, 0, 0, 0, DATA.at(), 0);
    Entry REFERENCE_KERNEL_HANDLE => {
        ObReferenceObjectByHandle(note(0, KEY.load(SeqCst)), 0, 0, 1, DATA.at(), 0)
    };
    Entry REFERENCE_COUNT => ObfDereferenceObject(note(0, DEVICE_OBJECT.load(SeqCst)));
    Entry NOTIFY_CONTEXT => {
        ZwNotifyChangeKey(KEY.load(SeqCst), 0, NOTICE.at(), 9, STATUS_BLOCK.at(), 4, 0, 0, 0, 1)
    };
    Request ZW_USER_ADDRESS => {
        // IO_STACK_LOCATION.Parameters.DeviceIoControl.Type3InputBuffer.
        let address = note(0, ((location() + 32) as *const Ptr).read());
        ZwCreateEvent(address, 0, 0, 0, 0)
    };
    Entry WORK_ITEM_PAGEABLE => {
        let item = note(0, ExAllocatePool2(PAGED, 32, TAG));
        ((item + 16) as *mut Ptr).write(nothing as *const () as Ptr);
        ExQueueWorkItem(item, 1)
    };
    Entry WORK_ITEM_OBJECT => IoAllocateWorkItem(note(0, DATA.at()));
    Entry WORK_ITEM_QUEUE => {
        let item = note(0, IoAllocateWorkItem(DEVICE_OBJECT.load(SeqCst)));
        IoQueueWorkItem(item, nothing as *const () as Ptr, 9, 0)
    };
    Entry WORK_ITEM_ROUTINE => {
        let item = note(0, IoAllocateWorkItem(DEVICE_OBJECT.load(SeqCst)));
        IoQueueWorkItem(item, DATA.at(), 1, 0)
    };
    Entry ERROR_LOG_ENTRY => {
        let entry = IoAllocateErrorLogEntry(DEVICE_OBJECT.load(SeqCst), 48);
        // DumpDataSize is no multiple of 4.
        poke(entry + 2, 3);
        IoWriteErrorLogEntry(entry)
    };
    Entry WORK_ITEM_QUEUED_TWICE => {
        let item = behind_a_slow_one();
        IoQueueWorkItem(item, nothing as *const () as Ptr, 1, 0)
    };
    Entry WORK_ITEM_FREED_ACTIVE => {
        note(1, nothing as *const () as Ptr);
        IoFreeWorkItem(behind_a_slow_one())
    };
    Entry WORK_QUEUE_TYPE => {
        IoQueueWorkItem(IoAllocateWorkItem(DEVICE_OBJECT.load(SeqCst)), nothing as *const () as Ptr, 0, 0)
    };
    Entry WORK_ITEM_OF_DRIVER => {
        IoQueueWorkItem(IoAllocateWorkItem(DRIVER.load(SeqCst)), nothing as *const () as Ptr, 1, 0)
    };
    Unload DEVICE_IN_USE => IoDeleteDevice(DEVICE_OBJECT.load(SeqCst));
    Entry BAD_OBJECT => IoDeleteDevice(DATA.at());
    Entry DEVICE_DELETED_TWICE => {
        let mut device: Ptr = 0;
        check(IoCreateDevice(DRIVER.load(SeqCst), 0, 0, 0x12, 0, 0, &raw mut device as Ptr));
        IoDeleteDevice(device);
        IoDeleteDevice(device)
    };
    Entry DEVICE_BOTH_IO => {
        let flags = (DEVICE_OBJECT.load(SeqCst) + 48) as *mut u32;
        flags.write(flags.read() | 0x14)
    };

    Entry REMOVE_LOCK_TAG => IoReleaseRemoveLockEx(note(0, REMOVE_LOCK.at()), 7, 32);
    Entry REMOVE_LOCK_WAIT_TAG => IoReleaseRemoveLockAndWaitEx(note(0, REMOVE_LOCK.at()), 7, 32);
    Entry REMOVE_LOCK_AGAIN => IoInitializeRemoveLockEx(note(0, REMOVE_LOCK.at()), TAG, 0, 0, 32);
    Request KERNEL_USER_ADDRESS => {
        // IO_STACK_LOCATION.Parameters.DeviceIoControl.Type3InputBuffer.
        KeSetEvent(note(0, ((location() + 32) as *const Ptr).read()), 0, 0)
    };
    Entry DPC_WATCHDOG => at(DISPATCH, || while KeGetCurrentIrql() == DISPATCH {});
    Entry DPC_WATCHDOG__WITHOUT_CALLS => at(DISPATCH, || while black_box(true) {});
    Classify DPC_TIME_LIMIT => while black_box(true) {};
    Classify DPC_TIME_LIMIT__WITH_CALLS => while KeGetCurrentIrql() == DISPATCH {};

    Request CALL_DRIVER_NO_IRP => IofCallDriver(DEVICE_OBJECT.load(SeqCst), note(0, DATA.at()));
    Request CALL_DRIVER_BAD_DEVICE => IofCallDriver(note(0, DATA.at()), REQUEST.load(SeqCst));
    Request NO_MORE_STACK_LOCATIONS => IofCallDriver(DEVICE_OBJECT.load(SeqCst), request());
    Request IRP_COMPLETED_TWICE => { request(); answer_request(Some(0), 0); IofCompleteRequest(REQUEST.load(SeqCst), 0) };
    Request IRP_COMPLETED_PENDING => { request(); answer_request(Some(0x103), 0x103) };
    Request IRP_CANCEL_ROUTINE_SET => {
        // IRP.CancelRoutine.
        let routine = note(1, nothing as *const () as Ptr);
        ((request() + 104) as *mut Ptr).write(routine);
        answer_request(Some(0), 0)
    };
    Request IRP_COMPLETION_IRQL => { request(); at(DEVICE, || answer_request(Some(0), 0)) };
    Request IRP_NOT_MARKED_PENDING => { request(); answer_request(None, 0x103) };
    Request IRP_MARKED_PENDING => { request(); mark_pending(); answer_request(Some(0), 0) };
    Request IRP_NOT_COMPLETED => { request(); answer_request(None, 0) };
    Request IRP_STATUS_DIFFERS => { request(); answer_request(Some(0xC000_0001), 0) };
    Request IRP_STATUS_ILLEGAL => { request(); answer_request(Some(0), u32::MAX) };
    Request IRP_INFORMATION => { answer_request(None, 0); complete(request(), 0, 4096); };

    Unload WMI_PROVIDER_LEFT => {
        // A structure that begins with the address of a callback.
        (DATA.at() as *mut Ptr).write(nothing as *const () as Ptr);
        IoWMIRegistrationControl(DATA.at(), 0x8001_0001)
    };
    Unload WMI_DEVICE_DELETED => IoWMIRegistrationControl(note(0, DEVICE_OBJECT.load(SeqCst)), 1);
    Wmi WMI_DEADLOCK => IoWMIRegistrationControl(DEVICE_OBJECT.load(SeqCst), 2);
    Entry DDI_IRQL_IO_PASSIVE_5 => at(DISPATCH, || IoWMIRegistrationControl(DEVICE_OBJECT.load(SeqCst), 1));
    Entry IRP_FREED_NO_IRP => IoFreeIrp(note(0, DATA.at()));
    Entry IRP_FREED_NO_IRP__TWICE => { let irp = note(0, IoAllocateIrp(1, 0)); IoFreeIrp(irp); IoFreeIrp(irp) };
    Entry IRP_FREED_OF_THREAD => IoFreeIrp(note(0, control_irp(0)));
    Request IRP_FREED_OF_THREAD__OF_PROGRAM => IoFreeIrp(request());
    Entry IRP_FREED_IN_USE => IoFreeIrp(note(0, irp_in_use()));
    Entry IRP_TRANSFER_BUFFER => {
        IoBuildAsynchronousFsdRequest(3, note(0, DEVICE_OBJECT.load(SeqCst)), NOWHERE, 16, 0, 0)
    };
    Entry IRP_CONTROL_BUFFER => { note(0, DEVICE_OBJECT.load(SeqCst)); control_irp(NOWHERE) };
    Entry IRP_INITIALIZED_ALLOCATED => IoInitializeIrp(note(0, IoAllocateIrp(1, 1)), 280, 1);
    Entry IRP_REUSED_IN_USE => IoReuseIrp(note(0, irp_in_use()), 0);
    Entry IRP_REUSED_IN_USE__INITIALIZED => IoInitializeIrp(note(0, irp_in_use()), 280, 1);
    Entry IRP_REUSED_BUILT => IoReuseIrp(note(0, control_irp(0)), 0);
    Entry IRP_NEVER_SENT => IofCompleteRequest(note(0, IoAllocateIrp(1, 0)), 0);
    Entry IRP_NOT_TAKEN_BACK => send_irp(IoAllocateIrp(1, 0), 0);
    Entry IRP_COMPLETED_TWICE__OWN => {
        let irp = note(0, IoAllocateIrp(1, 0));
        send_irp(irp, kept as *const () as Ptr);
        IofCompleteRequest(irp, 0)
    };
    Entry NO_MORE_STACK_LOCATIONS__OWN => IofCallDriver(DEVICE_OBJECT.load(SeqCst), note(0, IoAllocateIrp(0, 0)));
    Entry POOL_IRP_FREED__OWN => ExFreePoolWithTag(note(0, IoAllocateIrp(1, 0)), 0);
    Unload POOL_LEAK__IRP => IoAllocateIrp(1, 0);
    Entry API_IRQL__IRP => at(DEVICE, || IoAllocateIrp(1, 0));
    Entry DDI_IRQL_IO_PASSIVE_1__REQUEST => at(DISPATCH, || control_irp(0));
    Request IRP_USER_ADDRESS => {
        // IRP.UserBuffer, and Type3InputBuffer of the program's request.
        let irp = note(0, IoAllocateIrp(1, 0));
        ((irp + 112) as *mut Ptr).write(note(1, ((location() + 32) as *const Ptr).read()));
        send_irp(irp, kept as *const () as Ptr)
    };

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
    Classify STREAM_CONTINUED_INSIDE => {
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
    Classify PACKET_POOL_IN_USE__INTERFACE_GONE => receive();
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
    Omission CALLOUTS_LEFT__NOTICE_LOST => {};
    Classify FLOW_CONTEXT_LEFT => FwpsFlowAssociateContext0(1, LAYER.load(SeqCst) as u16, CALLOUT_ID.load(SeqCst), 7);
    Omission SUBSCRIPTION_LEFT => {};
    Unload ETW_REGISTRATION_LEFT => note(0, PROVIDER.load(SeqCst) as Ptr);
    Unload NOTIFICATION_LEFT => watch(nothing as *const () as Ptr);
    Unload PROCESSOR_CALLBACK_LEFT => KeRegisterProcessorChangeCallback(nothing as *const () as Ptr, 0, 0);
    Omission PROCESS_ROUTINE_LEFT => {};
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

/// A kernel handle that is not open.
const CLOSED: Ptr = 0xFFFF_FFFF_8000_1234;

/// Releases a spin lock below DISPATCH_LEVEL.
unsafe fn released_below() {
    unsafe {
        let old = KeAcquireSpinLockRaiseToDpc(note(0, LOCK.at()));
        KeLowerIrql(old);
        KeReleaseSpinLock(LOCK.at(), old)
    }
}

/// The resource, noted and initialized.
unsafe fn resource() -> Ptr {
    unsafe { ExInitializeResourceLite(RESOURCE.at()) };
    note(0, RESOURCE.at())
}

extern "system" fn keeps_a_lock(_: Ptr) {
    unsafe {
        KeAcquireSpinLockRaiseToDpc(LOCK.at());
        KeLowerIrql(PASSIVE);
    }
}

/// A thread that runs until the machine stops.
extern "system" fn lingers(_: Ptr) {
    unsafe { while KeGetCurrentIrql() == 0 {} }
}

pub extern "system" fn deferred(_: Ptr, _: Ptr, _: Ptr, _: Ptr) {}

extern "system" fn lowers_the_level(_: Ptr, _: Ptr, _: Ptr, _: Ptr) {
    unsafe { KeLowerIrql(PASSIVE) };
}

extern "system" fn takes_a_mutex(_: Ptr, _: Ptr, _: Ptr, _: Ptr) {
    let zero: i64 = 0;
    unsafe { KeWaitForSingleObject(OBJECT.at() + 128, 0, 0, 0, &raw const zero as Ptr) };
}

pub extern "system" fn nothing(_: Ptr, _: Ptr) {}

pub extern "system" fn slow(_: Ptr, _: Ptr) {
    // 300 ms.
    let interval: i64 = -3_000_000;
    unsafe { KeDelayExecutionThread(0, 0, &raw const interval as Ptr) };
}

extern "system" fn releases(_: Ptr, _: Ptr) {
    unsafe { at(DISPATCH, || KeReleaseSpinLockFromDpcLevel(LOCK.at())) };
}
