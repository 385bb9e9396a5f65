//! Flow contexts: a number of ours that the engine brings with each packet.

use crate::ffi;
use crate::kernel::irql::MaxDispatch;

/// Where a context is kept: a callout at its layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CalloutAtLayer {
    /// The layer's run-time id.
    pub layer: u16,
    /// The callout's run-time id.
    pub callout: u32,
}

/// Has the engine bring `context`, which is not 0, with what it shows of a flow
/// at a place, until the flow ends and the callout hears of that. Says whether
/// it will: not where the flow is over, and not where there is a context
/// already, which is a status that means success.
#[must_use]
pub fn associate(flow: u64, place: CalloutAtLayer, context: u64, _: &MaxDispatch) -> bool {
    // SAFETY: takes numbers only, which the engine checks; allowed up to
    // DISPATCH_LEVEL.
    let status = unsafe { ffi::FwpsFlowAssociateContext0(flow, place.layer, place.callout, context) };
    status == ffi::STATUS_SUCCESS
}

/// Takes a context back; the callout hears of it as of the flow's end, now or,
/// where a classify has it, when that returns. Where there is none nothing happens.
pub fn remove(flow: u64, place: CalloutAtLayer, _: &MaxDispatch) {
    // SAFETY: as for `associate`.
    let _removed_or_none = unsafe { ffi::FwpsFlowRemoveContext0(flow, place.layer, place.callout) };
}
