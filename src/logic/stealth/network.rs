//! The decisions about ICMP errors, at two layers.
//!
//! INBOUND_IPPACKET_DISCARD shows the packet before the error is made ("UDP packet
//! flows"). This is cheaper, and it is the documented place. OUTBOUND_ICMP_ERROR
//! shows the error itself ("Preventing port scanning"). This works wherever the
//! stack discarded the packet, because type and code of the error are enough.

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
#[inline(always)]
pub(super) fn error(packet: &impl PacketView) -> Result<Answer, Verdict> {
    let Some(Icmp { family, kind, code }) = packet.icmp() else {
        return Err(Verdict::Malformed);
    };
    error_of(family, kind, code).ok_or(Verdict::OtherKind)
}

/// The errors that can be suppressed (RFC 792; RFC 4443, 3). `None` for errors that
/// are always sent, and for messages that are no errors, such as neighbour
/// discovery.
///
/// By default these are the errors that Windows' own stealth mode suppresses: in
/// published outputs of `netsh wfp show state`, ICMPv4 type 3 except codes 4 and 13,
/// ICMPv6 type 1, and type 4 codes 0 to 2. `SilenceEcho` adds what else a stranger
/// can provoke. TCP/IP needs fragmentation needed, packet too big and time exceeded.
#[inline(always)]
const fn error_of(family: Family, kind: u16, code: u16) -> Option<Answer> {
    match (family, kind, code) {
        (Family::V4, 3, 2) | (Family::V6, 4, 1) => Some(Answer::ProtocolUnreachable),
        (Family::V4, 3, 3) | (Family::V6, 1, 4) => Some(Answer::PortUnreachable),
        _ => rarer_error(family, kind, code),
    }
}

/// The other errors of [`error_of`].
#[cold]
#[inline(never)]
const fn rarer_error(family: Family, kind: u16, code: u16) -> Option<Answer> {
    match (family, kind, code) {
        // Fragmentation needed; packet too big; time exceeded.
        (Family::V4, 3, 4) | (Family::V6, 2, _) | (Family::V4, 11, _) | (Family::V6, 3, _) => None,
        // Administratively prohibited: a filter blocks a packet and asks for the
        // error.
        (Family::V4, 3, 13) => Some(Answer::ProvokedError),
        // Destination unreachable; parameter problem in a header or an option.
        (Family::V4, 3, _) | (Family::V6, 1, _) | (Family::V6, 4, 0 | 2) => Some(Answer::OtherError),
        // Source quench, redirect, parameter problem (RFC 1122, 3.2.2); other errors
        // of ICMPv6, which have types below 128 (RFC 4443, 2.1).
        (Family::V4, 4 | 5 | 12, _) | (Family::V6, ..128, _) => Some(Answer::ProvokedError),
        _ => None,
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
        decide(Decision::PacketDiscard, packet, Rules::new(&Policy::DEFAULT, false), None).verdict
    }

    fn going_out(family: Family, kind: u16, code: u16, policy: &Policy) -> Verdict {
        let icmp = Some(Icmp { family, kind, code });
        decide(Decision::IcmpError, &Packet { icmp, ..Packet::default() }, Rules::new(policy, false), None)
            .verdict
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

    /// The errors that Windows' own stealth mode suppresses.
    fn windows_suppresses(family: Family, kind: u16, code: u16) -> bool {
        match (family, kind) {
            (Family::V4, 3) => ![4, 13].contains(&code),
            (Family::V6, 1) => true,
            (Family::V6, 4) => code <= 2,
            _ => false,
        }
    }

    /// Errors of RFC 792 and RFC 4443 that are always sent: fragmentation needed,
    /// packet too big, time exceeded.
    fn is_needed(family: Family, kind: u16, code: u16) -> bool {
        match family {
            Family::V4 => (kind, code) == (3, 4) || kind == 11,
            Family::V6 => kind == 2 || kind == 3,
        }
    }

    fn is_error(family: Family, kind: u16) -> bool {
        match family {
            Family::V4 => [3, 4, 5, 11, 12].contains(&kind),
            Family::V6 => kind < 128,
        }
    }

    #[test]
    fn the_errors_of_windows_stealth_are_suppressed_and_with_silence_echo_all_others() {
        let echo = Policy { silence_echo: true, ..Policy::DEFAULT };
        for family in Family::ALL {
            for (kind, code) in (0..=300).flat_map(|kind| (0..=255).map(move |code| (kind, code))) {
                let silenced = |is| if is { Verdict::Silenced } else { Verdict::OtherKind };
                assert_eq!(
                    going_out(family, kind, code, &Policy::DEFAULT),
                    silenced(windows_suppresses(family, kind, code)),
                    "{family:?} {kind} {code}"
                );
                assert_eq!(
                    going_out(family, kind, code, &echo),
                    silenced(is_error(family, kind) && !is_needed(family, kind, code)),
                    "{family:?} {kind} {code}"
                );
            }
        }
        assert_eq!(
            decide(Decision::IcmpError, &Packet::default(), Rules::new(&Policy::DEFAULT, false), None)
                .verdict,
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
                    decide(Decision::PacketDiscard, &packet, Rules::new(&policy, false), None).verdict,
                    expected
                );
                assert_eq!(going_out(Family::V4, 3, code, &policy), expected);
            }
            // Other errors have the switch of protocol unreachable.
            for (family, kind, code) in [(Family::V4, 3, 1), (Family::V6, 1, 0), (Family::V6, 4, 2)] {
                assert_eq!(going_out(family, kind, code, &policy), protocol);
            }
        }
    }
}
