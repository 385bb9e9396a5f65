//! The callouts at INBOUND_IPPACKET_V4/V6_DISCARD.
//!
//! They suppress the ICMP errors port unreachable and protocol unreachable before
//! the stack makes them.

use super::decide::Decide;
use crate::kernel::wfp::incoming::Incoming;
use crate::logic::layers::Decision;
use crate::logic::stealth::PacketView;

/// Decides whether a discarded packet is answered.
pub struct PacketDiscard;

impl Decide for PacketDiscard {
    const DECISION: Decision = Decision::PacketDiscard;

    #[inline(always)]
    fn packet<'i>(incoming: &'i Incoming<'_>) -> impl PacketView + 'i {
        incoming.discarded_packet()
    }
}
