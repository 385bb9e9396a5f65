//! Which calls can fail, and with what.
//!
//! Sources are the functions' own reference pages (WDK), unless said otherwise.
//! Where a page says no more than *"other status codes: an error occurred"*,
//! STATUS_INSUFFICIENT_RESOURCES stands for them, since any call may run out of
//! memory, and for calls that go to BFE by RPC what `ntstatus.h` has for a
//! session or a server that is gone.

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
    /// The address for a driver's import, which asks [`crate::nt::FailCalls`].
    pub entry: fn() -> Address,
    /// Whether it gives back what another call gave. Such a call fails a few
    /// times, not for ever: nobody could unload then.
    pub releases: bool,
    /// How; the usual way first.
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
/// BFE has stopped and taken the session with it.
const ABORTED: Failure = refused(Status::FWP_SESSION_ABORTED);
/// Another session is open that the object belongs to.
const WRONG_SESSION: Failure = refused(Status::FWP_WRONG_SESSION);
const UNREACHABLE: Failure = refused(Status::SERVER_UNAVAILABLE);

/// Calls that can fail.
pub const FALLIBLE: &[Fallible] = &[
    // NULL.
    fallible!(ex::ExAllocatePool2(_, _, _), &[SHORT]),
    fallible!(io::IoAllocateWorkItem(_), &[SHORT]),
    fallible!(etw::EtwRegister(_, _, _, _), &[SHORT]),
    // EventSetInformation's page; the kernel's has no list.
    fallible!(etw::EtwSetInformation(_, _, _, _), &[SHORT, refused(Status::INVALID_PARAMETER)]),
    // EventWrite's page: no memory, buffers full, too large for the session's.
    fallible!(etw::EtwWriteTransfer(_, _, _, _, _, _), &[SHORT]),
    // The collision of names, which the page has too, needs a name.
    fallible!(io::IoCreateDevice(_, _, _, _, _, _, _), &[SHORT]),
    fallible!(ps::PsCreateSystemThread(_, _, _, _, _, _, _), &[SHORT]),
    fallible!(zw::ZwCreateEvent(_, _, _, _, _), &[SHORT]),
    // The page names no failure. The others are those of ZwOpenKey's page: no
    // such key, and no right to it.
    fallible!(
        io::IoOpenDriverRegistryKey(_, _, _, _, _),
        &[SHORT, refused(Status::OBJECT_NAME_NOT_FOUND), refused(Status::ACCESS_DENIED)],
    ),
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
    fallible!(fwp::FwpsCalloutRegister3(_, _, _), &[EXISTS, SHORT]),
    // What a driver may go on from is STATUS_SUCCESS and "there is no such
    // callout"; after anything else the callout is there still, and "a callout
    // driver cannot be unloaded until all of the callouts […] have been
    // successfully unregistered".
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
    fallible!(fwp::FwpmEngineOpen0(_, _, _, _, _), &[UNREACHABLE, EXISTS, SHORT]),
    // A close that fails and leaves the session open is not played: no page
    // says that the handle is good for another try, and what is left then are
    // objects that let everything pass once their callouts are gone.
    release!(
        fwp::FwpmEngineClose0(_),
        &[done(Status::FWP_SESSION_ABORTED), done(Status::SERVER_UNAVAILABLE)]
    ),
    // FWPM_SESSION0: the wait for the lock ends in STATUS_FWP_TIMEOUT.
    fallible!(fwp::FwpmTransactionBegin0(_, _), &[refused(Status::FWP_TIMEOUT), ABORTED, SHORT]),
    // No page says whether the transaction is over when a commit fails: it goes
    // on (refused), or is over, and everything in force (done).
    fallible!(
        fwp::FwpmTransactionCommit0(_),
        &[SHORT, refused(Status::FWP_TXN_ABORTED), ABORTED, done(Status::SERVER_UNAVAILABLE)],
    ),
    release!(fwp::FwpmTransactionAbort0(_), &[ABORTED, SHORT, done(Status::SERVER_UNAVAILABLE)]),
    fallible!(fwp::FwpmProviderAdd0(_, _, _), &[EXISTS, ABORTED, SHORT]),
    fallible!(
        fwp::FwpmSubLayerAdd0(_, _, _),
        &[EXISTS, refused(Status::FWP_PROVIDER_NOT_FOUND), ABORTED, SHORT]
    ),
    fallible!(fwp::FwpmCalloutAdd0(_, _, _, _), &[EXISTS, ABORTED, SHORT]),
    fallible!(
        fwp::FwpmFilterAdd0(_, _, _, _),
        &[EXISTS, refused(Status::FWP_CALLOUT_NOT_FOUND), ABORTED, SHORT]
    ),
    // Called for what an earlier run has left, and for filters that a new policy
    // does not ask for.
    fallible!(fwp::FwpmFilterDeleteByKey0(_, _), &[ABORTED, WRONG_SESSION, SHORT]),
    fallible!(
        fwp::FwpmCalloutDeleteByKey0(_, _),
        &[refused(Status::FWP_IN_USE), WRONG_SESSION, ABORTED, SHORT]
    ),
    fallible!(
        fwp::FwpmSubLayerDeleteByKey0(_, _),
        &[refused(Status::FWP_IN_USE), WRONG_SESSION, ABORTED, SHORT]
    ),
    fallible!(
        fwp::FwpmProviderDeleteByKey0(_, _),
        &[refused(Status::FWP_IN_USE), WRONG_SESSION, ABORTED, SHORT]
    ),
    // The flow is over already, or there is no memory for the context.
    fallible!(fwp::FwpsFlowAssociateContext0(_, _, _, _), &[refused(Status::INVALID_PARAMETER), SHORT]),
    release!(fwp::FwpsFlowRemoveContext0(_, _, _), &[refused(Status::UNSUCCESSFUL)]),
];

/// Calls that cannot fail, or not in a way that a driver could see, and why.
pub const INFALLIBLE: &[(&str, &str)] = &[
    ("EtwUnregister", "fails for a handle that is not registered, by the caller's fault alone"),
    ("ExFreePoolWithTag", "returns nothing"),
    ("IoDeleteDevice", "returns nothing"),
    ("IoFreeWorkItem", "returns nothing"),
    ("IoQueueWorkItem", "returns nothing: the item is all it needs"),
    ("KeAcquireSpinLockRaiseToDpc", "returns a level"),
    ("KeBugCheckEx", "does not return"),
    ("KeDelayExecutionThread", "not alertable and in kernel mode it returns STATUS_SUCCESS only"),
    ("KeGetCurrentIrql", "returns a level"),
    ("KeGetCurrentProcessorNumberEx", "returns a number"),
    ("KeGetProcessorNumberFromIndex", "fails for a processor that is not active; all of a machine's are"),
    ("KeInitializeEvent", "returns nothing"),
    ("KeQueryInterruptTimePrecise", "returns a time"),
    ("KeQueryMaximumProcessorCountEx", "returns a number"),
    ("KeQueryUnbiasedInterruptTime", "returns a time"),
    ("KeReleaseSpinLock", "returns nothing"),
    ("KeRevertToUserGroupAffinityThread", "returns nothing"),
    ("KeSetEvent", "returns the event's previous state"),
    ("KeSetSystemGroupAffinityThread", "returns nothing"),
    ("KeWaitForSingleObject", "not alertable, in kernel mode and without a timeout it ends in success only"),
    ("ZwClose", "fails for a handle that is not open or is protected, by the caller's fault alone"),
    (
        "ZwNotifyChangeKey",
        "called by a system thread alone, whose calls stand in no order; the driver's tests take its key away",
    ),
    ("ZwSetEvent", "fails for a handle that is no event's, by the caller's fault alone"),
    ("ZwWaitForSingleObject", "not alertable it ends in success, or when the time is over"),
    ("FwpmBfeStateGet0", "returns a state"),
    ("memcmp", "C"),
    ("memcpy", "C"),
    ("memmove", "C"),
    ("memset", "C"),
];

/// Row in [`FALLIBLE`] of the export at `index`.
pub(super) fn row(export: usize) -> Option<usize> {
    FALLIBLE.iter().position(|call| call.export == export)
}

/// What a driver's import of this name is bound to, if the call can fail.
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

    /// What returns no status and no pointer has no way to say that it failed.
    #[test]
    fn what_can_fail_returns_a_status_or_a_pointer() {
        let facts: serde_json::Value =
            serde_json::from_str(include_str!("../../facts/functions.json")).unwrap();
        for call in FALLIBLE {
            let ret = facts[call.name]["ret"].as_str().unwrap();
            assert!(["NTSTATUS", "PVOID", "PIO_WORKITEM"].contains(&ret), "{}: {ret}", call.name);
        }
        for (name, _) in INFALLIBLE {
            assert!(!FALLIBLE.iter().any(|call| call.name == *name), "{name} is in both tables");
        }
    }
}
