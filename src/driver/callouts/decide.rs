//! What all deciding callouts have in common.

use core::marker::PhantomData;

use crate::driver::events;
use crate::driver::policy::PolicyWord;
use crate::driver::shared::{SHARED, Shared};
use crate::kernel::irql::Dispatch;
use crate::kernel::published::Published;
use crate::kernel::wfp::callout::{Action, Handler};
use crate::kernel::wfp::incoming::Incoming;
use crate::kernel::wfp::indicated::IndicatedPacket;
use crate::kernel::wfp::indication::Indication;
use crate::logic::callouts::{Callout, Pair};
use crate::logic::layers::Decision;
use crate::logic::policy::Exemptions;
use crate::logic::scan::{Encounter, Technique, is_reply};
use crate::logic::stealth::{Judgement, PacketView, Rules, Verdict, decide};

/// A decision, taken by the callouts whose row in the table names it.
pub trait Decide: 'static {
    /// The decision.
    const DECISION: Decision;

    /// The view of the packet that the decision reads.
    fn packet<'i>(incoming: &'i Incoming<'_>) -> IndicatedPacket<'i, 'i>;

    /// The scan technique of a packet to a closed port.
    #[inline(always)]
    fn technique(packet: &IndicatedPacket<'_, '_>) -> Option<Technique> {
        Technique::of(packet)
    }

    /// Whether there is anything to decide under the policy.
    #[inline(always)]
    fn is_needed(_: Rules) -> bool {
        true
    }

    /// Whether there is a fast path.
    const HAS_FAST_PATH: bool = false;

    /// The fast path ([`Handler::classify_fast`]), for one of the two callouts.
    #[inline(always)]
    fn classify_fast(
        _: &Shared,
        _: &'static Callout,
        _: &Indication<'_>,
        _: &Dispatch<'_>,
    ) -> Option<Action> {
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
    fn classify_fast(shared: &Shared, indication: &Indication<'_>, irql: &Dispatch<'_>) -> Option<Action> {
        if !D::HAS_FAST_PATH {
            return Some(Self::classify(shared, indication, irql));
        }
        let Pair { v4, v6 } = Self::CALLOUTS;
        // One copy of the code for each family, in which the callout is a constant.
        match indication.layer_id() {
            id if id == v4.layer_id => D::classify_fast(shared, v4, indication, irql),
            id if id == v6.layer_id => D::classify_fast(shared, v6, indication, irql),
            _ => None,
        }
    }

    /// Views the indication, decides once, and counts the verdict.
    fn classify(shared: &Shared, indication: &Indication<'_>, irql: &Dispatch<'_>) -> Action {
        // A filter at another layer may name this callout. Nothing is decided there.
        let Some((callout, view)) = indication.view_of(Self::CALLOUTS) else { return Action::Continue };
        let Some(incoming) = view else {
            shared.count(callout.index, Verdict::Malformed, irql);
            return Action::Continue;
        };
        if const { Self::CALLOUTS.v4.flow_packets.is_some() } {
            count_flow_packet(shared, &incoming, irql);
        }
        let word = shared.policies.word();
        let Decided { verdict, met, permit } = match D::is_needed(word.rules()) {
            true if D::DECISION == Decision::TransportDiscard && !incoming.is_plain() => {
                return classify_unusual(D::DECISION, shared, incoming.cold_copy(), word, irql);
            }
            true => Self::decide(shared, word.rules(), &incoming, irql),
            false => Decided { verdict: Verdict::Observed, met: None, permit: false },
        };
        shared.count_and_meet(callout.index, verdict, met.as_ref(), irql);
        finish(shared, &incoming, (verdict, permit), word, irql)
    }

    fn flow_deleted(shared: &Shared, context: u64, irql: &Dispatch<'_>) {
        shared.flow_deleted(context, irql);
    }
}

impl<D: Decide> Deciding<D> {
    const CALLOUTS: Pair = Pair::deciding(D::DECISION);

    /// Takes the decision. The policy itself is read only if its rules are not the
    /// whole policy.
    #[inline(always)]
    fn decide(shared: &Shared, rules: Rules, incoming: &Incoming<'_>, irql: &Dispatch<'_>) -> Decided {
        let packet = D::packet(incoming);
        let (rules, exemptions) = match rules.are_whole() {
            true => (rules, None),
            false => {
                let policy = shared.policies.current(irql);
                (policy.rules(), policy.exemptions())
            }
        };
        let packet = packet.plain();
        let Judgement { verdict, permit } =
            match D::DECISION == Decision::TransportDiscard || incoming.is_plain() {
                true => decide(D::DECISION, &packet, rules, exemptions),
                false => decide_unusual(D::DECISION, incoming.cold_copy(), rules, exemptions),
            };
        if permit {
            return Decided { verdict, met: None, permit };
        }
        let is_closed_port = || verdict.is_closed_port();
        if D::DECISION == Decision::IcmpError
            && let Some(exemptions) = exemptions
            && is_closed_port()
            && exemptions.has_profiles()
        {
            meet_by_error(shared, incoming.cold_copy(), irql);
        }
        let is_probe = D::DECISION.sees_probes()
            && is_closed_port()
            && !(shared.scans.is_dynamic(packet.local_port()) && is_late_reply(incoming.cold_copy()));
        let met = if is_probe { Encounter::with(&packet, D::technique(&packet)) } else { None };
        if !incoming.may_decide() && is_closed_port() {
            return Decided { verdict: overruled(incoming), met, permit };
        }
        Decided { verdict, met, permit }
    }
}

/// Decides about such a packet.
#[cold]
#[inline(never)]
fn decide_unusual(
    decision: Decision,
    incoming: Incoming<'_>,
    rules: Rules,
    exemptions: Option<&Exemptions>,
) -> Judgement {
    decide(decision, &incoming.described(), rules, exemptions)
}

/// [`Deciding::classify`] for a packet that is for several machines, or in another
/// compartment than the machine's own, or whose layer does not say.
#[cold]
#[inline(never)]
fn classify_unusual(
    decision: Decision,
    shared: &Shared,
    incoming: Incoming<'_>,
    word: PolicyWord,
    irql: &Dispatch<'_>,
) -> Action {
    let (packet, policy) = (incoming.described(), shared.policies.current(irql));
    let exemptions = policy.exemptions();
    let Judgement { mut verdict, permit } = decide(decision, &packet, policy.rules(), exemptions);
    let mut met = None;
    if verdict.is_closed_port() {
        if decision == Decision::IcmpError && exemptions.is_some_and(Exemptions::has_profiles) {
            meet_by_error(shared, incoming.cold_copy(), irql);
        }
        let is_late = shared.scans.is_dynamic(packet.local_port) && is_reply(&packet);
        met = Encounter::of(&packet).filter(|_| decision.sees_probes() && !is_late);
        if !incoming.may_decide() {
            verdict = overruled(&incoming);
        }
    }
    shared.count_and_meet(incoming.callout().index, verdict, met.as_ref(), irql);
    finish(shared, &incoming, (verdict, permit), word, irql)
}

/// Logs a verdict and checks the order, if asked. Returns what the verdict leads to.
#[inline(always)]
fn finish(
    shared: &Shared,
    incoming: &Incoming<'_>,
    (verdict, permit): (Verdict, bool),
    word: PolicyWord,
    irql: &Dispatch<'_>,
) -> Action {
    let logs = events::is_logged(&shared.channel, verdict);
    if logs || word.order_check() != 0 {
        log_and_follow(shared, incoming.cold_copy(), logs.then_some(verdict), word, irql);
    }
    if permit { Action::Permit } else { verdict.into() }
}

/// The verdict on a packet to a closed port about which another filter has decided. Mode 1,
/// too, counts only what Mode 2 would block.
#[inline(always)]
fn overruled(incoming: &Incoming<'_>) -> Verdict {
    match incoming.is_blocked() {
        true => Verdict::AlreadyBlocked,
        false => Verdict::Overruled,
    }
}

/// The slow path's copy of [`Shared::count_flow_packet`].
#[inline(never)]
fn count_flow_packet(shared: &Shared, incoming: &Incoming<'_>, irql: &Dispatch<'_>) {
    shared.count_flow_packet(incoming, irql);
}

/// Logs a verdict, if one is given, and checks the order. It reads the packet again, so
/// that the hot path need not keep any part of it.
#[cold]
#[inline(never)]
fn log_and_follow(
    shared: &Shared,
    incoming: Incoming<'_>,
    verdict: Option<Verdict>,
    word: PolicyWord,
    irql: &Dispatch<'_>,
) {
    if let Some(verdict) = verdict {
        events::verdict(&shared.channel, &incoming, verdict, irql);
    }
    if word.order_check() != 0 {
        shared.follow(&incoming, word, irql);
    }
}

/// Notes who has met a closed port by the error about its packet. The packet's own
/// decision has been left to the error (`Deferred`).
#[cold]
#[inline(never)]
fn meet_by_error(shared: &Shared, incoming: Incoming<'_>, irql: &Dispatch<'_>) {
    let packet = incoming.described();
    if !(shared.scans.is_dynamic(packet.local_port) && is_reply(&packet))
        && let Some(met) = Encounter::of(&packet)
        && let Some(processor) = shared.processors.current(irql)
    {
        shared.scans.meet(&processor.remotes, &met);
    }
}

/// Whether a packet to a dynamic port is a late reply and no probe.
#[cold]
#[inline(never)]
fn is_late_reply(incoming: Incoming<'_>) -> bool {
    is_reply(&incoming.described())
}

/// What a decision leads to.
struct Decided {
    /// It says what becomes of the packet, unless the packet is permitted.
    verdict: Verdict,
    /// Who has met a closed port, for scan detection.
    met: Option<Encounter>,
    /// The packet is permitted, in spite of lighter sublayers.
    permit: bool,
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
