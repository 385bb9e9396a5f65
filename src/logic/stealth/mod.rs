//! The decision: whether a packet for which nobody is here gets an answer.

mod closed_port;
mod packet;
mod rules;
#[cfg(test)]
mod tests;

use super::layers::Decision;
use super::policy::{Exemption, Exemptions};
use super::{echo, unreachable};

pub use super::policy::exemptions::{TCP, UDP};
pub use closed_port::ClosedPort;
pub use packet::{Discard, Icmp, Marks, Module, Packet, Shown, TcpFlags};
pub use rules::Rules;

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

/// Decides over a packet at the layers of a decision. Where there are no
/// exemptions, there need be no lists.
#[inline(always)]
pub fn decide(
    decision: Decision,
    packet: &impl Shown,
    rules: Rules,
    exemptions: Option<&Exemptions>,
) -> Verdict {
    let answer = match decision {
        Decision::TransportDiscard => discarded(packet),
        Decision::PacketDiscard => unreachable::discarded(packet),
        Decision::IcmpError => unreachable::error(packet),
        Decision::EchoRequest => echo::request(packet),
    };
    let answer = match answer {
        Ok(answer) => answer,
        Err(verdict) => return verdict,
    };
    if !rules.silence(answer) {
        return if rules.are_off() { Verdict::Off } else { Verdict::OtherKind };
    }
    let marks = packet.marks();
    if marks.has(rules.exempt()) {
        let loopback = marks.has(Marks::LOOPBACK) && rules.exempt().has(Marks::LOOPBACK);
        return if loopback { Verdict::Loopback } else { Verdict::IpsecSecured };
    }
    // Looked up last: what is counted as exempt would have been silenced.
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

/// Decides over a packet at INBOUND_TRANSPORT_V4/V6_DISCARD: the answer that it
/// would draw.
///
/// UDP may come here, too: field reports say so, against "UDP packet flows".
/// Where the engine gives no reason, or one that names no endpoint, it is
/// taken that there is none, because the packet has been discarded already and
/// all that a block takes away is the answer.
#[inline(always)]
fn discarded(packet: &impl Shown) -> Result<Answer, Verdict> {
    let answer = match packet.protocol() {
        Some(TCP) => Answer::Reset,
        Some(UDP) => Answer::PortUnreachable,
        _ => return Err(Verdict::OtherKind),
    };
    let tcp = answer == Answer::Reset;
    let (flow, endpoint) = (packet.has_flow(), packet.has_flow() || packet.has_endpoint());
    let taken = match packet.discard() {
        Some(Discard { module: Module::General, .. }) => return Err(Verdict::FilterDrop),
        Some(Discard { module: Module::Transport, reason }) => match whose(reason) {
            Whose::Nobodys => endpoint,
            Whose::Listeners if tcp => flow,
            Whose::PerhapsListeners if tcp => endpoint,
            Whose::Endpoints | Whose::Listeners | Whose::PerhapsListeners => true,
            Whose::Faulty => return Err(Verdict::NoAnswer),
        },
        _ => endpoint,
    };
    if taken {
        return Err(Verdict::Endpoint);
    }
    match packet.tcp_flags() {
        Some(flags) if flags.is_reset() => Err(Verdict::NoAnswer),
        _ => Ok(answer),
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

#[inline(always)]
fn whose(reason: u32) -> Whose {
    if reason == inet::ENDPOINT_NOT_FOUND {
        // Nearly always.
        return Whose::Nobodys;
    }
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
