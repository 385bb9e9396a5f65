//! The deciding callouts: what they have in common.

use core::marker::PhantomData;

use crate::driver::events;
use crate::driver::policy::PolicyWord;
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

/// One decision, at the layers whose row in the table names it.
pub trait Decide: 'static {
    /// Which one.
    const DECISION: Decision;

    /// What the decision asks of an indication.
    fn packet<'i>(incoming: &'i Incoming<'_>) -> impl PacketView + 'i;

    /// Whether the policy leaves anything to decide.
    #[inline(always)]
    fn is_asked(_: Rules) -> bool {
        true
    }

    /// [`Handler::classify_fast`], for one of the two callouts.
    #[inline(always)]
    fn classify_fast(_: &Shared, _: &'static Callout, _: &Indication<'_>, _: &InCallout) -> Option<Action> {
        None
    }
}

/// The callout that takes the decision `D`.
pub struct Deciding<D>(PhantomData<D>);

impl<D: Decide> Handler for Deciding<D> {
    type Shared = Shared;

    fn shared() -> &'static Published<Shared> {
        &SHARED
    }

    #[inline(always)]
    fn classify_fast(shared: &Shared, indication: &Indication<'_>, token: &InCallout) -> Option<Action> {
        let Pair { v4, v6 } = Self::CALLOUTS;
        // A copy for each family, so that the callout is a constant.
        match indication.layer_id() {
            id if id == v4.layer_id => D::classify_fast(shared, v4, indication, token),
            id if id == v6.layer_id => D::classify_fast(shared, v6, indication, token),
            _ => None,
        }
    }

    /// Gathers what the indication shows, decides once, and counts.
    fn classify(shared: &Shared, indication: &Indication<'_>, token: &InCallout) -> Action {
        // A filter at another layer may name this callout; it decides nothing there.
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
        let (verdict, met) = match D::is_asked(word.rules()) {
            true => Self::decide(shared, word.rules(), &incoming, &irql),
            false => (Verdict::Observed, None),
        };
        shared.count_and_meet(callout.index, verdict, met.as_ref(), &irql);
        if word.order_watch() != 0 || events::is_logged(&shared.channel, verdict) {
            Self::inspect(shared, incoming.again(), verdict, word, &irql);
        }
        verdict.into()
    }

    fn flow_deleted(shared: &Shared, context: u64, token: &InCallout) {
        shared.flow_deleted(context, &token.irql());
    }
}

impl<D: Decide> Deciding<D> {
    const CALLOUTS: Pair = Pair::deciding(D::DECISION);

    /// Asks the decision; also returns who has met a closed port. Only a policy with
    /// lists of exemptions has to be read: of any other its rules say everything.
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
        let met = match D::DECISION.is_met_by_scans() && verdict.is_closed_port() {
            true => Scans::encounter(&packet),
            false => None,
        };
        match verdict {
            Verdict::Silenced if !incoming.may_decide() => (Verdict::Overruled, met),
            verdict => (verdict, met),
        }
    }

    /// What most indications do not need: writes the verdict's event, and checks
    /// the order. The packet is read once more, so that nothing of it has to be
    /// kept until here.
    #[cold]
    #[inline(never)]
    fn inspect(
        shared: &Shared,
        incoming: Incoming<'_>,
        verdict: Verdict,
        word: PolicyWord,
        irql: &MaxDispatch,
    ) {
        if events::is_logged(&shared.channel, verdict) {
            Self::log(shared, &incoming, verdict, irql);
        }
        if word.order_watch() != 0 {
            shared.follow(&incoming, word, irql);
        }
    }

    #[cold]
    #[inline(never)]
    fn log(shared: &Shared, incoming: &Incoming<'_>, verdict: Verdict, irql: &MaxDispatch) {
        let packet = D::packet(incoming).packet();
        events::verdict(&shared.channel, incoming, &packet, verdict, irql);
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
