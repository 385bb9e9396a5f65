//! The callouts at INBOUND_TRANSPORT_V4/V6_DISCARD: they keep the RST back.

use super::decide::Decide;
use crate::kernel::wfp::incoming::Incoming;
use crate::logic::layers::Decision;
use crate::logic::stealth::{Answer, ClosedPort, Shown};

/// Decides whether a discarded segment is answered.
pub struct TransportDiscard;

impl Decide for TransportDiscard {
    const DECISION: Decision = Decision::TransportDiscard;
    const USUAL: Option<Answer> = Some(Answer::Reset);
    type Usual = ClosedPort;

    #[inline(always)]
    fn shown<'i>(incoming: &'i Incoming<'_>) -> impl Shown + 'i {
        incoming.discarded_segment()
    }

    #[inline(always)]
    fn usual(incoming: &Incoming<'_>) -> Option<ClosedPort> {
        incoming.closed_port()
    }

    #[inline(always)]
    fn is_plain(usual: &ClosedPort) -> bool {
        usual.tcp_flags.is_syn()
    }

    #[inline(always)]
    fn more(usual: ClosedPort, incoming: &Incoming<'_>) -> ClosedPort {
        ClosedPort { interface: incoming.shown().interface(), ..usual }
    }
}
