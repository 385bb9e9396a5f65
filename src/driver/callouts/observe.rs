//! The observing callouts: they count and let everything pass.

use super::{SHARED, Shared};
use crate::driver::events;
use crate::kernel::irql::MaxDispatch;
use crate::kernel::published::Published;
use crate::kernel::wfp::callout::{Action, Classify};
use crate::kernel::wfp::incoming::Incoming;
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

    fn classify(shared: &Shared, incoming: &Incoming<'_>, irql: &MaxDispatch) -> Action {
        shared.count(incoming, Verdict::Observed, irql);
        events::observed(&shared.channel, incoming, irql);
        Action::Continue
    }
}
