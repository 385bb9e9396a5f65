//! What the pages advise callouts to do in a classify.
#![forbid(unsafe_code)]

use crate::verifier::{Rule, Violation, rules};
use crate::wfp::{ActionType, ClassifyOut, LayerInfo, NO_ACTION, RIGHT_ACTION_WRITE, Request, RuntimeFilter};

/// `FWPS_FILTER_FLAG_CLEAR_ACTION_RIGHT` (`fwpstypes.h`).
const CLEAR_ACTION_RIGHT: u16 = 1;
/// The weight of FWPM_SUBLAYER_UNIVERSAL on every machine that was seen.
const UNIVERSAL: u16 = 0x8000;

/// The advice against which a callout has acted.
pub(super) fn of(
    layer: &LayerInfo,
    request: &Request<'_>,
    filter: &RuntimeFilter,
    before: &ClassifyOut,
    after: &ClassifyOut,
) -> Vec<Violation> {
    let held = before.rights & RIGHT_ACTION_WRITE != 0;
    let keeps = after.rights & RIGHT_ACTION_WRITE != 0;
    let has_written = |action| held && after.action == action && before.action != action;
    let inspects = filter.action == ActionType::CALLOUT_INSPECTION;
    let is_transport = layer.name.contains("BOUND_TRANSPORT_") && !layer.is_discard();
    let is_ale = layer.name.starts_with("ALE_") && !layer.is_discard();
    let found: [(bool, &'static Rule); 5] = [
        // "FWPS_CALLOUT_CLASSIFY_FN2", remarks.
        (has_written(ActionType::BLOCK) && keeps, &rules::BLOCK_KEEPS_RIGHT),
        (
            has_written(ActionType::PERMIT) && keeps && filter.flags & CLEAR_ACTION_RIGHT != 0,
            &rules::PERMIT_KEEPS_RIGHT,
        ),
        // "Developing IPsec-Compatible Callout Drivers", transport layers, 3.
        (
            layer.name.starts_with("INBOUND_TRANSPORT_")
                && is_transport
                && request.metadata.ale_classify_required
                && has_written(ActionType::BLOCK),
            &rules::ALE_REQUIRED_BLOCKED,
        ),
        // The engine shows whether a callout writes an action only if it passes none. At
        // STREAM there is a rule of its own.
        (
            held && !inspects
                && !layer.is_stream()
                && before.action == NO_ACTION
                && after.action == NO_ACTION,
            &rules::ACTION_UNSET,
        ),
        // "WFP Layer Requirements and Restrictions", Transport Layer and ALE.
        ((is_transport || is_ale) && filter.sublayer_weight >= UNIVERSAL, &rules::SUBLAYER_NOT_LIGHTER),
    ];
    let violation = |(_, rule)| {
        let text = format!("{}, callout {:#x}", layer.name, filter.callout_id);
        Violation::new(rule, [layer.id.0.into(), filter.callout_id.into(), 0], text)
    };
    found.into_iter().filter(|(is_found, _)| *is_found).map(violation).collect()
}
