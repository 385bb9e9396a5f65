//! The flags of a TCP header (RFC 9293, 3.1).

/// The sender has no more data.
pub const FIN: u8 = 0x01;
/// Synchronizes the sequence numbers.
pub const SYN: u8 = 0x02;
/// Resets the connection.
pub const RST: u8 = 0x04;
/// Passes the data to the application at once.
pub const PSH: u8 = 0x08;
/// The acknowledgement number is valid.
pub const ACK: u8 = 0x10;
/// The urgent pointer is valid.
pub const URG: u8 = 0x20;

/// All of these flags; those of ECN (RFC 3168) are not included.
pub const ALL: u8 = FIN | SYN | RST | PSH | ACK | URG;

/// The flags byte of a TCP header (RFC 9293, 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// Stands for flags that could not be read. The value is no reset and no scan
    /// technique.
    pub const UNREAD: Self = Self(0x3b);

    /// Whether the segment is a reset.
    pub fn is_reset(self) -> bool {
        self.0 & RST != 0
    }

    /// Whether a segment of an open connection can have these flags: ACK is set in
    /// all of them (RFC 9293, 3.10.7.4), and SYN and FIN never come together.
    pub fn is_of_connection(self) -> bool {
        self.0 & ACK != 0 && self.0 & (SYN | FIN) != SYN | FIN
    }

    /// The flags without those of ECN (RFC 3168, 6.1.1), which make no difference.
    #[inline(always)]
    pub fn without_ecn(self) -> Self {
        Self(self.0 & ALL)
    }
}
