//! The callouts at INBOUND_TRANSPORT_V4/V6: echo requests.
//!
//! They block echo requests if `SilenceEcho` is 1, and observe everything else.
//!
//! *Developing IPsec-Compatible Callout Drivers* asks callouts to permit packets
//! here that still require an ALE classify, so that the authorization layers can
//! apply IPsec's rules to them. A block does not weaken those rules.
//! docs/CONFIGURATION.md says what it means for remotes that use IPsec.

use super::decide::Decide;
use crate::driver::events;
use crate::driver::shared::Shared;
use crate::kernel::irql::Dispatch;
use crate::kernel::wfp::callout::Action;
use crate::kernel::wfp::incoming::Incoming;
use crate::kernel::wfp::indicated::IndicatedPacket;
use crate::kernel::wfp::indication::Indication;
use crate::logic::callouts::Callout;
use crate::logic::layers::Decision;
use crate::logic::stealth::{Rules, Verdict};

/// Decides whether an echo request is answered.
pub struct EchoRequest;

impl Decide for EchoRequest {
    const DECISION: Decision = Decision::EchoRequest;
    const HAS_FAST_PATH: bool = true;

    #[inline(always)]
    fn packet<'i>(incoming: &'i Incoming<'_>) -> IndicatedPacket<'i, 'i> {
        incoming.packet()
    }

    #[inline(always)]
    fn is_needed(rules: Rules) -> bool {
        rules.decides_echo()
    }
    /// If the policy does not silence echo replies, indications are only counted.
    #[inline(always)]
    fn classify_fast(
        shared: &Shared,
        callout: &'static Callout,
        indication: &Indication<'_>,
        irql: &Dispatch<'_>,
    ) -> Option<Action> {
        let word = shared.policies.word();
        if Self::is_needed(word.rules()) || word.order_check() != 0 || events::is_classified(&shared.channel)
        {
            return None;
        }
        if indication.flow_context() != 0 {
            if indication.is_blocked() {
                return None;
            }
            shared.count_flow_packets(&indication.view(callout)?, irql);
        }
        shared.count(callout.index, Verdict::Observed, irql);
        Some(Action::Continue)
    }
}
