//! A driver's callout, as the engine calls it.
//!
//! After the machine has stopped, callbacks do not reach the driver. A classify
//! then acts as if the callout were unregistered: a TERMINATING or UNKNOWN filter
//! blocks unless PERMIT_IF_CALLOUT_UNREGISTERED is set, and an INSPECTION filter is
//! skipped.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};

use super::super::Kernel;
use super::super::placement::Callback;
use super::super::types::{FWPS_CALLOUT3, FWPS_STREAM_CALLOUT_IO_PACKET0};
use super::advice;
use super::contract::Inside;
use super::incoming::Scratch;
use crate::driver::DriverId;
use crate::host::stream_flag;
use crate::status::Status;
use crate::verifier::{Violation, rules};
use crate::wfp::{
    ActionType, CalloutDriver, ClassifyOut, Demand, FlowHandle, Guid, LayerData, LayerId, LayerInfo,
    NO_ACTION, NotifyType, Request, RuntimeFilter, StreamAsk,
};

/// A type that `FWPS_CALLOUT_NOTIFY_TYPE` does not have (`fwpsk.h`).
const UNKNOWN_NOTIFICATION: u64 = 0x7FFF;
/// `FWPS_FILTER_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED` (`fwpstypes.h`).
const PERMIT_IF_CALLOUT_UNREGISTERED: u16 = 2;

/// The prototype of a callout's functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prototype {
    /// Without `classifyContext` (`FWPS_CALLOUT_CLASSIFY_FN0`).
    Vista,
    /// With `classifyContext` (`FWPS_CALLOUT_CLASSIFY_FN1` to `FN3`).
    Windows7,
}

/// A registered callout of a loaded driver.
pub struct GuestCallout {
    kernel: Weak<Kernel>,
    driver: DriverId,
    callout: FWPS_CALLOUT3,
    prototype: Prototype,
    /// Contexts that notifyFn wrote into filters, by filter id.
    contexts: Mutex<BTreeMap<u64, u64>>,
    has_contexts: AtomicBool,
    /// Flows whose other stream data a callout has allowed, each with the filter.
    allowed_streams: Mutex<BTreeSet<(FlowHandle, u64)>>,
}

/// `FWPS_CLASSIFY_OUT_FLAG_NO_MORE_DATA` (`fwpsk.h`): a callout cannot get more data of the
/// stream.
const NO_MORE_DATA: u32 = 4;
/// The flags of a stream's last data.
const STREAM_ENDS: u32 =
    stream_flag::RECEIVE_DISCONNECT | stream_flag::RECEIVE_ABORT | stream_flag::SEND_DISCONNECT;

impl GuestCallout {
    /// A callout as the driver registered it.
    pub fn new(kernel: Weak<Kernel>, driver: DriverId, callout: FWPS_CALLOUT3, prototype: Prototype) -> Self {
        Self {
            kernel,
            driver,
            callout,
            prototype,
            contexts: Mutex::default(),
            has_contexts: AtomicBool::new(false),
            allowed_streams: Mutex::default(),
        }
    }

    fn allowed_streams(&self) -> MutexGuard<'_, BTreeSet<(FlowHandle, u64)>> {
        self.allowed_streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn contexts(&self) -> MutexGuard<'_, BTreeMap<u64, u64>> {
        self.contexts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The filter's context. The driver may have replaced the original one.
    fn context(&self, filter: &RuntimeFilter) -> u64 {
        if !self.has_contexts.load(Ordering::Acquire) {
            return filter.raw_context;
        }
        let contexts = self.contexts();
        contexts.get(&filter.filter_id).copied().unwrap_or(filter.raw_context)
    }
}

impl CalloutDriver for GuestCallout {
    fn owner(&self) -> DriverId {
        self.driver
    }

    fn classify(
        &self,
        request: &Request<'_>,
        filter: &RuntimeFilter,
        flow_context: u64,
        out: &mut ClassifyOut,
    ) {
        let kernel = self.kernel.upgrade().filter(|kernel| kernel.stopped().is_none());
        let Some(kernel) = kernel else {
            return unregistered(filter, out);
        };
        if let (LayerData::Stream { .. }, Some(flow)) = (request.data, request.metadata.flow_handle)
            && self.allowed_streams().contains(&(flow, filter.filter_id))
        {
            // "WFP stops classifying any data segments to the callout."
            out.action = ActionType::CONTINUE;
            return;
        }
        if let LayerData::Stream { flags, .. } = request.data
            && flags & STREAM_ENDS != 0
        {
            out.flags |= NO_MORE_DATA;
        }
        let options = kernel.options();
        let layer = kernel.engine().layer(request.layer);
        let inside = layer.map(|layer| Inside::begin(layer, request));
        let answered = Scratch::with(|scratch| {
            let values = scratch.values(request);
            let metadata = scratch.metadata(request.metadata);
            let (layout, mapping) = (options.nbl_layout, options.mdl_mapping);
            scratch.choose_room(request.metadata.injections.is_some());
            let (data, laid) = scratch.layer_data(&request.data, layout, mapping);
            if let Some(laid) = laid {
                let buffers = if is_outbound(&kernel, request.layer) { options.net_buffers } else { 1 };
                scratch.fill_lists(&laid, options.net_buffer_lists, buffers);
            }
            if let (Some(inside), Some(laid)) = (&inside, laid) {
                inside.indicates(laid.list);
            }
            let raw_filter = scratch.filter(filter, self.context(filter));
            let raw_out = scratch.classify_out(out);
            // An opaque context, which a callout must not read.
            let context = scratch.point_to(&0u64);
            let head = [values as u64, metadata as u64, data as u64];
            let tail = [raw_filter as u64, flow_context, raw_out as u64];
            let entry = self.callout.classifyFn;
            let level = kernel.level_of(Callback::Callout);
            let outcome = match self.prototype {
                Prototype::Vista => {
                    let [a, b, c] = head;
                    let [d, e, f] = tail;
                    kernel.call_driver(entry, &[a, b, c, d, e, f], level, "classifyFn")
                }
                Prototype::Windows7 => {
                    let [a, b, c] = head;
                    let [e, f, g] = tail;
                    let arguments = [a, b, c, context as u64, e, f, g];
                    kernel.call_driver(entry, &arguments, level, "classifyFn")
                }
            };
            outcome.ok()?;
            if laid.is_some_and(|laid| scratch.moved(&laid)) {
                let parameters = [request.layer.0.into(), 0, 0];
                let text = format!("layer {}", request.layer.0);
                let violation = Violation::new(&rules::NET_BUFFER_CHANGED, parameters, text);
                kernel.condemn_driver(self.driver, violation);
            }
            if let Some(laid) = laid.filter(|_| inside.as_ref().is_some_and(Inside::holds)) {
                kernel.packets().keep(laid.list, scratch.packet_mut());
            }
            let raw = scratch.classify_result(raw_out);
            let mut after =
                ClassifyOut { action: ActionType(raw.actionType), rights: raw.rights, flags: raw.flags };
            if let (LayerData::Stream { .. }, Some(flow)) = (request.data, request.metadata.flow_handle) {
                let answer = scratch.stream_answer(data);
                if answer.streamAction == stream_action::ALLOW_CONNECTION {
                    self.allowed_streams().insert((flow, filter.filter_id));
                }
                stream_acts(&kernel, &answer, flow, filter, &mut after);
            }
            if let Some(violation) = inside.as_ref().and_then(|inside| inside.broken_by(&after)) {
                kernel.condemn_driver(self.driver, violation);
            }
            if let Some(layer) = layer {
                for violation in advice::of(layer, request, filter, out, &after) {
                    kernel.condemn(violation);
                }
            }
            if out.action == NO_ACTION
                && after.action == NO_ACTION
                && !layer.is_some_and(LayerInfo::is_stream)
            {
                after.action = ActionType::CONTINUE;
            }
            Some(after)
        });
        let Some(after) = answered else {
            return unregistered(filter, out);
        };
        *out = after;
    }

    fn notify(&self, kind: NotifyType, key: Option<Guid>, filter: &RuntimeFilter) -> Status {
        let Some(kernel) = self.kernel.upgrade() else {
            return Status::UNSUCCESSFUL;
        };
        if kind == NotifyType::DeleteFilter && kernel.options().delete_notices_lost {
            self.contexts().remove(&filter.filter_id);
            return Status::SUCCESS;
        }
        let before = self.context(filter);
        let (outcome, after) = Scratch::with(|scratch| {
            let key = key.map_or(0, |key| scratch.guid(key));
            let raw_filter = scratch.filter(filter, before);
            let arguments = [kind as u64, key as u64, raw_filter as u64];
            let entry = self.callout.notifyFn;
            let level = kernel.level_of(Callback::Notify);
            let outcome = kernel.call_driver(entry, &arguments, level, "notifyFn");
            let after = scratch.filter_context(raw_filter);
            if outcome.is_ok() && kind == NotifyType::AddFilter && kernel.options().unknown_notifications {
                // A driver that does not know the type ignores it.
                let arguments = [UNKNOWN_NOTIFICATION, key as u64, raw_filter as u64];
                let _status = kernel.call_driver(entry, &arguments, level, "notifyFn");
            }
            (outcome, after)
        });
        match kind {
            NotifyType::DeleteFilter => {
                self.contexts().remove(&filter.filter_id);
            }
            _ if after != before => {
                self.contexts().insert(filter.filter_id, after);
                self.has_contexts.store(true, Ordering::Release);
            }
            _ => {}
        }
        outcome.map_or(Status::UNSUCCESSFUL, |status| Status(status as u32 as i32))
    }

    fn has_flow_delete(&self) -> bool {
        self.callout.flowDeleteFn != 0
    }

    fn flow_delete(&self, layer: LayerId, callout_id: u32, flow_context: u64) {
        if let Some(kernel) = self.kernel.upgrade().filter(|_| self.has_flow_delete()) {
            let arguments = [layer.0.into(), callout_id.into(), flow_context];
            let entry = self.callout.flowDeleteFn;
            // If the call failed, it has already stopped the machine.
            let level = kernel.level_of(Callback::Callout);
            let _ = kernel.call_driver(entry, &arguments, level, "flowDeleteFn");
        }
    }
}

/// `FWPS_STREAM_ACTION_TYPE` (`fwpsk.h`).
mod stream_action {
    pub(super) const NONE: u32 = 0;
    pub(super) const DROP_CONNECTION: u32 = 2;
    pub(super) const NEED_MORE_DATA: u32 = 1;
    pub(super) const DEFER: u32 = 3;
    pub(super) const ALLOW_CONNECTION: u32 = 4;
}

/// Does what a callout asks of a stream. Unless it asks for nothing, the action that it
/// returned is ignored (`FWPS_STREAM_CALLOUT_IO_PACKET0`).
fn stream_acts(
    kernel: &Kernel,
    answer: &FWPS_STREAM_CALLOUT_IO_PACKET0,
    flow: FlowHandle,
    filter: &RuntimeFilter,
    after: &mut ClassifyOut,
) {
    let demands = &kernel.engine().demands;
    if answer.countBytesEnforced != 0 {
        let enforced = Some(answer.countBytesEnforced);
        demands.ask_stream(flow, StreamAsk { enforced, ..StreamAsk::default() });
    }
    match answer.streamAction {
        stream_action::NONE => return,
        stream_action::NEED_MORE_DATA => {
            let needs = Some(answer.countBytesRequired);
            demands.ask_stream(flow, StreamAsk { needs, ..StreamAsk::default() });
        }
        stream_action::DROP_CONNECTION if filter.action == ActionType::CALLOUT_UNKNOWN => {
            demands.demand(Demand::Abort { flow }, |_| ());
        }
        stream_action::DEFER => {
            demands.ask_stream(flow, StreamAsk { deferred: true, ..StreamAsk::default() });
        }
        _ => {}
    }
    after.action = ActionType::CONTINUE;
}

/// Whether a layer indicates outbound lists. If TCP/IP sends several packets at
/// once, such a list has several NET_BUFFERs ("NET_BUFFER_LIST Structure").
fn is_outbound(kernel: &Kernel, layer: LayerId) -> bool {
    kernel.engine().layer(layer).is_some_and(|layer| layer.name.starts_with("OUTBOUND"))
}

/// The action of a filter whose callout is not registered ("FWPS_ACTION0
/// structure").
fn unregistered(filter: &RuntimeFilter, out: &mut ClassifyOut) {
    out.action = match filter.action {
        ActionType::CALLOUT_INSPECTION => ActionType::CONTINUE,
        _ if filter.flags & PERMIT_IF_CALLOUT_UNREGISTERED != 0 => ActionType::PERMIT,
        _ => ActionType::BLOCK,
    };
}
