//! Event tracing (`wdm.h`, `evntprov.h`) and the sessions that collect events.
#![expect(non_snake_case, reason = "the names are the NT API's own")]

use std::sync::Arc;

use super::cpu::Irql;
use super::enter::enter;
use super::foreign;
use super::types::{Address, EVENT_DATA_DESCRIPTOR, EVENT_DESCRIPTOR, GUID, NTSTATUS};
use super::{Kernel, RunningCallbacks, Stop, Trouble, status};
use crate::etw::{Called, Enable, Event, Listening, Malformed, Message, Misuse, Raw, SessionId, Turn};
use crate::schedule::Waited;
use crate::status::Status;
use crate::verifier::{Violation, rules};
use crate::wfp::Guid;

/// `EVENT_CONTROL_CODE_DISABLE_PROVIDER` (`evntrace.h`).
const DISABLE: u32 = 0;
/// `EVENT_CONTROL_CODE_ENABLE_PROVIDER`.
const ENABLE: u32 = 1;
/// `EVENT_CONTROL_CODE_CAPTURE_STATE`.
const CAPTURE_STATE: u32 = 2;
/// `EventProviderSetTraits` (`evntprov.h`).
const SET_TRAITS: i32 = 2;
/// `MAX_EVENT_DATA_DESCRIPTORS` (`evntprov.h`).
const MOST_PARTS: u32 = 128;
/// What a driver has in place of a handle until it is registered. Macros of the headers
/// write events and unregister with it.
const NO_HANDLE: u64 = 0;
/// Most bytes that are read. Valid events have less, so that oversized ones are
/// reported.
const LARGEST: u32 = 1 << 20;

/// `EtwRegister`. If sessions have enabled the provider, its callback runs before
/// the call returns, and so before it knows its handle ("EventRegister", remarks).
pub extern "win64" fn EtwRegister(
    ProviderId: Address,
    EnableCallback: Address,
    CallbackContext: Address,
    RegHandle: Address,
) -> NTSTATUS {
    let kernel = enter!(EtwRegister);
    let outcome = register(&kernel, ProviderId, [EnableCallback, CallbackContext], RegHandle, false);
    let status = kernel.settle(outcome, Status::UNSUCCESSFUL);
    kernel.leave_if_stopped();
    status.0
}

/// Registers a provider with its callback and context. A `classic` one has another callback,
/// and writes messages.
pub(super) fn register(
    kernel: &Kernel,
    id: Address,
    [callback, context]: [Address; 2],
    out: Address,
    classic: bool,
) -> Result<Status, Trouble> {
    let provider = foreign::read::<GUID>(id)?.to_guid();
    // Check the pointer before registering, so that no handle is lost.
    foreign::write(out, &0_u64)?;
    let handle = kernel.tracing().register(provider, callback, context, kernel.origin());
    if classic {
        kernel.tracing().set_classic(handle);
    }
    if kernel.tracing().is_wanted(provider) {
        // If the callback failed, it has already stopped the machine.
        let _ = kernel.notify_provider(handle, ENABLE, Guid::nil());
    }
    foreign::write(out, &handle)?;
    Ok(Status::SUCCESS)
}

/// `EtwUnregister`. `Options::enable_callbacks` says what it does while the enable
/// callback runs.
pub extern "win64" fn EtwUnregister(RegHandle: u64) -> NTSTATUS {
    let kernel = enter!(EtwUnregister);
    if RegHandle == NO_HANDLE {
        return Status::INVALID_HANDLE.0;
    }
    let mut misuse = None;
    let what = || "the return of an enable callback".to_owned();
    let awaited = kernel.options().enable_callbacks == RunningCallbacks::Awaited;
    let waited = kernel.bell.wait(&what, None, || match kernel.tracing().unregister(RegHandle, awaited) {
        Ok(done) => done,
        Err(found) => {
            misuse = Some(found);
            true
        }
    });
    if waited != Waited::Ready {
        kernel.leave_if_stopped();
    }
    let outcome = match misuse {
        None => Ok(Status::SUCCESS),
        Some(misuse) => Err(Trouble::from(misused("EtwUnregister", RegHandle, misuse))),
    };
    kernel.settle(outcome, Status::INVALID_PARAMETER).0
}

/// `EtwSetInformation`. Sets a provider's traits. The other classes have no effect
/// that a consumer here can see.
pub extern "win64" fn EtwSetInformation(
    RegHandle: u64,
    InformationClass: i32,
    EventInformation: Address,
    InformationLength: u32,
) -> NTSTATUS {
    let kernel = enter!(EtwSetInformation);
    if RegHandle == NO_HANDLE {
        return Status::INVALID_HANDLE.0;
    }
    let outcome = set(&kernel, RegHandle, InformationClass, EventInformation, InformationLength);
    kernel.settle(outcome, Status::INVALID_PARAMETER).0
}

fn set(
    kernel: &Kernel,
    handle: u64,
    class: i32,
    information: Address,
    length: u32,
) -> Result<Status, Trouble> {
    if class != SET_TRAITS {
        return Ok(status::INVALID_DEVICE_REQUEST);
    }
    if length > LARGEST {
        return Ok(Status::INVALID_PARAMETER);
    }
    let traits = foreign::read_bytes(information, length as usize)?;
    match kernel.tracing().set_traits(handle, &traits) {
        Ok(Ok(())) => Ok(Status::SUCCESS),
        Ok(Err(malformed)) => Err(undecodable(handle, &malformed).into()),
        Err(_) => Ok(Status::INVALID_HANDLE),
    }
}

/// `EtwWriteTransfer`.
pub extern "win64" fn EtwWriteTransfer(
    RegHandle: u64,
    EventDescriptor: Address,
    ActivityId: Address,
    RelatedActivityId: Address,
    UserDataCount: u32,
    UserData: Address,
) -> NTSTATUS {
    let kernel = enter!(EtwWriteTransfer);
    if RegHandle == NO_HANDLE {
        return Status::INVALID_HANDLE.0;
    }
    let outcome = foreign::read_guid(ActivityId)
        .and_then(|_| foreign::read_guid(RelatedActivityId))
        .map_err(Trouble::from)
        .and_then(|_| write(&kernel, RegHandle, EventDescriptor, UserDataCount, UserData));
    kernel.settle(outcome, Status::INVALID_PARAMETER).0
}

fn write(
    kernel: &Kernel,
    handle: u64,
    descriptor: Address,
    count: u32,
    data: Address,
) -> Result<Status, Trouble> {
    let descriptor: EVENT_DESCRIPTOR = foreign::read(descriptor)?;
    if count > MOST_PARTS {
        return Ok(Status::INVALID_PARAMETER);
    }
    let mut parts = Vec::new();
    for part in foreign::read_array::<EVENT_DATA_DESCRIPTOR>(data, count as usize)? {
        if part.Size > LARGEST {
            return Ok(Status::INVALID_PARAMETER);
        }
        parts.push((part.Type, foreign::read_bytes(part.Ptr as Address, part.Size as usize)?));
    }
    let EVENT_DESCRIPTOR { Channel: channel, Level: level, Opcode: opcode, Keyword: keyword, .. } =
        descriptor;
    let raw = Raw { channel, level, opcode, keyword, parts };
    match kernel.tracing().write(handle, &raw, kernel.clock().system_time()) {
        Ok(Ok(())) => Ok(Status::SUCCESS),
        Ok(Err(malformed)) => Err(undecodable(handle, &malformed).into()),
        Err(misuse) => Err(misused("EtwWriteTransfer", handle, misuse).into()),
    }
}

fn misused(call: &str, handle: u64, misuse: Misuse) -> Violation {
    let (rule, what) = match misuse {
        Misuse::Unregistered => (&rules::ETW_AFTER_UNREGISTER, "is unregistered"),
        Misuse::Unknown => (&rules::ETW_BAD_HANDLE, "was never registered"),
    };
    let text = format!("{call}: {handle:#x} {what}");
    match call {
        // The reference reserves the other parameters.
        "EtwUnregister" => Violation::new(&rules::ETW_BAD_UNREGISTER, [0; 3], text),
        _ => Violation::new(rule, [handle, 0, 0], text),
    }
}

fn undecodable(handle: u64, malformed: &Malformed) -> Violation {
    Violation::new(&rules::ETW_MALFORMED_EVENT, [handle, 0, 0], malformed.to_string())
}

impl Kernel {
    /// Starts a session. The provider's callback runs now if it is registered, else
    /// when it registers.
    pub fn trace(self: &Arc<Self>, enable: Enable, listening: Option<Listening>) -> Trace {
        let id = self.tracing().open(enable, listening);
        self.notify_providers(enable.provider, ENABLE, id);
        Trace { kernel: Arc::clone(self), id, enable }
    }

    fn notify_providers(&self, provider: Guid, control: u32, session: SessionId) {
        for handle in self.tracing().handles(provider) {
            // If the callback failed, it has already stopped the machine.
            let _ = self.notify_provider(handle, control, session.source());
        }
    }

    /// Calls a provider's enable callback. Only one call runs at a time.
    fn notify_provider(&self, handle: u64, control: u32, source: Guid) -> Result<(), Stop> {
        let mut go = None;
        let what = || "the return of an enable callback".to_owned();
        let _ready_or_stopped = self.bell.wait(&what, None, || match self.tracing().call(handle, control) {
            Turn::Gone => true,
            Turn::Busy => false,
            Turn::Go(registered, called) => {
                go = Some((registered, called));
                true
            }
        });
        let Some((registered, Called { control, filter })) = go else { return Ok(()) };
        if registered.classic {
            // The GUID, the control code, WPP_TRACE_ENABLE_CONTEXT, and the context.
            let (guid, logger) =
                (GUID::from(registered.provider), self.tracing().logger(registered.provider));
            let arguments =
                [&raw const guid as u64, control.into(), &raw const logger as u64, registered.context as u64];
            let outcome = self.call_driver(registered.callback, &arguments, Irql::PASSIVE, "enable callback");
            self.tracing().returned(handle);
            self.bell.ring();
            return outcome.map(|_| ());
        }
        let source = GUID::from(source);
        let arguments = [
            &raw const source as u64,
            control.into(),
            filter.level.into(),
            filter.any,
            filter.all,
            0,
            registered.context as u64,
        ];
        let outcome = self.call_driver(registered.callback, &arguments, Irql::PASSIVE, "enable callback");
        self.tracing().returned(handle);
        self.bell.ring();
        outcome.map(|_| ())
    }
}

/// A session that collects events until it is dropped.
pub struct Trace {
    kernel: Arc<Kernel>,
    id: SessionId,
    enable: Enable,
}

impl Trace {
    /// Requests the provider's state.
    pub fn capture_state(&self) {
        self.kernel.notify_providers(self.enable.provider, CAPTURE_STATE, self.id);
    }

    /// The events so far. They stay in the session.
    pub fn events(&self) -> Vec<Event> {
        self.kernel.tracing().events(self.id)
    }

    /// Removes and returns the events so far.
    pub fn take(&self) -> Vec<Event> {
        self.kernel.tracing().take(self.id)
    }

    /// The messages of classic providers so far. They stay in the session.
    pub fn messages(&self) -> Vec<Message> {
        self.kernel.tracing().messages(self.id)
    }

    /// Number of events that were dropped because the session was full.
    pub fn lost(&self) -> u64 {
        self.kernel.tracing().lost(self.id)
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        self.kernel.tracing().close(self.id);
        self.kernel.notify_providers(self.enable.provider, DISABLE, self.id);
    }
}
