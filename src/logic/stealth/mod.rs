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
pub use packet::{ConditionFlags, Icmp, Packet, PacketView};
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
) -> Verdict {
    let answer = match decision {
        Decision::TransportDiscard => transport::answer(packet),
        Decision::PacketDiscard => network::discarded_packet(packet),
        Decision::IcmpError => network::error(packet),
        Decision::EchoRequest => echo_request::answer(packet),
    };
    let answer = match answer {
        Ok(answer) => answer,
        Err(verdict) => return verdict,
    };
    if !rules.silence(answer) {
        return if rules.are_off() { Verdict::Off } else { Verdict::OtherKind };
    }
    let flags = packet.condition_flags();
    if flags.has(rules.exempt()) {
        let loopback = flags.has(ConditionFlags::LOOPBACK) && rules.exempt().has(ConditionFlags::LOOPBACK);
        return if loopback { Verdict::Loopback } else { Verdict::IpsecSecured };
    }
    // Last, so that only packets that would have been silenced count as exempt.
    if let Some(exemptions) = exemptions
        && let Some(exemption) = exemptions.of(&packet.sender())
    {
        return match exemption {
            Exemption::Port => Verdict::ExemptPort,
            Exemption::Prefix => Verdict::ExemptPrefix,
            Exemption::Interface => Verdict::ExemptInterface,
        };
    }
    if rules.only_count() { Verdict::Audited } else { Verdict::Silenced }
}
