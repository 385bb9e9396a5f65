//! The callouts at OUTBOUND_ICMP_ERROR_V4/V6: they keep back what was made all
//! the same.

use super::decide::Decide;
use crate::kernel::wfp::incoming::Incoming;
use crate::logic::layers::Decision;
use crate::logic::stealth::{Packet, Shown};

/// Decides whether an ICMP error goes out.
pub struct IcmpError;

impl Decide for IcmpError {
    const DECISION: Decision = Decision::IcmpError;
    type Usual = Packet;

    #[inline(always)]
    fn shown<'i>(incoming: &'i Incoming<'_>) -> impl Shown + 'i {
        incoming.quoted()
    }
}
