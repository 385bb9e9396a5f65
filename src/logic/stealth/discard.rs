//! Why the stack discarded a packet (`fwpsk.h`), and what silence then means.

/// Why a packet was discarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Discard {
    /// Which module discarded it.
    pub module: Module,
    /// The module's reason: [`inet`] or [`ip`].
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
    /// A value that `fwpstypes.h` does not define.
    Other,
}

/// Whose packet the transport layer discarded. This says what silence means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipient {
    /// Nobody's. Silence hides that the port is closed.
    Nobody,
    /// A listener's that cannot use it. Its RST would tell a scanner that the port
    /// is open, because closed ports send none.
    Listener,
    /// A listener's, or that of a connection in its handshake. The RST of a
    /// connection must be sent, because it ends the peer's half-open connection (RFC
    /// 9293, 3.5.1). Only a connection has handles.
    ListenerOrConnection,
    /// A connection's or another socket's. The other side may still believe in the
    /// connection, so the RST must be sent.
    Connection,
    /// The packet is invalid. The stack does not answer it.
    Invalid,
}

macro_rules! inet_reasons {
    ($($name:ident: $recipient:ident,)*) => {
        /// The recipient for each reason, indexed by its number.
        static RECIPIENTS: &[Recipient] = &[$(Recipient::$recipient),*];

        /// The reasons by name, in the order of their numbers.
        #[cfg(test)]
        pub const INET_REASONS: &[(&str, Recipient)] = &[$(
            (concat!("InetDiscard", stringify!($name)), Recipient::$recipient),
        )*];
    };
}

/// `INET_DISCARD_REASON` (`fwpsk.h`): the transport layer's reasons that have a name
/// here.
pub mod inet {
    /// `InetDiscardEndpointNotFound`.
    pub const ENDPOINT_NOT_FOUND: u32 = 4;
}

// Whose packet it is follows from Microsoft's page "Transport layer discard reasons"
// and from the page of the enumeration.
inet_reasons! {
    SourceUnspecified: Invalid,
    DestinationMulticast: Invalid,
    HeaderInvalid: Invalid,
    ChecksumInvalid: Invalid,
    EndpointNotFound: Nobody,
    ConnectedPath: Connection,
    SessionState: Connection,
    ReceiveInspection: Connection,
    AckInvalid: ListenerOrConnection,
    ExpectedSyn: Listener,
    Rst: Connection,
    SynRcvdSyn: Connection,
    SimultaneousConnect: Connection,
    PawsFailed: Connection,
    LandAttack: Connection,
    MissedReset: Connection,
    OutsideWindow: Connection,
    DuplicateSegment: Connection,
    ClosedWindow: Connection,
    TcbRemoved: Connection,
    FinWait2: Connection,
    ReassemblyConflict: Connection,
    FinReceived: Connection,
    ListenerInvalidFlags: Listener,
    UrgentDeliveryAllocationFailure: Connection,
    // The connection was closed while the segment was processed. The peer does not
    // know that yet.
    TcbNotInTcbTable: Connection,
    TimeWaitTcbReceivedRstOutsideWindow: Connection,
    TimeWaitTcbSynAndOtherFlags: Connection,
    TimeWaitTcb: Connection,
    SynAckWithFastopenCookieRequest: Connection,
    // The listener's backlog is full. Windows' own stealth mode suppresses the answer,
    // too ("Disable stealth mode").
    PauseAccept: Listener,
    SynAttack: Connection,
    AcceptInspection: Connection,
    AcceptRedirection: Connection,
}

/// Whose packet was discarded for a reason of the transport layer. A reason that the
/// table does not have says nothing; the handles of flow and endpoint then decide.
pub(super) fn recipient(reason: u32) -> Recipient {
    RECIPIENTS.get(reason as usize).copied().unwrap_or(Recipient::Nobody)
}

/// `IP_DISCARD_REASON` (`fwpsk.h`): the network layer's reasons with an answer that
/// is suppressed at INBOUND_IPPACKET_DISCARD. For other reasons the stack sends
/// nothing, or an error that OUTBOUND_ICMP_ERROR decides about by its type and code.
pub mod ip {
    /// `IpDiscardProtocolUnreachable`.
    pub const PROTOCOL_UNREACHABLE: u32 = 3;
    /// `IpDiscardPortUnreachable`.
    pub const PORT_UNREACHABLE: u32 = 4;
}
