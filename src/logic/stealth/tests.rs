//! Decisions about packets of every kind.

use core::net::IpAddr;

use super::*;
use crate::logic::layers::Family;
use crate::logic::policy::exemptions::{Exemptions, Interface, PortEntry};
use crate::logic::policy::{Mode, Policy, parse};
use crate::logic::protocol::{ICMP, TCP, UDP};
use crate::logic::tcp::TcpFlags;

/// A SYN from another machine, for which there is no endpoint.
const SYN: Packet = Packet {
    protocol: Some(TCP),
    local_port: Some(23),
    remote_address: Some(IpAddr::V4(core::net::Ipv4Addr::new(192, 0, 2, 1))),
    interface: Some(5),
    profile: Some(2),
    remote_port: Some(40_000),
    loopback: false,
    ipsec_secured: false,
    compartment: Some(1),
    for_several: false,
    flow: false,
    endpoint: false,
    discard: Some(Discard { module: Module::Transport, reason: inet::ENDPOINT_NOT_FOUND }),
    tcp_flags: Some(TcpFlags(0x02)),
    icmp: None,
};

fn verdict(packet: Packet) -> Verdict {
    decide(Decision::TransportDiscard, &packet, Rules::new(&Policy::DEFAULT, false), None).verdict
}

#[test]
fn a_syn_without_endpoint_is_silenced() {
    assert_eq!(verdict(SYN), Verdict::Silenced);
    let unread = Packet { tcp_flags: None, ..SYN };
    assert_eq!(verdict(unread), Verdict::Silenced);
}

#[test]
fn every_kind_of_probe_without_endpoint_is_silenced() {
    // SYN, FIN, NULL, Xmas, ACK, Maimon, SYN with ECN.
    for flags in [0x02, 0x01, 0x00, 0x29, 0x10, 0x11, 0xc2] {
        assert_eq!(
            verdict(Packet { tcp_flags: Some(TcpFlags(flags)), ..SYN }),
            Verdict::Silenced,
            "{flags:#x}"
        );
    }
}

#[test]
fn a_reset_gets_no_answer() {
    for flags in [0x04, 0x14] {
        assert_eq!(verdict(Packet { tcp_flags: Some(TcpFlags(flags)), ..SYN }), Verdict::NoAnswer);
    }
}

#[test]
fn a_packet_without_a_reason_is_silenced() {
    assert_eq!(verdict(Packet { discard: None, ..SYN }), Verdict::Silenced);
    for module in [Module::Network, Module::Other] {
        for reason in [0, inet::ENDPOINT_NOT_FOUND, 9, u32::MAX] {
            assert_eq!(
                verdict(Packet { discard: Some(Discard { module, reason }), ..SYN }),
                Verdict::Silenced
            );
        }
    }
}

#[test]
fn every_reason_of_the_transport_layer_is_decided() {
    let path = "tests/machine/facts/enums.json";
    let enums: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    use Verdict::{Endpoint, NoAnswer, Silenced};
    let reasons = enums["INET_DISCARD_REASON"].as_object().unwrap();
    for (name, reason) in reasons.iter().filter(|(name, _)| !name.ends_with("MaxEnumValue")) {
        let reason = u32::try_from(reason.as_u64().unwrap()).unwrap();
        let expected = match &name["InetDiscard".len()..] {
            // The packet belongs to: nothing, an endpoint, a flow.
            "EndpointNotFound" | "AckInvalid" => [Silenced, Endpoint, Endpoint],
            "ExpectedSyn" | "ListenerInvalidFlags" | "PauseAccept" => [Silenced, Silenced, Endpoint],
            "SourceUnspecified" | "DestinationMulticast" | "HeaderInvalid" | "ChecksumInvalid" => {
                [NoAnswer; 3]
            }
            _ => [Endpoint; 3],
        };
        let discard = Some(Discard { module: Module::Transport, reason });
        for (index, expected) in expected.into_iter().enumerate() {
            let packet = Packet { discard, endpoint: index == 1, flow: index == 2, ..SYN };
            assert_eq!(verdict(packet), expected, "{name} {index}");
            // A datagram has no listener. Every reason but a missing socket
            // concerns a socket.
            if &**name != "InetDiscardEndpointNotFound" && expected != NoAnswer {
                let datagram = Packet { protocol: Some(UDP), tcp_flags: None, ..packet };
                assert_eq!(verdict(datagram), Endpoint, "{name} {index}");
            }
        }
    }
    let unknown = Some(Discard { module: Module::Transport, reason: 4711 });
    assert_eq!(verdict(Packet { discard: unknown, ..SYN }), Verdict::Silenced);
}

#[test]
fn other_packets_are_not_blocked() {
    let general = Some(Discard { module: Module::General, reason: 0 });
    for (packet, expected) in [
        (Packet { protocol: Some(ICMP), ..SYN }, Verdict::OtherKind),
        (Packet { protocol: None, ..SYN }, Verdict::OtherKind),
        (Packet { loopback: true, ..SYN }, Verdict::Loopback),
        (Packet { ipsec_secured: true, ..SYN }, Verdict::IpsecSecured),
        (Packet { compartment: Some(2), ..SYN }, Verdict::ExemptCompartment),
        (Packet { compartment: Some(0), ..SYN }, Verdict::Silenced),
        (Packet { compartment: Some(2), loopback: true, ipsec_secured: true, ..SYN }, Verdict::Loopback),
        (Packet { compartment: Some(2), ipsec_secured: true, ..SYN }, Verdict::IpsecSecured),
        (Packet { compartment: None, ..SYN }, Verdict::Silenced),
        (Packet { discard: general, ..SYN }, Verdict::FilterDrop),
        (Packet { endpoint: true, ..SYN }, Verdict::Endpoint),
        (Packet { flow: true, ..SYN }, Verdict::Endpoint),
        (Packet { endpoint: true, discard: None, ..SYN }, Verdict::Endpoint),
    ] {
        assert_eq!(verdict(packet), expected);
    }
}

#[test]
fn silence_udp_silences_a_datagram_without_an_endpoint() {
    let datagram = Packet { protocol: Some(UDP), tcp_flags: None, ..SYN };
    let udp_off = Policy { silence_udp: false, ..Policy::DEFAULT };
    let tcp_off = Policy { silence_tcp: false, ..Policy::DEFAULT };
    for (policy, expected) in
        [(Policy::DEFAULT, Verdict::Silenced), (tcp_off, Verdict::Silenced), (udp_off, Verdict::OtherKind)]
    {
        assert_eq!(
            decide(Decision::TransportDiscard, &datagram, Rules::new(&policy, false), None).verdict,
            expected
        );
    }
    assert_eq!(
        decide(Decision::TransportDiscard, &SYN, Rules::new(&udp_off, false), None).verdict,
        Verdict::Silenced
    );
}

#[test]
fn the_policy_decides() {
    let policy = Policy::DEFAULT;
    for (policy, packet, expected) in [
        (Policy { mode: Mode::Off, ..policy }, SYN, Verdict::Off),
        (Policy { mode: Mode::Audit, ..policy }, SYN, Verdict::Audited),
        (Policy { silence_tcp: false, ..policy }, SYN, Verdict::OtherKind),
        (Policy { exempt_loopback: false, ..policy }, Packet { loopback: true, ..SYN }, Verdict::Silenced),
        (Policy { exempt_ipsec: false, ..policy }, Packet { ipsec_secured: true, ..SYN }, Verdict::Silenced),
        (
            Policy { exempt_compartments: false, ..policy },
            Packet { compartment: Some(2), ..SYN },
            Verdict::Silenced,
        ),
    ] {
        assert_eq!(
            decide(Decision::TransportDiscard, &packet, Rules::new(&policy, false), None).verdict,
            expected
        );
    }
}

/// Nobody answers what is for several machines, whatever the policy says. What another
/// filter dropped, and what an endpoint takes, is that all the same. An error is sent to
/// one machine, and an echo request may be answered (RFC 4443, 4.2).
#[test]
fn a_packet_for_several_machines_is_never_silenced_and_never_a_probe() {
    let several = Packet { for_several: true, ..SYN };
    let datagram = Packet { protocol: Some(UDP), tcp_flags: None, ..several };
    let at_network = Packet { discard: Some(Discard { module: Module::Network, reason: 4 }), ..datagram };
    let general = Some(Discard { module: Module::General, reason: 0 });
    let transport = Decision::TransportDiscard;
    for (decision, packet, expected) in [
        (transport, several, Verdict::NotUnicast),
        (transport, datagram, Verdict::NotUnicast),
        (transport, Packet { loopback: true, compartment: Some(2), ..datagram }, Verdict::NotUnicast),
        (transport, Packet { discard: None, ..datagram }, Verdict::NotUnicast),
        (transport, Packet { discard: general, ..datagram }, Verdict::FilterDrop),
        (transport, Packet { endpoint: true, ..datagram }, Verdict::Endpoint),
        (transport, Packet { tcp_flags: Some(TcpFlags(0x04)), ..several }, Verdict::NoAnswer),
        (Decision::PacketDiscard, at_network, Verdict::NotUnicast),
        (Decision::PacketDiscard, Packet { protocol: Some(47), ..at_network }, Verdict::NotUnicast),
        (Decision::PacketDiscard, Packet { discard: general, ..datagram }, Verdict::FilterDrop),
    ] {
        for policy in [
            Policy::DEFAULT,
            Policy { mode: Mode::Audit, ..Policy::DEFAULT },
            Policy { mode: Mode::Off, ..Policy::DEFAULT },
            Policy { silence_udp: false, answer_exempt: true, ..Policy::DEFAULT },
        ] {
            let judgement = decide(decision, &packet, Rules::new(&policy, false), None);
            assert_eq!(judgement, Judgement { verdict: expected, permit: false }, "{packet:?} {policy:?}");
            assert!(!judgement.verdict.is_closed_port());
        }
    }
    let echo = Packet { icmp: Some(Icmp { family: Family::V6, kind: 128, code: 0 }), ..several };
    let echo = Packet { protocol: Some(crate::logic::protocol::ICMPV6), ..echo };
    let policy = Policy { silence_echo: true, ..Policy::DEFAULT };
    let rules = Rules::new(&policy, false);
    assert_eq!(decide(Decision::EchoRequest, &echo, rules, None).verdict, Verdict::Silenced);
}

#[test]
fn an_exemption_changes_only_silenced_and_audited() {
    let mut exemptions = Box::new(Exemptions::empty());
    exemptions.insert_interface(Interface::luid(5)).unwrap();
    let over = |packet: &Packet, mode, exemptions| {
        decide(
            Decision::TransportDiscard,
            packet,
            Rules::new(&Policy { mode, ..Policy::DEFAULT }, false),
            exemptions,
        )
        .verdict
    };
    for mode in [Mode::Enforce, Mode::Audit] {
        assert_eq!(over(&SYN, mode, Some(&exemptions)), Verdict::ExemptInterface);
        let elsewhere = Packet { interface: Some(6), ..SYN };
        assert_eq!(over(&elsewhere, mode, Some(&exemptions)), over(&elsewhere, mode, None));
    }
    assert_eq!(over(&SYN, Mode::Off, Some(&exemptions)), Verdict::Off);
    for packet in [
        Packet { loopback: true, ..SYN },
        Packet { endpoint: true, ..SYN },
        Packet { tcp_flags: Some(TcpFlags(0x14)), ..SYN },
    ] {
        assert_eq!(over(&packet, Mode::Enforce, Some(&exemptions)), verdict(packet));
    }
    let mut ports = Box::new(Exemptions::empty());
    ports.insert_ports(PortEntry { tcp: true, udp: false, first: 23, last: 23 });
    assert_eq!(over(&SYN, Mode::Enforce, Some(&ports)), Verdict::ExemptPort);
    let mut prefixes = Box::new(Exemptions::empty());
    prefixes.insert_prefix(parse::prefix(b"192.0.2.0/24").unwrap()).unwrap();
    assert_eq!(over(&SYN, Mode::Enforce, Some(&prefixes)), Verdict::ExemptPrefix);
}

/// The lists with one profile.
fn with_profile(profile: u32) -> Box<Exemptions> {
    let mut exemptions = Box::new(Exemptions::empty());
    exemptions.insert_profile(profile);
    exemptions
}

#[test]
fn a_profile_is_exempt_where_it_is_known_and_the_other_layer_leaves_it_to_the_error() {
    let exemptions = with_profile(2);
    let over = |decision, packet: &Packet, mode| {
        let rules = Rules::new(&Policy { mode, ..Policy::DEFAULT }, true);
        decide(decision, packet, rules, Some(&exemptions)).verdict
    };
    let error = Packet {
        protocol: Some(UDP),
        icmp: Some(Icmp { family: Family::V4, kind: 3, code: 3 }),
        discard: None,
        tcp_flags: None,
        ..SYN
    };
    for (decision, packet) in [(Decision::TransportDiscard, SYN), (Decision::IcmpError, error)] {
        for (profile, expected) in [
            (Some(2), Verdict::ExemptProfile),
            (Some(1), Verdict::Silenced),
            (Some(3), Verdict::Silenced),
            (Some(0), Verdict::Silenced),
            (Some(u32::MAX), Verdict::Silenced),
            (None, Verdict::Silenced),
        ] {
            let packet = Packet { profile, ..packet };
            assert_eq!(over(decision, &packet, Mode::Enforce), expected, "{decision:?} {profile:?}");
        }
    }
    let datagram = Packet { protocol: Some(UDP), discard: None, tcp_flags: None, profile: None, ..SYN };
    for (mode, expected) in
        [(Mode::Enforce, Verdict::Deferred), (Mode::Audit, Verdict::Deferred), (Mode::Off, Verdict::Off)]
    {
        assert_eq!(over(Decision::PacketDiscard, &datagram, mode), expected);
    }
    let loopback = Packet { loopback: true, ..datagram };
    assert_eq!(over(Decision::PacketDiscard, &loopback, Mode::Enforce), Verdict::Loopback);
}

#[test]
fn only_with_answer_exempt_and_only_without_an_endpoint_is_what_is_exempt_permitted() {
    let asked = Policy { answer_exempt: true, silence_echo: true, ..Policy::DEFAULT };
    let mut exemptions = with_profile(2);
    exemptions.insert_ports(PortEntry { tcp: true, udp: true, first: 113, last: 113 });
    let permitted = |decision, packet: &Packet, policy: &Policy| {
        decide(decision, packet, Rules::new(policy, true), Some(&exemptions)).permit
    };
    let at_port = Packet { local_port: Some(113), profile: None, ..SYN };
    let in_profile = SYN;
    let datagram = Packet { protocol: Some(UDP), discard: None, tcp_flags: None, ..at_port };
    let error = |family, kind, code| Packet { icmp: Some(Icmp { family, kind, code }), ..datagram };
    let echo = Packet {
        protocol: Some(ICMP),
        icmp: Some(Icmp { family: Family::V4, kind: 8, code: 0 }),
        ..in_profile
    };
    let transport = Decision::TransportDiscard;
    for (decision, packet, expected) in [
        (transport, at_port, true),
        (transport, in_profile, true),
        (transport, Packet { loopback: true, profile: None, ..SYN }, true),
        (transport, Packet { ipsec_secured: true, profile: None, ..SYN }, true),
        (transport, Packet { compartment: Some(2), profile: None, ..SYN }, true),
        (transport, Packet { profile: Some(1), ..SYN }, false),
        (transport, Packet { endpoint: true, ..at_port }, false),
        (transport, Packet { tcp_flags: Some(TcpFlags(0x14)), ..at_port }, false),
        (Decision::PacketDiscard, datagram, true),
        (Decision::PacketDiscard, Packet { local_port: Some(114), ..datagram }, false),
        (Decision::IcmpError, error(Family::V4, 3, 3), true),
        (Decision::IcmpError, error(Family::V6, 4, 1), true),
        // Windows suppresses this one, but it says nothing about an endpoint.
        (Decision::IcmpError, error(Family::V6, 4, 2), false),
        (Decision::IcmpError, error(Family::V4, 11, 0), false),
        (Decision::EchoRequest, echo, false),
    ] {
        assert_eq!(permitted(decision, &packet, &asked), expected, "{decision:?} {packet:?}");
        for policy in [
            Policy { answer_exempt: false, ..asked },
            Policy { mode: Mode::Audit, ..asked },
            Policy { mode: Mode::Off, ..asked },
        ] {
            assert!(!permitted(decision, &packet, &policy), "{policy:?} {packet:?}");
        }
    }
}

/// The names of the reasons stand at their numbers, and docs/SECURITY.md says of each
/// what silence means.
#[test]
fn the_table_of_reasons_is_that_of_the_header_and_of_the_document() {
    let enums = std::fs::read_to_string("tests/machine/facts/enums.json").unwrap();
    let enums: serde_json::Value = serde_json::from_str(&enums).unwrap();
    let document = std::fs::read_to_string("docs/SECURITY.md").unwrap();
    let facts = enums["INET_DISCARD_REASON"].as_object().unwrap();
    assert_eq!(facts.len(), INET_REASONS.len() + 1, "all but the largest");
    for (number, (name, recipient)) in INET_REASONS.iter().enumerate() {
        assert_eq!(facts[*name], number, "{name}");
        let whose = match recipient {
            Recipient::Nobody => "nobody's",
            Recipient::Listener => "a listener's",
            Recipient::ListenerOrConnection => "a listener's or a connection's",
            Recipient::Connection => "a connection's or a socket's",
            Recipient::Invalid => "invalid",
        };
        assert!(
            document.contains(&format!("\n| {number} | `{name}` | {whose} |")),
            "{number} {name} {whose}"
        );
    }
    for name in enums["IP_DISCARD_REASON"].as_object().unwrap().keys() {
        let number = enums["IP_DISCARD_REASON"][name].as_u64().unwrap();
        // The page has the reasons below 12 and a few above.
        if number <= 12 || [128, 129, 258, 286].contains(&number) {
            assert!(document.contains(&format!("`{name}`")), "{name}");
        }
    }
}
