//! The decisions about ICMP port and protocol unreachable, at two layers.
//!
//! INBOUND_IPPACKET_DISCARD shows the packet before the error is made ("UDP packet
//! flows"). This is cheaper, and it is the documented place. OUTBOUND_ICMP_ERROR
//! shows the error itself ("Preventing port scanning"). This works wherever the
//! stack discarded the packet, because type and code of the error are enough. Errors
//! that TCP/IP needs have other types and codes and pass: fragmentation needed,
//! packet too big, time exceeded, and the other codes of unreachable.

use super::discard::{Discard, Module, ip};
use super::{Answer, Icmp, PacketView, Verdict};
use crate::logic::layers::Family;
use crate::logic::protocol::{ICMP, ICMPV6, TCP, UDP};

/// The answer to a packet at INBOUND_IPPACKET_V4/V6_DISCARD.
///
/// A reason of the network layer says exactly which one. Other reasons of the
/// network layer cause no such error, for example a packet too big to forward.
/// Without a reason of the network layer, the packet's protocol decides.
#[inline(always)]
pub(super) fn discarded_packet(packet: &impl PacketView) -> Result<Answer, Verdict> {
    match packet.discard() {
        Some(Discard { module: Module::General, .. }) => return Err(Verdict::FilterDrop),
        Some(Discard { module: Module::Network, reason }) => {
            return match reason {
                ip::PROTOCOL_UNREACHABLE => Ok(Answer::ProtocolUnreachable),
                ip::PORT_UNREACHABLE => Ok(Answer::PortUnreachable),
                _ => Err(Verdict::OtherKind),
            };
        }
        _ => {}
    }
    match packet.protocol() {
        Some(UDP) => Ok(Answer::PortUnreachable),
        Some(TCP | ICMP | ICMPV6) | None => Err(Verdict::OtherKind),
        Some(_) => Ok(Answer::ProtocolUnreachable),
    }
}

/// Which answer the error at OUTBOUND_ICMP_ERROR_V4/V6 is.
///
/// RFC 792: destination unreachable, code 2 protocol, code 3 port. RFC 4443:
/// destination unreachable (3.1), code 4 port; parameter problem (3.4), code 1
/// unrecognized next header.
#[inline(always)]
pub(super) fn error(packet: &impl PacketView) -> Result<Answer, Verdict> {
    let Some(Icmp { family, kind, code }) = packet.icmp() else {
        return Err(Verdict::Malformed);
    };
    match (family, kind, code) {
        (Family::V4, 3, 2) | (Family::V6, 4, 1) => Ok(Answer::ProtocolUnreachable),
        (Family::V4, 3, 3) | (Family::V6, 1, 4) => Ok(Answer::PortUnreachable),
        _ => Err(Verdict::OtherKind),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::layers::Decision;
    use crate::logic::policy::{Mode, Policy};
    use crate::logic::stealth::{Packet, Rules, decide};

    const GRE: u8 = 47;

    fn packet(module: Module, reason: u32) -> Packet {
        Packet { protocol: Some(UDP), discard: Some(Discard { module, reason }), ..Packet::default() }
    }

    fn at_discard(packet: &Packet) -> Verdict {
        decide(Decision::PacketDiscard, packet, Rules::new(&Policy::DEFAULT, false), None)
    }

    fn going_out(family: Family, kind: u16, code: u16, policy: &Policy) -> Verdict {
        let icmp = Some(Icmp { family, kind, code });
        decide(Decision::IcmpError, &Packet { icmp, ..Packet::default() }, Rules::new(policy, false), None)
    }

    #[test]
    fn exactly_two_reasons_of_the_network_layer_are_silenced() {
        let path = "tests/machine/facts/enums.json";
        let enums: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let reasons = enums["IP_DISCARD_REASON"].as_object().unwrap();
        let mut silenced = Vec::new();
        for (name, reason) in reasons {
            let reason = u32::try_from(reason.as_u64().unwrap()).unwrap();
            match at_discard(&packet(Module::Network, reason)) {
                Verdict::Silenced => silenced.push(&**name),
                verdict => assert_eq!(verdict, Verdict::OtherKind, "{name}"),
            }
        }
        silenced.sort_unstable();
        assert_eq!(silenced, ["IpDiscardPortUnreachable", "IpDiscardProtocolUnreachable"]);
    }

    #[test]
    fn without_a_reason_of_the_network_layer_the_protocol_decides() {
        for discard in [None, packet(Module::Other, 1).discard, packet(Module::Transport, 4).discard] {
            for (protocol, expected) in [
                (Some(UDP), Verdict::Silenced),
                (Some(GRE), Verdict::Silenced),
                (Some(TCP), Verdict::OtherKind),
                (Some(ICMP), Verdict::OtherKind),
                (Some(ICMPV6), Verdict::OtherKind),
                (None, Verdict::OtherKind),
            ] {
                let packet = Packet { protocol, discard, ..Packet::default() };
                assert_eq!(at_discard(&packet), expected, "{protocol:?}");
            }
        }
        assert_eq!(at_discard(&packet(Module::General, 4)), Verdict::FilterDrop);
    }

    #[test]
    fn exactly_four_errors_are_suppressed() {
        let mut kept = Vec::new();
        for family in Family::ALL {
            for kind in 0..=255 {
                for code in 0..=255 {
                    match going_out(family, kind, code, &Policy::DEFAULT) {
                        Verdict::Silenced => kept.push((family, kind, code)),
                        verdict => assert_eq!(verdict, Verdict::OtherKind),
                    }
                }
            }
        }
        let expected = [(Family::V4, 3, 2), (Family::V4, 3, 3), (Family::V6, 1, 4), (Family::V6, 4, 1)];
        assert_eq!(kept, expected);
        assert_eq!(
            decide(Decision::IcmpError, &Packet::default(), Rules::new(&Policy::DEFAULT, false), None),
            Verdict::Malformed,
            "without type and code"
        );
    }

    #[test]
    fn each_kind_has_its_own_switch() {
        let policy = Policy::DEFAULT;
        let without_udp = Policy { silence_udp: false, ..policy };
        let without_protocols = Policy { silence_protocols: false, ..policy };
        for (policy, port, protocol) in [
            (policy, Verdict::Silenced, Verdict::Silenced),
            (without_udp, Verdict::OtherKind, Verdict::Silenced),
            (without_protocols, Verdict::Silenced, Verdict::OtherKind),
            (Policy { mode: Mode::Audit, ..policy }, Verdict::Audited, Verdict::Audited),
            (Policy { mode: Mode::Off, ..policy }, Verdict::Off, Verdict::Off),
        ] {
            for (reason, code, expected) in
                [(ip::PORT_UNREACHABLE, 3, port), (ip::PROTOCOL_UNREACHABLE, 2, protocol)]
            {
                let packet = packet(Module::Network, reason);
                assert_eq!(
                    decide(Decision::PacketDiscard, &packet, Rules::new(&policy, false), None),
                    expected
                );
                assert_eq!(going_out(Family::V4, 3, code, &policy), expected);
            }
        }
    }
}
