//! The deciding callouts: what they have in common.

use core::marker::PhantomData;

use super::{SHARED, Shared};
use crate::driver::events;
use crate::kernel::irql::MaxDispatch;
use crate::kernel::published::Published;
use crate::kernel::wfp::callout::{Action, Classify};
use crate::kernel::wfp::incoming::Incoming;
use crate::logic::callouts::Callout;
use crate::logic::layers::{Decision, Role};
use crate::logic::policy::Policy;
use crate::logic::stealth::{Packet, Verdict, decide};

/// One decision, at the layers whose row in the table names it.
pub trait Decide: 'static {
    /// Which one.
    const DECISION: Decision;

    /// What it looks at.
    fn packet(incoming: &Incoming<'_>) -> Packet;

    /// Whether the policy leaves anything to decide. Where most of what passes
    /// is not meant, that spares the look.
    fn is_asked(_: &Policy<'_>) -> bool {
        true
    }
}

/// The callout that takes the decision `D`.
pub struct Deciding<D>(PhantomData<D>);

impl<D: Decide> Classify for Deciding<D> {
    type Shared = Shared;

    const ROLE: Role = Role::Decide(D::DECISION);

    fn shared() -> &'static Published<Shared> {
        &SHARED
    }

    fn notice(_: &Shared, _: &'static Callout, _: u64, _: &MaxDispatch) -> bool {
        true
    }

    fn classify(shared: &Shared, incoming: &Incoming<'_>, irql: &MaxDispatch) -> Action {
        let verdict = Self::verdict(shared, incoming, irql);
        shared.count(incoming.callout(), verdict, irql);
        if shared.is_watched(incoming.callout(), incoming.flow_context()) {
            shared.watch(incoming, irql);
        }
        match verdict {
            Verdict::Silenced => Action::Block,
            _ => Action::Continue,
        }
    }

    fn flow_deleted(shared: &Shared, context: u64, irql: &MaxDispatch) {
        shared.flow_deleted(context, irql);
    }
}

impl<D: Decide> Deciding<D> {
    /// The verdict, and says it.
    fn verdict(shared: &Shared, incoming: &Incoming<'_>, irql: &MaxDispatch) -> Verdict {
        let Some(current) = shared.policies.current(irql) else { return Verdict::Off };
        let policy = current.policy();
        if !D::is_asked(&policy) {
            drop(current);
            events::observed(&shared.channel, incoming, irql);
            return Verdict::Observed;
        }
        let packet = D::packet(incoming);
        let verdict = match decide(D::DECISION, &packet, &policy) {
            Verdict::Silenced if !incoming.may_decide() => Verdict::Overruled,
            verdict => verdict,
        };
        if D::DECISION.is_met_by_scans() && verdict.is_closed_port() {
            shared.scans.meet(&packet, &policy, irql);
        }
        // Whoever replaces the policy waits for its readers.
        drop(current);
        events::verdict(&shared.channel, incoming, &packet, verdict, irql);
        verdict
    }
}
