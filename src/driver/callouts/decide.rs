//! The deciding callouts: what they have in common.

use core::marker::PhantomData;

use super::{SHARED, Shared};
use crate::driver::events;
use crate::driver::scans::Scans;
use crate::kernel::irql::MaxDispatch;
use crate::kernel::published::Published;
use crate::kernel::wfp::callout::{Action, Classify};
use crate::kernel::wfp::incoming::Incoming;
use crate::kernel::wfp::usual::Usual;
use crate::logic::callouts::{self, Callout, Index, Pair};
use crate::logic::flow::Passed;
use crate::logic::layers::{Decision, Layer, Shows};
use crate::logic::scan::Encounter;
use crate::logic::stealth::{Answer, Rules, Shown, Verdict, decide};

/// One decision, at the layers whose row in the table names it.
pub trait Decide: 'static {
    /// Which one.
    const DECISION: Decision;

    /// What nearly all would draw that comes, so that [`usual`](Self::usual) is
    /// asked first.
    const USUAL: Option<Answer> = None;

    /// What is looked at then.
    type Usual: Shown + Copy;

    /// What it looks at.
    fn shown<'i>(incoming: &'i Incoming<'_>) -> impl Shown + 'i;

    /// The same where it is what nearly all are: of which so much is known that
    /// little is left to decide.
    #[inline(always)]
    fn usual(_: &Incoming<'_>) -> Option<Self::Usual> {
        None
    }

    /// Whether it is as most of them are, too.
    #[inline(always)]
    fn is_plain(_: &Self::Usual) -> bool {
        true
    }

    /// The same with what only exemptions ask for.
    fn more(usual: Self::Usual, _: &Incoming<'_>) -> Self::Usual {
        usual
    }

    /// Whether the policy leaves anything to decide; `None` where it always does.
    /// Where most of what passes is not meant, that spares the look.
    const IS_ASKED: Option<fn(Rules) -> bool> = None;
}

/// What is left to do about a packet that is blocked.
#[derive(Clone, Copy)]
pub struct Blocked {
    at: Index,
    met: Option<Encounter>,
}

/// The callout that takes the decision `D`.
pub struct Deciding<D>(PhantomData<D>);

impl<D: Decide> Classify for Deciding<D> {
    type Shared = Shared;
    type Usual = Self;

    const FIELDS: usize = Self::LAYER.fields.count();
    const IS_QUICK: bool = D::USUAL.is_some() || D::IS_ASKED.is_some();
    const CARRIES_AT_ONCE: bool = true;
    const CARRYING: Option<Pair> =
        if Self::OF_DECISION[0].counts_flows() { Some(Self::OF_DECISION) } else { None };

    fn shared() -> &'static Published<Shared> {
        &SHARED
    }

    #[inline(always)]
    fn callout(layer_id: u16) -> Option<&'static Callout> {
        // By itself and not by `of_pair`: so it stays a choice of two constants.
        let [v4, v6] = Self::OF_DECISION;
        match layer_id {
            _ if layer_id == v4.layer_id => Some(v4),
            _ if layer_id == v6.layer_id => Some(v6),
            _ => None,
        }
    }

    #[inline(always)]
    fn layer(_: &'static Callout) -> &'static Layer {
        Self::LAYER
    }

    #[inline(always)]
    fn passes(shared: &Shared, layer_id: u16, flow_context: u64) -> Option<Index> {
        if flow_context != 0 || !Self::only_counts(shared) {
            return None;
        }
        Some(Self::callout(layer_id)?.index)
    }

    #[inline(always)]
    fn only_counts(shared: &Shared) -> bool {
        let Some(is_asked) = D::IS_ASKED else { return false };
        let standing = shared.policies.standing();
        standing.order_watch() == 0 && !is_asked(standing.rules()) && !events::is_classified(&shared.channel)
    }

    #[inline(always)]
    fn carry(shared: &Shared, at: Index, context: u64, passed: Passed, irql: &MaxDispatch) {
        shared.pass(context, passed, irql);
        shared.count(at, Verdict::Observed, irql);
    }

    #[inline(always)]
    fn count(shared: &Shared, at: Index, verdict: Verdict, irql: &MaxDispatch) {
        shared.count(at, verdict, irql);
    }

    #[inline(always)]
    fn classify(shared: &Shared, incoming: Incoming<'_>, irql: &MaxDispatch) -> Action {
        let standing = shared.policies.standing();
        let verdict = match Self::silenced(shared, standing.rules(), &incoming, irql) {
            true => Verdict::Silenced,
            false => Self::count_verdict(shared, standing.rules(), &incoming, irql),
        };
        if events::is_said(&shared.channel, verdict) {
            Self::say(shared, incoming.again(), verdict, irql);
        }
        if Self::IS_WATCHED && standing.is_watched(incoming.flow_context()) {
            shared.watch(&incoming.again(), irql);
        }
        verdict.into()
    }

    fn flow_deleted(shared: &Shared, context: u64, irql: &MaxDispatch) {
        shared.flow_deleted(context, irql);
    }
}

impl<D: Decide> Usual for Deciding<D> {
    type Shared = Shared;
    type Terms = Rules;
    type Shown = D::Usual;
    type Blocked = Blocked;

    const CALLOUTS: Option<Pair> = if D::USUAL.is_some() { Some(Self::OF_DECISION) } else { None };

    #[inline(always)]
    fn terms(shared: &Shared, flow_context: u64) -> Option<Rules> {
        let standing = shared.policies.standing();
        if standing.is_watched(flow_context) || events::is_verdict_said(&shared.channel) {
            return None;
        }
        Some(standing.rules())
    }

    #[inline(always)]
    fn shown(incoming: &Incoming<'_>) -> Option<D::Usual> {
        D::usual(incoming)
    }

    #[inline(always)]
    fn blocked(rules: Rules, at: &'static Callout, packet: &D::Usual) -> Option<Blocked> {
        if !D::is_plain(packet) || !rules.simply_silence(D::USUAL?) {
            return None;
        }
        if decide(D::DECISION, packet, rules, None) != Verdict::Silenced {
            return None;
        }
        let met = if D::DECISION.is_met_by_scans() { Some(Scans::encounter(packet)?) } else { None };
        Some(Blocked { at: at.index, met })
    }

    #[inline(always)]
    fn counts(shared: &Shared, blocked: &Blocked, irql: &MaxDispatch) -> bool {
        let Some(processor) = shared.processors.current(irql) else { return false };
        if let Some(met) = &blocked.met
            && !shared.scans.has_met(&processor.remotes, met)
        {
            return false;
        }
        shared.count(blocked.at, Verdict::Silenced, irql);
        true
    }

    fn block(shared: &Shared, blocked: &Blocked, irql: &MaxDispatch) {
        if let Some(met) = &blocked.met {
            shared.meet(met, irql);
        }
        shared.count(blocked.at, Verdict::Silenced, irql);
    }

    #[inline(always)]
    fn more(shown: D::Usual, incoming: &Incoming<'_>) -> D::Usual {
        D::more(shown, incoming)
    }

    fn decide(shared: &Shared, at: &'static Callout, packet: &D::Usual, irql: &MaxDispatch) -> Action {
        let verdict = Self::verdict(shared, packet, irql);
        shared.count(at.index, verdict, irql);
        verdict.into()
    }
}

impl<D: Decide> Deciding<D> {
    const OF_DECISION: Pair = callouts::deciding(D::DECISION);
    const LAYER: &'static Layer = Self::OF_DECISION[0].layer;
    /// An error is of no flow and on no packet's way: it makes a packet.
    const IS_WATCHED: bool = !matches!(Self::LAYER.shows, Shows::Error(_));

    /// Counts an indication as silenced if it is of the usual kind, and that is
    /// all that is left to do; if not, nothing has been done.
    #[inline(always)]
    fn silenced(shared: &Shared, rules: Rules, incoming: &Incoming<'_>, irql: &MaxDispatch) -> bool {
        if D::USUAL.is_none() || !irql.is_dispatch() || !incoming.may_decide() {
            return false;
        }
        let Some(usual) = D::usual(incoming) else { return false };
        let Some(blocked) = Self::blocked(rules, incoming.callout(), &usual) else { return false };
        Self::counts(shared, &blocked, irql)
    }

    /// Comes to a verdict over an indication, and counts it.
    #[inline(always)]
    fn count_verdict(shared: &Shared, rules: Rules, incoming: &Incoming<'_>, irql: &MaxDispatch) -> Verdict {
        let verdict = match D::IS_ASKED.is_none_or(|is_asked| is_asked(rules)) {
            true => match Self::verdict(shared, &D::shown(incoming), irql) {
                Verdict::Silenced if !incoming.may_decide() => Verdict::Overruled,
                verdict => verdict,
            },
            false => Verdict::Observed,
        };
        shared.count(incoming.callout().index, verdict, irql);
        verdict
    }

    /// The verdict, if anybody may still decide; scan detection takes it in.
    #[inline(always)]
    fn verdict(shared: &Shared, packet: &impl Shown, irql: &MaxDispatch) -> Verdict {
        let Some(current) = shared.policies.current(irql) else { return Verdict::Off };
        let verdict = decide(D::DECISION, packet, current.rules(), current.exemptions());
        if D::DECISION.is_met_by_scans()
            && verdict.is_closed_port()
            && let Some(met) = Scans::encounter(packet)
        {
            shared.meet(&met, irql);
        }
        verdict
    }

    /// Says a verdict. The packet is looked at once more: so nothing of it has
    /// to be kept where nobody listens.
    #[cold]
    #[inline(never)]
    fn say(shared: &Shared, incoming: Incoming<'_>, verdict: Verdict, irql: &MaxDispatch) {
        let packet = D::shown(&incoming).packet();
        events::verdict(&shared.channel, &incoming, &packet, verdict, irql);
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
