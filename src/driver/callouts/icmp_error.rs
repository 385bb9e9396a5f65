//! The callouts at OUTBOUND_ICMP_ERROR_V4/V6: they suppress ICMP's port and
//! protocol unreachable that the stack has made.

use super::decide::Decide;
use crate::kernel::wfp::incoming::Incoming;
use crate::logic::layers::Decision;
use crate::logic::stealth::PacketView;

/// Decides whether an ICMP error goes out.
pub struct IcmpError;

impl Decide for IcmpError {
    const DECISION: Decision = Decision::IcmpError;

    #[inline(always)]
    fn packet<'i>(incoming: &'i Incoming<'_>) -> impl PacketView + 'i {
        incoming.quoted()
    }
}
