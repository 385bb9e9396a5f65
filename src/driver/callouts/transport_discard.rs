//! The callouts at INBOUND_TRANSPORT_V4/V6_DISCARD: they keep the RST back.

use super::decide::Decide;
use crate::kernel::wfp::incoming::Incoming;
use crate::logic::layers::Decision;
use crate::logic::stealth::Shown;

/// Decides whether a discarded segment is answered.
pub struct TransportDiscard;

impl Decide for TransportDiscard {
    const DECISION: Decision = Decision::TransportDiscard;
    const HAS_USUAL: bool = true;

    #[inline(always)]
    fn shown<'i>(incoming: &'i Incoming<'_>) -> impl Shown + 'i {
        incoming.discarded_segment()
    }

    #[inline(always)]
    fn usual<'i>(incoming: &'i Incoming<'_>) -> Option<impl Shown + 'i> {
        incoming.closed_port()
    }
}
