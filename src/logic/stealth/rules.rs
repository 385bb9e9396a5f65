//! The part of a policy that fits in one word.

use super::{Answer, ConditionFlags};
use crate::logic::policy::{Mode, Policy};

/// All of a policy except its lists, in one word that changes atomically.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules(u16);

/// Above the two condition flags, one bit for each of `SilenceTcp`, `SilenceUdp`,
/// `SilenceProtocols` and `SilenceEcho`: the [`Answer`]s that are suppressed. With
/// [`AUDITS`] they are only counted.
const ANSWERS: u32 = 2;
/// `Mode` 1: answers are only counted.
const AUDITS: u16 = 1 << 6;
/// `Mode` 0: no answer is suppressed.
const OFF: u16 = 1 << 7;
/// There are lists of exemptions.
const LISTS: u16 = 1 << 8;
/// `SilenceEcho`, in any `Mode`.
const ECHO: u16 = 1 << 9;
/// `AnswerExempt`, in `Mode` 2: what is exempt is permitted.
const PERMITS: u16 = 1 << 10;
/// `ExemptCompartments`.
const COMPARTMENTS: u16 = 1 << 11;

impl Rules {
    /// The bits that rules can have that are a whole policy: without lists of
    /// exemptions, and without `AnswerExempt`.
    pub const WHOLE: u16 = !(LISTS | PERMITS);

    /// The bit that says whether echo requests are decided about.
    pub const ECHO: u16 = ECHO;

    /// The rules of a policy, with or without lists of exemptions.
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
            (COMPARTMENTS, policy.exempt_compartments),
            (PERMITS, policy.answer_exempt && matches!(policy.mode, Mode::Enforce)),
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

    /// The rules as a number.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// The rules from a number.
    pub const fn of_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// Whether the rules are a whole policy. If not, there are lists of exemptions,
    /// or what is exempt is permitted.
    #[inline(always)]
    pub const fn are_whole(self) -> bool {
        self.0 & !Self::WHOLE == 0
    }

    /// Whether what is exempt is permitted.
    #[inline(always)]
    pub const fn permit_exempt(self) -> bool {
        self.0 & PERMITS != 0
    }

    /// Whether echo requests are decided about.
    #[inline(always)]
    pub const fn decides_echo(self) -> bool {
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

    /// Whether packets of other compartments than the machine's own are exempt.
    #[inline(always)]
    pub(super) const fn exempt_compartments(self) -> bool {
        self.0 & COMPARTMENTS != 0
    }

    /// The condition flags that exempt a packet.
    #[inline(always)]
    pub(super) const fn exempt(self) -> ConditionFlags {
        ConditionFlags::of_flags(self.0 as u32)
    }
}

const fn suppressed_bit(answer: Answer) -> u16 {
    let value = match answer {
        Answer::Reset => 0,
        Answer::PortUnreachable => 1,
        Answer::ProtocolUnreachable | Answer::OtherError => 2,
        Answer::EchoReply | Answer::ProvokedError => 3,
    };
    1 << (ANSWERS + value)
}
