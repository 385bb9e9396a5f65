//! The observing callouts: they count, watch, and let everything pass.

use super::{SHARED, Shared};
use crate::driver::events;
use crate::kernel::irql::MaxDispatch;
use crate::kernel::published::Published;
use crate::kernel::wfp::callout::{Action, Classify};
use crate::kernel::wfp::incoming::Incoming;
use crate::kernel::wfp::usual::Nothing;
use crate::logic::callouts::{self, Callout, Index, Pair};
use crate::logic::flow::Passed;
use crate::logic::layers::{Layer, Role};
use crate::logic::stealth::Verdict;

/// Stands at every layer where nothing is decided.
pub struct Observe;

impl Classify for Observe {
    type Shared = Shared;
    type Usual = Nothing<Shared>;

    const FIELDS: usize = 0;
    const IS_QUICK: bool = true;
    const CARRYING: Option<Pair> = Some(callouts::observing_flows());
    const CARRIES_AT_ONCE: bool = false;

    fn shared() -> &'static Published<Shared> {
        &SHARED
    }

    #[inline(always)]
    fn callout(layer_id: u16) -> Option<&'static Callout> {
        match callouts::at_layer(layer_id) {
            Some(callout) if callout.role == Role::Observe => Some(callout),
            _ => None,
        }
    }

    #[inline(always)]
    fn layer(callout: &'static Callout) -> &'static Layer {
        callout.layer
    }

    #[inline(always)]
    fn passes(shared: &Shared, layer_id: u16, flow_context: u64) -> Option<Index> {
        if !Self::only_counts(shared) || flow_context != 0 && Self::counts_flows(layer_id) {
            return None;
        }
        callouts::only_counting(layer_id)
    }

    #[inline(always)]
    fn only_counts(shared: &Shared) -> bool {
        shared.policies.standing().order_watch() == 0 && !events::is_classified(&shared.channel)
    }

    #[inline(always)]
    fn carry(shared: &Shared, at: Index, context: u64, passed: Passed, irql: &MaxDispatch) {
        shared.pass_aside(context, passed, irql);
        shared.count(at, Verdict::Observed, irql);
    }

    #[inline(always)]
    fn count(shared: &Shared, at: Index, verdict: Verdict, irql: &MaxDispatch) {
        shared.count(at, verdict, irql);
    }

    #[inline(always)]
    fn classify(shared: &Shared, incoming: Incoming<'_>, irql: &MaxDispatch) -> Action {
        shared.count(incoming.callout().index, Verdict::Observed, irql);
        events::observed(&shared.channel, &incoming, irql);
        shared.watch(&incoming, irql);
        Action::Continue
    }

    fn flow_deleted(shared: &Shared, context: u64, irql: &MaxDispatch) {
        shared.flow_deleted(context, irql);
    }
}
