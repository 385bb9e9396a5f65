//! The callouts at OUTBOUND_ICMP_ERROR_V4/V6.
//!
//! They suppress the ICMP errors port unreachable and protocol unreachable after
//! the stack has made them.

use super::decide::Decide;
use crate::kernel::wfp::incoming::Incoming;
use crate::kernel::wfp::indicated::IndicatedPacket;
use crate::logic::layers::Decision;

/// Decides whether an ICMP error is sent.
pub struct IcmpError;

impl Decide for IcmpError {
    const DECISION: Decision = Decision::IcmpError;

    #[inline(always)]
    fn packet<'i>(incoming: &'i Incoming<'_>) -> Option<IndicatedPacket<'i, 'i>> {
        incoming.quoted()
    }
}
