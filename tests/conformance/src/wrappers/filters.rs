//! Filters that hushport has no use for.

use core::ptr;

use crate::ffi;
use crate::kernel::status::{Result, to_result};
use crate::kernel::wfp::engine::{Display, Transaction};
use crate::kernel::wfp::guid;
use crate::logic::layers::Guid;

/// What a filter without conditions does.
#[derive(Clone, Copy)]
pub enum Action {
    /// FWP_ACTION_PERMIT.
    Permit,
    /// FWP_ACTION_PERMIT with FWPM_FILTER_FLAG_CLEAR_ACTION_RIGHT.
    PermitFinal,
    /// FWP_ACTION_BLOCK.
    Block,
    /// FWP_ACTION_CALLOUT_TERMINATING with this callout.
    Terminate(Guid),
    /// FWP_ACTION_CALLOUT_UNKNOWN with this callout.
    Decide(Guid),
    /// FWP_ACTION_CALLOUT_INSPECTION with this callout.
    Inspect(Guid),
}

/// Adds a filter.
pub fn add(
    transaction: &mut Transaction<'_>,
    keys: (Guid, Guid),
    action: Action,
    sublayer: Guid,
    provider: Guid,
    display: &Display,
) -> Result {
    let (key, layer) = keys;
    let mut provider = guid(provider);
    let (kind, flags, callout) = match action {
        Action::Permit => (ffi::FWP_ACTION_PERMIT, 0, 0),
        Action::PermitFinal => (ffi::FWP_ACTION_PERMIT, ffi::FWPM_FILTER_FLAG_CLEAR_ACTION_RIGHT, 0),
        Action::Block => (ffi::FWP_ACTION_BLOCK, 0, 0),
        Action::Terminate(callout) => (
            ffi::FWP_ACTION_CALLOUT_TERMINATING,
            ffi::FWPM_FILTER_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED,
            callout,
        ),
        Action::Decide(callout) => {
            (ffi::FWP_ACTION_CALLOUT_UNKNOWN, ffi::FWPM_FILTER_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED, callout)
        }
        Action::Inspect(callout) => (ffi::FWP_ACTION_CALLOUT_INSPECTION, 0, callout),
    };
    let object = ffi::FWPM_FILTER0 {
        filterKey: guid(key),
        displayData: display.data(),
        flags,
        providerKey: &mut provider,
        layerKey: guid(layer),
        subLayerKey: guid(sublayer),
        weight: ffi::FWP_VALUE0 { type_: ffi::FWP_DATA_TYPE_::FWP_EMPTY, ..Default::default() },
        action: ffi::FWPM_ACTION0 {
            type_: kind,
            __bindgen_anon_1: ffi::FWPM_ACTION0___bindgen_ty_1 { calloutKey: guid(callout) },
        },
        ..Default::default()
    };
    // SAFETY: the session is open in a transaction at PASSIVE_LEVEL, and the object is a
    // local whose pointers outlive the call; the id is not asked for.
    to_result(unsafe {
        ffi::FwpmFilterAdd0(transaction.engine.handle, &object, ptr::null_mut(), ptr::null_mut())
    })
}
