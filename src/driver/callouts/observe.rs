//! The observing callouts: they count, watch, and let everything pass.

use super::{SHARED, Shared};
use crate::driver::events;
use crate::kernel::irql::MaxDispatch;
use crate::kernel::published::Published;
use crate::kernel::wfp::callout::{Action, Classify};
use crate::kernel::wfp::incoming::Incoming;
use crate::logic::callouts::Callout;
use crate::logic::layers::Role;
use crate::logic::stealth::Verdict;

/// Stands at every layer where nothing is decided.
pub struct Observe;

impl Classify for Observe {
    type Shared = Shared;

    const ROLE: Role = Role::Observe;

    fn shared() -> &'static Published<Shared> {
        &SHARED
    }

    fn notice(shared: &Shared, at: &'static Callout, flow_context: u64, irql: &MaxDispatch) -> bool {
        shared.count(at, Verdict::Observed, irql);
        shared.is_watched(at, flow_context) || events::is_classified(&shared.channel)
    }

    fn classify(shared: &Shared, incoming: &Incoming<'_>, irql: &MaxDispatch) -> Action {
        events::observed(&shared.channel, incoming, irql);
        shared.watch(incoming, irql);
        Action::Continue
    }

    fn flow_deleted(shared: &Shared, context: u64, irql: &MaxDispatch) {
        shared.flow_deleted(context, irql);
    }
}
