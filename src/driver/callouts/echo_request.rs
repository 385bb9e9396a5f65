//! The callouts at INBOUND_TRANSPORT_V4/V6: they keep echo requests out where
//! that is asked for, and watch everything else.
//!
//! *Developing IPsec-Compatible Callout Drivers* wants packets that still
//! require an ALE classify permitted here, so that the authorization layers
//! can hold them to IPsec's rules. A block takes nothing from those rules; and
//! what IPsec has secured is exempt by default.

use super::decide::Decide;
use crate::kernel::wfp::incoming::Incoming;
use crate::logic::layers::Decision;
use crate::logic::stealth::{Packet, Rules, Shown};

/// Decides whether an echo request is taken in.
pub struct EchoRequest;

impl Decide for EchoRequest {
    const DECISION: Decision = Decision::EchoRequest;
    const IS_ASKED: Option<fn(Rules) -> bool> = Some(Rules::ask_for_echo);
    type Usual = Packet;

    #[inline(always)]
    fn shown<'i>(incoming: &'i Incoming<'_>) -> impl Shown + 'i {
        incoming.shown()
    }
}
