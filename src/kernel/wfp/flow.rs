//! Flow contexts: a number of ours that the engine passes with each packet.

use crate::ffi;
use crate::kernel::irql::MaxDispatch;

/// A callout at its layer, for which the engine keeps one context per flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CalloutAtLayer {
    /// The layer's run-time id.
    pub layer: u16,
    /// The callout's run-time id.
    pub callout: u32,
}

/// Associates a flow with `context`, which must not be 0. The engine then passes it
/// to the callout until the flow ends, and reports its end to the callout. Returns
/// whether it was associated: `false` if the flow has ended, or if there already is
/// a context, for which the engine returns another success status.
#[must_use]
pub fn associate(flow: u64, place: CalloutAtLayer, context: u64, _: &MaxDispatch) -> bool {
    // SAFETY: takes numbers only, which the engine checks; allowed up to
    // DISPATCH_LEVEL.
    let status = unsafe { ffi::FwpsFlowAssociateContext0(flow, place.layer, place.callout, context) };
    status == ffi::STATUS_SUCCESS
}

/// Removes a context. The engine then calls the callout's flowDeleteFn, at once or
/// after the classify that has the context returns. Does nothing if there is no
/// context.
pub fn remove(flow: u64, place: CalloutAtLayer, _: &MaxDispatch) {
    // SAFETY: as for `associate`.
    let _removed_or_none = unsafe { ffi::FwpsFlowRemoveContext0(flow, place.layer, place.callout) };
}
