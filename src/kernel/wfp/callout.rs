//! Callouts: their registration, and the functions that the engine calls.

use core::ffi::c_void;
use core::num::NonZeroU32;
use core::ptr;

use super::guid;
use super::indication::Indication;
use crate::ffi;
use crate::kernel::device::Device;
use crate::kernel::irql::{self, Dispatch, Passive};
use crate::kernel::published::Findable;
use crate::kernel::status::{Result, to_result};
use crate::kernel::waiting::waiting;
use crate::kernel::work_item::wait_until;
use crate::logic::layers::Guid;
use crate::logic::waiting::Awaited;

/// The state that all callouts share. The engine passes no context of the callout. A
/// filter's context belongs to the driver or program that added the filter. The functions
/// run at DISPATCH_LEVEL, as those of [`Handler`] do.
pub trait State: Findable {
    /// flowDeleteFn: a context that was associated with a flow for a callout is gone,
    /// because the flow ended or the context was removed.
    fn flow_deleted(&self, context: u64, irql: &Dispatch<'_>);
}

/// The functions of a callout, as safe code. They run at DISPATCH_LEVEL: if the engine
/// calls at a lower level, the thunks raise it. Below DISPATCH_LEVEL the thread may be
/// one of the process that sends or receives, whose other threads can suspend it.
pub trait Handler: 'static {
    /// The state that all callouts share.
    type Shared: State;

    /// The fast path of classifyFn: returns an action for the common indication,
    /// `None` for any other. The action is the one that [`classify`](Self::classify) would
    /// return, because both take the same decision. Without a fast path, it is
    /// [`classify`](Self::classify) that answers.
    #[inline(always)]
    fn classify_fast(
        shared: &Self::Shared,
        indication: &Indication<'_>,
        irql: &Dispatch<'_>,
    ) -> Option<Action> {
        Some(Self::classify(shared, indication, irql))
    }

    /// classifyFn: returns the action for an indication.
    fn classify(shared: &Self::Shared, indication: &Indication<'_>, irql: &Dispatch<'_>) -> Action;
}

/// What a callout returns to the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[must_use]
pub enum Action {
    /// FWP_ACTION_CONTINUE: the next filter decides.
    Continue,
    /// FWP_ACTION_BLOCK, and the right to write the action is cleared, so that no
    /// later filter can change it.
    Block,
    /// FWP_ACTION_PERMIT, and the right to write the action is cleared, so that
    /// filters in lighter sublayers cannot block. A block of a heavier sublayer
    /// stands.
    Permit,
}

/// Allows all offloads, so that observing costs no throughput. Newer flags are higher
/// bits (fwpsk.h).
const FLAGS: u32 = ffi::FWP_CALLOUT_FLAG_ALLOW_OFFLOAD
    | ffi::FWP_CALLOUT_FLAG_ALLOW_RSC
    | ffi::FWP_CALLOUT_FLAG_ALLOW_USO
    | ffi::FWP_CALLOUT_FLAG_ALLOW_URO;

/// The flow contexts that callouts have.
pub trait FlowContexts: Clone {
    /// Asks the engine to remove every context.
    fn remove_all(&self, irql: &Passive);
}

/// A registered callout. Before it is dropped, no flow may get a context any more.
pub struct CalloutRegistration<C: FlowContexts> {
    id: u32,
    contexts: C,
    _device: Device,
}

impl<C: FlowContexts> CalloutRegistration<C> {
    /// Registers `H` under a key. `flows` says whether the callout associates
    /// contexts with flows. If an older Windows refuses flags that it does not know,
    /// the callout is registered without them. The engine may call at once, so the shared
    /// state is to be published before.
    pub fn new<H: Handler>(
        device: &Device,
        key: Guid,
        flows: bool,
        contexts: &C,
        irql: &Passive,
    ) -> Result<Self> {
        let delete = if flows { Some(flow_delete_thunk::<H::Shared> as FlowDeleteFn) } else { None };
        Self::register(device, key, (classify_thunk::<H>, delete), contexts, irql)
    }

    #[inline(never)]
    fn register(
        device: &Device,
        key: Guid,
        (classify, delete): (ClassifyFn, Option<FlowDeleteFn>),
        contexts: &C,
        _: &Passive,
    ) -> Result<Self> {
        let mut callout = ffi::FWPS_CALLOUT3 {
            calloutKey: guid(key),
            flags: FLAGS,
            classifyFn: Some(classify),
            notifyFn: Some(notify),
            flowDeleteFn: delete,
        };
        let mut id = 0;
        loop {
            // SAFETY: the device is alive, callout and id are locals, the functions
            // live as long as the image, and the call is made at PASSIVE_LEVEL.
            let register = || unsafe { ffi::FwpsCalloutRegister3(device.as_ptr().cast(), &callout, &mut id) };
            let status = waiting(Awaited::CalloutRegister, register);
            match (to_result(status), NonZeroU32::new(callout.flags)) {
                (Ok(()), _) => return Ok(Self { id, contexts: contexts.clone(), _device: device.clone() }),
                (Err(_), Some(flags)) if refuses_flags(status) => {
                    // Register again without the newest of them.
                    callout.flags &= !(1 << flags.ilog2());
                }
                (Err(status), _) => return Err(status),
            }
        }
    }

    /// The callout's run-time id.
    pub fn id(&self) -> u32 {
        self.id
    }
}

/// Whether the status can mean that the engine does not know a flag. No page says which
/// status that is.
fn refuses_flags(status: ffi::NTSTATUS) -> bool {
    status == ffi::STATUS_FWP_INVALID_FLAGS || status == ffi::STATUS_INVALID_PARAMETER
}

impl<C: FlowContexts> Drop for CalloutRegistration<C> {
    fn drop(&mut self) {
        // SAFETY: registrations are made at PASSIVE_LEVEL, and dropped there.
        let irql = unsafe { Passive::assume() };
        wait_until(Awaited::CalloutUnregister, || {
            // SAFETY: the id is a registered callout's; at PASSIVE_LEVEL.
            let status = unsafe { ffi::FwpsCalloutUnregisterById0(self.id) };
            // STATUS_DEVICE_BUSY while flows or another thread use the callout.
            // After any other failure the callout is still registered, too. The
            // image must not be unloaded before, so try again.
            let is_gone = to_result(status).is_ok() || status == ffi::STATUS_FWP_CALLOUT_NOT_FOUND;
            if !is_gone {
                // The engine may have refused to remove a context before.
                self.contexts.remove_all(&irql);
            }
            is_gone
        });
    }
}

/// FWPS_CALLOUT_CLASSIFY_FN3.
type ClassifyFn = unsafe extern "C" fn(
    *const ffi::FWPS_INCOMING_VALUES0,
    *const ffi::FWPS_INCOMING_METADATA_VALUES0,
    *mut c_void,
    *const c_void,
    *const ffi::FWPS_FILTER3,
    u64,
    *mut ffi::FWPS_CLASSIFY_OUT0,
);

/// FWPS_CALLOUT_FLOW_DELETE_NOTIFY_FN0.
type FlowDeleteFn = unsafe extern "C" fn(u16, u32, u64);

/// FWPS_CALLOUT_CLASSIFY_FN3: checks the level and the pointers, asks the handler, and
/// writes the action once. If the fast path has no answer, [`classify_slow`] is called; if
/// the IRQL must be raised, [`classify_below`] is.
unsafe extern "C" fn classify_thunk<H: Handler>(
    in_fixed_values: *const ffi::FWPS_INCOMING_VALUES0,
    in_meta_values: *const ffi::FWPS_INCOMING_METADATA_VALUES0,
    layer_data: *mut c_void,
    _classify_context: *const c_void,
    _filter: *const ffi::FWPS_FILTER3,
    flow_context: u64,
    classify_out: *mut ffi::FWPS_CLASSIFY_OUT0,
) {
    if !irql::is_dispatch() {
        // SAFETY: as the engine passed them to this function, which is a classifyFn and
        // runs at IRQL <= DISPATCH_LEVEL (FWPS_CALLOUT_CLASSIFY_FN3).
        return unsafe {
            classify_below(
                in_fixed_values,
                in_meta_values,
                layer_data,
                classify_thunk::<H>,
                flow_context,
                classify_out,
            )
        };
    }
    // SAFETY: the level is DISPATCH_LEVEL, and nothing below changes it.
    let irql = unsafe { Dispatch::assume() };
    // SAFETY: the engine passes its own result structure, to be written by this
    // thread alone until the return, or NULL.
    let Some(out) = (unsafe { classify_out.as_mut() }) else { return };
    // SAFETY: the engine passes structures that live until the return, or NULL.
    let fixed = unsafe { in_fixed_values.as_ref() };
    let (Some(fixed), Some(shared)) = (fixed, H::Shared::published().get(&irql)) else {
        // The engine shows no values, or the driver has not started or has ended.
        return Action::Continue.apply(out);
    };
    // SAFETY: what the engine passes lives until the return, and layerData is of the type
    // that the layer uses ("Data Offset Positions").
    let indication = unsafe { Indication::new(fixed, in_meta_values, layer_data, flow_context, out) };
    match H::classify_fast(shared, &indication, &irql) {
        Some(action) => action.apply(out),
        None => classify_slow::<H>(shared, indication, irql.cold_copy()).apply(out),
    }
}

/// The slow path of [`classify_thunk`]. It gets copies, so that the originals can stay in
/// registers.
#[inline(never)]
fn classify_slow<H: Handler>(shared: &H::Shared, indication: Indication<'_>, irql: Dispatch<'_>) -> Action {
    H::classify(shared, &indication, &irql)
}

/// [`classify_thunk`] below DISPATCH_LEVEL: raises the level and begins again, so that
/// every level has the same paths.
#[cold]
#[inline(never)]
unsafe extern "C" fn classify_below(
    in_fixed_values: *const ffi::FWPS_INCOMING_VALUES0,
    in_meta_values: *const ffi::FWPS_INCOMING_METADATA_VALUES0,
    layer_data: *mut c_void,
    thunk: ClassifyFn,
    flow_context: u64,
    classify_out: *mut ffi::FWPS_CLASSIFY_OUT0,
) {
    // SAFETY: as the engine passed them to the thunk, at DISPATCH_LEVEL.
    let classify = |_: &Dispatch<'_>| unsafe {
        thunk(
            in_fixed_values,
            in_meta_values,
            layer_data,
            ptr::null(),
            ptr::null(),
            flow_context,
            classify_out,
        );
    };
    // SAFETY: a classifyFn runs at IRQL <= DISPATCH_LEVEL
    // (FWPS_CALLOUT_CLASSIFY_FN3), and there is no token yet.
    unsafe { irql::at_dispatch(classify) };
}

/// Whether the engine lets the callout write an action.
pub(super) fn may_write(out: &ffi::FWPS_CLASSIFY_OUT0) -> bool {
    out.rights & ffi::FWPS_RIGHT_ACTION_WRITE != 0
}

impl Action {
    /// Writes the action, unless a filter of a heavier sublayer has taken the right
    /// to write.
    #[inline(always)]
    fn apply(self, out: &mut ffi::FWPS_CLASSIFY_OUT0) {
        if !may_write(out) {
            return;
        }
        match self {
            Self::Continue => out.actionType = ffi::FWP_ACTION_CONTINUE,
            Self::Block => {
                out.actionType = ffi::FWP_ACTION_BLOCK;
                out.rights &= !ffi::FWPS_RIGHT_ACTION_WRITE;
            }
            Self::Permit => permit(out),
        }
    }
}

#[cold]
#[inline(never)]
fn permit(out: &mut ffi::FWPS_CLASSIFY_OUT0) {
    // A heavier sublayer may have blocked and left the right.
    if out.actionType != ffi::FWP_ACTION_BLOCK {
        out.actionType = ffi::FWP_ACTION_PERMIT;
        out.rights &= !ffi::FWPS_RIGHT_ACTION_WRITE;
    }
}

/// FWPS_CALLOUT_FLOW_DELETE_NOTIFY_FN0.
unsafe extern "C" fn flow_delete_thunk<S: State>(_layer: u16, _callout: u32, flow_context: u64) {
    let delete = |irql: &Dispatch<'_>| {
        if let Some(shared) = S::published().get(irql) {
            shared.flow_deleted(flow_context, irql);
        }
    };
    // SAFETY: this is a flowDeleteFn, which runs at IRQL <= DISPATCH_LEVEL
    // (FWPS_CALLOUT_FLOW_DELETE_NOTIFY_FN0), and there is no token yet.
    unsafe { irql::at_dispatch(delete) };
}

/// FWPS_CALLOUT_NOTIFY_FN3: filters are added and deleted. Unknown notifications
/// must succeed, too.
unsafe extern "C" fn notify(
    _kind: ffi::FWPS_CALLOUT_NOTIFY_TYPE,
    _filter_key: *const ffi::GUID,
    _filter: *mut ffi::FWPS_FILTER3,
) -> ffi::NTSTATUS {
    ffi::STATUS_SUCCESS
}
