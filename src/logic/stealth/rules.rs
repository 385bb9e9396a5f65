//! A policy as packets ask it.

use super::{Answer, ConditionFlags};
use crate::logic::policy::{Mode, Policy};

/// What of a policy takes no more than a look: one word, which changes as a
/// whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules(u16);

/// Above the two marks, a bit for each answer that is kept back, or counted as
/// if.
const ANSWERS: u32 = 2;
/// They are only counted.
const AUDITS: u16 = 1 << 6;
/// None are, since nothing is asked for.
const OFF: u16 = 1 << 7;
/// There are exemptions to be looked up.
const LISTS: u16 = 1 << 8;
/// `SilenceEcho`, whatever `Mode` is.
const ECHO: u16 = 1 << 9;

impl Rules {
    /// The bits that rules without lists of exemptions may have.
    pub const WITHOUT_LISTS: u16 = !LISTS;

    /// A policy's; with lists or without.
    pub const fn new(policy: &Policy, lists: bool) -> Self {
        let off = matches!(policy.mode, Mode::Off);
        let all = [
            (ConditionFlags::LOOPBACK.bits(), policy.exempt_loopback),
            (ConditionFlags::IPSEC_SECURED.bits(), policy.exempt_ipsec),
            (suppressed_bit(Answer::Reset), policy.silence_tcp && !off),
            (suppressed_bit(Answer::PortUnreachable), policy.silence_udp && !off),
            (suppressed_bit(Answer::ProtocolUnreachable), policy.silence_protocols && !off),
            (suppressed_bit(Answer::EchoReply), policy.silence_echo && !off),
            (AUDITS, matches!(policy.mode, Mode::Audit)),
            (OFF, off),
            (LISTS, lists),
            (ECHO, policy.silence_echo),
        ];
        let (mut bits, mut at) = (0, 0);
        while at < all.len() {
            if all[at].1 {
                bits |= all[at].0;
            }
            at += 1;
        }
        Self(bits)
    }

    /// The policy's `Mode`.
    pub const fn mode(self) -> Mode {
        match self {
            _ if self.are_off() => Mode::Off,
            _ if self.only_count() => Mode::Audit,
            _ => Mode::Enforce,
        }
    }

    /// As a number.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Of such a number.
    pub const fn of_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// Whether there are lists of exemptions.
    #[inline(always)]
    pub const fn has_lists(self) -> bool {
        self.0 & LISTS != 0
    }

    /// Whether the policy suppresses this answer, in `Mode` 2 and without lists of
    /// exemptions.
    #[inline(always)]
    pub const fn silence_all(self, answer: Answer) -> bool {
        self.0 & (suppressed_bit(answer) | AUDITS | LISTS) == suppressed_bit(answer)
    }

    /// Whether echo requests are looked at.
    #[inline(always)]
    pub const fn ask_for_echo(self) -> bool {
        self.0 & ECHO != 0
    }

    #[inline(always)]
    pub(super) const fn silence(self, answer: Answer) -> bool {
        self.0 & suppressed_bit(answer) != 0
    }

    #[inline(always)]
    pub(super) const fn only_count(self) -> bool {
        self.0 & AUDITS != 0
    }

    #[inline(always)]
    pub(super) const fn are_off(self) -> bool {
        self.0 & OFF != 0
    }

    /// What exempts a packet whoever sent it.
    #[inline(always)]
    pub(super) const fn exempt(self) -> ConditionFlags {
        ConditionFlags::of_flags(self.0 as u32)
    }
}

const fn suppressed_bit(answer: Answer) -> u16 {
    1 << (answer as u32 + ANSWERS)
}
