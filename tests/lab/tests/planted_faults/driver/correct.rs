//! What a correct driver does, near what the bugs do wrong. The verifier must be silent.

use core::hint::black_box;
use core::sync::atomic::Ordering::SeqCst;

use super::actions::*;
use super::bugs::{deferred, id, nothing};
use super::imports::*;
use super::*;

/// Does correctly what most bugs do wrong.
pub unsafe fn exercise() {
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
        KeSetEvent(EVENT.at(), 0, 1);
        wait(None);
        KeEnterCriticalRegion();
        KeLeaveCriticalRegion();
        let mut before = on_the_second_processor();
        KeRevertToUserGroupAffinityThread(before.as_mut_ptr() as Ptr);
        let thread = this_thread();
        let increment = KeSetBasePriorityThread(thread, 0);
        KeSetPriorityThread(thread, 31);
        KeSetBasePriorityThread(thread, increment);
        ObfDereferenceObject(thread);
        KeDeregisterProcessorChangeCallback(KeRegisterProcessorChangeCallback(
            processor_added as *const () as Ptr,
            0,
            1,
        ));
        check(write_event(PROVIDER.load(SeqCst), &[7]));
        // Before a driver has registered, it has this handle.
        EtwUnregister(0);
        write_event(0, &[7]);
        // The page of ExAllocatePool2 has NULL for both.
        assert_zero(ExAllocatePool2(NON_PAGED, 32, 0));
        assert_zero(ExAllocatePool2(NON_PAGED | PAGED, 32, TAG));
        exercise_locks();
        exercise_pageable();
        exercise_mdls();
        exercise_regions();
        exercise_deferred();
        let mut string = translated();
        RtlFreeUnicodeString(string.as_mut_ptr() as Ptr);
        check(IoWMIRegistrationControl(DEVICE_OBJECT.load(SeqCst), 1));
        check(IoWMIRegistrationControl(DEVICE_OBJECT.load(SeqCst), 2));
        let irp = IoAllocateIrp(1, 0);
        send_irp(irp, kept as *const () as Ptr);
        IoReuseIrp(irp, 0);
        send_irp(irp, kept as *const () as Ptr);
        IoFreeIrp(irp);
        FwpsRedirectHandleDestroy0(redirect_handle());
        let pool = packet_pool();
        send(list(pool));
        // Waits until the packet is completed.
        check(FwpsInjectionHandleDestroy0(INJECTION.load(SeqCst)));
        NdisFreeNetBufferListPool(pool);
        INJECTION.store(injection_handle(), SeqCst);
    }
}

fn assert_zero(value: Ptr) {
    if value != 0 {
        panic!();
    }
}

/// Locks that are released in another order, initialized again, on the stack, and in
/// memory that is used again.
unsafe fn exercise_locks() {
    unsafe {
        // One bug is the order itself, where the lab plays that Windows checks it.
        if BUG.load(SeqCst) != id("LOCK_RELEASE_ORDER") {
            let old = KeAcquireSpinLockRaiseToDpc(LOCK.at());
            KeAcquireSpinLockAtDpcLevel(OTHER_LOCK.at());
            KeReleaseSpinLockFromDpcLevel(LOCK.at());
            KeReleaseSpinLock(OTHER_LOCK.at(), old);
        }
        KeInitializeSpinLock(OTHER_LOCK.at());
        nest(OTHER_LOCK.at(), LOCK.at());
        KeInitializeSpinLock(OTHER_LOCK.at());
        for swap in [false, true] {
            let [one, other] = [0u64, 0].map(|_| 0u64);
            let (one, other) = (&raw const one as Ptr, &raw const other as Ptr);
            KeInitializeSpinLock(one);
            KeInitializeSpinLock(other);
            match swap {
                false => nest(one, other),
                true => nest(other, one),
            }
        }
        // DEVICE_OBJECT.DeviceExtension.
        for swap in [false, true] {
            let mut device: Ptr = 0;
            check(IoCreateDevice(DRIVER.load(SeqCst), 64, 0, 0x12, 0, 0, &raw mut device as Ptr));
            let extension = ((device + 64) as *const Ptr).read();
            KeInitializeSpinLock(extension);
            KeInitializeSpinLock(extension + 8);
            match swap {
                false => nest(extension, extension + 8),
                true => nest(extension + 8, extension),
            }
            IoDeleteDevice(device);
        }
        let block = allocate(64);
        KeInitializeSpinLock(block);
        let old = KeAcquireSpinLockRaiseToDpc(block);
        KeReleaseSpinLock(block, old);
        free(block);
        let queued = allocate(8);
        KeInitializeSpinLock(queued);
        KeAcquireInStackQueuedSpinLock(queued, QUEUE_HANDLE.at());
        KeReleaseInStackQueuedSpinLock(QUEUE_HANDLE.at());
        free(queued);
        KeEnterCriticalRegion();
        ExAcquireFastMutexUnsafe(MUTEX.at());
        ExReleaseFastMutexUnsafe(MUTEX.at());
        let resource = allocate(104);
        check(ExInitializeResourceLite(resource));
        ExAcquireResourceExclusiveLite(resource, 1);
        ExAcquireResourceExclusiveLite(resource, 1);
        ExReleaseResourceLite(resource);
        ExReleaseResourceLite(resource);
        ExAcquireResourceSharedLite(resource, 1);
        ExReleaseResourceLite(resource);
        check(ExDeleteResourceLite(resource));
        free(resource);
        ExInitializePushLock(PUSH_LOCK.at());
        ExAcquirePushLockExclusiveEx(PUSH_LOCK.at(), 0);
        ExReleasePushLockExclusiveEx(PUSH_LOCK.at(), 0);
        ExAcquirePushLockSharedEx(PUSH_LOCK.at(), 0);
        ExReleasePushLockSharedEx(PUSH_LOCK.at(), 0);
        KeLeaveCriticalRegion();
        let old = ExAcquireSpinLockShared(SHARED.at());
        ExReleaseSpinLockShared(SHARED.at(), old);
    }
}

/// Pageable memory and code, used after the level was raised, or locked.
unsafe fn exercise_pageable() {
    unsafe {
        let block = ExAllocatePool2(PAGED, 5000, TAG);
        poke(block + 4999, 1);
        at(DISPATCH, || ());
        poke(block + 4999, 2);
        at(DISPATCH, || ());
        memset(black_box(block), 3, black_box(5000));
        pageable();
        PAGEABLE.fetch_add(1, SeqCst);
        let mdl = IoAllocateMdl(block, 5000, 0, 0, 0);
        MmProbeAndLockPages(mdl, 0, 1);
        let mapping = MmMapLockedPagesSpecifyCache(mdl, 0, 1, 0, 0, 0x4000_0010);
        at(DISPATCH, || poke(mapping + 4999, 4));
        MmUnmapLockedPages(mapping, mdl);
        MmUnlockPages(mdl);
        IoFreeMdl(mdl);
        at(DISPATCH, || ());
        free(block);
    }
}

/// Every way to make an MDL.
unsafe fn exercise_mdls() {
    unsafe {
        let mdl = nonpaged_mdl();
        let part = IoAllocateMdl(DATA.at() + 4, 8, 0, 0, 0);
        IoBuildPartialMdl(mdl, part, DATA.at() + 4, 8);
        IoFreeMdl(part);
        IoFreeMdl(mdl);
        let pages = MmAllocatePagesForMdlEx(0, -1, 0, 5000, 1, 0);
        let mapping = MmMapLockedPagesSpecifyCache(pages, 0, 1, 0, 0, 0x4000_0010);
        poke(mapping + 5000, 1);
        MmProtectMdlSystemAddress(pages, 2);
        MmUnmapLockedPages(mapping, pages);
        MmFreePagesFromMdl(pages);
        ExFreePoolWithTag(pages, 0);
    }
}

unsafe fn exercise_regions() {
    unsafe {
        KeEnterGuardedRegion();
        assert_zero(Ptr::from(KeAreApcsDisabled() == 0 || KeAreAllApcsDisabled() == 0));
        KeLeaveGuardedRegion();
        assert_zero(KeAreApcsDisabled().into());
        let lock = REMOVE_LOCK.at();
        IoInitializeRemoveLockEx(lock, TAG, 0, 0, 32);
        check(IoAcquireRemoveLockEx(lock, 1, 0, 0, 32));
        check(IoAcquireRemoveLockEx(lock, 2, 0, 0, 32));
        IoReleaseRemoveLockEx(lock, 1, 32);
        // WORK_QUEUE_ITEM.WorkerRoutine.
        ((EXTRA_ITEM.at() + 16) as *mut Ptr).write(nothing as *const () as Ptr);
        ExQueueWorkItem(EXTRA_ITEM.at(), 1);
        let mut uuid = [0u64; 2];
        check(ExUuidCreate(uuid.as_mut_ptr() as Ptr));
        ProbeForRead(0x1_0000, 0, 1);
        ProbeForWrite(0x1_0000, 0, 1);
        let name = string("no such value");
        RtlDeleteRegistryValue(0x4000_0000, KEY.load(SeqCst), name.units.as_ptr() as Ptr);
    }
}

/// Objects that the system keeps in lists.
unsafe fn exercise_deferred() {
    unsafe {
        lookaside(OBJECT.at(), 32);
        ExDeleteLookasideListEx(OBJECT.at());
        KeInitializeTimer(OBJECT.at());
        KeInitializeDpc(OBJECT.at() + 64, deferred as *const () as Ptr, 0);
        KeSetTimer(OBJECT.at(), -1, OBJECT.at() + 64);
        KeWaitForSingleObject(OBJECT.at(), 0, 0, 0, 0);
        KeCancelTimer(OBJECT.at());
        KeFlushQueuedDpcs();
        ExUnregisterCallback(callback());
    }
}
