//! The decision whether a packet that found no endpoint is answered.

mod discard;
mod echo_request;
mod network;
mod packet;
mod rules;
#[cfg(test)]
mod tests;
mod transport;
mod verdict;

use super::layers::Decision;
use super::policy::{Exemption, Exemptions};

pub use discard::{Discard, Module, inet, ip};
#[cfg(test)]
pub use discard::{INET_REASONS, Recipient};
pub use packet::{ConditionFlags, Icmp, PRIMARY_COMPARTMENT, Packet, PacketView, is_other_compartment};
pub use rules::Rules;
pub use verdict::{Answer, Verdict};

/// Decides about a packet. `exemptions` may be `None` if the policy has no lists of
/// exemptions.
#[inline(always)]
pub fn decide(
    decision: Decision,
    packet: &impl PacketView,
    rules: Rules,
    exemptions: Option<&Exemptions>,
) -> Judgement {
    let answer = match decision {
        Decision::TransportDiscard => transport::answer(packet),
        Decision::PacketDiscard => network::discarded_packet(packet),
        Decision::IcmpError => network::error(packet),
        Decision::EchoRequest => echo_request::answer(packet),
    };
    let answer = match answer {
        Ok(answer) => answer,
        Err(verdict) => return Judgement::of(verdict),
    };
    // Nobody answers a packet for several machines (RFC 1122, 3.2.2; RFC 9293, 3.9.2.2;
    // RFC 4443, 2.4), so there is nothing to suppress.
    if decision.sees_probes() && packet.is_for_several() {
        return Judgement::of(Verdict::NotUnicast);
    }
    if !rules.silence(answer) {
        return Judgement::of(if rules.are_off() { Verdict::Off } else { Verdict::OtherKind });
    }
    let exempt = |verdict| Judgement { verdict, permit: rules.permit_exempt() && answer.is_of_no_endpoint() };
    let flags = packet.condition_flags();
    if flags.has(rules.exempt()) {
        let loopback = flags.has(ConditionFlags::LOOPBACK) && rules.exempt().has(ConditionFlags::LOOPBACK);
        return exempt(if loopback { Verdict::Loopback } else { Verdict::IpsecSecured });
    }
    if packet.is_in_other_compartment() && rules.exempt_compartments() {
        return exempt(Verdict::ExemptCompartment);
    }
    // Last, so that only packets that would have been silenced count as exempt.
    if let Some(exemptions) = exemptions {
        if let Some(exemption) = exemptions.of(&packet.sender()) {
            return exempt(match exemption {
                Exemption::Port => Verdict::ExemptPort,
                Exemption::Prefix => Verdict::ExemptPrefix,
                Exemption::Interface => Verdict::ExemptInterface,
            });
        }
        if exemptions.has_profiles() {
            match decision {
                // This layer does not know the profile. OUTBOUND_ICMP_ERROR does.
                Decision::PacketDiscard => return Judgement::of(Verdict::Deferred),
                _ if exemptions.has_profile(packet.profile()) => return exempt(Verdict::ExemptProfile),
                _ => {}
            }
        }
    }
    Judgement::of(if rules.only_count() { Verdict::Audited } else { Verdict::Silenced })
}

/// What is decided about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// What becomes of it.
    pub verdict: Verdict,
    /// Whether it is permitted, so that no lighter sublayer can block it
    /// (`AnswerExempt`). Only exempt packets without an endpoint are, and the errors
    /// about them.
    pub permit: bool,
}

impl Judgement {
    /// A verdict on a packet that is not permitted.
    #[inline(always)]
    pub const fn of(verdict: Verdict) -> Self {
        Self { verdict, permit: false }
    }
}
