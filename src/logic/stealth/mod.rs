//! The decision: whether a packet for which nobody is here gets an answer.

use core::net::IpAddr;

use super::layers::{Decision, Family};
use super::policy::{Exemption, Mode, Policy, Remote};
use super::{echo, unreachable};

pub use super::policy::exemptions::{TCP, UDP};

/// A packet, as far as the decisions look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    /// IP protocol, where the layer gives it or the header could be read.
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
    /// It belongs to a data flow.
    pub flow: bool,
    /// An endpoint took it: a connection's, or a listener's.
    pub endpoint: bool,
    /// Why it was discarded, where the engine says so.
    pub discard: Option<Discard>,
    /// The segment's flags, where its header could be read.
    pub tcp_flags: Option<TcpFlags>,
    /// Its ICMP type and code, where the layer has them.
    pub icmp: Option<Icmp>,
}

/// An ICMP message's type and code; at layers that have ports in their places,
/// only the protocol tells which they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct Icmp {
    pub family: Family,
    pub kind: u16,
    pub code: u16,
}

/// What a packet would draw, if nobody kept it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A RST.
    Reset,
    /// ICMP's port unreachable.
    PortUnreachable,
    /// ICMP's protocol unreachable; ICMPv6's unrecognized next header.
    ProtocolUnreachable,
    /// An echo reply.
    EchoReply,
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

    /// Whether it is about a packet that found nobody, and that is not exempt.
    pub const fn is_closed_port(self) -> bool {
        matches!(self, Self::Silenced | Self::Audited | Self::Overruled)
    }
}

/// Decides over a packet at the layers of a decision.
#[inline(always)]
pub fn decide(decision: Decision, packet: &Packet, policy: &Policy) -> Verdict {
    let answer = match decision {
        Decision::TransportDiscard => discarded(packet),
        Decision::PacketDiscard => unreachable::discarded(packet),
        Decision::IcmpError => unreachable::error(packet),
        Decision::EchoRequest => echo::request(packet),
    };
    let silence = match answer {
        Ok(Answer::Reset) => policy.silence_tcp,
        Ok(Answer::PortUnreachable) => policy.silence_udp,
        Ok(Answer::ProtocolUnreachable) => policy.silence_protocols,
        Ok(Answer::EchoReply) => policy.silence_echo,
        Err(verdict) => return verdict,
    };
    match policy.mode {
        Mode::Off => Verdict::Off,
        _ if !silence => Verdict::OtherKind,
        _ if packet.loopback && policy.exempt_loopback => Verdict::Loopback,
        _ if packet.ipsec_secured && policy.exempt_ipsec => Verdict::IpsecSecured,
        // Looked up last: what is counted as exempt would have been silenced.
        mode => match (policy.exempts(&packet.remote()), mode) {
            (Some(Exemption::Port), _) => Verdict::ExemptPort,
            (Some(Exemption::Prefix), _) => Verdict::ExemptPrefix,
            (Some(Exemption::Interface), _) => Verdict::ExemptInterface,
            (None, Mode::Audit) => Verdict::Audited,
            (None, _) => Verdict::Silenced,
        },
    }
}

/// Decides over a packet at INBOUND_TRANSPORT_V4/V6_DISCARD: the answer that it
/// would draw.
///
/// UDP may come here, too: field reports say so, against "UDP packet flows".
/// Where the engine gives no reason, or one that names no endpoint, it is
/// taken that there is none, because the packet has been discarded already and
/// all that a block takes away is the answer.
#[inline(always)]
fn discarded(packet: &Packet) -> Result<Answer, Verdict> {
    let answer = match packet.protocol {
        Some(TCP) => Answer::Reset,
        Some(UDP) => Answer::PortUnreachable,
        _ => return Err(Verdict::OtherKind),
    };
    let endpoint = packet.flow || packet.endpoint;
    let left_alone = match packet.discard {
        Some(Discard { module: Module::General, .. }) => Some(Verdict::FilterDrop),
        Some(Discard { module: Module::Transport, reason }) => match whose(reason) {
            Whose::Nobodys => endpoint.then_some(Verdict::Endpoint),
            Whose::Listeners if answer == Answer::Reset => packet.flow.then_some(Verdict::Endpoint),
            Whose::PerhapsListeners if answer == Answer::Reset => endpoint.then_some(Verdict::Endpoint),
            Whose::Endpoints | Whose::Listeners | Whose::PerhapsListeners => Some(Verdict::Endpoint),
            Whose::Faulty => Some(Verdict::NoAnswer),
        },
        _ => endpoint.then_some(Verdict::Endpoint),
    };
    match left_alone {
        Some(verdict) => Err(verdict),
        None if packet.tcp_flags.is_some_and(TcpFlags::is_reset) => Err(Verdict::NoAnswer),
        None => Ok(answer),
    }
}

/// To whom a segment came that the transport layer discarded.
enum Whose {
    /// No endpoint.
    Nobodys,
    /// A listener that has no use for it: the RST would tell a probe of flags
    /// that the port is open, where closed ones are silent.
    Listeners,
    /// A listener, or a connection in the making: there a RST must end what
    /// the other side still believes in (RFC 9293, 3.5.1).
    PerhapsListeners,
    /// A connection or another socket.
    Endpoints,
    /// Nobody answers such a segment.
    Faulty,
}

fn whose(reason: u32) -> Whose {
    match reason {
        inet::SOURCE_UNSPECIFIED..=inet::CHECKSUM_INVALID => Whose::Faulty,
        inet::EXPECTED_SYN | inet::LISTENER_INVALID_FLAGS | inet::PAUSE_ACCEPT => Whose::Listeners,
        inet::ACK_INVALID => Whose::PerhapsListeners,
        inet::TCB_NOT_IN_TCB_TABLE => Whose::Nobodys,
        inet::CONNECTED_PATH..=inet::ACCEPT_REDIRECTION => Whose::Endpoints,
        _ => Whose::Nobodys,
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
    /// `InetDiscardAckInvalid`.
    pub const ACK_INVALID: u32 = 8;
    /// `InetDiscardExpectedSyn`.
    pub const EXPECTED_SYN: u32 = 9;
    /// `InetDiscardListenerInvalidFlags`.
    pub const LISTENER_INVALID_FLAGS: u32 = 23;
    /// `InetDiscardTcbNotInTcbTable`.
    pub const TCB_NOT_IN_TCB_TABLE: u32 = 25;
    /// `InetDiscardPauseAccept`: a listener whose backlog is full; Windows' own
    /// stealth mode covers it, too ("Disable stealth mode").
    pub const PAUSE_ACCEPT: u32 = 30;
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
        flow: false,
        endpoint: false,
        discard: Some(Discard { module: Module::Transport, reason: inet::ENDPOINT_NOT_FOUND }),
        tcp_flags: Some(TcpFlags(0x02)),
        icmp: None,
    };

    fn verdict(packet: Packet) -> Verdict {
        decide(Decision::TransportDiscard, &packet, &Policy::DEFAULT)
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
    fn the_transport_layers_reasons_part_as_their_packets_do() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/facts/enums.json");
        let enums: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        use Verdict::{Endpoint, NoAnswer, Silenced};
        let reasons = enums["INET_DISCARD_REASON"].as_object().unwrap();
        for (name, reason) in reasons.iter().filter(|(name, _)| !name.ends_with("MaxEnumValue")) {
            let reason = u32::try_from(reason.as_u64().unwrap()).unwrap();
            let expected = match &name["InetDiscard".len()..] {
                // By whom: nobody known, an endpoint, a flow.
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
                // A datagram has no listener: all but the lack of a socket is
                // a socket's affair.
                let nobodys =
                    ["InetDiscardEndpointNotFound", "InetDiscardTcbNotInTcbTable"].contains(&&**name);
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
    fn what_is_not_ours_is_left_alone() {
        let general = Some(Discard { module: Module::General, reason: 0 });
        for (packet, expected) in [
            (Packet { protocol: Some(echo::ICMP), ..SYN }, Verdict::OtherKind),
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
    fn a_datagram_without_endpoint_is_silenced_by_its_own_switch() {
        let datagram = Packet { protocol: Some(UDP), tcp_flags: None, ..SYN };
        let udp_off = Policy { silence_udp: false, ..Policy::DEFAULT };
        let tcp_off = Policy { silence_tcp: false, ..Policy::DEFAULT };
        for (policy, expected) in [
            (Policy::DEFAULT, Verdict::Silenced),
            (tcp_off, Verdict::Silenced),
            (udp_off, Verdict::OtherKind),
        ] {
            assert_eq!(decide(Decision::TransportDiscard, &datagram, &policy), expected);
        }
        assert_eq!(decide(Decision::TransportDiscard, &SYN, &udp_off), Verdict::Silenced);
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
            assert_eq!(decide(Decision::TransportDiscard, &packet, &policy), expected);
        }
    }

    #[test]
    fn an_exemption_takes_nothing_but_silence_away() {
        let mut exemptions = Box::new(Exemptions::empty());
        exemptions.insert_interface(5).unwrap();
        let exempting = |mode| Policy { mode, exemptions: Some(&exemptions), ..Policy::DEFAULT };
        for mode in [Mode::Enforce, Mode::Audit] {
            assert_eq!(decide(Decision::TransportDiscard, &SYN, &exempting(mode)), Verdict::ExemptInterface);
            let elsewhere = Packet { interface: Some(6), ..SYN };
            assert_eq!(
                decide(Decision::TransportDiscard, &elsewhere, &exempting(mode)),
                decide(Decision::TransportDiscard, &elsewhere, &Policy { mode, ..Policy::DEFAULT })
            );
        }
        assert_eq!(decide(Decision::TransportDiscard, &SYN, &exempting(Mode::Off)), Verdict::Off);
        for packet in [
            Packet { loopback: true, ..SYN },
            Packet { endpoint: true, ..SYN },
            Packet { tcp_flags: Some(TcpFlags(0x14)), ..SYN },
        ] {
            assert_eq!(
                decide(Decision::TransportDiscard, &packet, &exempting(Mode::Enforce)),
                verdict(packet)
            );
        }
        let mut ports = Box::new(Exemptions::empty());
        ports.insert_ports(Ports { tcp: true, udp: false, first: 23, last: 23 });
        let policy = Policy { exemptions: Some(&ports), ..Policy::DEFAULT };
        assert_eq!(decide(Decision::TransportDiscard, &SYN, &policy), Verdict::ExemptPort);
        let mut prefixes = Box::new(Exemptions::empty());
        prefixes.insert_prefix(parse::prefix(b"192.0.2.0/24").unwrap()).unwrap();
        let policy = Policy { exemptions: Some(&prefixes), ..Policy::DEFAULT };
        assert_eq!(decide(Decision::TransportDiscard, &SYN, &policy), Verdict::ExemptPrefix);
    }
}
