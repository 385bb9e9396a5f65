//! The decision: whether a packet for which nobody is here gets an answer.

use core::net::IpAddr;

use super::address::Address;
use super::layers::{Decision, Family};
use super::policy::{Exemption, Exemptions, Mode, Policy, Sender};
use super::scan::Remote;
use super::{echo, unreachable};

#[cfg(test)]
mod tests;

pub use super::policy::exemptions::{TCP, UDP};

/// What a classify says of a packet, asked one by one, and only as far as the
/// decision comes: most of it is never read.
#[allow(missing_docs, reason = "the fields of `Packet` say it")]
pub trait Shown {
    fn protocol(&self) -> Option<u8>;
    fn local_port(&self) -> Option<u16>;
    fn remote_address(&self) -> Option<Address>;
    fn remote(&self) -> Option<Remote>;
    fn interface(&self) -> Option<u64>;
    fn marks(&self) -> Marks;
    fn has_flow(&self) -> bool;
    fn has_endpoint(&self) -> bool;
    fn discard(&self) -> Option<Discard>;
    fn tcp_flags(&self) -> Option<TcpFlags>;
    fn icmp(&self) -> Option<Icmp>;

    /// By what it may be exempt.
    #[inline(always)]
    fn sender(&self) -> Sender {
        Sender {
            protocol: self.protocol(),
            local_port: self.local_port(),
            address: self.remote_address(),
            interface: self.interface(),
        }
    }

    /// All of it at once.
    fn packet(&self) -> Packet {
        Packet {
            protocol: self.protocol(),
            local_port: self.local_port(),
            remote_address: self.remote_address().map(IpAddr::from),
            interface: self.interface(),
            loopback: self.marks().has(Marks::LOOPBACK),
            ipsec_secured: self.marks().has(Marks::IPSEC_SECURED),
            flow: self.has_flow(),
            endpoint: self.has_endpoint(),
            discard: self.discard(),
            tcp_flags: self.tcp_flags(),
            icmp: self.icmp(),
        }
    }
}

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

impl Answer {
    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl Shown for Packet {
    fn protocol(&self) -> Option<u8> {
        self.protocol
    }

    fn local_port(&self) -> Option<u16> {
        self.local_port
    }

    fn remote_address(&self) -> Option<Address> {
        self.remote_address.map(Address::from)
    }

    fn remote(&self) -> Option<Remote> {
        self.remote_address.map(Remote::from)
    }

    fn interface(&self) -> Option<u64> {
        self.interface
    }

    fn marks(&self) -> Marks {
        let mark = |mark: Marks, is_set| if is_set { mark } else { Marks::NONE };
        mark(Marks::LOOPBACK, self.loopback).or(mark(Marks::IPSEC_SECURED, self.ipsec_secured))
    }

    fn has_flow(&self) -> bool {
        self.flow
    }

    fn has_endpoint(&self) -> bool {
        self.endpoint
    }

    fn discard(&self) -> Option<Discard> {
        self.discard
    }

    fn tcp_flags(&self) -> Option<TcpFlags> {
        self.tcp_flags
    }

    fn icmp(&self) -> Option<Icmp> {
        self.icmp
    }
}

/// What may exempt a packet whoever sent it: two of the conditions' flags, in
/// their places there (`FWP_CONDITION_FLAG_*`, fwptypes.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks(u32);

impl Marks {
    /// Neither.
    pub const NONE: Self = Self(0);
    /// `FWP_CONDITION_FLAG_IS_LOOPBACK`.
    pub const LOOPBACK: Self = Self(1);
    /// `FWP_CONDITION_FLAG_IS_IPSEC_SECURED`.
    pub const IPSEC_SECURED: Self = Self(2);

    /// Those among a condition's flags.
    pub const fn of_flags(flags: u32) -> Self {
        Self(flags & (Self::LOOPBACK.0 | Self::IPSEC_SECURED.0))
    }

    /// Either.
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether one of these is among them.
    pub const fn has(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }
}

/// A policy as packets ask it: what takes no more than a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The answers that are kept back, or counted as if, a bit for each.
    silences: u8,
    /// They are only counted.
    audits: bool,
    /// None are, since nothing is asked for.
    off: bool,
    exempts: Marks,
}

impl Rules {
    /// A policy's.
    pub const fn new(policy: &Policy) -> Self {
        let answers = [
            (Answer::Reset, policy.silence_tcp),
            (Answer::PortUnreachable, policy.silence_udp),
            (Answer::ProtocolUnreachable, policy.silence_protocols),
            (Answer::EchoReply, policy.silence_echo),
        ];
        let off = matches!(policy.mode, Mode::Off);
        let (mut silences, mut at) = (0, 0);
        while at < answers.len() {
            if answers[at].1 && !off {
                silences |= answers[at].0.bit();
            }
            at += 1;
        }
        let loopback = if policy.exempt_loopback { Marks::LOOPBACK } else { Marks::NONE };
        let ipsec = if policy.exempt_ipsec { Marks::IPSEC_SECURED } else { Marks::NONE };
        let audits = matches!(policy.mode, Mode::Audit);
        Self { silences, audits, off, exempts: loopback.or(ipsec) }
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

    /// In place of flags that could not be read: all but those that would make
    /// it a reset, which no scan has a name for.
    pub const UNREAD: Self = Self(0x3b);

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

/// Decides over a packet at the layers of a decision. Where there are no
/// exemptions, there need be no lists.
#[inline(always)]
pub fn decide(
    decision: Decision,
    packet: &impl Shown,
    rules: &Rules,
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
    if rules.silences & answer.bit() == 0 {
        return if rules.off { Verdict::Off } else { Verdict::OtherKind };
    }
    let marks = packet.marks();
    if marks.has(rules.exempts) {
        let loopback = marks.has(Marks::LOOPBACK) && rules.exempts.has(Marks::LOOPBACK);
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
    if rules.audits { Verdict::Audited } else { Verdict::Silenced }
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
