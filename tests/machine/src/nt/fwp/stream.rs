//! Streams: data that callouts copy, clone and inject (`fwpsk.h`).
#![expect(non_snake_case, reason = "the names are fwpkclnt's own")]

use super::super::enter::enter;
use super::super::foreign::{self, BadPointer};
use super::super::packets::{bytes_of, peek, poke};
use super::super::types::{
    Address, BOOLEAN, FWPS_STREAM_DATA0, HANDLE, NET_BUFFER_DATA, NET_BUFFER_LIST, NTSTATUS,
};
use super::super::{Kernel, Trouble};
use super::REFUSED;
use super::clones::{clone_list, free_clone};
use super::contract::{both, calls, note, violation};
use super::inject::{AF_UNSPEC, Asked, inject, kind};
use crate::host::stream_flag;
use crate::status::Status;
use crate::verifier::rules;
use crate::wfp::{Demand, Entry, FlowHandle, LayerId, LayerInfo};

/// The most lists of a chain.
const MOST: usize = 1 << 16;

/// `FwpsStreamInjectAsync0`. Each list of the chain is completed. Without lists, the end
/// of the stream is injected, and nothing is completed.
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
    // The lists say how long the data are.
    let _ = (flags, dataLength);
    let asked = Asked {
        handle: injectionHandle,
        context: injectionContext,
        kind: kind::STREAM,
        family: AF_UNSPEC,
        list: netBufferList,
        function: completionFn,
        completion_context: completionContext,
    };
    let flow = FlowHandle(flowId);
    let outcome = both(note(|calls| calls.injected = true))
        .and_then(|()| inject_chain(&kernel, asked, (flow, calloutId, layerId), streamFlags));
    kernel.settle(outcome, REFUSED).0
}

fn inject_chain(
    kernel: &Kernel,
    asked: Asked,
    (flow, callout, layer): (FlowHandle, u32, u16),
    flags: u32,
) -> Result<Status, Trouble> {
    // "This value must be either FWPS_LAYER_STREAM_V4 or FWPS_LAYER_STREAM_V6."
    if !kernel.engine().layer(LayerId(layer)).is_some_and(LayerInfo::is_stream) {
        return Ok(Status::FWP_INVALID_PARAMETER);
    }
    let ends = stream_flag::RECEIVE_DISCONNECT | stream_flag::SEND_DISCONNECT;
    let needs = |end, direction| flags & end == 0 || flags & direction != 0;
    let inbound = needs(stream_flag::RECEIVE_DISCONNECT, stream_flag::RECEIVE);
    let one = (flags & stream_flag::RECEIVE != 0) != (flags & stream_flag::SEND != 0);
    if !inbound || !needs(stream_flag::SEND_DISCONNECT, stream_flag::SEND) || !one {
        return Ok(Status::FWP_INVALID_PARAMETER);
    }
    if asked.function == 0 {
        return Ok(Status::FWP_NULL_POINTER);
    }
    let lists = chain(asked.list)?;
    if lists.is_empty() {
        if flags & ends == 0 {
            return Ok(Status::FWP_NULL_POINTER);
        }
        let entry = Entry::Stream { flow, flags, callout };
        let demand = Demand::Inject { entry, packets: vec![Vec::new()], injections: None };
        kernel.engine().demands.demand(demand, |_| ());
        return Ok(Status::SUCCESS);
    }
    for (number, &list) in lists.iter().enumerate() {
        // The stream ends after its last data.
        let last = number + 1 == lists.len();
        let entry = Entry::Stream { flow, flags: if last { flags } else { flags & !ends }, callout };
        let status = inject(kernel, Asked { list, ..asked }, |_| entry)?;
        if !status.is_success() {
            return Ok(status);
        }
    }
    Ok(Status::SUCCESS)
}

/// The lists of a chain.
fn chain(first: Address) -> Result<Vec<Address>, BadPointer> {
    let (mut at, mut lists) = (first, Vec::new());
    while at != 0 && lists.len() < MOST {
        lists.push(at);
        at = foreign::read::<NET_BUFFER_LIST>(at)?.Next;
    }
    Ok(lists)
}

/// `FwpsCloneStreamData0`.
pub extern "win64" fn FwpsCloneStreamData0(
    calloutStreamData: Address,
    netBufferListPoolHandle: HANDLE,
    netBufferPoolHandle: HANDLE,
    allocateCloneFlags: u32,
    netBufferListChain: Address,
) -> NTSTATUS {
    let kernel = enter!(FwpsCloneStreamData0);
    let _ = allocateCloneFlags;
    let pools = [netBufferListPoolHandle, netBufferPoolHandle];
    kernel.settle(clone_stream(&kernel, calloutStreamData, pools, netBufferListChain), REFUSED).0
}

fn clone_stream(kernel: &Kernel, data: Address, pools: [HANDLE; 2], out: Address) -> Result<Status, Trouble> {
    let data: FWPS_STREAM_DATA0 = foreign::read(data)?;
    foreign::write(out, &0usize)?;
    let Some(clone) = clone_list(kernel, data.dataOffset.netBufferList, pools)? else {
        return Ok(Status::INSUFFICIENT_RESOURCES);
    };
    // The data may be a part of the list: the host indicates one list.
    let buffer = peek::<NET_BUFFER_LIST>(clone).FirstNetBuffer;
    let skipped = data.dataOffset.streamDataOffset;
    let mut part: NET_BUFFER_DATA = peek(buffer);
    part.DataOffset = skipped as u32;
    part.CurrentMdlOffset = skipped as u32;
    part.stDataLength = data.dataLength.min(part.stDataLength.saturating_sub(skipped));
    poke(buffer, &part);
    foreign::write(out, &clone)?;
    Ok(Status::SUCCESS)
}

/// `FwpsCopyStreamDataToBuffer0`.
pub extern "win64" fn FwpsCopyStreamDataToBuffer0(
    calloutStreamData: Address,
    buffer: Address,
    bytesToCopy: usize,
    bytesCopied: Address,
) {
    let kernel = enter!(FwpsCopyStreamDataToBuffer0);
    kernel.settle(copy(calloutStreamData, buffer, bytesToCopy, bytesCopied), ());
}

fn copy(data: Address, buffer: Address, most: usize, copied: Address) -> Result<(), BadPointer> {
    let data: FWPS_STREAM_DATA0 = foreign::read(data)?;
    let mut bytes = Vec::new();
    for list in chain(data.netBufferListChain)? {
        bytes.extend(bytes_of(list)?.concat());
    }
    let start = (data.dataOffset.streamDataOffset as usize).min(bytes.len());
    let length = most.min(data.dataLength as usize).min(bytes.len() - start);
    foreign::write_bytes(buffer, &bytes[start..start + length])?;
    foreign::write(copied, &length)
}

/// `FwpsDiscardClonedStreamData0` frees a chain of `FwpsCloneStreamData0`.
pub extern "win64" fn FwpsDiscardClonedStreamData0(
    netBufferListChain: Address,
    allocateCloneFlags: u32,
    dispatchLevel: BOOLEAN,
) {
    let kernel = enter!(FwpsDiscardClonedStreamData0);
    let _ = (allocateCloneFlags, dispatchLevel);
    kernel.settle(discard(&kernel, netBufferListChain), ());
}

fn discard(kernel: &Kernel, first: Address) -> Result<(), Trouble> {
    for list in chain(first)? {
        let buffer = foreign::read::<NET_BUFFER_LIST>(list)?.FirstNetBuffer;
        if buffer != 0 {
            let mut whole: NET_BUFFER_DATA = foreign::read(buffer)?;
            whole.DataOffset = 0;
            foreign::write(buffer, &whole)?;
        }
        free_clone(kernel, list)?;
    }
    Ok(())
}

/// `FwpsStreamContinue0`, for a stream that a callout has deferred.
pub extern "win64" fn FwpsStreamContinue0(
    flowId: u64,
    calloutId: u32,
    layerId: u16,
    streamFlags: u32,
) -> NTSTATUS {
    let kernel = enter!(FwpsStreamContinue0);
    let _ = (calloutId, layerId, streamFlags);
    let outcome = both(note(|calls| calls.continued = true)).and_then(|()| not_inside()).map(|()| {
        kernel.engine().demands.demand(Demand::Continue { flow: FlowHandle(flowId) }, |_| ());
        Status::SUCCESS
    });
    kernel.settle(outcome, REFUSED).0
}

/// "The FwpsStreamContinue0 function cannot be called from within a callout's classifyFn
/// context."
fn not_inside() -> Result<(), Trouble> {
    match calls() {
        Some(calls) => Err(violation(&rules::STREAM_CONTINUED_INSIDE, &calls).into()),
        None => Ok(()),
    }
}

/// `FwpsFlowAbort0`.
pub extern "win64" fn FwpsFlowAbort0(flowId: u64) -> NTSTATUS {
    let kernel = enter!(FwpsFlowAbort0);
    let flow = FlowHandle(flowId);
    if !kernel.engine().has_flow(flow) {
        return Status::INVALID_PARAMETER.0;
    }
    kernel.engine().demands.demand(Demand::Abort { flow }, |_| ());
    Status::SUCCESS.0
}
