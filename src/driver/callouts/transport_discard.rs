//! The callouts at INBOUND_TRANSPORT_V4/V6_DISCARD: they suppress the RST.

use super::decide::{Decide, Deciding};
use crate::driver::events;
use crate::driver::shared::Shared;
use crate::kernel::irql::Dispatch;
use crate::kernel::wfp::callout::Action;
use crate::kernel::wfp::incoming::Incoming;
use crate::kernel::wfp::indicated::IndicatedPacket;
use crate::kernel::wfp::indication::Indication;
use crate::logic::callouts::{Callout, Pair};
use crate::logic::layers::Decision;
use crate::logic::scan::Encounter;
use crate::logic::stealth::{Verdict, decide};

/// Decides whether a discarded segment is answered.
pub struct TransportDiscard;

impl Decide for TransportDiscard {
    const DECISION: Decision = Decision::TransportDiscard;

    #[inline(always)]
    fn packet<'i>(incoming: &'i Incoming<'_>) -> Option<IndicatedPacket<'i, 'i>> {
        Some(incoming.discarded_segment())
    }

    /// Answers for a segment to a closed port whose header is contiguous and that is
    /// no late reply, under a policy that is only rules.
    #[inline(always)]
    fn classify_fast(shared: &Shared, indication: &Indication<'_>, irql: &Dispatch<'_>) -> Option<Action> {
        let Pair { v4, v6 } = Deciding::<Self>::CALLOUTS;
        // One copy of the code for each family, in which the callout is a constant.
        match indication.layer_id() {
            id if id == v4.layer_id => Self::classify_simple(shared, v4, indication, irql),
            id if id == v6.layer_id => Self::classify_simple(shared, v6, indication, irql),
            _ => None,
        }
    }
}

impl TransportDiscard {
    /// The fast path of one callout.
    #[inline(always)]
    fn classify_simple(
        shared: &Shared,
        callout: &'static Callout,
        indication: &Indication<'_>,
        irql: &Dispatch<'_>,
    ) -> Option<Action> {
        let incoming = indication.view(callout)?;
        let word = shared.policies.word();
        if !word.is_only_rules() || events::is_verdict_logged(&shared.channel) {
            return None;
        }
        let segment = incoming.closed_port()?;
        if !incoming.may_decide() {
            return None;
        }
        let met = Encounter::of(&segment)?;
        let verdict = decide(Decision::TransportDiscard, &segment, word.rules(), None).verdict;
        match verdict {
            // The common verdict is a constant.
            Verdict::Silenced => {
                shared.count_and_meet(callout.index, Verdict::Silenced, Some(&met), irql);
            }
            _ => shared.count_and_meet_rare(callout.index, verdict, Some(&met), irql),
        }
        Some(verdict.into())
    }
}
