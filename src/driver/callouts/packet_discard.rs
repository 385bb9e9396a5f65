//! The callouts at INBOUND_IPPACKET_V4/V6_DISCARD: they keep ICMP's port and
//! protocol unreachable from being made.

use super::decide::Decide;
use crate::kernel::wfp::incoming::Incoming;
use crate::logic::layers::Decision;
use crate::logic::stealth::{Packet, Shown};

/// Decides whether a discarded packet is answered.
pub struct PacketDiscard;

impl Decide for PacketDiscard {
    const DECISION: Decision = Decision::PacketDiscard;
    type Usual = Packet;

    #[inline(always)]
    fn shown<'i>(incoming: &'i Incoming<'_>) -> impl Shown + 'i {
        incoming.discarded_packet()
    }
}
