//! The callouts at INBOUND_TRANSPORT_V4/V6_DISCARD: they suppress the RST.

use super::decide::Decide;
use crate::driver::events;
use crate::driver::shared::Shared;
use crate::kernel::irql::Dispatch;
use crate::kernel::wfp::callout::Action;
use crate::kernel::wfp::incoming::Incoming;
use crate::kernel::wfp::indicated::IndicatedPacket;
use crate::kernel::wfp::indication::Indication;
use crate::logic::callouts::{Callout, CalloutIndex};
use crate::logic::layers::Decision;
use crate::logic::scan::{Encounter, Remote, Technique};
use crate::logic::stealth::{Verdict, decide};

/// Decides whether a discarded segment is answered.
pub struct TransportDiscard;

impl Decide for TransportDiscard {
    const DECISION: Decision = Decision::TransportDiscard;
    const HAS_FAST_PATH: bool = true;

    #[inline(always)]
    fn packet<'i>(incoming: &'i Incoming<'_>) -> IndicatedPacket<'i, 'i> {
        incoming.discarded_segment()
    }

    /// Answers for a segment to a closed port whose header is contiguous and that is
    /// no late reply, under a policy that is only rules.
    #[inline(always)]
    fn classify_fast(
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
        Some(match decide(Self::DECISION, &segment, word.rules(), None).verdict {
            // One copy of the code for the common verdict, in which it is a
            // constant.
            Verdict::Silenced => settle(shared, met, callout.index, Verdict::Silenced, irql),
            // The parts, so that the encounter itself stays in registers.
            verdict => {
                let Encounter { remote, port, technique } = met;
                settle_rare(shared, remote, (port, technique), callout.index, verdict, irql)
            }
        })
    }
}

/// Remembers who has met a closed port, and counts the verdict.
#[inline(always)]
fn settle(
    shared: &Shared,
    met: Encounter,
    at: CalloutIndex,
    verdict: Verdict,
    irql: &Dispatch<'_>,
) -> Action {
    let met = if verdict.is_closed_port() { Some(&met) } else { None };
    shared.count_and_meet(at, verdict, met, irql);
    verdict.into()
}

#[cold]
#[inline(never)]
fn settle_rare(
    shared: &Shared,
    remote: Remote,
    (port, technique): (u16, Technique),
    at: CalloutIndex,
    verdict: Verdict,
    irql: &Dispatch<'_>,
) -> Action {
    settle(shared, Encounter { remote, port, technique }, at, verdict, irql)
}
