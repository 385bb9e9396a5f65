//! The callouts at INBOUND_IPPACKET_V4/V6_DISCARD.
//!
//! They suppress the ICMP errors port unreachable and protocol unreachable before
//! the stack makes them.

use super::decide::Decide;
use crate::kernel::wfp::incoming::Incoming;
use crate::kernel::wfp::indicated::IndicatedPacket;
use crate::logic::layers::Decision;

/// Decides whether a discarded packet is answered.
pub struct PacketDiscard;

impl Decide for PacketDiscard {
    const DECISION: Decision = Decision::PacketDiscard;

    #[inline(always)]
    fn packet<'i>(incoming: &'i Incoming<'_>) -> Option<IndicatedPacket<'i, 'i>> {
        incoming.discarded_packet()
    }
}
