//! What all deciding callouts have in common.

use core::marker::PhantomData;

use crate::driver::events;
use crate::driver::scans::Scans;
use crate::driver::shared::{SHARED, Shared};
use crate::kernel::irql::{InCallout, MaxDispatch};
use crate::kernel::published::Published;
use crate::kernel::wfp::callout::{Action, Handler};
use crate::kernel::wfp::incoming::Incoming;
use crate::kernel::wfp::indication::Indication;
use crate::logic::callouts::{Callout, Pair};
use crate::logic::layers::Decision;
use crate::logic::scan::Encounter;
use crate::logic::stealth::{PacketView, Rules, Verdict, decide};

/// A decision, taken by the callouts whose row in the table names it.
pub trait Decide: 'static {
    /// The decision.
    const DECISION: Decision;

    /// The view of the packet that the decision reads.
    fn packet<'i>(incoming: &'i Incoming<'_>) -> impl PacketView + 'i;

    /// Whether there is anything to decide under the policy.
    #[inline(always)]
    fn is_needed(_: Rules) -> bool {
        true
    }

    /// [`Handler::classify_fast`], for one of the two callouts.
    #[inline(always)]
    fn classify_fast(_: &Shared, _: &'static Callout, _: &Indication<'_>, _: &InCallout) -> Option<Action> {
        None
    }
}

/// The handler of the callouts that take the decision `D`.
pub struct Deciding<D>(PhantomData<D>);

impl<D: Decide> Handler for Deciding<D> {
    type Shared = Shared;

    fn shared() -> &'static Published<Shared> {
        &SHARED
    }

    #[inline(always)]
    fn classify_fast(shared: &Shared, indication: &Indication<'_>, token: &InCallout) -> Option<Action> {
        let Pair { v4, v6 } = Self::CALLOUTS;
        // One copy of the code for each family, in which the callout is a constant.
        match indication.layer_id() {
            id if id == v4.layer_id => D::classify_fast(shared, v4, indication, token),
            id if id == v6.layer_id => D::classify_fast(shared, v6, indication, token),
            _ => None,
        }
    }

    /// Views the indication, decides once, and counts the verdict.
    fn classify(shared: &Shared, indication: &Indication<'_>, token: &InCallout) -> Action {
        // A filter at another layer may name this callout. Nothing is decided there.
        let Some((callout, view)) = indication.view_of(Self::CALLOUTS) else { return Action::Continue };
        let Some(incoming) = view else {
            shared.count(callout.index, Verdict::Malformed, &token.irql());
            return Action::Continue;
        };
        let irql = token.irql();
        if const { Self::CALLOUTS.v4.flow_packets.is_some() } {
            shared.count_flow_packet(&incoming, &irql);
        }
        let word = shared.policies.word();
        let (verdict, met) = match D::is_needed(word.rules()) {
            true => Self::decide(shared, word.rules(), &incoming, &irql),
            false => (Verdict::Observed, None),
        };
        shared.count_and_meet(callout.index, verdict, met.as_ref(), &irql);
        // Both read the packet again, so that the hot path need not keep any part of it.
        if events::is_logged(&shared.channel, verdict) {
            events::verdict(&shared.channel, &incoming.cold_copy(), verdict, &irql);
        }
        if word.order_check() != 0 {
            shared.follow(&incoming.cold_copy(), word, &irql);
        }
        verdict.into()
    }

    fn flow_deleted(shared: &Shared, context: u64, token: &InCallout) {
        shared.flow_deleted(context, &token.irql());
    }
}

impl<D: Decide> Deciding<D> {
    const CALLOUTS: Pair = Pair::deciding(D::DECISION);

    /// Takes the decision. Also returns who has met a closed port, for scan
    /// detection. The policy itself is read only if it has lists of exemptions;
    /// otherwise its rules are enough.
    #[inline(always)]
    fn decide(
        shared: &Shared,
        rules: Rules,
        incoming: &Incoming<'_>,
        irql: &MaxDispatch,
    ) -> (Verdict, Option<Encounter>) {
        let packet = D::packet(incoming);
        let policy = match rules.has_lists() {
            true => match shared.policies.current(irql) {
                Some(policy) => Some(policy),
                None => return (Verdict::Off, None),
            },
            false => None,
        };
        let (rules, exemptions) = match &policy {
            Some(policy) => (policy.rules(), policy.exemptions()),
            None => (rules, None),
        };
        let verdict = decide(D::DECISION, &packet, rules, exemptions);
        let met = match D::DECISION.sees_probes() && verdict.is_closed_port() {
            true => Scans::encounter(&packet),
            false => None,
        };
        match verdict {
            Verdict::Silenced if !incoming.may_decide() => match incoming.is_blocked() {
                true => (Verdict::AlreadyBlocked, met),
                false => (Verdict::Overruled, met),
            },
            verdict => (verdict, met),
        }
    }
}

impl From<Verdict> for Action {
    #[inline(always)]
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Silenced => Self::Block,
            _ => Self::Continue,
        }
    }
}
