//! The answer that a packet would get, and the verdict on it.

/// The answer that a packet would get if it were not suppressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A RST.
    Reset,
    /// ICMP port unreachable.
    PortUnreachable,
    /// ICMP protocol unreachable; ICMPv6 unrecognized next header.
    ProtocolUnreachable,
    /// Another ICMP error that Windows' own stealth mode suppresses.
    OtherError,
    /// An echo reply, or the reply to another ICMP request.
    EchoReply,
    /// An ICMP error that Windows' own stealth mode sends, though a stranger can
    /// provoke it.
    ProvokedError,
}

impl Answer {
    /// Whether it answers a packet for which there is no endpoint.
    pub const fn is_of_no_endpoint(self) -> bool {
        matches!(self, Self::Reset | Self::PortUnreachable | Self::ProtocolUnreachable)
    }
}

/// What becomes of a packet, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Verdict {
    /// Seen at a layer where nothing is decided.
    Observed,
    /// Blocked: no answer is sent.
    Silenced,
    /// `Mode` 2 would block it (`Mode` 1).
    Audited,
    /// Not blocked: `Mode` 0.
    Off,
    /// Not blocked: the policy does not suppress this answer.
    OtherKind,
    /// Not blocked: loopback.
    Loopback,
    /// Not blocked: secured by IPsec.
    IpsecSecured,
    /// Not blocked: another filter dropped it.
    FilterDrop,
    /// Not blocked: it belongs to an endpoint.
    Endpoint,
    /// Not blocked: the stack does not answer it.
    NoAnswer,
    /// Not blocked: it is for several machines (broadcast, multicast), so nobody answers
    /// it. In `Classified` it is `Observed`, but it has a counter of its own.
    NotUnicast,
    /// Not blocked: it is in another network compartment than the machine's own
    /// (`ExemptCompartments`).
    ExemptCompartment,
    /// Not blocked: `ExemptPorts`.
    ExemptPort,
    /// Not blocked: `ExemptPrefixes`.
    ExemptPrefix,
    /// Not blocked: `ExemptInterfaces`.
    ExemptInterface,
    /// Not blocked: `ExemptProfiles`.
    ExemptProfile,
    /// Not blocked here: the profile is not known yet. The ICMP error is decided.
    Deferred,
    /// Not blocked by `Mode` 2: another filter has permitted it and has taken the right
    /// to write the action. `Mode` 1 counts it, too.
    Overruled,
    /// Blocked by another filter, which has taken the right to write the action. `Mode`
    /// 1 counts it, too.
    AlreadyBlocked,
    /// Not blocked: what the engine passed is incomplete or inconsistent.
    Malformed,
}

impl Verdict {
    /// The number of verdicts.
    pub const COUNT: usize = Self::Malformed as usize + 1;

    /// Whether the packet met a closed port and is not exempt.
    pub const fn is_closed_port(self) -> bool {
        matches!(self, Self::Silenced | Self::Audited | Self::Overruled | Self::AlreadyBlocked)
    }
}
