//! Exports for callouts that pend and redirect, and what they ask of a callout.
//!
//! The rules are those of Microsoft's CodeQL queries for callout drivers
//! (kmdf/queries/wfp), checked as the driver runs. Nothing waits for a pended classify:
//! the call stays blocked. No connect request can be changed.
#![expect(unsafe_code, reason = "reads the values of the classify that is running")]
#![expect(non_snake_case, reason = "the names are fwpkclnt's own")]

use std::cell::RefCell;
use std::net::IpAddr;

use super::super::Trouble;
use super::super::enter::enter;
use super::super::foreign;
use super::super::types::{Address, HANDLE, NTSTATUS};
use super::inject::{AF_UNSPEC, Asked, inject, kind};
use super::{REFUSED, bad_handle, key};
use crate::status::Status;
use crate::verifier::{Rule, Violation, rules};
use crate::wfp::{
    ActionType, ClassifyOut, Entry, FlowHandle, Injections, LayerInfo, RIGHT_ACTION_WRITE, Request, Value,
};

/// `IPPROTO_TCP` (`ws2def.h`).
const TCP: Value = Value::Uint8(6);

/// `FWPS_CLASSIFY_FLAG_REAUTHORIZE_IF_MODIFIED_BY_OTHERS` (`fwpsk.h`).
const REAUTHORIZE: u32 = 1;

/// What a callout has done in a classify that this thread is executing.
#[derive(Clone)]
struct Calls {
    layer: &'static LayerInfo,
    /// The indication's values. They live as long as the classify.
    values: *const [Value],
    /// The NET_BUFFER_LIST that is indicated, or 0, and how it was injected.
    list: Address,
    injections: Injections,
    injected: bool,
    continued: bool,
    pended: bool,
}

thread_local! {
    static INSIDE: RefCell<Vec<Calls>> = const { RefCell::new(Vec::new()) };
}

/// A classify that this thread is executing.
pub(super) struct Inside(());

impl Inside {
    /// Begins one.
    pub(super) fn begin(layer: &'static LayerInfo, request: &Request<'_>) -> Self {
        let calls = Calls {
            layer,
            values: request.values,
            list: 0,
            injections: request.metadata.injections.clone(),
            injected: false,
            continued: false,
            pended: false,
        };
        INSIDE.with_borrow_mut(|inside| inside.push(calls));
        Self(())
    }

    /// The NET_BUFFER_LIST that is indicated.
    pub(super) fn indicates(&self, list: Address) {
        note(|calls| calls.list = list);
    }

    /// The rule that the result breaks, after what the callout has done.
    pub(super) fn broken_by(&self, after: &ClassifyOut) -> Option<Violation> {
        let calls = calls()?;
        let blocks = after.action == ActionType::BLOCK;
        let is_hard = blocks && after.rights & RIGHT_ACTION_WRITE == 0;
        match calls {
            Calls { injected: true, .. } if calls.layer.is_stream() && !blocks => {
                Some(violation(&rules::STREAM_INJECTED_WITHOUT_BLOCK, &calls))
            }
            Calls { pended: true, .. } if !is_hard => Some(violation(&rules::PENDED_WITHOUT_BLOCK, &calls)),
            _ => None,
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.with_borrow_mut(Vec::pop);
    }
}

fn calls() -> Option<Calls> {
    INSIDE.with_borrow(|inside| inside.last().cloned())
}

/// How a list was injected, if this thread is executing its classify.
pub(super) fn indicated(list: Address) -> Option<Injections> {
    INSIDE.with_borrow(|inside| {
        let calls = inside.iter().rfind(|calls| calls.list == list && list != 0)?;
        Some(calls.injections.clone())
    })
}

/// Protocol and local address of a list, if this thread is executing its classify.
pub(super) fn origin(list: Address) -> Option<(u8, IpAddr)> {
    INSIDE.with_borrow(|inside| inside.iter().rfind(|calls| calls.list == list)?.origin())
}

/// Whether the indication of a list has a `FWP_CONDITION_FLAG_*`, if this thread is
/// executing its classify.
pub(super) fn has_flag(list: Address, flag: u32) -> bool {
    INSIDE.with_borrow(|inside| {
        let calls = inside.iter().rfind(|calls| calls.list == list);
        let flags = calls.and_then(|calls| calls.value("FLAGS"));
        matches!(flags, Some(Value::Uint32(flags)) if flags & flag != 0)
    })
}

impl Calls {
    fn value(&self, field: &str) -> Option<&Value> {
        // SAFETY: the values of a request that `Inside` marks. Its classify is running on
        // this thread, so the borrow of `Inside::begin`'s caller has not ended.
        let values = unsafe { &*self.values };
        values.get(self.layer.field(field)?)
    }

    fn is_tcp(&self) -> bool {
        self.value("IP_PROTOCOL") == Some(&TCP)
    }

    fn origin(&self) -> Option<(u8, IpAddr)> {
        let Value::Uint8(protocol) = self.value("IP_PROTOCOL")? else { return None };
        let local = match self.value("IP_LOCAL_ADDRESS")? {
            Value::Uint32(address) => IpAddr::from(address.to_be_bytes()),
            Value::ByteArray16(address) => IpAddr::from(*address),
            _ => return None,
        };
        Some((*protocol, local))
    }
}

/// Notes a call, and returns what there was in the classify so far; `None` outside.
fn note(change: impl FnOnce(&mut Calls)) -> Option<Calls> {
    INSIDE.with_borrow_mut(|inside| {
        let calls = inside.last_mut()?;
        change(calls);
        Some(calls.clone())
    })
}

fn violation(rule: &'static Rule, calls: &Calls) -> Violation {
    Violation::new(rule, [calls.layer.id.0.into(), 0, 0], calls.layer.name)
}

/// `FwpsStreamInjectAsync0`.
pub extern "win64" fn FwpsStreamInjectAsync0(
    injectionHandle: HANDLE,
    injectionContext: HANDLE,
    flags: u32,
    flowId: u64,
    calloutId: u32,
    layerId: u16,
    streamFlags: u32,
    netBufferList: Address,
    dataLength: usize,
    completionFn: Address,
    completionContext: HANDLE,
) -> NTSTATUS {
    let kernel = enter!(FwpsStreamInjectAsync0);
    // The list says how long the data are, and the flow says which callouts see them.
    let _ = (flags, calloutId, layerId, dataLength);
    let asked = Asked {
        handle: injectionHandle,
        context: injectionContext,
        kind: kind::STREAM,
        family: AF_UNSPEC,
        list: netBufferList,
        function: completionFn,
        completion_context: completionContext,
    };
    let entry = Entry::Stream { flow: FlowHandle(flowId), flags: streamFlags };
    let outcome = both(note(|calls| calls.injected = true)).and_then(|()| inject(&kernel, asked, |_| entry));
    kernel.settle(outcome, REFUSED).0
}

/// `FwpsStreamContinue0`.
pub extern "win64" fn FwpsStreamContinue0(
    flowId: u64,
    calloutId: u32,
    layerId: u16,
    streamFlags: u32,
) -> NTSTATUS {
    let kernel = enter!(FwpsStreamContinue0);
    let _ = (flowId, calloutId, layerId, streamFlags);
    let outcome = both(note(|calls| calls.continued = true)).map(|()| Status::SUCCESS);
    kernel.settle(outcome, REFUSED).0
}

fn both(calls: Option<Calls>) -> Result<(), Trouble> {
    match calls {
        Some(calls) if calls.injected && calls.continued => {
            Err(violation(&rules::STREAM_CONTINUED_WHILE_INJECTING, &calls).into())
        }
        _ => Ok(()),
    }
}

/// *"Callouts at the transport layer cannot inject a new or cloned TCP packet from the
/// classifyFn callout function"* (Callout Driver Programming Considerations).
pub(super) fn may_inject() -> Result<(), Violation> {
    match calls() {
        Some(calls) if calls.is_tcp() && calls.layer.name.contains("BOUND_TRANSPORT_") => {
            Err(violation(&rules::TCP_INJECTED_FROM_CLASSIFY, &calls))
        }
        _ => Ok(()),
    }
}

/// `FwpsAcquireClassifyHandle0`.
pub extern "win64" fn FwpsAcquireClassifyHandle0(
    classifyContext: Address,
    flags: u32,
    classifyHandle: Address,
) -> NTSTATUS {
    let kernel = enter!(FwpsAcquireClassifyHandle0);
    if classifyContext == 0 || flags != 0 {
        return Status::INVALID_PARAMETER.0;
    }
    let handle = {
        let mut objects = kernel.objects();
        let handle = objects.opaque();
        objects.classifies.insert(handle);
        handle
    };
    let written = foreign::write(classifyHandle, &(handle as u64)).map(|()| Status::SUCCESS);
    kernel.settle(written, REFUSED).0
}

/// `FwpsReleaseClassifyHandle0`.
pub extern "win64" fn FwpsReleaseClassifyHandle0(classifyHandle: u64) {
    let kernel = enter!(FwpsReleaseClassifyHandle0);
    let is_open = kernel.objects().classifies.remove(&(classifyHandle as Address));
    kernel.settle(classify_handle(is_open, classifyHandle), ());
}

/// `FwpsPendClassify0`.
pub extern "win64" fn FwpsPendClassify0(
    classifyHandle: u64,
    filterId: u64,
    flags: u32,
    classifyOut: Address,
) -> NTSTATUS {
    let kernel = enter!(FwpsPendClassify0);
    let _ = (filterId, flags, classifyOut);
    let is_open = kernel.objects().classifies.contains(&(classifyHandle as Address));
    let pended = classify_handle(is_open, classifyHandle).map(|()| {
        // Only a classify that has not returned can be pended.
        note(|calls| calls.pended = true).map_or(Status::FWP_CANNOT_PEND, |_| Status::SUCCESS)
    });
    kernel.settle(pended, REFUSED).0
}

/// `FwpsCompleteClassify0`.
pub extern "win64" fn FwpsCompleteClassify0(classifyHandle: u64, flags: u32, classifyOut: Address) {
    let kernel = enter!(FwpsCompleteClassify0);
    let _ = (flags, classifyOut);
    let is_open = kernel.objects().classifies.contains(&(classifyHandle as Address));
    kernel.settle(classify_handle(is_open, classifyHandle), ());
}

fn classify_handle(is_open: bool, handle: u64) -> Result<(), Trouble> {
    if is_open { Ok(()) } else { Err(bad_handle("classify handle", handle as HANDLE)) }
}

/// `FwpsAcquireWritableLayerDataPointer0`. A callout that redirects in its classifyFn
/// must not ask to be called again if others change the request, too.
pub extern "win64" fn FwpsAcquireWritableLayerDataPointer0(
    classifyHandle: u64,
    filterId: u64,
    flags: u32,
    writableLayerData: Address,
    classifyOut: Address,
) -> NTSTATUS {
    let kernel = enter!(FwpsAcquireWritableLayerDataPointer0);
    let _ = (filterId, writableLayerData, classifyOut);
    let is_open = kernel.objects().classifies.contains(&(classifyHandle as Address));
    let acquired = classify_handle(is_open, classifyHandle).and_then(|()| match calls() {
        Some(calls) if flags & REAUTHORIZE != 0 && calls.layer.name.contains("_CONNECT_REDIRECT_") => {
            Err(violation(&rules::REDIRECT_REAUTHORIZED, &calls).into())
        }
        _ => Ok(Status::NOT_SUPPORTED),
    });
    kernel.settle(acquired, REFUSED).0
}

/// `FwpsRedirectHandleCreate0`. A driver keeps one handle for each provider.
pub extern "win64" fn FwpsRedirectHandleCreate0(
    providerGuid: Address,
    flags: u32,
    redirectHandle: Address,
) -> NTSTATUS {
    let kernel = enter!(FwpsRedirectHandleCreate0);
    if flags != 0 {
        return Status::INVALID_PARAMETER.0;
    }
    let created = key(providerGuid).and_then(|provider| {
        let mut objects = kernel.objects();
        if objects.redirects.values().any(|known| *known == provider) {
            let text = format!("provider {provider}");
            return Err(Violation::new(&rules::REDIRECT_HANDLE_AGAIN, [0; 3], text).into());
        }
        let handle = objects.opaque();
        objects.redirects.insert(handle, provider);
        drop(objects);
        foreign::write(redirectHandle, &handle)?;
        Ok(Status::SUCCESS)
    });
    kernel.settle(created, REFUSED).0
}

/// `FwpsRedirectHandleDestroy0`.
pub extern "win64" fn FwpsRedirectHandleDestroy0(redirectHandle: HANDLE) {
    let kernel = enter!(FwpsRedirectHandleDestroy0);
    let known = kernel.objects().redirects.remove(&redirectHandle);
    let outcome = known.map(drop).ok_or_else(|| bad_handle("redirect handle", redirectHandle));
    kernel.settle(outcome, ());
}
