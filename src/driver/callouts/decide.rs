//! The deciding callouts: what they have in common.

use core::marker::PhantomData;

use super::{SHARED, Shared};
use crate::driver::events;
use crate::kernel::irql::MaxDispatch;
use crate::kernel::published::Published;
use crate::kernel::wfp::callout::{Action, Classify};
use crate::kernel::wfp::incoming::Incoming;
use crate::logic::callouts::{self, Callout, Index};
use crate::logic::layers::{Decision, Layer};
use crate::logic::stealth::{Packet, Shown, Verdict, decide};

/// One decision, at the layers whose row in the table names it.
pub trait Decide: 'static {
    /// Which one.
    const DECISION: Decision;

    /// Whether [`usual`](Self::usual) tells nearly all that comes, so that it is
    /// asked first.
    const HAS_USUAL: bool = false;

    /// What it looks at.
    fn shown<'i>(incoming: &'i Incoming<'_>) -> impl Shown + 'i;

    /// The same where it is what nearly all are: of which so much is known that
    /// little is left to decide.
    #[inline(always)]
    fn usual<'i>(_: &'i Incoming<'_>) -> Option<impl Shown + 'i> {
        None::<Packet>
    }

    /// Whether the policy leaves anything to decide. Where most of what passes
    /// is not meant, that spares the look.
    #[inline(always)]
    fn is_asked(_: &Shared) -> bool {
        true
    }
}

/// The callout that takes the decision `D`.
pub struct Deciding<D>(PhantomData<D>);

impl<D: Decide> Classify for Deciding<D> {
    type Shared = Shared;

    const FIELDS: usize = Self::LAYER.fields.count();
    const IS_QUICK: bool = D::HAS_USUAL;

    fn shared() -> &'static Published<Shared> {
        &SHARED
    }

    #[inline(always)]
    fn callout(layer_id: u16) -> Option<&'static Callout> {
        let [v4, v6] = Self::CALLOUTS;
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
        if D::is_asked(shared) || shared.is_watched(flow_context) || events::is_classified(&shared.channel) {
            return None;
        }
        Some(Self::callout(layer_id)?.index)
    }

    #[inline(always)]
    fn count(shared: &Shared, at: Index, verdict: Verdict, irql: &MaxDispatch) {
        shared.count(at, verdict, irql);
    }

    #[inline(always)]
    fn may_be_silenced(shared: &Shared, flow_context: u64) -> bool {
        D::HAS_USUAL && !shared.is_watched(flow_context) && !events::is_verdict_said(&shared.channel)
    }

    #[inline(always)]
    fn silenced(shared: &Shared, incoming: &Incoming<'_>, irql: &MaxDispatch) -> bool {
        let Some(packet) = D::usual(incoming) else { return false };
        let Some(current) = shared.policies.current(irql) else { return false };
        if decide(D::DECISION, &packet, current.rules(), current.exemptions()) != Verdict::Silenced {
            return false;
        }
        if D::DECISION.is_met_by_scans() {
            shared.scans.meet(&packet, irql);
        }
        shared.count(incoming.callout().index, Verdict::Silenced, irql);
        true
    }

    #[inline(always)]
    fn classify(shared: &Shared, incoming: Incoming<'_>, irql: &MaxDispatch) -> Action {
        let verdict =
            if D::is_asked(shared) { Self::verdict(shared, &incoming, irql) } else { Verdict::Observed };
        shared.count(incoming.callout().index, verdict, irql);
        if events::is_said(&shared.channel, verdict) {
            Self::say(shared, incoming.again(), verdict, irql);
        }
        if shared.is_watched(incoming.flow_context()) {
            shared.watch(&incoming.again(), irql);
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
    const CALLOUTS: [&'static Callout; 2] = callouts::deciding(D::DECISION);
    const LAYER: &'static Layer = Self::CALLOUTS[0].layer;

    #[inline(always)]
    fn verdict(shared: &Shared, incoming: &Incoming<'_>, irql: &MaxDispatch) -> Verdict {
        let Some(current) = shared.policies.current(irql) else { return Verdict::Off };
        let packet = D::shown(incoming);
        let verdict = match decide(D::DECISION, &packet, current.rules(), current.exemptions()) {
            Verdict::Silenced if !incoming.may_decide() => Verdict::Overruled,
            verdict => verdict,
        };
        if D::DECISION.is_met_by_scans() && verdict.is_closed_port() {
            shared.scans.meet(&packet, irql);
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
