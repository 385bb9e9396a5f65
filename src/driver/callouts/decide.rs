//! What all deciding callouts have in common.

use core::marker::PhantomData;

use crate::driver::events;
use crate::driver::policy::PolicyWord;
use crate::driver::shared::Shared;
use crate::kernel::irql::Dispatch;
use crate::kernel::wfp::callout::{Action, Handler};
use crate::kernel::wfp::incoming::Incoming;
use crate::kernel::wfp::indicated::IndicatedPacket;
use crate::kernel::wfp::indication::Indication;
use crate::logic::callouts::Pair;
use crate::logic::layers::Decision;
use crate::logic::policy::Exemptions;
use crate::logic::scan::{Encounter, is_reply};
use crate::logic::stealth::{Judgement, PacketView, Rules, Verdict, decide};

/// A decision, taken by the callouts whose row in the table names it.
pub trait Decide: 'static {
    /// The decision.
    const DECISION: Decision;

    /// The view of a packet that is plain ([`Incoming::is_plain`]). Its fields are read one
    /// after another until the verdict is known. `None`: it must be read as a whole, because
    /// its header is not contiguous, or because few packets come to the decision.
    fn packet<'i>(incoming: &'i Incoming<'_>) -> Option<IndicatedPacket<'i, 'i>>;

    /// Whether there is anything to decide about a packet under the policy.
    #[inline(always)]
    fn is_needed(_: Rules, _: &Incoming<'_>) -> bool {
        true
    }

    /// The fast path ([`Handler::classify_fast`]). Without one of its own, a decision has
    /// only one path.
    #[inline(always)]
    fn classify_fast(shared: &Shared, indication: &Indication<'_>, irql: &Dispatch<'_>) -> Option<Action>
    where
        Self: Sized,
    {
        Some(Deciding::<Self>::classify(shared, indication, irql))
    }
}

/// The handler of the callouts that take the decision `D`.
pub struct Deciding<D>(PhantomData<D>);

impl<D: Decide> Handler for Deciding<D> {
    type Shared = Shared;

    #[inline(always)]
    fn classify_fast(shared: &Shared, indication: &Indication<'_>, irql: &Dispatch<'_>) -> Option<Action> {
        D::classify_fast(shared, indication, irql)
    }

    /// Views the indication, decides once, and counts the verdict.
    fn classify(shared: &Shared, indication: &Indication<'_>, irql: &Dispatch<'_>) -> Action {
        // A filter at another layer may name this callout. Nothing is decided there.
        let Some((callout, view)) = indication.view_of(Self::CALLOUTS) else { return Action::Continue };
        let Some(incoming) = view else {
            shared.count(callout.index, Verdict::Malformed, irql);
            return Action::Continue;
        };
        let word = shared.policies.word();
        if !D::is_needed(word.rules(), &incoming) {
            shared.count(callout.index, Verdict::Observed, irql);
            return finish(shared, &incoming, (Verdict::Observed, false), word, irql);
        }
        let packet = if incoming.is_plain() { D::packet(&incoming) } else { None };
        let packet = match packet {
            // What is to a dynamic port may be a late reply, which takes more to tell.
            Some(packet) if !shared.scans.is_dynamic(packet.local_port()) => packet.plain(),
            _ => return classify_rare(D::DECISION, shared, incoming.cold_copy(), word, irql),
        };
        // The policy itself is read only if its rules are not the whole policy.
        let (rules, exemptions) = match word.rules().are_whole() {
            true => (word.rules(), None),
            false => {
                let policy = shared.policies.current(irql);
                (policy.rules(), policy.exemptions())
            }
        };
        let Decided { verdict, met, permit } =
            take(D::DECISION, (&incoming, &packet), (rules, exemptions), || false);
        match D::DECISION.sees_probes() {
            true => shared.count_and_meet(callout.index, verdict, met.as_ref(), irql),
            false => shared.count_and_meet_rare(callout.index, verdict, met.as_ref(), irql),
        }
        finish(shared, &incoming, (verdict, permit), word, irql)
    }
}

impl<D: Decide> Deciding<D> {
    /// The callouts that take it.
    pub const CALLOUTS: Pair = Pair::deciding(D::DECISION);
}

/// Takes a decision about a packet.
#[inline(always)]
fn take<P: PacketView>(
    decision: Decision,
    (incoming, packet): (&Incoming<'_>, &P),
    (rules, exemptions): (Rules, Option<&Exemptions>),
    is_late_reply: impl FnOnce() -> bool,
) -> Decided {
    let Judgement { verdict, permit } = decide(decision, packet, rules, exemptions);
    if permit || !verdict.is_closed_port() {
        return Decided { verdict, met: None, permit };
    }
    // With profiles, the decision about a packet is left to the one about the error
    // (`Deferred`).
    let meets = decision.sees_probes()
        || decision == Decision::IcmpError && exemptions.is_some_and(Exemptions::has_profiles);
    let met = if meets && !is_late_reply() { Encounter::of(packet) } else { None };
    let verdict = match incoming.may_decide() {
        true => verdict,
        false => overruled(incoming),
    };
    Decided { verdict, met, permit }
}

/// [`Deciding::classify`] for a packet that is read as a whole. It is not plain
/// ([`Incoming::is_plain`]), its header is not contiguous, it is to a dynamic port and may be
/// a late reply, or few such packets come.
#[cold]
#[inline(never)]
fn classify_rare(
    decision: Decision,
    shared: &Shared,
    incoming: Incoming<'_>,
    word: PolicyWord,
    irql: &Dispatch<'_>,
) -> Action {
    let (packet, policy) = (incoming.described(), shared.policies.current(irql));
    let Decided { verdict, met, permit } =
        take(decision, (&incoming, &packet), (policy.rules(), policy.exemptions()), || {
            shared.scans.is_dynamic(packet.local_port) && is_reply(&packet)
        });
    shared.count_and_meet_rare(incoming.callout().index, verdict, met.as_ref(), irql);
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
