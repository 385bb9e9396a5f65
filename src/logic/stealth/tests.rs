//! Decisions about packets of every kind.

use core::net::IpAddr;

use super::*;
use crate::logic::policy::exemptions::{Exemptions, PortEntry};
use crate::logic::policy::{Mode, Policy, parse};
use crate::logic::protocol::{ICMP, TCP, UDP};
use crate::logic::tcp::TcpFlags;

/// A SYN from another machine, for which there is no endpoint.
const SYN: Packet = Packet {
    protocol: Some(TCP),
    local_port: Some(23),
    remote_address: Some(IpAddr::V4(core::net::Ipv4Addr::new(192, 0, 2, 1))),
    interface: Some(5),
    loopback: false,
    ipsec_secured: false,
    flow: false,
    endpoint: false,
    discard: Some(Discard { module: Module::Transport, reason: inet::ENDPOINT_NOT_FOUND }),
    tcp_flags: Some(TcpFlags(0x02)),
    icmp: None,
};

fn verdict(packet: Packet) -> Verdict {
    decide(Decision::TransportDiscard, &packet, Rules::new(&Policy::DEFAULT, false), None)
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
            "EndpointNotFound" | "TcbNotInTcbTable" | "AckInvalid" => [Silenced, Endpoint, Endpoint],
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
            let nobodys = ["InetDiscardEndpointNotFound", "InetDiscardTcbNotInTcbTable"].contains(&&**name);
            if !nobodys && expected != NoAnswer {
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
        assert_eq!(decide(Decision::TransportDiscard, &datagram, Rules::new(&policy, false), None), expected);
    }
    assert_eq!(
        decide(Decision::TransportDiscard, &SYN, Rules::new(&udp_off, false), None),
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
    ] {
        assert_eq!(decide(Decision::TransportDiscard, &packet, Rules::new(&policy, false), None), expected);
    }
}

#[test]
fn an_exemption_changes_only_silenced_and_audited() {
    let mut exemptions = Box::new(Exemptions::empty());
    exemptions.insert_interface(5).unwrap();
    let over = |packet: &Packet, mode, exemptions| {
        decide(
            Decision::TransportDiscard,
            packet,
            Rules::new(&Policy { mode, ..Policy::DEFAULT }, false),
            exemptions,
        )
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
