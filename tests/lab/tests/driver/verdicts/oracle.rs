//! The expected verdict on a packet, written from the documents.
//!
//! Sources: docs/CONFIGURATION.md, docs/SECURITY.md, docs/EVENTS.md ("Verdicts"),
//! docs/ARCHITECTURE.md ("The decision"), and Microsoft's discard reasons (fwpsk.h).
//! It shares no code with the driver.

use std::net::IpAddr;

use super::cases::{Case, Decision, ICMP, ICMPV6, Kind, Origin, Shape, TCP, UDP};
use lab::traffic::Family;

/// The values of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyValues {
    pub mode: u32,
    pub tcp: bool,
    pub udp: bool,
    pub protocols: bool,
    pub echo: bool,
    pub exempt_loopback: bool,
    pub exempt_ipsec: bool,
    pub exempt_compartments: bool,
    /// Whether the three lists hold [`LISTS`].
    pub lists: bool,
    /// Whether `ExemptProfiles` holds [`EXEMPT_PROFILE`].
    pub profiles: bool,
    /// `AnswerExempt`.
    pub answer: bool,
}

impl PolicyValues {
    /// docs/CONFIGURATION.md, column "default", but for SilenceEcho.
    pub const USUAL: Self = Self {
        mode: 2,
        tcp: true,
        udp: true,
        protocols: true,
        echo: true,
        exempt_loopback: true,
        exempt_ipsec: true,
        exempt_compartments: true,
        lists: false,
        profiles: false,
        answer: false,
    };
}

/// `ExemptPorts`, `ExemptPrefixes`, `ExemptInterfaces`.
pub const LISTS: [(&str, &[&str]); 3] = [
    ("ExemptPorts", &["113/tcp", "53/udp", "8000-8100"]),
    ("ExemptPrefixes", &["10.9.0.0/16", "2001:db8:9::/48"]),
    ("ExemptInterfaces", &["0x6008012000000", "tunnel"]),
];
/// `ExemptProfiles`. Real machines show that private networks have the number 2.
pub const EXEMPT_PROFILE: (&str, u32) = ("private", 2);
/// The interface of [`LISTS`]. The lowest 24 bits of a LUID are reserved and zero.
/// The highest 16 bits are the interface's type; 131 is a tunnel (ifdef.h, ipifcons.h).
pub const EXEMPT_LUID: u64 = 0x6_0080_1200_0000;

/// The answer that the stack would send to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Reset,
    PortUnreachable,
    ProtocolUnreachable,
    /// Another ICMP error that Windows' own stealth mode suppresses.
    OtherError,
    EchoReply,
    /// Another ICMP error that a stranger can provoke.
    ProvokedError,
}

/// The verdict over a packet, as the events name it.
pub fn verdict(case: &Case, policy: &PolicyValues) -> &'static str {
    // Without SilenceEcho nothing is decided at that layer.
    if case.decision == Decision::EchoRequest && !policy.echo {
        return "Observed";
    }
    let answer = match answer(case) {
        Ok(answer) => answer,
        Err(verdict) => return verdict,
    };
    // docs/SECURITY.md, "Broadcast and multicast". NL_ADDRESS_TYPE (nldef.h).
    let is_discard = matches!(case.decision, Decision::TransportDiscard | Decision::PacketDiscard);
    if is_discard && matches!(case.spot.address_type, Some(3 | 4)) {
        return "NotUnicast";
    }
    if policy.mode == 0 {
        return "Off";
    }
    let is_on = match answer {
        Answer::Reset => policy.tcp,
        Answer::PortUnreachable => policy.udp,
        Answer::ProtocolUnreachable | Answer::OtherError => policy.protocols,
        Answer::EchoReply | Answer::ProvokedError => policy.echo,
    };
    if !is_on {
        return "OtherKind";
    }
    // FWP_CONDITION_FLAG_IS_LOOPBACK and _IS_IPSEC_SECURED (fwptypes.h).
    if policy.exempt_loopback && case.flags & 1 != 0 {
        return "Loopback";
    }
    if policy.exempt_ipsec && case.flags & 2 != 0 {
        return "IpsecSecured";
    }
    // NET_IF_COMPARTMENT_ID_PRIMARY (ifdef.h).
    let compartment = case.spot.compartment.in_metadata.or(case.spot.compartment.in_field);
    if policy.exempt_compartments && compartment.is_some_and(|compartment| compartment > 1) {
        return "ExemptCompartment";
    }
    if policy.lists
        && let Some(verdict) = exemption(case)
    {
        return verdict;
    }
    if policy.profiles {
        // INBOUND_IPPACKET_DISCARD has no field for the profile.
        if case.decision == Decision::PacketDiscard {
            return "Deferred";
        }
        if case.spot.profile == Some(EXEMPT_PROFILE.1) {
            return "ExemptProfile";
        }
    }
    if policy.mode == 1 { "Audited" } else { "Silenced" }
}

/// Whether a packet is permitted (docs/SECURITY.md, "AnswerExempt").
pub fn is_permitted(case: &Case, policy: &PolicyValues) -> bool {
    let is_exempt = verdict(case, policy).starts_with("Exempt")
        || ["Loopback", "IpsecSecured"].contains(&verdict(case, policy));
    let of_no_endpoint =
        matches!(answer(case), Ok(Answer::Reset | Answer::PortUnreachable | Answer::ProtocolUnreachable));
    policy.answer && policy.mode == 2 && is_exempt && of_no_endpoint
}

/// docs/CONFIGURATION.md, "Lists".
fn exemption(case: &Case) -> Option<&'static str> {
    let port = case.spot.port;
    let is_listed = match ports_of(case) {
        Some(TCP) => port == 113 || (8000..=8100).contains(&port),
        Some(UDP) => port == 53 || (8000..=8100).contains(&port),
        _ => false,
    };
    if is_listed {
        return Some("ExemptPort");
    }
    let is_listed = match case.spot.remote {
        IpAddr::V4(address) => address.octets()[..2] == [10, 9],
        IpAddr::V6(address) => address.segments()[..3] == [0x2001, 0xdb8, 9],
    };
    if is_listed {
        return Some("ExemptPrefix");
    }
    let is_tunnel = case.spot.interface.is_some_and(|luid| luid >> 48 == 131);
    (case.spot.interface == Some(EXEMPT_LUID) || is_tunnel).then_some("ExemptInterface")
}

/// The protocol, if the packet has ports. Later fragments have payload in their place
/// (RFC 791, RFC 8200).
fn ports_of(case: &Case) -> Option<u8> {
    let has_ports = [TCP, UDP].contains(&case.kind.protocol) && case.kind.shape != Shape::LaterFragment;
    has_ports.then_some(case.kind.protocol)
}

fn answer(case: &Case) -> Result<Answer, &'static str> {
    match case.decision {
        Decision::TransportDiscard => segment(&case.kind, &case.origin),
        Decision::PacketDiscard => packet(&case.kind, &case.origin),
        Decision::IcmpError => error(case.family, &case.kind),
        Decision::EchoRequest => echo(case.family, &case.kind),
    }
}

/// Without endpoint, TCP answers with a RST and UDP with port unreachable. Other
/// protocols do not answer here.
fn segment(kind: &Kind, origin: &Origin) -> Result<Answer, &'static str> {
    let answer = match kind.protocol {
        TCP => Answer::Reset,
        UDP => Answer::PortUnreachable,
        _ => return Err("OtherKind"),
    };
    match origin.discard {
        // FWPS_DISCARD_MODULE_GENERAL: a filter, or IPsec.
        Some((2, _)) => return Err("FilterDrop"),
        // InetDiscardSourceUnspecified to InetDiscardChecksumInvalid.
        Some((1, 0..=3)) => return Err("NoAnswer"),
        // InetDiscardRst, InetDiscardTcbNotInTcbTable: of a connection.
        Some((1, 10 | 25)) => return Err("Endpoint"),
        _ if origin.flow || origin.endpoint => return Err("Endpoint"),
        _ => {}
    }
    // RFC 9293, 3.5.2: a reset is not answered.
    let is_reset = kind.protocol == TCP && kind.tcp_flags & 4 != 0;
    if is_reset { Err("NoAnswer") } else { Ok(answer) }
}

/// The discard reason decides; without one, the packet's protocol.
fn packet(kind: &Kind, origin: &Origin) -> Result<Answer, &'static str> {
    match origin.discard {
        Some((2, _)) => Err("FilterDrop"),
        // IpDiscardProtocolUnreachable, IpDiscardPortUnreachable.
        Some((0, 3)) => Ok(Answer::ProtocolUnreachable),
        Some((0, 4)) => Ok(Answer::PortUnreachable),
        Some((0, _)) => Err("OtherKind"),
        _ => match kind.protocol {
            UDP => Ok(Answer::PortUnreachable),
            // TCP answers at the transport layer. No ICMP error is sent about ICMP.
            TCP | ICMP | ICMPV6 => Err("OtherKind"),
            _ => Ok(Answer::ProtocolUnreachable),
        },
    }
}

/// RFC 792; RFC 4443, 3.1 and 3.4; docs/SECURITY.md, "ICMP errors".
fn error(family: Family, kind: &Kind) -> Result<Answer, &'static str> {
    match (family, kind.icmp) {
        (Family::V4, Some((3, 2))) | (Family::V6, Some((4, 1))) => Ok(Answer::ProtocolUnreachable),
        (Family::V4, Some((3, 3))) | (Family::V6, Some((1, 4))) => Ok(Answer::PortUnreachable),
        (Family::V4, Some((3, 0 | 1 | 5..=12 | 14..))) => Ok(Answer::OtherError),
        (Family::V6, Some((1, _) | (4, 0 | 2))) => Ok(Answer::OtherError),
        (Family::V4, Some((3, 13) | (4 | 5 | 12, _))) => Ok(Answer::ProvokedError),
        (Family::V6, Some((4..=127 | 0, _))) => Ok(Answer::ProvokedError),
        _ => Err("OtherKind"),
    }
}

/// RFC 792; RFC 4443, 4.1.
fn echo(family: Family, kind: &Kind) -> Result<Answer, &'static str> {
    match (family, kind.protocol, kind.icmp) {
        (Family::V4, ICMP, Some((8 | 13 | 15 | 17, _))) => Ok(Answer::EchoReply),
        (Family::V6, ICMPV6, Some((128 | 139, _))) => Ok(Answer::EchoReply),
        _ => Err("Observed"),
    }
}
