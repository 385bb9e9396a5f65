//! A policy as packets ask it.

use super::{Answer, Marks};
use crate::logic::policy::{Mode, Policy};

/// What of a policy takes no more than a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The answers that are kept back, or counted as if, a bit for each.
    pub(super) silences: u8,
    /// They are only counted.
    pub(super) audits: bool,
    /// None are, since nothing is asked for.
    pub(super) off: bool,
    pub(super) exempts: Marks,
}

impl Rules {
    /// A policy's.
    pub const fn new(policy: &Policy) -> Self {
        let answers = [
            (Answer::Reset, policy.silence_tcp),
            (Answer::PortUnreachable, policy.silence_udp),
            (Answer::ProtocolUnreachable, policy.silence_protocols),
            (Answer::EchoReply, policy.silence_echo),
        ];
        let off = matches!(policy.mode, Mode::Off);
        let (mut silences, mut at) = (0, 0);
        while at < answers.len() {
            if answers[at].1 && !off {
                silences |= answers[at].0.bit();
            }
            at += 1;
        }
        let loopback = if policy.exempt_loopback { Marks::LOOPBACK } else { Marks::NONE };
        let ipsec = if policy.exempt_ipsec { Marks::IPSEC_SECURED } else { Marks::NONE };
        let audits = matches!(policy.mode, Mode::Audit);
        Self { silences, audits, off, exempts: loopback.or(ipsec) }
    }
}
