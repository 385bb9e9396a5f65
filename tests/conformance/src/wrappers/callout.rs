//! Callouts whose functions describe what the engine passes.

use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::{AtomicBool, Ordering};

use super::packet::Window;
use crate::driver::at_layer;
use crate::ffi;
use crate::kernel::device::Device;
use crate::kernel::irql::Passive;
use crate::kernel::pool::PoolVec;
use crate::kernel::wfp::guid;
use crate::kernel::work_item::wait_until;
use crate::logic::callouts::Callout;
use crate::logic::layers::{Guid, Shows};
use crate::logic::waiting::Awaited;
use crate::measure::{self, STATE, State};
use crate::probe::Answer;

/// What a callout is for. Each has functions of its own, so none needs a context.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Place {
    /// It describes every probe, in the heaviest sublayer.
    Observe,
    /// It answers in the heavy sublayer.
    Heavy,
    /// It answers in the middle sublayer.
    Middle,
    /// It describes what heavier sublayers have decided.
    Light,
    /// It removes its flow's context in a classify.
    Inside,
    /// It has a flow context while its filter is deleted.
    FilterDeleted,
    /// It has a flow context while it is unregistered.
    Busy,
    /// It is unregistered while a classify runs.
    Held,
    /// Its filters tell the weights of their sublayers.
    Weighed,
    /// It is registered only to try flags.
    Flags,
}

/// The published state, at any level: the questions are about what the engine itself
/// does, so this driver does not raise the level as hushport does.
///
/// # Safety
/// The publication outlives `'a`: the caller is a callback of a callout that is
/// registered after the publication and unregistered before its end.
unsafe fn state<'a>() -> Option<&'a State> {
    let state = STATE.value.load(Ordering::Acquire);
    // SAFETY: not null means published, and by this function's contract it stays so.
    unsafe { state.as_ref() }
}

/// The number of places.
pub const PLACES: usize = 10;

/// A registered callout.
pub struct Registered {
    id: u32,
    gone: AtomicBool,
    _device: Device,
}

/// Registers a callout, with all of its functions. The state must be published.
pub fn register(
    device: &Device,
    key: Guid,
    flags: u32,
    place: Place,
    _: &Passive,
) -> (ffi::NTSTATUS, Option<Registered>) {
    let (classify, flow_deleted): (ffi::FWPS_CALLOUT_CLASSIFY_FN3, _) = match place {
        Place::Observe => functions::<{ Place::Observe as u8 }>(),
        Place::Heavy => functions::<{ Place::Heavy as u8 }>(),
        Place::Middle => functions::<{ Place::Middle as u8 }>(),
        Place::Light => functions::<{ Place::Light as u8 }>(),
        Place::Inside => functions::<{ Place::Inside as u8 }>(),
        Place::FilterDeleted => functions::<{ Place::FilterDeleted as u8 }>(),
        Place::Busy => functions::<{ Place::Busy as u8 }>(),
        Place::Held => functions::<{ Place::Held as u8 }>(),
        Place::Weighed => functions::<{ Place::Weighed as u8 }>(),
        Place::Flags => functions::<{ Place::Flags as u8 }>(),
    };
    let callout = ffi::FWPS_CALLOUT3 {
        calloutKey: guid(key),
        flags,
        classifyFn: classify,
        notifyFn: Some(notify),
        flowDeleteFn: flow_deleted,
    };
    let mut id = 0;
    // SAFETY: the device is alive, callout and id are locals, the functions live as
    // long as the image, and the call is made at PASSIVE_LEVEL.
    let status = unsafe { ffi::FwpsCalloutRegister3(device.as_ptr().cast(), &callout, &mut id) };
    (status, (status >= 0).then(|| Registered { id, gone: AtomicBool::new(false), _device: device.clone() }))
}

impl Registered {
    /// The callout's run-time id.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Asks the engine once to unregister it. Returns the status.
    pub fn unregister(&self, _: &Passive) -> ffi::NTSTATUS {
        // SAFETY: takes a number only, which the engine checks; at PASSIVE_LEVEL.
        let status = unsafe { ffi::FwpsCalloutUnregisterById0(self.id) };
        if status >= 0 || status == ffi::STATUS_FWP_CALLOUT_NOT_FOUND {
            self.gone.store(true, Ordering::Release);
        }
        status
    }

    /// Whether the engine has unregistered it.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }
}

/// Callouts, unregistered when dropped.
pub struct Callouts(pub PoolVec<Registered>);

impl Drop for Callouts {
    fn drop(&mut self) {
        // SAFETY: callouts are dropped only at PASSIVE_LEVEL.
        let irql = unsafe { Passive::assume() };
        // The image must not be unloaded before the engine has let go of every
        // callout, so it tries again.
        wait_until(Awaited::CalloutUnregister, || {
            // SAFETY: the state is published until the callouts are gone.
            if let Some(state) = unsafe { state() } {
                measure::remove_contexts(state);
            }
            self.0.iter().all(|callout| {
                callout.is_gone() || {
                    let _status = callout.unregister(&irql);
                    callout.is_gone()
                }
            })
        });
    }
}

/// Associates a flow with a context of 1 for a callout. Returns the status.
pub fn associate(flow: u64, layer: u16, callout: u32) -> u32 {
    // SAFETY: takes numbers only, which the engine checks; allowed up to
    // DISPATCH_LEVEL.
    unsafe { ffi::FwpsFlowAssociateContext0(flow, layer, callout, 1) as u32 }
}

/// Removes a context. Returns the status.
pub fn remove(flow: u64, layer: u16, callout: u32) -> u32 {
    // SAFETY: as for `associate`.
    unsafe { ffi::FwpsFlowRemoveContext0(flow, layer, callout) as u32 }
}

/// What the engine passed to a classifyFn.
pub struct Shown<'a> {
    fixed: &'a ffi::FWPS_INCOMING_VALUES0,
    metadata: &'a ffi::FWPS_INCOMING_METADATA_VALUES0,
    /// Our layer, if it is one of hushport's.
    pub callout: Option<&'static Callout>,
    layer_data: *const c_void,
    /// The flow's context.
    pub flow_context: u64,
    /// The rights on entry.
    pub rights: u32,
    /// The action on entry.
    pub action: u32,
}

impl Shown<'_> {
    /// The layer's run-time id.
    pub fn layer(&self) -> u16 {
        self.fixed.layerId
    }

    /// The number of values.
    pub fn count(&self) -> usize {
        if self.fixed.incomingValue.is_null() { 0 } else { self.fixed.valueCount as usize }
    }

    fn value(&self, position: usize) -> Option<ffi::FWP_VALUE0> {
        if position >= self.count() {
            return None;
        }
        let at = self.fixed.incomingValue.wrapping_add(position);
        // SAFETY: the engine's array has as many values as it says.
        Some(unsafe { at.read_unaligned() }.value)
    }

    /// The type of a value, `FWP_DATA_TYPE`.
    pub fn kind(&self, position: usize) -> Option<u32> {
        Some(self.value(position)?.type_ as u32)
    }

    /// A number of 8, 16 or 32 bits.
    pub fn number(&self, position: Option<u8>) -> Option<u32> {
        let value = self.value(usize::from(position?))?;
        let number = value.__bindgen_anon_1;
        match value.type_ {
            // SAFETY: the type says which member is valid.
            ffi::FWP_DATA_TYPE_::FWP_UINT8 => Some(unsafe { number.uint8 }.into()),
            // SAFETY: as above.
            ffi::FWP_DATA_TYPE_::FWP_UINT16 => Some(unsafe { number.uint16 }.into()),
            // SAFETY: as above.
            ffi::FWP_DATA_TYPE_::FWP_UINT32 => Some(unsafe { number.uint32 }),
            _ => None,
        }
    }

    /// `currentMetadataValues`.
    pub fn metadata(&self) -> u32 {
        self.metadata.currentMetadataValues
    }

    /// Discard module and reason.
    pub fn discard(&self) -> Option<[u32; 2]> {
        let has = self.metadata() & ffi::FWPS_METADATA_FIELD_DISCARD_REASON != 0;
        let discard = &self.metadata.discardMetadata;
        has.then_some([discard.discardModule as u32, discard.discardReason])
    }

    /// The flow's handle.
    pub fn flow(&self) -> Option<u64> {
        (self.metadata() & ffi::FWPS_METADATA_FIELD_FLOW_HANDLE != 0).then_some(self.metadata.flowHandle)
    }

    /// IRQL and processor.
    pub fn here(&self) -> (u8, u32) {
        // SAFETY: takes nothing; callable at any IRQL.
        let irql = unsafe { ffi::KeGetCurrentIrql() };
        // SAFETY: the argument may be NULL (its documentation).
        let processor = unsafe { ffi::KeGetCurrentProcessorNumberEx(ptr::null_mut()) };
        (irql, processor)
    }

    /// The bytes of the packet, if the layer passes one.
    pub fn window(&self) -> Option<Window> {
        let has_packet = matches!(
            self.callout?.layer.shows,
            Shows::CallOrSegment(_)
                | Shows::Segment(_)
                | Shows::Packet(_)
                | Shows::Error(_)
                | Shows::Forwarded
        );
        if !has_packet {
            return None;
        }
        // SAFETY: at these layers layerData is NULL or a NET_BUFFER_LIST ("Data
        // Offset Positions"), which lives until the classifyFn returns.
        unsafe { Window::of_list(self.layer_data.cast()) }
    }
}

type FlowDeleteFn = ffi::FWPS_CALLOUT_FLOW_DELETE_NOTIFY_FN0;

fn functions<const PLACE: u8>() -> (ffi::FWPS_CALLOUT_CLASSIFY_FN3, FlowDeleteFn) {
    (Some(classify::<PLACE>), Some(flow_delete::<PLACE>))
}

/// FWPS_CALLOUT_CLASSIFY_FN3.
unsafe extern "C" fn classify<const PLACE: u8>(
    fixed: *const ffi::FWPS_INCOMING_VALUES0,
    metadata: *const ffi::FWPS_INCOMING_METADATA_VALUES0,
    layer_data: *mut c_void,
    _classify_context: *const c_void,
    _filter: *const ffi::FWPS_FILTER3,
    flow_context: u64,
    out: *mut ffi::FWPS_CLASSIFY_OUT0,
) {
    // SAFETY: the engine's structure, or NULL, for this thread until the return.
    let Some(out) = (unsafe { out.as_mut() }) else { return };
    // SAFETY: the engine's structure, or NULL, which lives until the return.
    let Some(fixed) = (unsafe { fixed.as_ref() }) else { return };
    // SAFETY: as above.
    let Some(metadata) = (unsafe { metadata.as_ref() }) else { return };
    // SAFETY: callouts are registered after the publication and unregistered before
    // its end.
    let Some(state) = (unsafe { state() }) else { return };
    let callout = at_layer(fixed.layerId);
    let (rights, action) = (out.rights, out.actionType);
    let shown = Shown { fixed, metadata, callout, layer_data, flow_context, rights, action };
    let answer = measure::classify(state, PLACE, &shown);
    apply(answer, out);
}

fn apply(answer: Answer, out: &mut ffi::FWPS_CLASSIFY_OUT0) {
    let may_write = out.rights & ffi::FWPS_RIGHT_ACTION_WRITE != 0;
    match answer {
        Answer::Continue if may_write => out.actionType = ffi::FWP_ACTION_CONTINUE,
        Answer::Decide { block, hard } if may_write => {
            out.actionType = if block { ffi::FWP_ACTION_BLOCK } else { ffi::FWP_ACTION_PERMIT };
            if hard {
                out.rights &= !ffi::FWPS_RIGHT_ACTION_WRITE;
            }
        }
        Answer::Veto if !may_write => out.actionType = ffi::FWP_ACTION_BLOCK,
        Answer::Continue | Answer::Decide { .. } | Answer::Veto => {}
    }
}

/// FWPS_CALLOUT_FLOW_DELETE_NOTIFY_FN0.
unsafe extern "C" fn flow_delete<const PLACE: u8>(_layer: u16, _callout: u32, _context: u64) {
    // SAFETY: as in a classifyFn: a callout with contexts is registered.
    if let Some(state) = unsafe { state() } {
        measure::flow_deleted(state, PLACE);
    }
}

/// FWPS_CALLOUT_NOTIFY_FN3. Only filters of [`Place::Weighed`] are noted: no filter of
/// another place comes between.
unsafe extern "C" fn notify(
    kind: ffi::FWPS_CALLOUT_NOTIFY_TYPE,
    _key: *const ffi::GUID,
    filter: *mut ffi::FWPS_FILTER3,
) -> ffi::NTSTATUS {
    // SAFETY: the engine's filter, or NULL, which lives until the return.
    let filter = unsafe { filter.as_ref() };
    // SAFETY: callouts are registered after the publication and unregistered before
    // its end.
    let state = unsafe { state() };
    if let (Some(filter), Some(state)) = (filter, state)
        && kind == ffi::FWPS_CALLOUT_NOTIFY_TYPE_::FWPS_CALLOUT_NOTIFY_ADD_FILTER
    {
        measure::filter_added(state, filter.subLayerWeight);
    }
    ffi::STATUS_SUCCESS
}
