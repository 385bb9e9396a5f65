//! Callouts: registration, and the thunk that every classify comes through.

use core::ffi::c_void;

use super::guid;
use super::incoming::{Incoming, Passed};
use super::usual::{Usual, at_once};
use crate::ffi;
use crate::kernel::device::Device;
use crate::kernel::irql::{MaxDispatch, Passive};
use crate::kernel::published::Published;
use crate::kernel::status::{Result, to_result};
use crate::kernel::work_item::wait_until;
use crate::logic::callouts::{self, Callout, Index, Pair};
use crate::logic::flow::Passed as Carried;
use crate::logic::layers::{Guid, Layer};
use crate::logic::stealth::Verdict;

/// What a kind of callout does with what it is shown.
pub trait Classify: 'static {
    /// What all classifies share.
    type Shared: Sync + 'static;

    /// What nearly everything is that comes, if it is of one kind.
    type Usual: Usual<Shared = Self::Shared>;

    /// Values that an indication has at the least, or it is passed by.
    const FIELDS: usize;

    /// Whether most of what comes is done with at once: the rest is kept apart
    /// then, so that no registers are saved for it.
    const IS_QUICK: bool;

    /// The callouts that every packet of a flow passes once.
    const CARRYING: Option<Pair>;

    /// Whether these are most of this kind: else what they do is kept apart.
    const CARRIES_AT_ONCE: bool;

    /// Where what is shared is found: a classify brings no context of the
    /// callout's own, and a filter's is set by whoever adds the filter.
    fn shared() -> &'static Published<Self::Shared>;

    /// The callout of this kind at a layer. Whoever finds a callout's key free
    /// in the engine can add it for any layer.
    fn callout(layer_id: u16) -> Option<&'static Callout>;

    /// Its layer; a constant where the kind stands at no other.
    fn layer(callout: &'static Callout) -> &'static Layer;

    /// The callout of this kind at a layer, where an indication is no more than
    /// counted, of which no more is known than the context of its flow.
    fn passes(shared: &Self::Shared, layer_id: u16, flow_context: u64) -> Option<Index>;

    /// Whether a packet of a flow is no more than counted.
    fn only_counts(shared: &Self::Shared) -> bool;

    /// Whether every packet of a flow passes a layer of this kind once.
    #[inline(always)]
    fn counts_flows(layer_id: u16) -> bool {
        let Some(pair) = Self::CARRYING else { return false };
        callouts::of_pair(pair, layer_id).is_some()
    }

    /// Counts packets of a flow about which no more is to be done.
    fn carry(shared: &Self::Shared, at: Index, context: u64, passed: Carried, irql: &MaxDispatch);

    /// Counts what became of an indication that is not looked at.
    fn count(shared: &Self::Shared, at: Index, verdict: Verdict, irql: &MaxDispatch);

    /// Looks at an indication and says what to do about it.
    fn classify(shared: &Self::Shared, incoming: Incoming<'_>, irql: &MaxDispatch) -> Action;

    /// A flow whose context was associated at a layer of this callout is over,
    /// or the context was taken back.
    fn flow_deleted(shared: &Self::Shared, context: u64, irql: &MaxDispatch);
}

/// What a callout asks of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[must_use]
pub enum Action {
    /// On to the next filter.
    Continue,
    /// Stop it here, and let nobody change that.
    Block,
}

/// Watching costs no throughput: what offloads there are go on.
const FLAGS: u32 = ffi::FWP_CALLOUT_FLAG_ALLOW_OFFLOAD
    | ffi::FWP_CALLOUT_FLAG_ALLOW_RSC
    | ffi::FWP_CALLOUT_FLAG_ALLOW_USO
    | ffi::FWP_CALLOUT_FLAG_ALLOW_URO;

/// A registered callout.
pub struct Registration {
    id: u32,
    _device: Device,
}

impl Registration {
    /// Registers `C` under a key, for flow contexts or not. Classifies may come
    /// at once: what they share is published before, and taken back only after
    /// this is dropped.
    pub fn new<C: Classify>(device: &Device, key: Guid, flows: bool, _: &Passive) -> Result<Self> {
        let callout = ffi::FWPS_CALLOUT3 {
            calloutKey: guid(key),
            flags: FLAGS,
            classifyFn: Some(classify_thunk::<C>),
            notifyFn: Some(notify),
            flowDeleteFn: if flows { Some(flow_delete_thunk::<C>) } else { None },
        };
        let mut id = 0;
        // SAFETY: the device is alive, callout and id are locals, the functions
        // live as long as the image, and the call is made at PASSIVE_LEVEL.
        to_result(unsafe { ffi::FwpsCalloutRegister3(device.as_ptr().cast(), &callout, &mut id) })?;
        Ok(Self { id, _device: device.clone() })
    }

    /// Its run-time id.
    pub fn id(&self) -> u32 {
        self.id
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        wait_until(|| {
            // SAFETY: the id is a registered callout's; registrations are only
            // held at PASSIVE_LEVEL.
            let status = unsafe { ffi::FwpsCalloutUnregisterById0(self.id) };
            // Busy while flows or another thread hold on to it, and registered
            // after any other failure, too. The image must not go away under a
            // callout, so there is nothing but to ask again.
            to_result(status).is_ok() || status == ffi::STATUS_FWP_CALLOUT_NOT_FOUND
        });
    }
}

/// FWPS_CALLOUT_CLASSIFY_FN3: does at once what is mostly to be done, which takes
/// few registers; has the rest done.
unsafe extern "C" fn classify_thunk<C: Classify>(
    in_fixed_values: *const ffi::FWPS_INCOMING_VALUES0,
    in_meta_values: *const ffi::FWPS_INCOMING_METADATA_VALUES0,
    layer_data: *mut c_void,
    classify_context: *const c_void,
    filter: *const ffi::FWPS_FILTER3,
    flow_context: u64,
    classify_out: *mut ffi::FWPS_CLASSIFY_OUT0,
) {
    // SAFETY: the engine passes its own result structure, to be written by this
    // thread alone until the return, or NULL.
    let Some(out) = (unsafe { classify_out.as_mut() }) else { return };
    // SAFETY: the engine passes structures that live until the return, or NULL.
    let fixed = unsafe { in_fixed_values.as_ref() };
    // SAFETY: callouts are registered after the publication and drained before
    // its end, so it outlives this call.
    let shared = unsafe { C::shared().get() };
    let (Some(fixed), Some(shared)) = (fixed, shared) else {
        return continue_aside(out);
    };
    if let Some(at) = C::passes(shared, fixed.layerId, flow_context) {
        // SAFETY: classifyFn runs at IRQL <= DISPATCH_LEVEL
        // (FWPS_CALLOUT_CLASSIFY_FN3).
        let irql = unsafe { MaxDispatch::assume() };
        C::count(shared, at, Verdict::Observed, &irql);
        return Action::Continue.apply(out);
    }
    let metadata = in_meta_values;
    if C::CARRIES_AT_ONCE && flow_context != 0 {
        let passed = Passed { fixed, metadata, layer_data, flow_context, may_write: true };
        // SAFETY: the engine passes what lives until the return.
        if unsafe { carries::<C>(shared, passed) } {
            return Action::Continue.apply(out);
        }
    }
    if may_write(out) {
        let passed = Passed { fixed, metadata, layer_data, flow_context, may_write: true };
        // SAFETY: the engine passes what lives until the return.
        if let Some(action) = unsafe { at_once::<C::Usual>(shared, passed) } {
            return action.write(out);
        }
    }
    if C::IS_QUICK {
        // SAFETY: as they were passed to this function.
        unsafe {
            classify_aside::<C>(
                in_fixed_values,
                in_meta_values,
                layer_data,
                classify_context,
                filter,
                flow_context,
                classify_out,
            );
        }
        return;
    }
    let passed = Passed { fixed, metadata, layer_data, flow_context, may_write: may_write(out) };
    // SAFETY: the engine passes what lives until the return.
    unsafe { look::<C>(shared, passed) }.apply(out);
}

/// The rest in a function of its own, for which the other saves no registers. By
/// the same convention: where calling another's saves registers, too, the other
/// need not.
#[cold]
#[inline(never)]
unsafe extern "C" fn classify_aside<C: Classify>(
    in_fixed_values: *const ffi::FWPS_INCOMING_VALUES0,
    in_meta_values: *const ffi::FWPS_INCOMING_METADATA_VALUES0,
    layer_data: *mut c_void,
    _classify_context: *const c_void,
    _filter: *const ffi::FWPS_FILTER3,
    flow_context: u64,
    classify_out: *mut ffi::FWPS_CLASSIFY_OUT0,
) {
    // SAFETY: the engine passes its own result structure, to be written by this
    // thread alone until the return, or NULL.
    let Some(out) = (unsafe { classify_out.as_mut() }) else { return };
    // SAFETY: the engine passes structures that live until the return, or NULL.
    let Some(fixed) = (unsafe { in_fixed_values.as_ref() }) else { return };
    // SAFETY: callouts are registered after the publication and drained before
    // its end, so it outlives this call.
    let Some(shared) = (unsafe { C::shared().get() }) else { return };
    let (metadata, may_write) = (in_meta_values, may_write(out));
    let passed = Passed { fixed, metadata, layer_data, flow_context, may_write };
    if !C::CARRIES_AT_ONCE && flow_context != 0 {
        // SAFETY: the engine passes what lives until the return.
        if unsafe { carries::<C>(shared, passed) } {
            return Action::Continue.apply(out);
        }
    }
    // SAFETY: as above.
    unsafe { look::<C>(shared, passed) }.apply(out);
}

/// Nothing is to be done where nothing came.
#[cold]
#[inline(never)]
extern "C" fn continue_aside(out: &mut ffi::FWPS_CLASSIFY_OUT0) {
    Action::Continue.apply(out);
}

impl Action {
    /// Writes it, where that is still allowed.
    #[inline(always)]
    fn apply(self, out: &mut ffi::FWPS_CLASSIFY_OUT0) {
        if may_write(out) {
            self.write(out);
        }
    }

    #[inline(always)]
    fn write(self, out: &mut ffi::FWPS_CLASSIFY_OUT0) {
        match self {
            Self::Continue => out.actionType = ffi::FWP_ACTION_CONTINUE,
            Self::Block => {
                out.actionType = ffi::FWP_ACTION_BLOCK;
                out.rights &= !ffi::FWPS_RIGHT_ACTION_WRITE;
            }
        }
    }
}

fn may_write(out: &ffi::FWPS_CLASSIFY_OUT0) -> bool {
    out.rights & ffi::FWPS_RIGHT_ACTION_WRITE != 0
}

/// Whether an indication was a packet of a flow, and counted.
///
/// # Safety
/// That of [`look`].
#[inline(always)]
unsafe fn carries<C: Classify>(shared: &C::Shared, passed: Passed<'_>) -> bool {
    let (Some(pair), Some((layer, _))) = (C::CARRYING, const { callouts::layer_of(C::CARRYING) }) else {
        return false;
    };
    if !C::only_counts(shared) {
        return false;
    }
    let flow_context = passed.flow_context;
    let Some(at) = callouts::of_pair(pair, passed.fixed.layerId) else { return false };
    // SAFETY: by this function's contract; the callout stands at the layer that
    // is said to be asked.
    let Some(incoming) = (unsafe { Incoming::new(at, layer, 0, passed) }) else { return false };
    let Some(direction) = incoming.direction() else { return false };
    // SAFETY: classifyFn runs at IRQL <= DISPATCH_LEVEL
    // (FWPS_CALLOUT_CLASSIFY_FN3).
    let irql = unsafe { MaxDispatch::assume() };
    C::carry(shared, at.index, flow_context, incoming.payload(direction), &irql);
    true
}

/// Has `C` look at an indication.
///
/// # Safety
/// The caller is a classifyFn, and `passed` what the engine passed to it.
#[inline(always)]
unsafe fn look<C: Classify>(shared: &C::Shared, passed: Passed<'_>) -> Action {
    let Some(at) = C::callout(passed.fixed.layerId) else { return Action::Continue };
    // SAFETY: classifyFn runs at IRQL <= DISPATCH_LEVEL
    // (FWPS_CALLOUT_CLASSIFY_FN3).
    let irql = unsafe { MaxDispatch::assume() };
    // SAFETY: by this function's contract; the callout stands at the layer that
    // is said to be asked.
    match unsafe { Incoming::new(at, C::layer(at), C::FIELDS, passed) } {
        Some(incoming) => C::classify(shared, incoming, &irql),
        None => {
            C::count(shared, at.index, Verdict::Malformed, &irql);
            Action::Continue
        }
    }
}

/// FWPS_CALLOUT_FLOW_DELETE_NOTIFY_FN0.
unsafe extern "C" fn flow_delete_thunk<C: Classify>(_layer: u16, _callout: u32, flow_context: u64) {
    // SAFETY: a callout with flow contexts cannot be unregistered, and callouts
    // are registered after the publication and drained before its end.
    let Some(shared) = (unsafe { C::shared().get() }) else { return };
    // SAFETY: flowDeleteFn runs at IRQL <= DISPATCH_LEVEL
    // (FWPS_CALLOUT_FLOW_DELETE_NOTIFY_FN0).
    let irql = unsafe { MaxDispatch::assume() };
    C::flow_deleted(shared, flow_context, &irql);
}

/// FWPS_CALLOUT_NOTIFY_FN3: filters come and go as they like; a kind of notice
/// that is not known must succeed, too.
unsafe extern "C" fn notify(
    _kind: ffi::FWPS_CALLOUT_NOTIFY_TYPE,
    _filter_key: *const ffi::GUID,
    _filter: *mut ffi::FWPS_FILTER3,
) -> ffi::NTSTATUS {
    ffi::STATUS_SUCCESS
}
