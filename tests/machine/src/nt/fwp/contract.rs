//! Exports for callouts that inject, pend and redirect, and what they ask of a callout.
//!
//! The rules are those of Microsoft's CodeQL queries for callout drivers
//! (kmdf/queries/wfp), checked as the driver runs. The lab's host has no place for what
//! a callout injects: it accepts and completes an injection, and the data are lost, as
//! on a wire. Nothing waits for a pended classify: the call stays blocked. No connect
//! request can be changed.
#![expect(non_snake_case, reason = "the names are fwpkclnt's own")]

use std::cell::RefCell;
use std::mem::offset_of;

use super::super::cpu::{self, Irql};
use super::super::enter::enter;
use super::super::foreign;
use super::super::types::{Address, HANDLE, NET_BUFFER_LIST, NTSTATUS};
use super::super::{Kernel, Trouble};
use super::{REFUSED, bad_handle, key};
use crate::status::Status;
use crate::verifier::{Rule, Violation, rules};
use crate::wfp::{ActionType, ClassifyOut, LayerInfo, RIGHT_ACTION_WRITE, Value};

const TCP: Value = Value::Uint8(6);

/// `FWPS_CLASSIFY_FLAG_REAUTHORIZE_IF_MODIFIED_BY_OTHERS` (`fwpsk.h`).
const REAUTHORIZE: u32 = 1;

/// What a callout has done in a classify that this thread is executing.
#[derive(Clone, Copy)]
struct Calls {
    layer: &'static LayerInfo,
    is_tcp: bool,
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
    pub(super) fn begin(layer: &'static LayerInfo, values: &[Value]) -> Self {
        let is_tcp = layer.field("IP_PROTOCOL").is_some_and(|at| values.get(at) == Some(&TCP));
        let calls = Calls { layer, is_tcp, injected: false, continued: false, pended: false };
        INSIDE.with_borrow_mut(|inside| inside.push(calls));
        Self(())
    }

    /// The rule that the result breaks, after what the callout has done.
    pub(super) fn broken_by(&self, after: &ClassifyOut) -> Option<Violation> {
        let calls = calls()?;
        let blocks = after.action == ActionType::BLOCK;
        let is_hard = blocks && after.rights & RIGHT_ACTION_WRITE == 0;
        match calls {
            Calls { injected: true, .. } if calls.layer.is_stream() && !blocks => {
                Some(violation(&rules::STREAM_INJECTED_WITHOUT_BLOCK, calls))
            }
            Calls { pended: true, .. } if !is_hard => Some(violation(&rules::PENDED_WITHOUT_BLOCK, calls)),
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
    INSIDE.with_borrow(|inside| inside.last().copied())
}

/// Notes a call, and returns what there was in the classify so far; `None` outside.
fn note(change: impl FnOnce(&mut Calls)) -> Option<Calls> {
    INSIDE.with_borrow_mut(|inside| {
        let calls = inside.last_mut()?;
        change(calls);
        Some(*calls)
    })
}

fn violation(rule: &'static Rule, calls: Calls) -> Violation {
    Violation::new(rule, [calls.layer.id.0.into(), 0, 0], calls.layer.name)
}

/// Completes an injection at once.
fn complete(kernel: &Kernel, function: Address, context: Address, list: Address) -> Result<Status, Trouble> {
    if function == 0 || list == 0 {
        return Ok(Status::INVALID_PARAMETER);
    }
    foreign::write(list + offset_of!(NET_BUFFER_LIST, Status), &Status::SUCCESS.0)?;
    let level = cpu::irql();
    let arguments = [context as u64, list as u64, u64::from(level == Irql::DISPATCH)];
    // If the call failed, it has already stopped the machine.
    let _ = kernel.call_driver(function, &arguments, level, "completion function");
    Ok(Status::SUCCESS)
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
    let _ = (injectionHandle, injectionContext, flags, flowId, calloutId, layerId, streamFlags, dataLength);
    let outcome = both(note(|calls| calls.injected = true))
        .and_then(|()| complete(&kernel, completionFn, completionContext, netBufferList));
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
            Err(violation(&rules::STREAM_CONTINUED_WHILE_INJECTING, calls).into())
        }
        _ => Ok(()),
    }
}

/// `FwpsInjectTransportSendAsync0`.
pub extern "win64" fn FwpsInjectTransportSendAsync0(
    injectionHandle: HANDLE,
    injectionContext: HANDLE,
    endpointHandle: u64,
    flags: u32,
    sendArgs: Address,
    addressFamily: u16,
    compartmentId: i32,
    netBufferList: Address,
    completionFn: Address,
    completionContext: HANDLE,
) -> NTSTATUS {
    let kernel = enter!(FwpsInjectTransportSendAsync0);
    let _ =
        (injectionHandle, injectionContext, endpointHandle, flags, sendArgs, addressFamily, compartmentId);
    kernel.settle(inject(&kernel, completionFn, completionContext, netBufferList), REFUSED).0
}

/// `FwpsInjectTransportSendAsync1`.
pub extern "win64" fn FwpsInjectTransportSendAsync1(
    injectionHandle: HANDLE,
    injectionContext: HANDLE,
    endpointHandle: u64,
    flags: u32,
    sendArgs: Address,
    addressFamily: u16,
    compartmentId: i32,
    netBufferList: Address,
    completionFn: Address,
    completionContext: HANDLE,
) -> NTSTATUS {
    let kernel = enter!(FwpsInjectTransportSendAsync1);
    let _ =
        (injectionHandle, injectionContext, endpointHandle, flags, sendArgs, addressFamily, compartmentId);
    kernel.settle(inject(&kernel, completionFn, completionContext, netBufferList), REFUSED).0
}

/// `FwpsInjectTransportReceiveAsync0`.
pub extern "win64" fn FwpsInjectTransportReceiveAsync0(
    injectionHandle: HANDLE,
    injectionContext: HANDLE,
    reserved: Address,
    flags: u32,
    addressFamily: u16,
    compartmentId: i32,
    interfaceIndex: u32,
    subInterfaceIndex: u32,
    netBufferList: Address,
    completionFn: Address,
    completionContext: HANDLE,
) -> NTSTATUS {
    let kernel = enter!(FwpsInjectTransportReceiveAsync0);
    let _ = (injectionHandle, injectionContext, reserved, flags, addressFamily, compartmentId);
    let _ = (interfaceIndex, subInterfaceIndex);
    kernel.settle(inject(&kernel, completionFn, completionContext, netBufferList), REFUSED).0
}

/// *"Callouts at the transport layer cannot inject a new or cloned TCP packet from the
/// classifyFn callout function"* (Callout Driver Programming Considerations).
fn inject(kernel: &Kernel, function: Address, context: Address, list: Address) -> Result<Status, Trouble> {
    match calls() {
        Some(calls) if calls.is_tcp && calls.layer.name.contains("BOUND_TRANSPORT_") => {
            Err(violation(&rules::TCP_INJECTED_FROM_CLASSIFY, calls).into())
        }
        _ => complete(kernel, function, context, list),
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
            Err(violation(&rules::REDIRECT_REAUTHORIZED, calls).into())
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
