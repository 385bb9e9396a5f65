//! The callouts at INBOUND_TRANSPORT_V4/V6: echo requests.
//!
//! They block echo requests if `SilenceEcho` is 1, and observe everything else.
//!
//! *Developing IPsec-Compatible Callout Drivers* asks callouts to permit packets
//! here that still require an ALE classify, so that the authorization layers can
//! apply IPsec's rules to them. A block does not weaken those rules.
//! docs/CONFIGURATION.md says what it means for remotes that use IPsec.

use super::decide::{Decide, Deciding};
use crate::driver::events;
use crate::driver::shared::Shared;
use crate::kernel::irql::Dispatch;
use crate::kernel::wfp::callout::Action;
use crate::kernel::wfp::incoming::Incoming;
use crate::kernel::wfp::indicated::IndicatedPacket;
use crate::kernel::wfp::indication::Indication;
use crate::logic::layers::Decision;
use crate::logic::order::Direction;
use crate::logic::protocol::{ICMP, ICMPV6};
use crate::logic::stealth::{Rules, Verdict};

/// Decides whether an echo request is answered.
pub struct EchoRequest;

impl Decide for EchoRequest {
    const DECISION: Decision = Decision::EchoRequest;

    #[inline(always)]
    fn packet<'i>(_: &'i Incoming<'_>) -> Option<IndicatedPacket<'i, 'i>> {
        None
    }

    /// Segments and datagrams pass this layer, too. They are no requests.
    #[inline(always)]
    fn is_needed(rules: Rules, incoming: &Incoming<'_>) -> bool {
        rules.decides_echo() && matches!(incoming.protocol(), Some(ICMP | ICMPV6))
    }

    /// Counts for the flow, which the slow path does not do. If the policy does not silence
    /// echo replies, nothing else is done but counting the indication.
    #[inline(always)]
    fn classify_fast(shared: &Shared, indication: &Indication<'_>, irql: &Dispatch<'_>) -> Option<Action> {
        let callouts = Deciding::<Self>::CALLOUTS;
        // See `Shared::count_flow_packet`.
        if indication.flow_context() != 0 && !indication.is_blocked() {
            let data = indication.received(callouts)?;
            shared.count_flow_data(indication.flow_context(), Direction::Inbound, data, irql);
        }
        if !shared.policies.word().leaves_echo() || events::is_classified(&shared.channel) {
            return None;
        }
        // One copy of the code for each family, in which the index is a constant.
        match indication.layer_id() {
            id if id == callouts.v4.layer_id => shared.count(callouts.v4.index, Verdict::Observed, irql),
            id if id == callouts.v6.layer_id => shared.count(callouts.v6.index, Verdict::Observed, irql),
            _ => return None,
        }
        Some(Action::Continue)
    }
}
