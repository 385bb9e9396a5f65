// What drivers of one source file know of the kernel. A driver includes this at its root.
// Pointers are plain numbers.

pub type Ptr = usize;

/// STATUS_PENDING and STATUS_MORE_PROCESSING_REQUIRED.
pub const PENDING: i32 = 0x103;
pub const MORE_PROCESSING_REQUIRED: i32 = 0xC000_0016_u32 as i32;
/// SL_PENDING_RETURNED; SL_INVOKE_ON_CANCEL, ON_SUCCESS and ON_ERROR.
pub const PENDING_RETURNED: u8 = 1;
pub const ALWAYS: u8 = 0xE0;
/// The size of IO_STACK_LOCATION.
pub const LOCATION: usize = 72;

/// UNICODE_STRING.
#[repr(C)]
pub struct UnicodeString {
    pub length: u16,
    pub maximum: u16,
    pub buffer: Ptr,
}

/// A text in UTF-16.
pub struct Wide<const N: usize>([u16; N]);

pub const fn wide<const N: usize>(text: &[u8; N]) -> Wide<N> {
    let (mut units, mut at) = ([0; N], 0);
    while at < N {
        units[at] = text[at] as u16;
        at += 1;
    }
    Wide(units)
}

impl<const N: usize> Wide<N> {
    /// The string, as long as the text stays where it is.
    pub fn string(&self) -> UnicodeString {
        let length = 2 * N as u16;
        UnicodeString { length, maximum: length, buffer: self.0.as_ptr() as Ptr }
    }
}

pub fn get<T: Copy>(address: Ptr) -> T {
    unsafe { (address as *const T).read_volatile() }
}

pub fn put<T>(address: Ptr, value: T) {
    unsafe { (address as *mut T).write_volatile(value) };
}

/// Sets DRIVER_OBJECT.DriverUnload and the routine of these IRP_MJ_*.
#[inline]
pub fn serve(
    driver: Ptr,
    unload: extern "system" fn(Ptr),
    dispatch: extern "system" fn(Ptr, Ptr) -> i32,
    majors: &[usize],
) {
    put(driver + 104, unload as *const () as Ptr);
    for major in majors {
        put(driver + 112 + 8 * major, dispatch as *const () as Ptr);
    }
}

/// IRP.Tail.Overlay.CurrentStackLocation.
#[inline]
pub fn location_of(irp: Ptr) -> Ptr {
    get(irp + 184)
}

/// The function in the code of a control request.
#[inline]
pub fn function_of(location: Ptr) -> u32 {
    get::<u32>(location + 24) >> 2 & 0xFFF
}

/// Completes a request: IRP.IoStatus. Returns the status.
#[inline]
pub fn complete(irp: Ptr, status: u32, information: u64) -> i32 {
    put(irp + 48, u64::from(status));
    put(irp + 56, information);
    unsafe { imports::IofCompleteRequest(irp, 0) };
    status as i32
}

/// What the modules export. A driver imports only what it calls.
pub mod imports {
    use super::Ptr;

    #[link(name = "ntoskrnl.exe", kind = "raw-dylib", modifiers = "+verbatim")]
    unsafe extern "system" {
        pub fn EtwRegister(provider: Ptr, callback: Ptr, context: Ptr, handle: Ptr) -> i32;
        pub fn EtwUnregister(handle: u64) -> i32;
        pub fn EtwWriteTransfer(
            handle: u64,
            event: Ptr,
            activity: Ptr,
            related: Ptr,
            count: u32,
            data: Ptr,
        ) -> i32;
        pub fn ExAcquireFastMutex(mutex: Ptr);
        pub fn ExAcquireFastMutexUnsafe(mutex: Ptr);
        pub fn ExAcquirePushLockExclusiveEx(lock: Ptr, flags: u32);
        pub fn ExAcquirePushLockSharedEx(lock: Ptr, flags: u32);
        pub fn ExAcquireResourceExclusiveLite(resource: Ptr, wait: u8) -> u8;
        pub fn ExAcquireResourceSharedLite(resource: Ptr, wait: u8) -> u8;
        pub fn ExAcquireSpinLockShared(lock: Ptr) -> u8;
        pub fn ExAllocatePool2(flags: u64, size: usize, tag: u32) -> Ptr;
        pub fn ExAllocatePoolWithTag(kind: i32, size: usize, tag: u32) -> Ptr;
        pub fn ExCreateCallback(object: Ptr, attributes: Ptr, create: u8, multiple: u8) -> i32;
        pub fn ExDeleteLookasideListEx(list: Ptr);
        pub fn ExDeleteResourceLite(resource: Ptr) -> i32;
        pub fn ExFreePoolWithTag(block: Ptr, tag: u32);
        pub fn ExInitializeLookasideListEx(
            list: Ptr,
            allocate: Ptr,
            free: Ptr,
            pool: i32,
            flags: u32,
            size: usize,
            tag: u32,
            depth: u16,
        ) -> i32;
        pub fn ExInitializePushLock(lock: Ptr);
        pub fn ExInitializeResourceLite(resource: Ptr) -> i32;
        pub fn ExInitializeRundownProtection(reference: Ptr);
        pub fn ExQueueWorkItem(item: Ptr, queue: i32);
        pub fn ExRaiseStatus(status: i32);
        pub fn ExRegisterCallback(object: Ptr, function: Ptr, context: Ptr) -> Ptr;
        pub fn ExReleaseFastMutex(mutex: Ptr);
        pub fn ExReleaseFastMutexUnsafe(mutex: Ptr);
        pub fn ExReleasePushLockExclusiveEx(lock: Ptr, flags: u32);
        pub fn ExReleasePushLockSharedEx(lock: Ptr, flags: u32);
        pub fn ExReleaseResourceLite(resource: Ptr);
        pub fn ExReleaseRundownProtection(reference: Ptr);
        pub fn ExReleaseSpinLockExclusive(lock: Ptr, level: u8);
        pub fn ExReleaseSpinLockShared(lock: Ptr, level: u8);
        pub fn ExUnregisterCallback(handle: Ptr);
        pub fn ExUuidCreate(uuid: Ptr) -> i32;
        pub fn IoAcquireRemoveLockEx(lock: Ptr, tag: Ptr, file: Ptr, line: u32, size: u32) -> i32;
        pub fn IoAllocateErrorLogEntry(object: Ptr, size: u8) -> Ptr;
        pub fn IoAllocateIrp(locations: i8, quota: u8) -> Ptr;
        pub fn IoAllocateMdl(buffer: Ptr, length: u32, secondary: u8, quota: u8, irp: Ptr) -> Ptr;
        pub fn IoAllocateWorkItem(device: Ptr) -> Ptr;
        pub fn IoAttachDeviceToDeviceStack(source: Ptr, target: Ptr) -> Ptr;
        pub fn IoBuildAsynchronousFsdRequest(
            major: u32,
            device: Ptr,
            buffer: Ptr,
            length: u32,
            offset: Ptr,
            block: Ptr,
        ) -> Ptr;
        pub fn IoBuildDeviceIoControlRequest(
            code: u32,
            device: Ptr,
            input: Ptr,
            input_length: u32,
            output: Ptr,
            output_length: u32,
            internal: u8,
            event: Ptr,
            block: Ptr,
        ) -> Ptr;
        pub fn IoBuildPartialMdl(source: Ptr, target: Ptr, address: Ptr, length: u32);
        pub fn IoBuildSynchronousFsdRequest(
            major: u32,
            device: Ptr,
            buffer: Ptr,
            length: u32,
            offset: Ptr,
            event: Ptr,
            block: Ptr,
        ) -> Ptr;
        pub fn IoCancelIrp(irp: Ptr) -> u8;
        pub fn IoCreateDevice(
            driver: Ptr,
            extension: u32,
            name: Ptr,
            kind: u32,
            characteristics: u32,
            exclusive: u8,
            device: Ptr,
        ) -> i32;
        pub fn IoCreateSymbolicLink(link: Ptr, device: Ptr) -> i32;
        pub fn IoDeleteDevice(device: Ptr);
        pub fn IoDeleteSymbolicLink(link: Ptr) -> i32;
        pub fn IoDetachDevice(target: Ptr);
        pub fn IofCallDriver(device: Ptr, irp: Ptr) -> i32;
        pub fn IofCompleteRequest(irp: Ptr, boost: i8);
        pub fn IoFreeIrp(irp: Ptr);
        pub fn IoFreeMdl(mdl: Ptr);
        pub fn IoFreeWorkItem(item: Ptr);
        pub fn IoGetCurrentProcess() -> Ptr;
        pub fn IoGetDeviceObjectPointer(name: Ptr, access: u32, file: Ptr, device: Ptr) -> i32;
        pub fn IoGetRequestorProcess(irp: Ptr) -> Ptr;
        pub fn IoInitializeIrp(irp: Ptr, size: u16, locations: i8);
        pub fn IoInitializeRemoveLockEx(lock: Ptr, tag: u32, minutes: u32, most: u32, size: u32);
        pub fn IoOpenDriverRegistryKey(driver: Ptr, kind: i32, access: u32, flags: u32, key: Ptr) -> i32;
        pub fn IoQueueWorkItem(item: Ptr, routine: Ptr, queue: i32, context: Ptr);
        pub fn IoReleaseCancelSpinLock(irql: u8);
        pub fn IoReleaseRemoveLockAndWaitEx(lock: Ptr, tag: Ptr, size: u32);
        pub fn IoReleaseRemoveLockEx(lock: Ptr, tag: Ptr, size: u32);
        pub fn IoReuseIrp(irp: Ptr, status: i32);
        pub fn IoSetCompletionRoutineEx(
            device: Ptr,
            irp: Ptr,
            routine: Ptr,
            context: Ptr,
            success: u8,
            error: u8,
            cancel: u8,
        ) -> i32;
        pub fn IoWMIRegistrationControl(device: Ptr, action: u32) -> i32;
        pub fn IoWMIWriteEvent(event: Ptr) -> i32;
        pub fn IoWriteErrorLogEntry(entry: Ptr);
        pub fn KeAcquireInStackQueuedSpinLock(lock: Ptr, handle: Ptr);
        pub fn KeAcquireSpinLockAtDpcLevel(lock: Ptr);
        pub fn KeAcquireSpinLockRaiseToDpc(lock: Ptr) -> u8;
        pub fn KeAreAllApcsDisabled() -> u8;
        pub fn KeAreApcsDisabled() -> u8;
        pub fn KeCancelTimer(timer: Ptr) -> u8;
        pub fn KeClearEvent(event: Ptr);
        pub fn KeDelayExecutionThread(mode: i8, alertable: u8, interval: Ptr) -> i32;
        pub fn KeDeregisterProcessorChangeCallback(handle: Ptr);
        pub fn KeEnterCriticalRegion();
        pub fn KeEnterGuardedRegion();
        pub fn KeFlushQueuedDpcs();
        pub fn KeGetCurrentIrql() -> u8;
        pub fn KeInitializeDpc(dpc: Ptr, routine: Ptr, context: Ptr);
        pub fn KeInitializeEvent(event: Ptr, kind: i32, state: u8);
        pub fn KeInitializeMutex(mutex: Ptr, level: u32);
        pub fn KeInitializeSpinLock(lock: Ptr);
        pub fn KeInitializeTimer(timer: Ptr);
        pub fn KeInsertQueueDpc(dpc: Ptr, first: Ptr, second: Ptr) -> u8;
        pub fn KeLeaveCriticalRegion();
        pub fn KeLeaveGuardedRegion();
        pub fn KeLowerIrql(level: u8);
        pub fn KeRegisterProcessorChangeCallback(callback: Ptr, context: Ptr, flags: u32) -> Ptr;
        pub fn KeReleaseInStackQueuedSpinLock(handle: Ptr);
        pub fn KeReleaseInStackQueuedSpinLockFromDpcLevel(handle: Ptr);
        pub fn KeReleaseSpinLock(lock: Ptr, level: u8);
        pub fn KeReleaseSpinLockFromDpcLevel(lock: Ptr);
        pub fn KeRevertToUserGroupAffinityThread(previous: Ptr);
        pub fn KeSetBasePriorityThread(thread: Ptr, increment: i32) -> i32;
        pub fn KeSetEvent(event: Ptr, increment: i32, wait: u8) -> i32;
        pub fn KeSetPriorityThread(thread: Ptr, priority: i32) -> i32;
        pub fn KeSetSystemGroupAffinityThread(affinity: Ptr, previous: Ptr);
        pub fn KeSetTargetProcessorDpc(dpc: Ptr, number: i8);
        pub fn KeSetTimer(timer: Ptr, due: i64, dpc: Ptr) -> u8;
        pub fn KeStallExecutionProcessor(microseconds: u32);
        pub fn KeWaitForMultipleObjects(
            count: u32,
            objects: Ptr,
            kind: i32,
            reason: i32,
            mode: i8,
            alertable: u8,
            timeout: Ptr,
            blocks: Ptr,
        ) -> i32;
        pub fn KeWaitForSingleObject(object: Ptr, reason: i32, mode: i8, alertable: u8, timeout: Ptr) -> i32;
        pub fn KfRaiseIrql(level: u8) -> u8;
        pub fn MmAllocatePagesForMdlEx(
            low: i64,
            high: i64,
            skip: i64,
            bytes: usize,
            cache: i32,
            flags: u32,
        ) -> Ptr;
        pub fn MmBuildMdlForNonPagedPool(mdl: Ptr);
        pub fn MmFreePagesFromMdl(mdl: Ptr);
        pub fn MmGetSystemRoutineAddress(name: Ptr) -> Ptr;
        pub fn MmMapLockedPagesSpecifyCache(
            mdl: Ptr,
            mode: i8,
            cache: i32,
            at: Ptr,
            bugcheck: u32,
            priority: u32,
        ) -> Ptr;
        pub fn MmProbeAndLockPages(mdl: Ptr, mode: i8, operation: i32);
        pub fn MmProtectMdlSystemAddress(mdl: Ptr, protection: u32) -> i32;
        pub fn MmUnlockPages(mdl: Ptr);
        pub fn MmUnmapLockedPages(base: Ptr, mdl: Ptr);
        pub fn ObfDereferenceObject(object: Ptr) -> i64;
        pub fn ObfReferenceObject(object: Ptr) -> i64;
        pub fn ObReferenceObjectByHandle(
            handle: Ptr,
            access: u32,
            kind: Ptr,
            mode: i8,
            object: Ptr,
            information: Ptr,
        ) -> i32;
        pub fn ProbeForRead(address: Ptr, length: usize, alignment: u32);
        pub fn ProbeForWrite(address: Ptr, length: usize, alignment: u32);
        pub fn PsCreateSystemThread(
            thread: Ptr,
            access: u32,
            attributes: Ptr,
            process: Ptr,
            client: Ptr,
            routine: Ptr,
            context: Ptr,
        ) -> i32;
        pub fn PsGetProcessId(process: Ptr) -> Ptr;
        pub fn PsSetCreateProcessNotifyRoutineEx(routine: Ptr, remove: u8) -> i32;
        pub fn RtlAnsiStringToUnicodeString(to: Ptr, from: Ptr, allocate: u8) -> i32;
        pub fn RtlCopyUnicodeString(to: Ptr, from: Ptr);
        pub fn RtlDeleteRegistryValue(relative: u32, path: Ptr, name: Ptr) -> i32;
        pub fn RtlFreeUnicodeString(string: Ptr);
        pub fn RtlInitAnsiString(string: Ptr, text: Ptr);
        pub fn RtlIntegerToUnicodeString(value: u32, base: u32, string: Ptr) -> i32;
        pub fn ZwClose(handle: Ptr) -> i32;
        pub fn ZwCreateEvent(handle: Ptr, access: u32, attributes: Ptr, kind: i32, state: u8) -> i32;
        pub fn ZwNotifyChangeKey(
            key: Ptr,
            event: Ptr,
            routine: Ptr,
            context: Ptr,
            status: Ptr,
            filter: u32,
            tree: u8,
            buffer: Ptr,
            size: u32,
            asynchronous: u8,
        ) -> i32;
        pub fn ZwQueryValueKey(
            key: Ptr,
            name: Ptr,
            class: i32,
            information: Ptr,
            length: u32,
            result: Ptr,
        ) -> i32;
    }

    #[link(name = "fwpkclnt.sys", kind = "raw-dylib", modifiers = "+verbatim")]
    unsafe extern "system" {
        pub fn FwpmBfeStateGet0() -> i32;
        pub fn FwpmBfeStateSubscribeChanges0(device: Ptr, callback: Ptr, context: Ptr, handle: Ptr) -> i32;
        pub fn FwpmBfeStateUnsubscribeChanges0(handle: Ptr) -> i32;
        pub fn FwpmCalloutAdd0(engine: Ptr, callout: Ptr, security: Ptr, id: Ptr) -> i32;
        pub fn FwpmEngineClose0(engine: Ptr) -> i32;
        pub fn FwpmEngineOpen0(server: Ptr, service: u32, identity: Ptr, session: Ptr, engine: Ptr) -> i32;
        pub fn FwpmFilterAdd0(engine: Ptr, filter: Ptr, security: Ptr, id: Ptr) -> i32;
        pub fn FwpsAcquireClassifyHandle0(context: Ptr, flags: u32, handle: Ptr) -> i32;
        pub fn FwpsAcquireWritableLayerDataPointer0(
            handle: u64,
            filter: u64,
            flags: u32,
            data: Ptr,
            out: Ptr,
        ) -> i32;
        pub fn FwpsAllocateCloneNetBufferList0(
            list: Ptr,
            lists: Ptr,
            buffers: Ptr,
            flags: u32,
            clone: Ptr,
        ) -> i32;
        pub fn FwpsAllocateNetBufferAndNetBufferList0(
            pool: Ptr,
            context: u16,
            backfill: u16,
            mdl: Ptr,
            offset: u32,
            length: usize,
            list: Ptr,
        ) -> i32;
        pub fn FwpsCalloutRegister1(device: Ptr, callout: Ptr, id: Ptr) -> i32;
        pub fn FwpsCalloutRegister3(device: Ptr, callout: Ptr, id: Ptr) -> i32;
        pub fn FwpsCalloutUnregisterById0(id: u32) -> i32;
        pub fn FwpsCompleteClassify0(handle: u64, flags: u32, out: Ptr);
        pub fn FwpsCompleteOperation0(context: Ptr, list: Ptr);
        pub fn FwpsDereferenceNetBufferList0(list: Ptr, dispatch: u8);
        pub fn FwpsFlowAssociateContext0(flow: u64, layer: u16, callout: u32, context: u64) -> i32;
        pub fn FwpsFlowRemoveContext0(flow: u64, layer: u16, callout: u32) -> i32;
        pub fn FwpsFreeCloneNetBufferList0(clone: Ptr, flags: u32);
        pub fn FwpsFreeNetBufferList0(list: Ptr);
        pub fn FwpsInjectionHandleCreate0(family: u16, flags: u32, handle: Ptr) -> i32;
        pub fn FwpsInjectionHandleDestroy0(handle: Ptr) -> i32;
        pub fn FwpsInjectNetworkReceiveAsync0(
            handle: Ptr,
            context: Ptr,
            flags: u32,
            compartment: i32,
            interface: u32,
            sub_interface: u32,
            list: Ptr,
            completed: Ptr,
            completion_context: Ptr,
        ) -> i32;
        pub fn FwpsInjectNetworkSendAsync0(
            handle: Ptr,
            context: Ptr,
            flags: u32,
            compartment: i32,
            list: Ptr,
            completed: Ptr,
            completion_context: Ptr,
        ) -> i32;
        pub fn FwpsInjectTransportReceiveAsync0(
            handle: Ptr,
            context: Ptr,
            reserved: Ptr,
            flags: u32,
            family: u16,
            compartment: i32,
            interface: u32,
            sub_interface: u32,
            list: Ptr,
            completed: Ptr,
            completion_context: Ptr,
        ) -> i32;
        pub fn FwpsPendClassify0(handle: u64, filter: u64, flags: u32, out: Ptr) -> i32;
        pub fn FwpsPendOperation0(handle: Ptr, context: Ptr) -> i32;
        pub fn FwpsRedirectHandleCreate0(provider: Ptr, flags: u32, handle: Ptr) -> i32;
        pub fn FwpsRedirectHandleDestroy0(handle: Ptr);
        pub fn FwpsReferenceNetBufferList0(list: Ptr, modify: u8);
        pub fn FwpsReleaseClassifyHandle0(handle: u64);
        pub fn FwpsStreamContinue0(flow: u64, callout: u32, layer: u16, flags: u32) -> i32;
        pub fn FwpsStreamInjectAsync0(
            handle: Ptr,
            context: Ptr,
            flags: u32,
            flow: u64,
            callout: u32,
            layer: u16,
            stream_flags: u32,
            list: Ptr,
            length: usize,
            completed: Ptr,
            completion_context: Ptr,
        ) -> i32;
    }

    #[link(name = "ndis.sys", kind = "raw-dylib", modifiers = "+verbatim")]
    unsafe extern "system" {
        pub fn NdisAdvanceNetBufferDataStart(buffer: Ptr, delta: u32, free: u8, handler: Ptr);
        pub fn NdisAllocateNetBufferListPool(handle: Ptr, parameters: Ptr) -> Ptr;
        pub fn NdisFreeNetBufferListPool(pool: Ptr);
        pub fn NdisRetreatNetBufferDataStart(buffer: Ptr, delta: u32, backfill: u32, handler: Ptr) -> i32;
    }

    #[link(name = "WDFLDR.SYS", kind = "raw-dylib", modifiers = "+verbatim")]
    unsafe extern "system" {
        pub fn WdfVersionBind(driver: Ptr, path: Ptr, info: Ptr, globals: Ptr) -> i32;
        pub fn WdfVersionUnbind(path: Ptr, info: Ptr, globals: Ptr) -> i32;
    }
}

pub use imports::*;
