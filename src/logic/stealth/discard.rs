//! Why the stack discarded a packet (`fwpsk.h`).

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

/// `INET_DISCARD_REASON` (`fwpsk.h`): the transport layer's reasons.
///
/// Reasons below [`ENDPOINT_NOT_FOUND`](inet::ENDPOINT_NOT_FOUND) mean that the
/// segment is invalid; the stack does not answer it. Reasons above it concern a
/// connection or a listener, except `TcbNotInTcbTable`.
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
    /// `InetDiscardPauseAccept`: the listener's backlog is full. Windows' own
    /// stealth mode suppresses the answer, too ("Disable stealth mode").
    pub const PAUSE_ACCEPT: u32 = 30;
    /// `InetDiscardAcceptRedirection`.
    pub const ACCEPT_REDIRECTION: u32 = 33;
}

/// `IP_DISCARD_REASON` (`fwpsk.h`): the network layer's reasons.
pub mod ip {
    /// `IpDiscardProtocolUnreachable`.
    pub const PROTOCOL_UNREACHABLE: u32 = 3;
    /// `IpDiscardPortUnreachable`.
    pub const PORT_UNREACHABLE: u32 = 4;
}
