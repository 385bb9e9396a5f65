//! The calls that can fail, and their documented failures.
//!
//! Sources are the functions' own reference pages (WDK), unless said otherwise. If
//! a page only says *"other status codes: an error occurred"*, this table uses
//! STATUS_INSUFFICIENT_RESOURCES, because any call may run out of memory. For calls
//! that go to BFE by RPC, it also uses the codes of `ntstatus.h` for an aborted
//! session or server.

use crate::exports::index;
use crate::nt::types::Address;
use crate::nt::{self, CanFail, Effect, Failure};
use crate::status::Status;

/// A call that can fail.
#[derive(Debug)]
pub struct Fallible {
    /// The export.
    pub name: &'static str,
    /// Its row in [`crate::exports`].
    pub export: usize,
    /// The address for a driver's import; it asks [`crate::nt::FailCalls`].
    pub entry: fn() -> Address,
    /// Whether it releases what another call has returned. Such a call fails only a
    /// few times, because otherwise the driver could not unload.
    pub releases: bool,
    /// Its failures; the most common one comes first.
    pub failures: &'static [Failure],
}

const fn refused(status: Status) -> Failure {
    Failure { status, effect: Effect::Refused }
}

const fn done(status: Status) -> Failure {
    Failure { status, effect: Effect::Done }
}

macro_rules! fallible {
    ($file:ident::$name:ident($($argument:tt),*), $failures:expr $(,)?) => {
        row!(false, $file::$name($($argument),*), $failures)
    };
}

macro_rules! release {
    ($file:ident::$name:ident($($argument:tt),*), $failures:expr $(,)?) => {
        row!(true, $file::$name($($argument),*), $failures)
    };
}

macro_rules! row {
    ($releases:literal, $file:ident::$name:ident($($argument:tt),*), $failures:expr $(,)?) => {
        Fallible {
            name: stringify!($name),
            export: index(stringify!($name)),
            entry: || {
                let real = nt::$file::$name as extern "win64" fn($($argument),*) -> _;
                real.address::<{ index(stringify!($name)) }>()
            },
            releases: $releases,
            failures: $failures,
        }
    };
}

const SHORT: Failure = refused(Status::INSUFFICIENT_RESOURCES);
const EXISTS: Failure = refused(Status::FWP_ALREADY_EXISTS);
/// BFE has stopped and has aborted the session.
const ABORTED: Failure = refused(Status::FWP_SESSION_ABORTED);
/// The object belongs to another open session.
const WRONG_SESSION: Failure = refused(Status::FWP_WRONG_SESSION);
const UNREACHABLE: Failure = refused(Status::SERVER_UNAVAILABLE);
/// TCP/IP is not ready for injection.
const NOT_READY: Failure = refused(Status::FWP_TCPIP_NOT_READY);
/// The injection handle is being destroyed.
const CLOSING: Failure = refused(Status::FWP_INJECT_HANDLE_CLOSING);
/// The wait for the engine's lock ended.
const TIMEOUT: Failure = refused(Status::FWP_TIMEOUT);

/// The calls that can fail.
pub const FALLIBLE: &[Fallible] = &[
    // It returns NULL.
    fallible!(ex::ExAllocatePool2(_, _, _), &[SHORT]),
    fallible!(ex::ExAllocatePoolWithTag(_, _, _), &[SHORT]),
    fallible!(io::IoAllocateWorkItem(_), &[SHORT]),
    fallible!(error_log::IoAllocateErrorLogEntry(_, _), &[SHORT]),
    // The page also lists a collision of names.
    fallible!(links::IoCreateSymbolicLink(_, _), &[SHORT, refused(Status::OBJECT_NAME_COLLISION)]),
    // STATUS_RETRY: the system is not ready.
    fallible!(strings::ExUuidCreate(_), &[refused(Status(0xC000_022D_u32 as i32))]),
    fallible!(conversions::RtlAnsiStringToUnicodeString(_, _, _), &[refused(Status::NO_MEMORY)]),
    fallible!(conversions::RtlUnicodeStringToAnsiString(_, _, _), &[refused(Status::NO_MEMORY)]),
    fallible!(conversions::RtlUpcaseUnicodeString(_, _, _), &[refused(Status::NO_MEMORY)]),
    fallible!(conversions::RtlDowncaseUnicodeString(_, _, _), &[refused(Status::NO_MEMORY)]),
    fallible!(irp::IoGetDeviceObjectPointer(_, _, _, _), &[SHORT, refused(Status::OBJECT_NAME_NOT_FOUND)]),
    // They return NULL.
    fallible!(irp::IoAllocateIrp(_, _), &[SHORT]),
    fallible!(irp::IoBuildDeviceIoControlRequest(_, _, _, _, _, _, _, _, _), &[SHORT]),
    fallible!(irp::IoBuildSynchronousFsdRequest(_, _, _, _, _, _, _), &[SHORT]),
    fallible!(irp::IoBuildAsynchronousFsdRequest(_, _, _, _, _, _), &[SHORT]),
    fallible!(irp::IoSetCompletionRoutineEx(_, _, _, _, _, _, _), &[SHORT]),
    // The image must be signed in a way that forces its integrity.
    fallible!(
        process_routines::PsSetCreateProcessNotifyRoutineEx(_, _),
        &[refused(Status::ACCESS_DENIED), refused(Status::INVALID_PARAMETER)]
    ),
    fallible!(processors::KeRegisterProcessorChangeCallback(_, _, _), &[SHORT]),
    fallible!(etw::EtwRegister(_, _, _, _), &[SHORT]),
    fallible!(wpp::EtwRegisterClassicProvider(_, _, _, _, _), &[SHORT]),
    fallible!(wmi::IoWMIRegistrationControl(_, _), &[SHORT]),
    fallible!(wmi::IoWMIWriteEvent(_), &[SHORT, refused(Status::UNSUCCESSFUL)]),
    // From the page of EventSetInformation; the kernel's page has no list.
    fallible!(etw::EtwSetInformation(_, _, _, _), &[SHORT, refused(Status::INVALID_PARAMETER)]),
    // From the page of EventWrite: no memory, buffers full, or too large for the
    // session's buffers.
    fallible!(etw::EtwWriteTransfer(_, _, _, _, _, _), &[SHORT]),
    // The page also lists a collision of names, which needs a name.
    fallible!(io::IoCreateDevice(_, _, _, _, _, _, _), &[SHORT]),
    fallible!(ps::PsCreateSystemThread(_, _, _, _, _, _, _), &[SHORT]),
    fallible!(zw::ZwCreateEvent(_, _, _, _, _), &[SHORT]),
    // The page lists no failure. The others are from the page of ZwOpenKey: the key
    // does not exist, or access is denied.
    fallible!(
        io::IoOpenDriverRegistryKey(_, _, _, _, _),
        &[SHORT, refused(Status::OBJECT_NAME_NOT_FOUND), refused(Status::ACCESS_DENIED)],
    ),
    // Of the page's failures, those of a valid path.
    fallible!(
        zw::ZwOpenKey(_, _, _),
        &[SHORT, refused(Status::OBJECT_NAME_NOT_FOUND), refused(Status::ACCESS_DENIED)],
    ),
    // The page's other failures are of a buffer that is too small, and still give the time.
    fallible!(zw::ZwQueryKey(_, _, _, _, _), &[SHORT, refused(Status::ACCESS_DENIED)]),
    fallible!(
        zw::ZwQueryValueKey(_, _, _, _, _, _),
        &[
            refused(Status::OBJECT_NAME_NOT_FOUND),
            refused(Status::BUFFER_OVERFLOW),
            refused(Status::BUFFER_TOO_SMALL),
            refused(Status::ACCESS_DENIED),
            SHORT,
        ],
    ),
    fallible!(fwp::FwpsCalloutRegister0(_, _, _), &[EXISTS, SHORT]),
    fallible!(fwp::FwpsCalloutRegister1(_, _, _), &[EXISTS, SHORT]),
    fallible!(fwp::FwpsCalloutRegister2(_, _, _), &[EXISTS, SHORT]),
    fallible!(fwp::FwpsCalloutRegister3(_, _, _), &[EXISTS, SHORT]),
    // A driver may continue after STATUS_SUCCESS and "there is no such callout".
    // After any other status the callout is still registered, and "a callout driver
    // cannot be unloaded until all of the callouts […] have been successfully
    // unregistered".
    release!(
        fwp::FwpsCalloutUnregisterById0(_),
        &[
            refused(Status::DEVICE_BUSY),
            refused(Status::FWP_IN_USE),
            SHORT,
            done(Status::FWP_CALLOUT_NOT_FOUND),
        ],
    ),
    fallible!(fwp::FwpmBfeStateSubscribeChanges0(_, _, _, _), &[SHORT]),
    // "Other status codes: an error occurred", and "it must deregister the
    // callback function before the callout driver can be unloaded".
    release!(fwp::FwpmBfeStateUnsubscribeChanges0(_), &[SHORT]),
    fallible!(fwp::FwpmEngineOpen0(_, _, _, _, _), &[UNREACHABLE, EXISTS, SHORT, TIMEOUT]),
    // A close that fails and leaves the session open is not simulated, because no
    // page says that the handle can be used for another try. The remaining objects
    // permit everything once their callouts are gone.
    release!(
        fwp::FwpmEngineClose0(_),
        &[done(Status::FWP_SESSION_ABORTED), done(Status::SERVER_UNAVAILABLE)]
    ),
    // FWPM_SESSION0: the wait for the lock ends with STATUS_FWP_TIMEOUT.
    fallible!(
        fwp::FwpmTransactionBegin0(_, _),
        &[TIMEOUT, ABORTED, SHORT, UNREACHABLE, done(Status::CALL_FAILED)]
    ),
    // No page says whether a failed commit ends the transaction. Both are
    // simulated: it continues (refused), or it is over and in force (done).
    fallible!(
        fwp::FwpmTransactionCommit0(_),
        &[SHORT, refused(Status::FWP_TXN_ABORTED), ABORTED, UNREACHABLE, done(Status::SERVER_UNAVAILABLE)],
    ),
    release!(fwp::FwpmTransactionAbort0(_), &[ABORTED, SHORT, done(Status::SERVER_UNAVAILABLE)]),
    fallible!(fwp::FwpmProviderAdd0(_, _, _), &[EXISTS, ABORTED, SHORT, TIMEOUT, UNREACHABLE]),
    fallible!(
        fwp::FwpmSubLayerAdd0(_, _, _),
        &[EXISTS, refused(Status::FWP_PROVIDER_NOT_FOUND), ABORTED, SHORT, TIMEOUT, UNREACHABLE]
    ),
    fallible!(fwp::FwpmCalloutAdd0(_, _, _, _), &[EXISTS, ABORTED, SHORT, TIMEOUT, UNREACHABLE]),
    fallible!(
        fwp::FwpmFilterAdd0(_, _, _, _),
        &[EXISTS, refused(Status::FWP_CALLOUT_NOT_FOUND), ABORTED, SHORT, TIMEOUT, UNREACHABLE]
    ),
    // Called for objects of an earlier run, and for filters that a new policy does
    // not need.
    fallible!(fwp::FwpmFilterDeleteByKey0(_, _), &[ABORTED, WRONG_SESSION, SHORT, TIMEOUT, UNREACHABLE]),
    fallible!(
        fwp::FwpmCalloutDeleteByKey0(_, _),
        &[refused(Status::FWP_IN_USE), WRONG_SESSION, ABORTED, SHORT, TIMEOUT, UNREACHABLE]
    ),
    fallible!(
        fwp::FwpmSubLayerDeleteByKey0(_, _),
        &[refused(Status::FWP_IN_USE), WRONG_SESSION, ABORTED, SHORT, TIMEOUT, UNREACHABLE]
    ),
    fallible!(
        fwp::FwpmProviderDeleteByKey0(_, _),
        &[refused(Status::FWP_IN_USE), WRONG_SESSION, ABORTED, SHORT, TIMEOUT, UNREACHABLE]
    ),
    // The flow is already over, or there is no memory for the context.
    fallible!(fwp::FwpsFlowAssociateContext0(_, _, _, _), &[refused(Status::INVALID_PARAMETER), SHORT]),
    release!(fwp::FwpsFlowRemoveContext0(_, _, _), &[refused(Status::UNSUCCESSFUL)]),
    // The framework. Its pages name STATUS_INSUFFICIENT_RESOURCES for all of them.
    fallible!(wdf::WdfDriverCreate(_, _, _, _, _, _), &[SHORT]),
    fallible!(wdf::WdfControlDeviceInitAllocate(_, _, _), &[SHORT]),
    fallible!(wdf::WdfDeviceInitAssignName(_, _, _), &[SHORT]),
    fallible!(wdf::WdfDeviceCreate(_, _, _, _), &[SHORT, refused(Status::OBJECT_NAME_COLLISION)]),
    fallible!(wdf::WdfDeviceCreateSymbolicLink(_, _, _), &[SHORT, refused(Status::OBJECT_NAME_COLLISION)]),
    fallible!(wdf::WdfIoQueueCreate(_, _, _, _, _), &[SHORT]),
    fallible!(wdf::WdfWorkItemCreate(_, _, _, _), &[SHORT]),
    fallible!(wdf::WdfTimerCreate(_, _, _, _), &[SHORT]),
    fallible!(wdf::WdfObjectCreate(_, _, _), &[SHORT]),
    fallible!(wdf::WdfObjectAllocateContext(_, _, _, _), &[SHORT]),
    fallible!(wdf::WdfMemoryCreate(_, _, _, _, _, _, _), &[SHORT]),
    fallible!(wdf::WdfSpinLockCreate(_, _, _), &[SHORT]),
    fallible!(wdf::WdfWaitLockCreate(_, _, _), &[SHORT]),
    fallible!(wdf::WdfStringCreate(_, _, _, _), &[SHORT]),
    fallible!(wdf::WdfCollectionCreate(_, _, _), &[SHORT]),
    fallible!(wdf::WdfRequestRetrieveInputBuffer(_, _, _, _, _), &[SHORT]),
    fallible!(wdf::WdfRequestRetrieveOutputBuffer(_, _, _, _, _), &[SHORT]),
    fallible!(wdf::WdfRequestRetrieveOutputWdmMdl(_, _, _), &[SHORT]),
    fallible!(wdf::WdfRequestProbeAndLockUserBufferForRead(_, _, _, _, _), &[SHORT]),
    fallible!(wdf::WdfRequestProbeAndLockUserBufferForWrite(_, _, _, _, _), &[SHORT]),
    // The queue takes no requests any more: STATUS_WDF_BUSY.
    fallible!(
        wdf::WdfRequestForwardToIoQueue(_, _, _),
        &[refused(Status(0xC020_0204_u32 as i32)), refused(Status::CANCELLED)]
    ),
    fallible!(wdf::WdfDeviceEnqueueRequest(_, _, _), &[refused(Status(0xC020_0204_u32 as i32))]),
    fallible!(
        wdf::WdfDriverOpenParametersRegistryKey(_, _, _, _, _),
        &[SHORT, refused(Status::OBJECT_NAME_NOT_FOUND)]
    ),
    // These return NULL.
    fallible!(mm::IoAllocateMdl(_, _, _, _, _), &[SHORT]),
    fallible!(ndis::NdisAllocateNetBufferListPool(_, _), &[SHORT]),
    fallible!(ndis::NdisAllocateNetBufferPool(_, _), &[SHORT]),
    fallible!(ndis::NdisAllocateGenericObject(_, _, _), &[SHORT]),
    fallible!(ndis::NdisRetreatNetBufferDataStart(_, _, _, _), &[SHORT]),
    fallible!(ndis::NdisRetreatNetBufferListDataStart(_, _, _, _, _), &[SHORT]),
    fallible!(fwp::FwpsAllocateNetBufferAndNetBufferList0(_, _, _, _, _, _, _), &[SHORT]),
    fallible!(fwp::FwpsAllocateCloneNetBufferList0(_, _, _, _, _), &[SHORT]),
    fallible!(fwp::FwpsCloneStreamData0(_, _, _, _, _), &[SHORT]),
    fallible!(fwp::FwpsConstructIpHeaderForTransportPacket0(_, _, _, _, _, _, _, _, _, _, _, _, _), &[SHORT]),
    fallible!(fwp::FwpsInjectionHandleCreate0(_, _, _), &[NOT_READY, SHORT]),
    // "If the return value is not STATUS_SUCCESS, the completion function will not be
    // called."
    fallible!(fwp::FwpsInjectNetworkSendAsync0(_, _, _, _, _, _, _), &[NOT_READY, CLOSING, SHORT]),
    fallible!(fwp::FwpsInjectNetworkReceiveAsync0(_, _, _, _, _, _, _, _, _), &[NOT_READY, CLOSING, SHORT]),
    fallible!(fwp::FwpsInjectForwardAsync0(_, _, _, _, _, _, _, _, _), &[NOT_READY, CLOSING, SHORT]),
    fallible!(fwp::FwpsInjectTransportSendAsync0(_, _, _, _, _, _, _, _, _, _), &[NOT_READY, CLOSING, SHORT]),
    fallible!(fwp::FwpsInjectTransportSendAsync1(_, _, _, _, _, _, _, _, _, _), &[NOT_READY, CLOSING, SHORT]),
    fallible!(
        fwp::FwpsInjectTransportReceiveAsync0(_, _, _, _, _, _, _, _, _, _, _),
        &[NOT_READY, CLOSING, SHORT]
    ),
    fallible!(fwp::FwpsStreamInjectAsync0(_, _, _, _, _, _, _, _, _, _, _), &[NOT_READY, CLOSING, SHORT]),
    fallible!(
        fwp::FwpsPendOperation0(_, _),
        &[refused(Status::FWP_CANNOT_PEND), refused(Status::FWP_NULL_POINTER), NOT_READY]
    ),
    fallible!(fwp::FwpsAcquireClassifyHandle0(_, _, _), &[SHORT]),
    fallible!(fwp::FwpsPendClassify0(_, _, _, _), &[refused(Status::FWP_CANNOT_PEND), SHORT]),
    fallible!(fwp::FwpsAcquireWritableLayerDataPointer0(_, _, _, _, _), &[SHORT]),
    fallible!(fwp::FwpsRedirectHandleCreate0(_, _, _), &[SHORT]),
];

/// The calls that cannot fail, or not in a way that a driver can see, with the
/// reason.
pub const INFALLIBLE: &[(&str, &str)] = &[
    ("EtwUnregister", "fails only for a handle that is not registered, which is the caller's fault"),
    ("ExFreePool", "returns nothing"),
    ("IoDeleteDevice", "returns nothing"),
    ("IoFreeWorkItem", "returns nothing"),
    ("IoQueueWorkItem", "returns nothing; it needs no memory but the item"),
    ("IoWriteErrorLogEntry", "returns nothing; the entry has its memory"),
    ("KeBugCheckEx", "does not return"),
    ("KeDeregisterProcessorChangeCallback", "returns nothing"),
    ("KeDelayExecutionThread", "in kernel mode and not alertable, it returns only STATUS_SUCCESS"),
    ("KeEnterCriticalRegion", "returns nothing"),
    ("KeGetCurrentIrql", "returns a level"),
    ("KeGetCurrentProcessorNumberEx", "returns a number"),
    ("KeInitializeEvent", "returns nothing"),
    ("KeLeaveCriticalRegion", "returns nothing"),
    ("KeLowerIrql", "returns nothing"),
    ("KeQueryGroupAffinity", "returns a mask"),
    ("KeQueryInterruptTimePrecise", "returns a time"),
    ("KeQueryMaximumGroupCount", "returns a number"),
    ("KeQueryMaximumProcessorCountEx", "returns a number"),
    ("KeQuerySystemTimePrecise", "returns nothing but a time"),
    ("KeQueryUnbiasedInterruptTime", "returns a time"),
    ("KeRevertToUserGroupAffinityThread", "returns nothing"),
    ("KeSetBasePriorityThread", "returns an increment"),
    ("KeSetEvent", "returns the event's previous state"),
    ("KeSetPriorityThread", "returns a priority"),
    ("KeSetSystemGroupAffinityThread", "returns nothing"),
    ("KeWaitForSingleObject", "in kernel mode, not alertable and without a timeout, it only succeeds"),
    ("KfRaiseIrql", "returns a level"),
    ("ObReferenceObjectByHandle", "it is asked for the calling thread, which exists"),
    ("ObfDereferenceObject", "returns a number"),
    ("PsTerminateSystemThread", "fails only on another thread, which is the caller's fault"),
    ("ZwClose", "fails only for a closed or protected handle, which is the caller's fault"),
    ("ZwSetEvent", "fails only for a handle that is not an event's, which is the caller's fault"),
    ("ZwWaitForSingleObject", "not alertable, it ends with success or with a timeout"),
    ("FwpmBfeStateGet0", "returns a state"),
    ("memcmp", "C"),
    ("memcpy", "C"),
    ("memmove", "C"),
    ("memset", "C"),
];

/// The row in [`FALLIBLE`] of an export.
pub(super) fn row(export: usize) -> Option<usize> {
    FALLIBLE.iter().position(|call| call.export == export)
}

/// The address for a driver's import with this name, if the call can fail.
pub fn entry(name: &str) -> Option<Address> {
    let call = FALLIBLE.iter().find(|call| call.name == name)?;
    Some((call.entry)())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_call_of_the_table_can_fail() {
        for call in FALLIBLE {
            assert_eq!(crate::exports::name(call.export), call.name);
            assert!(!call.failures.is_empty(), "{}", call.name);
            assert!(call.failures.iter().all(|failure| !failure.status.is_success()), "{}", call.name);
            let names: BTreeSet<_> =
                call.failures.iter().map(|it| (it.status.0, it.effect == Effect::Done)).collect();
            assert_eq!(names.len(), call.failures.len(), "{} fails twice in one way", call.name);
        }
    }

    /// A call without a status or pointer cannot report a failure.
    #[test]
    fn calls_that_can_fail_return_a_status_or_a_pointer() {
        let facts = &*crate::exports::FUNCTIONS;
        for call in FALLIBLE {
            let ret = facts[call.name]["ret"].as_str().unwrap();
            let known = [
                "NTSTATUS",
                "NDIS_STATUS",
                "NDIS_HANDLE",
                "PNDIS_GENERIC_OBJECT",
                "PVOID",
                "PMDL",
                "PIO_WORKITEM",
                "PIRP",
                "PWDFDEVICE_INIT",
            ];
            assert!(known.contains(&ret), "{}: {ret}", call.name);
        }
        for (name, _) in INFALLIBLE {
            assert!(!FALLIBLE.iter().any(|call| call.name == *name), "{name} is in both tables");
        }
    }
}
