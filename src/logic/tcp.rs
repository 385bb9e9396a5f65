//! The flags of a TCP header (RFC 9293, 3.1).

/// The sender has no more to send.
pub const FIN: u8 = 0x01;
/// Synchronizes sequence numbers.
pub const SYN: u8 = 0x02;
/// Resets the connection.
pub const RST: u8 = 0x04;
/// Data for the reader at once.
pub const PSH: u8 = 0x08;
/// The acknowledgement number counts.
pub const ACK: u8 = 0x10;
/// The urgent pointer counts.
pub const URG: u8 = 0x20;

/// All of these; what ECN adds (RFC 3168) is not among them.
pub const ALL: u8 = FIN | SYN | RST | PSH | ACK | URG;
