//! One table of everything a driver can import.
//!
//! A row gives the module, the file of `nt` that holds the function, and the
//! function's name. `facts/functions.json` (`facts/kmdf.json` for the framework) gives
//! the number of arguments and the permitted IRQL; a test compares it with the
//! functions' signatures.
#![forbid(unsafe_code)]

use std::sync::LazyLock;

use serde_json::Value;

use crate::irql::Irql;
use crate::verifier::{Rule, rules};

/// Number of exports.
pub fn count() -> usize {
    NAMES.len()
}

/// Name of the export at `index`.
pub fn name(index: usize) -> &'static str {
    NAMES[index]
}

/// Index of the export with this name.
pub fn position(name: &str) -> Option<usize> {
    NAMES.iter().position(|export| *export == name)
}

/// Module of the export at `index`.
pub fn module(index: usize) -> &'static str {
    MODULES[index]
}

macro_rules! table {
    ($($module:literal => $file:ident: $($name:ident)*;)*) => {
        const MODULES: &[&str] = &[$($({ let _ = stringify!($name); $module }),*),*];
        const NAMES: &[&str] = &[$($(stringify!($name)),*),*];
        /// Files of `nt`, for the test that reads them.
        #[cfg(test)]
        const FILES: &[&str] = &[$($({ let _ = stringify!($name); stringify!($file) }),*),*];
    };
}

/// Passes every row to the macro with this name.
#[macro_export]
#[rustfmt::skip]
macro_rules! every_export { ($table:ident) => { $table! {
    "ntoskrnl.exe" => ex:
        ExAllocatePool2 ExAllocatePoolWithTag ExFreePool ExFreePoolWithTag
        ExInitializeRundownProtection ExAcquireRundownProtection
        ExReleaseRundownProtection ExWaitForRundownProtectionRelease
        ExAcquireFastMutex ExReleaseFastMutex ExAcquireFastMutexUnsafe
        ExReleaseFastMutexUnsafe;
    "ntoskrnl.exe" => resource:
        ExInitializeResourceLite ExDeleteResourceLite
        ExAcquireResourceExclusiveLite ExAcquireResourceSharedLite
        ExReleaseResourceLite ExInitializePushLock ExAcquirePushLockExclusiveEx
        ExAcquirePushLockSharedEx ExReleasePushLockExclusiveEx
        ExReleasePushLockSharedEx;
    "ntoskrnl.exe" => etw: EtwRegister EtwUnregister EtwSetInformation EtwWriteTransfer;
    "ntoskrnl.exe" => wmi: IoWMIRegistrationControl IoWMIWriteEvent;
    "ntoskrnl.exe" => wpp:
        EtwRegisterClassicProvider WmiTraceMessage WmiQueryTraceInformation PsGetVersion;
    "ntoskrnl.exe" => ke:
        KeGetCurrentProcessorNumberEx KeQueryMaximumProcessorCountEx
        KeQueryActiveProcessorCountEx KeGetCurrentIrql KfRaiseIrql KeLowerIrql
        KeInitializeSpinLock KeAcquireSpinLockRaiseToDpc KeReleaseSpinLock
        KeAcquireSpinLockAtDpcLevel KeReleaseSpinLockFromDpcLevel
        KeInitializeEvent KeSetEvent KeClearEvent KeResetEvent KeReadStateEvent
        KeDelayExecutionThread KeBugCheckEx
        KeQueryInterruptTimePrecise KeQueryUnbiasedInterruptTime
        KeQuerySystemTimePrecise;
    "ntoskrnl.exe" => dispatcher:
        KeWaitForSingleObject KeWaitForMultipleObjects KeInitializeMutex
        KeReleaseMutex KeReadStateMutex KeInitializeSemaphore KeReleaseSemaphore
        KeReadStateSemaphore;
    "ntoskrnl.exe" => dpc:
        KeInitializeDpc KeSetImportanceDpc KeSetTargetProcessorDpc
        KeSetTargetProcessorDpcEx KeInsertQueueDpc KeRemoveQueueDpc
        KeFlushQueuedDpcs;
    "ntoskrnl.exe" => timer:
        KeInitializeTimer KeInitializeTimerEx KeSetTimer KeSetTimerEx
        KeSetCoalescableTimer KeCancelTimer KeReadStateTimer;
    "ntoskrnl.exe" => rwlock:
        ExAcquireSpinLockShared ExAcquireSpinLockExclusive ExReleaseSpinLockShared
        ExReleaseSpinLockExclusive ExAcquireSpinLockSharedAtDpcLevel
        ExAcquireSpinLockExclusiveAtDpcLevel ExReleaseSpinLockSharedFromDpcLevel
        ExReleaseSpinLockExclusiveFromDpcLevel ExTryConvertSharedSpinLockExclusive;
    "ntoskrnl.exe" => lookaside:
        ExInitializeLookasideListEx ExDeleteLookasideListEx ExFlushLookasideListEx
        ExAllocateFromLookasideListEx ExFreeToLookasideListEx
        ExInitializeNPagedLookasideList ExDeleteNPagedLookasideList
        ExInitializePagedLookasideList ExDeletePagedLookasideList;
    "ntoskrnl.exe" => slist:
        InitializeSListHead ExpInterlockedPopEntrySList ExpInterlockedPushEntrySList
        ExpInterlockedFlushSList ExQueryDepthSList;
    "ntoskrnl.exe" => avl:
        RtlInitializeGenericTableAvl RtlInsertElementGenericTableAvl
        RtlInsertElementGenericTableFullAvl RtlLookupElementGenericTableAvl
        RtlLookupElementGenericTableFullAvl RtlDeleteElementGenericTableAvl
        RtlNumberGenericTableElementsAvl RtlIsGenericTableEmptyAvl
        RtlGetElementGenericTableAvl RtlEnumerateGenericTableAvl
        RtlEnumerateGenericTableWithoutSplayingAvl;
    "ntoskrnl.exe" => callbacks:
        ExCreateCallback ExRegisterCallback ExUnregisterCallback ExNotifyCallback;
    "ntoskrnl.exe" => security:
        RtlLengthSid RtlValidSid RtlCreateAcl RtlAddAccessAllowedAce
        RtlCreateSecurityDescriptor RtlSetDaclSecurityDescriptor;
    "ntoskrnl.exe" => affinity:
        KeGetProcessorNumberFromIndex KeSetSystemGroupAffinityThread
        KeRevertToUserGroupAffinityThread
        KeEnterCriticalRegion KeLeaveCriticalRegion KeEnterGuardedRegion
        KeLeaveGuardedRegion KeAreApcsDisabled KeAreAllApcsDisabled;
    "ntoskrnl.exe" => processors:
        KeQueryGroupAffinity KeQueryMaximumGroupCount KeQueryActiveGroupCount
        KeRegisterProcessorChangeCallback KeDeregisterProcessorChangeCallback;
    "ntoskrnl.exe" => ob:
        ObReferenceObjectByHandle ObOpenObjectByPointer ObfReferenceObject
        ObfDereferenceObject KeSetPriorityThread KeSetBasePriorityThread;
    "hal.dll" => ke: KeQueryPerformanceCounter;
    "ntoskrnl.exe" => io:
        IoCreateDevice IoDeleteDevice IoOpenDriverRegistryKey IoAllocateWorkItem
        IoQueueWorkItem IoQueueWorkItemEx IoFreeWorkItem IoSizeofWorkItem
        IoInitializeWorkItem IoUninitializeWorkItem ExQueueWorkItem;
    "ntoskrnl.exe" => remove_lock:
        IoInitializeRemoveLockEx IoAcquireRemoveLockEx IoReleaseRemoveLockEx
        IoReleaseRemoveLockAndWaitEx;
    "ntoskrnl.exe" => links:
        IoCreateSymbolicLink IoDeleteSymbolicLink;
    "ntoskrnl.exe" => error_log:
        IoAllocateErrorLogEntry IoFreeErrorLogEntry IoWriteErrorLogEntry;
    "ntoskrnl.exe" => irp:
        IofCompleteRequest IoCancelIrp IoAcquireCancelSpinLock
        IoReleaseCancelSpinLock IofCallDriver IoAttachDeviceToDeviceStack
        IoDetachDevice IoGetDeviceObjectPointer IoAllocateIrp IoFreeIrp IoReuseIrp
        IoInitializeIrp IoSetCompletionRoutineEx IoBuildDeviceIoControlRequest
        IoBuildSynchronousFsdRequest IoBuildAsynchronousFsdRequest;
    "ntoskrnl.exe" => process:
        IoGetCurrentProcess PsGetProcessId PsGetCurrentProcessId
        PsGetCurrentThreadId PsLookupProcessByProcessId IoGetRequestorProcess
        IoGetRequestorProcessId IoIs32bitProcess;
    "ntoskrnl.exe" => process_routines: PsSetCreateProcessNotifyRoutineEx;
    "ntoskrnl.exe" => queued:
        KeAcquireInStackQueuedSpinLock KeAcquireInStackQueuedSpinLockAtDpcLevel
        KeReleaseInStackQueuedSpinLock KeReleaseInStackQueuedSpinLockFromDpcLevel;
    "ntoskrnl.exe" => strings:
        RtlCopyUnicodeString RtlIntegerToUnicodeString
        RtlAppendUnicodeStringToString RtlAppendUnicodeToString
        RtlCompareUnicodeString RtlEqualUnicodeString RtlUnicodeToMultiByteN
        RtlCompareMemory ExUuidCreate;
    "ntoskrnl.exe" => addresses:
        RtlIpv4StringToAddressW RtlIpv6StringToAddressW RtlIpv4AddressToStringW
        RtlIpv6AddressToStringW;
    "ntoskrnl.exe" => interlocked:
        ExInterlockedInsertTailList ExInterlockedInsertHeadList ExInterlockedRemoveHeadList;
    "ntoskrnl.exe" => conversions:
        RtlInitAnsiString RtlAnsiStringToUnicodeString RtlUnicodeStringToAnsiString
        RtlUpcaseUnicodeString RtlDowncaseUnicodeString RtlUpcaseUnicodeChar
        RtlFreeUnicodeString RtlFreeAnsiString
        RtlPrefixUnicodeString RtlUnicodeToUTF8N RtlUTF8ToUnicodeN;
    "ntoskrnl.exe" => debug:
        DbgPrint DbgPrintEx MmGetSystemRoutineAddress RtlUnicodeStringToInteger;
    "ntoskrnl.exe" => zw:
        ZwOpenKey ZwCreateKey ZwQueryKey ZwQueryValueKey ZwSetValueKey
        ZwNotifyChangeKey ZwCreateEvent ZwSetEvent ZwWaitForSingleObject ZwClose;
    "wdfldr.sys" => wdf:
        WdfVersionBind WdfVersionUnbind WdfVersionBindClass WdfVersionUnbindClass;
    "Wdf01000.sys" => wdf:
        WdfRequestRetrieveInputBuffer WdfRequestRetrieveOutputBuffer
        WdfRequestRetrieveInputMemory WdfRequestRetrieveOutputMemory
        WdfRequestRetrieveInputWdmMdl WdfRequestRetrieveOutputWdmMdl
        WdfRequestRetrieveUnsafeUserInputBuffer
        WdfRequestRetrieveUnsafeUserOutputBuffer
        WdfRequestProbeAndLockUserBufferForRead
        WdfRequestProbeAndLockUserBufferForWrite WdfMemoryGetBuffer WdfMemoryCreate
        WdfMemoryCreatePreallocated WdfMemoryCopyToBuffer WdfMemoryCopyFromBuffer
        WdfControlDeviceInitAllocate WdfDeviceInitFree WdfDeviceInitAssignName
        WdfDeviceInitAssignSDDLString WdfDeviceInitSetDeviceClass
        WdfDeviceInitSetDeviceType WdfDeviceInitSetCharacteristics
        WdfDeviceInitSetExclusive WdfDeviceInitSetIoType
        WdfDeviceInitSetFileObjectConfig WdfDeviceInitSetRequestAttributes
        WdfDeviceInitSetIoInCallerContextCallback WdfDeviceCreate
        WdfControlFinishInitializing WdfDeviceCreateSymbolicLink WdfDeviceGetDriver
        WdfDeviceWdmGetDeviceObject WdfWdmDeviceGetWdfDeviceHandle
        WdfDeviceGetDefaultQueue WdfDeviceGetFileObject
        WdfDeviceConfigureRequestDispatching WdfFileObjectGetDevice
        WdfFileObjectWdmGetFileObject WdfFileObjectGetFileName WdfDriverCreate
        WdfDriverMiniportUnload WdfDriverWdmGetDriverObject
        WdfWdmDriverGetWdfDriverHandle WdfDriverIsVersionAvailable
        WdfDriverRetrieveVersionString WdfSpinLockCreate WdfSpinLockAcquire
        WdfSpinLockRelease WdfWaitLockCreate WdfWaitLockAcquire WdfWaitLockRelease
        WdfObjectGetTypedContextWorker WdfObjectAllocateContext
        WdfObjectContextGetObject WdfObjectCreate WdfObjectReferenceActual
        WdfObjectDereferenceActual WdfObjectDelete WdfIoQueueCreate WdfIoQueuePurge
        WdfIoQueuePurgeSynchronously WdfIoQueueDrain WdfIoQueueDrainSynchronously
        WdfIoQueueStop WdfIoQueueStopSynchronously WdfIoQueueStart WdfIoQueueGetState
        WdfIoQueueGetDevice WdfIoQueueRetrieveNextRequest
        WdfIoQueueRetrieveRequestByFileObject WdfIoQueueReadyNotify
        WdfDriverOpenParametersRegistryKey WdfRegistryOpenKey WdfRegistryCreateKey
        WdfRegistryClose WdfRegistryWdmGetHandle WdfRegistryQueryULong
        WdfRegistryQueryUnicodeString WdfRegistryQueryString
        WdfRegistryQueryMultiString WdfRegistryQueryValue WdfRegistryQueryMemory
        WdfRegistryAssignULong WdfRegistryAssignValue WdfRegistryAssignUnicodeString
        WdfRegistryRemoveValue WdfRequestComplete WdfRequestCompleteWithInformation
        WdfRequestCompleteWithPriorityBoost WdfRequestSetInformation
        WdfRequestGetInformation WdfRequestGetParameters WdfRequestGetFileObject
        WdfRequestGetIoQueue WdfRequestWdmGetIrp WdfRequestGetRequestorMode
        WdfRequestIsFrom32BitProcess WdfRequestGetRequestorProcessId
        WdfRequestIsCanceled WdfRequestMarkCancelable WdfRequestMarkCancelableEx
        WdfRequestUnmarkCancelable WdfRequestForwardToIoQueue WdfRequestRequeue
        WdfDeviceEnqueueRequest WdfStringCreate WdfStringGetUnicodeString
        WdfCollectionCreate WdfCollectionGetCount WdfCollectionAdd WdfCollectionRemove
        WdfCollectionRemoveItem WdfCollectionGetItem WdfCollectionGetFirstItem
        WdfCollectionGetLastItem WdfTimerCreate WdfTimerStart WdfTimerStop
        WdfTimerGetParentObject WdfWorkItemCreate WdfWorkItemEnqueue WdfWorkItemFlush
        WdfWorkItemGetParentObject;
    "ntoskrnl.exe" => ps: PsCreateSystemThread PsTerminateSystemThread;
    "ntoskrnl.exe" => rtl:
        RtlInitUnicodeString RtlGetVersion RtlDeleteRegistryValue memcpy memmove memset memcmp
        _strnicmp RtlTimeToTimeFields ExSystemTimeToLocalTime RtlRandomEx;
    "ntoskrnl.exe" => mm:
        MmMapLockedPagesSpecifyCache MmUnmapLockedPages IoAllocateMdl IoFreeMdl
        MmBuildMdlForNonPagedPool MmProbeAndLockPages MmUnlockPages
        IoBuildPartialMdl MmAllocatePagesForMdlEx MmFreePagesFromMdl
        MmProtectMdlSystemAddress;
    "ntoskrnl.exe" => seh:
        __C_specific_handler _local_unwind RtlUnwind RtlUnwindEx ExRaiseStatus
        RtlRaiseStatus ExRaiseAccessViolation ExRaiseDatatypeMisalignment
        ProbeForRead ProbeForWrite;
    "ndis.sys" => ndis:
        NdisGetDataBuffer NdisRetreatNetBufferDataStart
        NdisAdvanceNetBufferDataStart NdisAllocateNetBufferListPool
        NdisFreeNetBufferListPool NdisAllocateNetBufferPool NdisFreeNetBufferPool
        NdisAllocateGenericObject NdisFreeGenericObject
        NdisRetreatNetBufferListDataStart NdisAdvanceNetBufferListDataStart
        NdisCopyFromNetBufferToNetBuffer;
    "fwpkclnt.sys" => fwp:
        FwpmEngineOpen0 FwpmEngineClose0 FwpmFreeMemory0 FwpmTransactionBegin0
        FwpmTransactionCommit0 FwpmTransactionAbort0 FwpmProviderAdd0
        FwpmProviderDeleteByKey0 FwpmSubLayerAdd0 FwpmSubLayerDeleteByKey0
        FwpmCalloutAdd0 FwpmCalloutDeleteByKey0 FwpmFilterAdd0
        FwpmFilterDeleteById0 FwpmFilterDeleteByKey0 FwpsCalloutRegister0
        FwpsCalloutRegister1 FwpsCalloutRegister2 FwpsCalloutRegister3
        FwpsCalloutUnregisterById0 FwpsCalloutUnregisterByKey0
        FwpmBfeStateGet0 FwpmBfeStateSubscribeChanges0
        FwpmBfeStateUnsubscribeChanges0 FwpsFlowAssociateContext0
        FwpsFlowRemoveContext0 FwpsStreamInjectAsync0 FwpsStreamContinue0
        FwpsInjectTransportSendAsync0 FwpsInjectTransportSendAsync1
        FwpsInjectTransportReceiveAsync0 FwpsAcquireClassifyHandle0
        FwpsReleaseClassifyHandle0 FwpsPendClassify0 FwpsCompleteClassify0
        FwpsAcquireWritableLayerDataPointer0 FwpsRedirectHandleCreate0
        FwpsRedirectHandleDestroy0 FwpsAllocateNetBufferAndNetBufferList0
        FwpsFreeNetBufferList0 FwpsInjectionHandleCreate0
        FwpsInjectionHandleDestroy0 FwpsQueryPacketInjectionState0
        FwpsInjectNetworkSendAsync0 FwpsInjectNetworkReceiveAsync0
        FwpsInjectForwardAsync0 FwpsAllocateCloneNetBufferList0
        FwpsFreeCloneNetBufferList0 FwpsReferenceNetBufferList0
        FwpsDereferenceNetBufferList0 FwpsConstructIpHeaderForTransportPacket0
        FwpsGetPacketListSecurityInformation0 FwpsPendOperation0
        FwpsCompleteOperation0 FwpsApplyModifiedLayerData0
        FwpsQueryConnectionRedirectState0 FwpsCloneStreamData0
        FwpsCopyStreamDataToBuffer0 FwpsDiscardClonedStreamData0 FwpsFlowAbort0;
} }; }
every_export!(table);

/// How a function may be called.
pub(crate) struct Fact {
    pub arguments: usize,
    pub min: Irql,
    pub max: Irql,
    /// The rule that is broken above `max` or below `min`; most functions share
    /// one.
    pub rule: &'static Rule,
    /// The DDI compliance rule that is broken instead, if that option is on.
    pub compliance: Option<&'static Rule>,
    /// The size of the kernel's object at its first argument; 0 if there is none.
    pub object: u64,
    /// The places of its arguments that are handles of the object manager.
    pub handles: Vec<usize>,
}

/// The fact of the export at `index`.
pub(crate) fn fact(index: usize) -> &'static Fact {
    &FACTS[index]
}

static FACTS: LazyLock<Vec<Fact>> =
    LazyLock::new(|| NAMES.iter().map(|name| Fact::read(name, &FUNCTIONS[*name])).collect());

/// Every function of the headers: the kernel's, the filter engine's and the
/// framework's.
pub(crate) static FUNCTIONS: LazyLock<Value> = LazyLock::new(|| {
    let read = |text| serde_json::from_str::<Value>(text).expect("the fact tables are JSON");
    let mut functions = read(include_str!("../facts/functions.json"));
    let mut kmdf = read(include_str!("../facts/kmdf.json"));
    let all = functions.as_object_mut().expect("functions by name");
    all.append(kmdf["functions"].as_object_mut().expect("functions by name"));
    functions
});

impl Fact {
    fn read(name: &str, fact: &Value) -> Self {
        assert_eq!(fact["kind"].as_str().or(fact["kind"]["x64"].as_str()), Some("import"));
        let irql = &fact["irql"];
        // The lowest maximum is safe for all arguments. A function that permits
        // more for some arguments states it at its `enter!`.
        let by_arguments = irql["max_by_args"].as_array();
        let lowest = by_arguments.and_then(|all| all.iter().filter_map(level).min());
        let abi = fact["abi"].as_array().expect("an import has an ABI");
        Self {
            arguments: abi.iter().take_while(|class| **class != "->").count(),
            min: level(&irql["min"]).unwrap_or(Irql::PASSIVE),
            max: lowest.or_else(|| level(&irql["max"])).unwrap_or(Irql::HIGH),
            rule: irql_rule(name, fact["module"].as_str().unwrap_or_default()),
            compliance: compliance(name),
            object: match fact["params"][0][1].as_str() {
                Some("PKSPIN_LOCK") => 8,
                Some("PKEVENT" | "PRKEVENT") => 24,
                Some("PFAST_MUTEX") => 56,
                Some("PERESOURCE") => 104,
                _ => 0,
            },
            handles: fact["params"].as_array().map_or_else(Vec::new, |all| {
                let places = all.iter().enumerate();
                places.filter(|(_, one)| one[1] == "HANDLE").map(|(at, _)| at).collect()
            }),
        }
    }
}

fn level(fact: &Value) -> Option<Irql> {
    match fact.as_str()? {
        "PASSIVE_LEVEL" => Some(Irql::PASSIVE),
        "APC_LEVEL" => Some(Irql::APC),
        "DISPATCH_LEVEL" => Some(Irql::DISPATCH),
        "IPI_LEVEL" => Some(Irql::IPI),
        // DIRQL is any device level below the highest ones.
        _ => Some(Irql::HIGH),
    }
}

fn irql_rule(name: &str, module: &str) -> &'static Rule {
    match name {
        "KeReleaseSpinLock" => &rules::RELEASE_SPIN_LOCK_IRQL,
        "KeAcquireSpinLockRaiseToDpc" => &rules::ACQUIRE_SPIN_LOCK_IRQL,
        "KeAcquireSpinLockAtDpcLevel" => &rules::ACQUIRE_AT_DPC_IRQL,
        "KeReleaseSpinLockFromDpcLevel" => &rules::RELEASE_FROM_DPC_IRQL,
        "KeReleaseInStackQueuedSpinLock" => &rules::RELEASE_QUEUED_LOCK_IRQL,
        "KeEnterCriticalRegion" => &rules::ENTER_CRITICAL_REGION_IRQL,
        "KeLeaveCriticalRegion" => &rules::LEAVE_CRITICAL_REGION_IRQL,
        "ExAcquireFastMutex" => &rules::ACQUIRE_FAST_MUTEX_IRQL,
        "ExReleaseFastMutex" => &rules::RELEASE_FAST_MUTEX_IRQL,
        "KeSetEvent" => &rules::SET_EVENT_IRQL,
        "IofCompleteRequest" => &rules::IRP_COMPLETION_IRQL,
        "ExAcquireFastMutexUnsafe" => &rules::ACQUIRE_UNSAFE_MUTEX_IRQL,
        "ExReleaseFastMutexUnsafe" => &rules::RELEASE_UNSAFE_MUTEX_IRQL,
        "MmProbeAndLockPages" => &rules::MDL_LOCK_IRQL,
        "MmUnlockPages" => &rules::MDL_UNLOCK_IRQL,
        "MmMapLockedPagesSpecifyCache" => &rules::MAP_MDL_IRQL,
        "MmUnmapLockedPages" => &rules::UNMAP_MDL_IRQL,
        "MmAllocatePagesForMdlEx" | "MmFreePagesFromMdl" => &rules::MDL_ALLOCATE_IRQL,
        _ if name.starts_with("Zw") => &rules::ZW_IRQL,
        _ if name.starts_with("Etw") || name.contains("Rundown") => &rules::CALL_IRQL,
        _ if ["ntoskrnl.exe", "hal.dll"].contains(&module) => &rules::API_IRQL,
        _ => &rules::CALL_IRQL,
    }
}

/// The DDI compliance rule for a function's IRQL: what its reference page names in
/// `req.ddi-compliance`. For KeEnterGuardedRegion and KeLeaveGuardedRegion it is from
/// the rule's page.
fn compliance(name: &str) -> Option<&'static Rule> {
    Some(match name {
        "KeAcquireSpinLockAtDpcLevel" | "KeReleaseSpinLockFromDpcLevel" | "IoWriteErrorLogEntry" => {
            &rules::DDI_IRQL_DISPATCH
        }
        "ExAllocatePoolWithTag" => &rules::DDI_IRQL_EX_ALLOCATE_POOL,
        "ExAcquireFastMutex" => &rules::DDI_IRQL_EX_APC_LTE_1,
        "ProbeForRead" | "ProbeForWrite" => &rules::DDI_IRQL_EX_APC_LTE_2,
        "ExAcquireResourceExclusiveLite" | "ExAcquireResourceSharedLite" | "ExDeleteResourceLite" => {
            &rules::DDI_IRQL_EX_APC_LTE_3
        }
        "ExUuidCreate" => &rules::DDI_IRQL_EX_PASSIVE,
        "IoDeleteDevice" => &rules::DDI_IRQL_IO_APC_LTE,
        "IoCreateDevice" | "IoBuildDeviceIoControlRequest" => &rules::DDI_IRQL_IO_PASSIVE_1,
        "IoCreateSymbolicLink" => &rules::DDI_IRQL_IO_PASSIVE_3,
        "IoDeleteSymbolicLink" => &rules::DDI_IRQL_IO_PASSIVE_4,
        "IoWMIRegistrationControl" => &rules::DDI_IRQL_IO_PASSIVE_5,
        "KeDelayExecutionThread" => &rules::DDI_IRQL_KE_APC_LTE_1,
        "KeEnterCriticalRegion"
        | "KeLeaveCriticalRegion"
        | "KeEnterGuardedRegion"
        | "KeLeaveGuardedRegion" => &rules::DDI_IRQL_KE_APC_LTE_2,
        "KeAcquireSpinLockRaiseToDpc" | "KeClearEvent" | "KeResetEvent" | "KeReadStateEvent" => {
            &rules::DDI_IRQL_KE_DISPATCH_LTE
        }
        "KeReleaseSpinLock" => &rules::DDI_IRQL_KE_RELEASE_SPIN_LOCK,
        "KeSetEvent" => &rules::DDI_IRQL_KE_SET_EVENT,
        "MmAllocatePagesForMdlEx" | "MmFreePagesFromMdl" => &rules::DDI_IRQL_MM_APC_LTE,
        "ObReferenceObjectByHandle" => &rules::DDI_IRQL_OB_PASSIVE,
        "PsCreateSystemThread" | "PsTerminateSystemThread" => &rules::DDI_IRQL_PS_PASSIVE,
        "RtlDeleteRegistryValue" => &rules::DDI_IRQL_RTL_PASSIVE,
        "ZwOpenKey" | "ZwCreateKey" | "ZwQueryKey" | "ZwQueryValueKey" | "ZwSetValueKey" | "ZwClose" => {
            &rules::DDI_IRQL_ZW_PASSIVE
        }
        _ => return None,
    })
}

/// Index of a name in the table. It is evaluated at compile time, so that a
/// function without a row does not compile.
pub(crate) const fn index(name: &str) -> usize {
    let mut at = 0;
    while at < NAMES.len() {
        if equal(NAMES[at].as_bytes(), name.as_bytes()) {
            return at;
        }
        at += 1;
    }
    panic!("the export has no row in the table")
}

pub(crate) const fn equal(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut at = 0;
    while at < a.len() {
        if a[at] != b[at] {
            return false;
        }
        at += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::Path;

    use super::*;

    #[test]
    fn modules_are_those_of_the_documentation() {
        let facts = &*FUNCTIONS;
        for (name, module) in NAMES.iter().zip(MODULES) {
            assert_eq!(facts[name]["module"], *module, "{name}");
        }
        assert_eq!(NAMES.iter().collect::<BTreeSet<_>>().len(), NAMES.len());
    }

    /// Every export can be bound to an import.
    #[test]
    fn no_function_has_more_arguments_than_an_import_passes() {
        for (name, fact) in NAMES.iter().zip(&*FACTS) {
            assert!(fact.arguments <= crate::image::MAX_ARGUMENTS, "{name}: {}", fact.arguments);
        }
    }

    #[test]
    fn irql_limits_come_from_the_fact_table() {
        let at = |name| &FACTS[index(name)];
        assert_eq!(at("KeWaitForSingleObject").max, Irql::APC);
        assert_eq!(at("ZwClose").max, Irql::PASSIVE);
        assert_eq!(at("memcpy").max, Irql::HIGH);
        assert_eq!(at("KeReleaseSpinLock").min, Irql::DISPATCH);
    }

    /// Each row's function has the signature that the fact table gives, and calls
    /// `enter!` with its own name. Each function has a row.
    #[test]
    fn every_function_matches_its_row() {
        let facts = &*FUNCTIONS;
        let mut thunks = BTreeMap::new();
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/nt");
        for file in FILES.iter().collect::<BTreeSet<_>>() {
            // A prefix has a file, a folder, or both.
            let folder = std::fs::read_dir(directory.join(file)).into_iter().flatten();
            let inside = folder.map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
            let own = Some(directory.join(format!("{file}.rs"))).filter(|path| path.exists());
            let items = own.into_iter().chain(inside).flat_map(|path| {
                let source = std::fs::read_to_string(path).unwrap();
                syn::parse_file(&source).unwrap().items
            });
            for item in items {
                if let syn::Item::Fn(function) = item
                    && function.sig.abi.is_some()
                    && matches!(function.vis, syn::Visibility::Public(_))
                {
                    thunks.insert(function.sig.ident.to_string(), (function, *file));
                }
            }
        }
        let names: BTreeSet<String> = NAMES.iter().map(|name| name.to_string()).collect();
        assert_eq!(thunks.keys().cloned().collect::<BTreeSet<_>>(), names);
        for (name, (function, file)) in thunks {
            assert_eq!(FILES[index_of(&name)], file, "{name}");
            let classes: Vec<Value> = signature(&function.sig);
            assert_eq!(facts[&name]["abi"], Value::Array(classes), "{name}");
            let entered = entered_name(&function.block);
            assert_eq!(entered.as_deref(), Some(name.as_str()), "enter! of {name}");
        }
    }

    fn index_of(name: &str) -> usize {
        NAMES.iter().position(|export| *export == name).unwrap()
    }

    fn signature(signature: &syn::Signature) -> Vec<Value> {
        let mut classes: Vec<Value> = Vec::new();
        for input in &signature.inputs {
            let syn::FnArg::Typed(argument) = input else { panic!("an export cannot have a receiver") };
            classes.push(class(&argument.ty).into());
        }
        classes.push("->".into());
        classes.push(match &signature.output {
            syn::ReturnType::Default => "void".into(),
            syn::ReturnType::Type(_, ty) => class(ty).into(),
        });
        classes
    }

    fn class(ty: &syn::Type) -> &'static str {
        let syn::Type::Path(path) = ty else {
            return match ty {
                syn::Type::Never(_) => "void",
                _ => panic!("an export takes only named types"),
            };
        };
        let name = path.path.segments.last().unwrap().ident.to_string();
        match name.as_str() {
            "Address" | "HANDLE" => "ptr",
            "usize" | "u64" => "u64",
            "u32" => "u32",
            "u16" => "u16",
            "i64" => "i64",
            "u8" | "BOOLEAN" | "KIRQL" => "u8",
            "i8" => "i8",
            "i32" | "NTSTATUS" => "i32",
            "LARGE_INTEGER" => "agg8",
            other => panic!("no ABI class for {other}"),
        }
    }

    /// The name in a function's only `enter!`.
    fn entered_name(body: &syn::Block) -> Option<String> {
        struct Finder(Option<String>);
        impl<'a> syn::visit::Visit<'a> for Finder {
            fn visit_macro(&mut self, mac: &'a syn::Macro) {
                if mac.path.is_ident("enter") {
                    assert!(self.0.is_none(), "an export has more than one enter!");
                    let text = mac.tokens.to_string();
                    self.0 = text.split(',').next().map(|name| name.trim().to_string());
                }
            }
        }
        let mut finder = Finder(None);
        syn::visit::Visit::visit_block(&mut finder, body);
        finder.0
    }
}
