//! The part of a TCP header that the driver reads (RFC 9293, 3.1).

use super::stealth::TcpFlags;

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

/// Bytes read from the header's start: up to the flags.
pub const READ: usize = 14;

/// A segment's ports, as numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// The sender's.
    pub source: u16,
    /// The receiver's.
    pub destination: u16,
}

/// The flags of a header with these ports; bytes with others are no header of
/// this segment.
pub fn flags(header: &[u8; READ], ports: Ports) -> Option<TcpFlags> {
    let [s0, s1, d0, d1, .., flags] = *header;
    let found = Ports { source: u16::from_be_bytes([s0, s1]), destination: u16::from_be_bytes([d0, d1]) };
    (found == ports).then_some(TcpFlags(flags))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ports_tell_a_header_from_other_bytes() {
        let ports = Ports { source: 0xbeef, destination: 443 };
        let mut header = [0; READ];
        header[..4].copy_from_slice(&[0xbe, 0xef, 0x01, 0xbb]);
        header[13] = 0x14;
        assert_eq!(flags(&header, ports), Some(TcpFlags(0x14)));
        header[3] = 0xbc;
        assert_eq!(flags(&header, ports), None);
    }
}
