//! The decision: whether a discarded segment gets an answer.

use core::net::IpAddr;

use super::policy::{Exemption, Mode, Policy, Remote};

pub use super::policy::exemptions::TCP;

/// A packet at a discard layer, as far as the decision looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// IP protocol, where the layer gives it.
    pub protocol: Option<u8>,
    /// The port it was for.
    pub local_port: Option<u16>,
    /// Where it came from.
    pub remote_address: Option<IpAddr>,
    /// LUID of the interface it came through.
    pub interface: Option<u64>,
    /// `FWP_CONDITION_FLAG_IS_LOOPBACK`.
    pub loopback: bool,
    /// `FWP_CONDITION_FLAG_IS_IPSEC_SECURED`.
    pub ipsec_secured: bool,
    /// A data flow or an endpoint took the packet.
    pub endpoint: bool,
    /// Why it was discarded, where the engine says so.
    pub discard: Option<Discard>,
    /// The segment's flags, where its header could be read.
    pub tcp_flags: Option<TcpFlags>,
}

impl Packet {
    fn remote(&self) -> Remote {
        let Self { protocol, local_port, remote_address, interface, .. } = *self;
        Remote { protocol, local_port, remote_address, interface }
    }
}

/// Why a packet was discarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Discard {
    /// Who discarded it.
    pub module: Module,
    /// The module's own reason.
    pub reason: u32,
}

/// `FWPS_DISCARD_MODULE0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Module {
    /// The network layer.
    Network,
    /// The transport layer.
    Transport,
    /// A filter, or IPsec.
    General,
    /// A number that `fwpstypes.h` does not have.
    Other,
}

/// The flags byte of a TCP header (RFC 9293, 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    const RST: u8 = 0x04;

    /// Whether the segment is a reset.
    pub fn is_reset(self) -> bool {
        self.0 & Self::RST != 0
    }
}

/// What becomes of a packet, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Verdict {
    /// Seen at a layer where nothing is decided.
    Observed,
    /// Blocked: nothing answers.
    Silenced,
    /// Would have been blocked (`Mode` 1).
    Audited,
    /// Left alone: `Mode` 0.
    Off,
    /// Left alone: not a kind that is silenced.
    OtherKind,
    /// Left alone: loopback.
    Loopback,
    /// Left alone: secured by IPsec.
    IpsecSecured,
    /// Left alone: another filter dropped it, and that is its affair.
    FilterDrop,
    /// Left alone: it belongs to an endpoint.
    Endpoint,
    /// Left alone: nothing answers such a segment.
    NoAnswer,
    /// Left alone: `ExemptPorts`.
    ExemptPort,
    /// Left alone: `ExemptPrefixes`.
    ExemptPrefix,
    /// Left alone: `ExemptInterfaces`.
    ExemptInterface,
    /// To be blocked, but another filter has the last word.
    Overruled,
    /// What the engine passed did not hold together.
    Malformed,
}

impl Verdict {
    /// Number of verdicts.
    pub const COUNT: usize = Self::Malformed as usize + 1;
}

/// Decides over a packet at INBOUND_TRANSPORT_V4_DISCARD or its IPv6 twin.
///
/// Silent is what would otherwise draw a RST: a segment for which there is no
/// endpoint. That is what [`inet::ENDPOINT_NOT_FOUND`] says; where the engine
/// gives no reason, or one that names no endpoint, the same is taken to hold,
/// because the packet has been discarded already and all that a block takes
/// away is the answer.
pub fn decide(packet: &Packet, policy: &Policy) -> Verdict {
    if policy.mode == Mode::Off {
        return Verdict::Off;
    }
    if packet.protocol != Some(TCP) || !policy.silence_tcp {
        return Verdict::OtherKind;
    }
    if packet.loopback && policy.exempt_loopback {
        return Verdict::Loopback;
    }
    if packet.ipsec_secured && policy.exempt_ipsec {
        return Verdict::IpsecSecured;
    }
    if let Some(Discard { module: Module::General, .. }) = packet.discard {
        return Verdict::FilterDrop;
    }
    if packet.endpoint {
        return Verdict::Endpoint;
    }
    if let Some(Discard { module: Module::Transport, reason }) = packet.discard {
        match reason {
            inet::SOURCE_UNSPECIFIED..=inet::CHECKSUM_INVALID => return Verdict::NoAnswer,
            inet::CONNECTED_PATH..=inet::URGENT_DELIVERY_ALLOCATION_FAILURE
            | inet::TIME_WAIT_TCB_RECEIVED_RST_OUTSIDE_WINDOW..=inet::ACCEPT_REDIRECTION => {
                return Verdict::Endpoint;
            }
            _ => {}
        }
    }
    if packet.tcp_flags.is_some_and(TcpFlags::is_reset) {
        return Verdict::NoAnswer;
    }
    // Looked up last: what is counted as exempt would have been silenced.
    match policy.exempts(&packet.remote()) {
        Some(Exemption::Port) => return Verdict::ExemptPort,
        Some(Exemption::Prefix) => return Verdict::ExemptPrefix,
        Some(Exemption::Interface) => return Verdict::ExemptInterface,
        None => {}
    }
    match policy.mode {
        Mode::Audit => Verdict::Audited,
        _ => Verdict::Silenced,
    }
}

/// `INET_DISCARD_REASON` (`fwpsk.h`): the transport layer's reasons.
///
/// Those below [`ENDPOINT_NOT_FOUND`](inet::ENDPOINT_NOT_FOUND) are faults of
/// the segment that nothing answers; those above belong to a connection or a
/// listener, but for `TcbNotInTcbTable`, which is the lack of one.
pub mod inet {
    /// `InetDiscardSourceUnspecified`.
    pub const SOURCE_UNSPECIFIED: u32 = 0;
    /// `InetDiscardChecksumInvalid`.
    pub const CHECKSUM_INVALID: u32 = 3;
    /// `InetDiscardEndpointNotFound`.
    pub const ENDPOINT_NOT_FOUND: u32 = 4;
    /// `InetDiscardConnectedPath`.
    pub const CONNECTED_PATH: u32 = 5;
    /// `InetDiscardUrgentDeliveryAllocationFailure`.
    pub const URGENT_DELIVERY_ALLOCATION_FAILURE: u32 = 24;
    /// `InetDiscardTimeWaitTcbReceivedRstOutsideWindow`.
    pub const TIME_WAIT_TCB_RECEIVED_RST_OUTSIDE_WINDOW: u32 = 26;
    /// `InetDiscardAcceptRedirection`.
    pub const ACCEPT_REDIRECTION: u32 = 33;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::policy::exemptions::{Exemptions, Ports};
    use crate::logic::policy::parse;

    /// A SYN from elsewhere for which there is no endpoint.
    const SYN: Packet = Packet {
        protocol: Some(TCP),
        local_port: Some(23),
        remote_address: Some(IpAddr::V4(core::net::Ipv4Addr::new(192, 0, 2, 1))),
        interface: Some(5),
        loopback: false,
        ipsec_secured: false,
        endpoint: false,
        discard: Some(Discard { module: Module::Transport, reason: inet::ENDPOINT_NOT_FOUND }),
        tcp_flags: Some(TcpFlags(0x02)),
    };

    fn verdict(packet: Packet) -> Verdict {
        decide(&packet, &Policy::DEFAULT)
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
    fn a_reset_draws_no_answer() {
        for flags in [0x04, 0x14] {
            assert_eq!(verdict(Packet { tcp_flags: Some(TcpFlags(flags)), ..SYN }), Verdict::NoAnswer);
        }
    }

    #[test]
    fn without_a_reason_silence_is_kept() {
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
    fn the_transport_layers_reasons_part_three_ways() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/facts/enums.json");
        let enums: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let reasons = enums["INET_DISCARD_REASON"].as_object().unwrap();
        for (name, reason) in reasons.iter().filter(|(name, _)| !name.ends_with("MaxEnumValue")) {
            let reason = u32::try_from(reason.as_u64().unwrap()).unwrap();
            let expected = match &name["InetDiscard".len()..] {
                "EndpointNotFound" | "TcbNotInTcbTable" => Verdict::Silenced,
                "SourceUnspecified" | "DestinationMulticast" | "HeaderInvalid" | "ChecksumInvalid" => {
                    Verdict::NoAnswer
                }
                _ => Verdict::Endpoint,
            };
            let discard = Some(Discard { module: Module::Transport, reason });
            assert_eq!(verdict(Packet { discard, ..SYN }), expected, "{name}");
        }
        let unknown = Some(Discard { module: Module::Transport, reason: 4711 });
        assert_eq!(verdict(Packet { discard: unknown, ..SYN }), Verdict::Silenced);
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        let general = Some(Discard { module: Module::General, reason: 0 });
        for (packet, expected) in [
            (Packet { protocol: Some(17), ..SYN }, Verdict::OtherKind),
            (Packet { protocol: None, ..SYN }, Verdict::OtherKind),
            (Packet { loopback: true, ..SYN }, Verdict::Loopback),
            (Packet { ipsec_secured: true, ..SYN }, Verdict::IpsecSecured),
            (Packet { discard: general, ..SYN }, Verdict::FilterDrop),
            (Packet { endpoint: true, ..SYN }, Verdict::Endpoint),
        ] {
            assert_eq!(verdict(packet), expected);
        }
    }

    #[test]
    fn the_policy_decides() {
        let policy = Policy::DEFAULT;
        for (policy, packet, expected) in [
            (Policy { mode: Mode::Off, ..policy }, SYN, Verdict::Off),
            (Policy { mode: Mode::Audit, ..policy }, SYN, Verdict::Audited),
            (Policy { silence_tcp: false, ..policy }, SYN, Verdict::OtherKind),
            (
                Policy { exempt_loopback: false, ..policy },
                Packet { loopback: true, ..SYN },
                Verdict::Silenced,
            ),
            (
                Policy { exempt_ipsec: false, ..policy },
                Packet { ipsec_secured: true, ..SYN },
                Verdict::Silenced,
            ),
        ] {
            assert_eq!(decide(&packet, &policy), expected);
        }
    }

    #[test]
    fn an_exemption_takes_nothing_but_silence_away() {
        let mut exemptions = Box::new(Exemptions::empty());
        exemptions.insert_interface(5).unwrap();
        let exempting = |mode| Policy { mode, exemptions: Some(&exemptions), ..Policy::DEFAULT };
        for mode in [Mode::Enforce, Mode::Audit] {
            assert_eq!(decide(&SYN, &exempting(mode)), Verdict::ExemptInterface);
            let elsewhere = Packet { interface: Some(6), ..SYN };
            assert_eq!(
                decide(&elsewhere, &exempting(mode)),
                decide(&elsewhere, &Policy { mode, ..Policy::DEFAULT })
            );
        }
        assert_eq!(decide(&SYN, &exempting(Mode::Off)), Verdict::Off);
        for packet in [
            Packet { loopback: true, ..SYN },
            Packet { endpoint: true, ..SYN },
            Packet { tcp_flags: Some(TcpFlags(0x14)), ..SYN },
        ] {
            assert_eq!(decide(&packet, &exempting(Mode::Enforce)), verdict(packet));
        }
        let mut ports = Box::new(Exemptions::empty());
        ports.insert_ports(Ports { tcp: true, udp: false, first: 23, last: 23 });
        let policy = Policy { exemptions: Some(&ports), ..Policy::DEFAULT };
        assert_eq!(decide(&SYN, &policy), Verdict::ExemptPort);
        let mut prefixes = Box::new(Exemptions::empty());
        prefixes.insert_prefix(parse::prefix(b"192.0.2.0/24").unwrap()).unwrap();
        let policy = Policy { exemptions: Some(&prefixes), ..Policy::DEFAULT };
        assert_eq!(decide(&SYN, &policy), Verdict::ExemptPrefix);
    }
}
