//! The deciding callouts: what they have in common.

use core::marker::PhantomData;

use super::{SHARED, Shared};
use crate::driver::events;
use crate::kernel::irql::MaxDispatch;
use crate::kernel::published::Published;
use crate::kernel::wfp::callout::{Action, Classify};
use crate::kernel::wfp::incoming::Incoming;
use crate::logic::layers::{Decision, Role};
use crate::logic::stealth::{Packet, Verdict, decide};

/// One decision, at the layers whose row in the table names it.
pub trait Decide: 'static {
    /// Which one.
    const DECISION: Decision;

    /// What it looks at.
    fn packet(incoming: &Incoming<'_>) -> Packet;
}

/// The callout that takes the decision `D`.
pub struct Deciding<D>(PhantomData<D>);

impl<D: Decide> Classify for Deciding<D> {
    type Shared = Shared;

    const ROLE: Role = Role::Decide(D::DECISION);

    fn shared() -> &'static Published<Shared> {
        &SHARED
    }

    fn classify(shared: &Shared, incoming: &Incoming<'_>, irql: &MaxDispatch) -> Action {
        let Some(current) = shared.policies.current(irql) else { return Action::Continue };
        let packet = D::packet(incoming);
        let verdict = match decide(D::DECISION, &packet, &current.policy()) {
            Verdict::Silenced if !incoming.may_decide() => Verdict::Overruled,
            verdict => verdict,
        };
        drop(current);
        shared.count(incoming, verdict, irql);
        events::verdict(&shared.channel, incoming, &packet, verdict, irql);
        match verdict {
            Verdict::Silenced => Action::Block,
            _ => Action::Continue,
        }
    }
}
