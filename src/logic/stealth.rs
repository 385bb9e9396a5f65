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
mod tests;
