//! The observing callouts: they count, follow flows, and never decide.

use crate::driver::events;
use crate::driver::shared::Shared;
use crate::kernel::irql::Dispatch;
use crate::kernel::wfp::callout::{Action, Handler};
use crate::kernel::wfp::incoming::Incoming;
use crate::kernel::wfp::indication::Indication;
use crate::logic::callouts;
use crate::logic::stealth::Verdict;

/// The handler at every layer where nothing is decided.
pub struct Observe;

impl Handler for Observe {
    type Shared = Shared;

    /// Most indications are only counted.
    #[inline(always)]
    fn classify_fast(shared: &Shared, indication: &Indication<'_>, irql: &Dispatch<'_>) -> Option<Action> {
        let word = shared.policies.word();
        if word.order_check() != 0 || events::is_classified(&shared.channel) {
            return None;
        }
        if indication.flow_context() != 0 && callouts::counts_flow_packets(indication.layer_id()) {
            return None;
        }
        let index = callouts::counting(indication.layer_id())?;
        shared.count(index, Verdict::Observed, irql);
        Some(Action::Continue)
    }

    fn classify(shared: &Shared, indication: &Indication<'_>, irql: &Dispatch<'_>) -> Action {
        // A filter at another layer, or at one of a deciding callout, may name this callout.
        let Some(callout) = callouts::observing(indication.layer_id()) else { return Action::Continue };
        let Some(incoming) = indication.view(callout) else {
            shared.count(callout.index, Verdict::Malformed, irql);
            return Action::Continue;
        };
        shared.count_flow_packet(&incoming, irql);
        shared.count(callout.index, Verdict::Observed, irql);
        if events::is_classified(&shared.channel) {
            log(shared, incoming.cold_copy(), irql);
        }
        let word = shared.policies.word();
        if callout.begins_flows || word.order_check() != 0 {
            shared.follow(&incoming.cold_copy(), word, irql);
        }
        Action::Continue
    }
}

#[cold]
#[inline(never)]
fn log(shared: &Shared, incoming: Incoming<'_>, irql: &Dispatch<'_>) {
    events::observed(&shared.channel, &incoming, irql);
}
