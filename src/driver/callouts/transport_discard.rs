//! The callouts at INBOUND_TRANSPORT_V4/V6_DISCARD: they keep the RST back.

use super::{SHARED, Shared};
use crate::kernel::irql::MaxDispatch;
use crate::kernel::published::Published;
use crate::kernel::wfp::callout::{Action, Classify};
use crate::kernel::wfp::incoming::Incoming;
use crate::logic::layers::{Decision, Role};
use crate::logic::stealth::{Verdict, decide};

/// Decides whether a discarded segment is answered.
pub struct TransportDiscard;

impl Classify for TransportDiscard {
    type Shared = Shared;

    const ROLE: Role = Role::Decide(Decision::TransportDiscard);

    fn shared() -> &'static Published<Shared> {
        &SHARED
    }

    fn classify(shared: &Shared, incoming: &Incoming<'_>, irql: &MaxDispatch) -> Action {
        let verdict = match decide(&incoming.discarded_packet(), &shared.policy) {
            Verdict::Silenced if !incoming.may_decide() => Verdict::Overruled,
            verdict => verdict,
        };
        shared.count(incoming, verdict, irql);
        match verdict {
            Verdict::Silenced => Action::Block,
            _ => Action::Continue,
        }
    }
}
