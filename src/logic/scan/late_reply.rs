//! What is no probe: late replies.

use crate::logic::protocol::{TCP, UDP};
use crate::logic::stealth::Packet;
use crate::logic::tcp::TcpFlags;

/// The well-known ports end here (RFC 6335, 6: System Ports).
pub const WELL_KNOWN_END: u16 = 1024;

/// Whether a packet to a closed dynamic port is a late reply: a resolver's answer to a
/// socket that gave up, the last segments of a server, QUIC after the program ended.
///
/// A reply comes from a well-known port. It goes to a dynamic port, because clients
/// get dynamic ports. It is a datagram, or a segment with the flags of an open
/// connection. So FIN, NULL and Xmas scans are never taken for replies, and other
/// scans are not if they also probe ports below the dynamic ones.
pub fn is_reply(packet: &Packet) -> bool {
    matches!(packet.remote_port, Some(1..WELL_KNOWN_END))
        && match packet.protocol {
            Some(UDP) => true,
            Some(TCP) => packet.tcp_flags.is_some_and(TcpFlags::is_of_connection),
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::tcp::{ACK, FIN, PSH, SYN, URG};

    #[test]
    fn a_datagram_from_a_well_known_port_is_a_reply() {
        for (remote_port, expected) in [
            (Some(53), true),
            (Some(1), true),
            (Some(1023), true),
            (Some(1024), false),
            (Some(0), false),
            (None, false),
        ] {
            let packet = Packet { protocol: Some(UDP), remote_port, ..Packet::default() };
            assert_eq!(is_reply(&packet), expected, "{remote_port:?}");
            assert!(!is_reply(&Packet { protocol: Some(47), ..packet }));
        }
    }

    #[test]
    fn only_segments_of_a_connection_are_replies() {
        let of = |tcp_flags: Option<TcpFlags>| {
            let (protocol, remote_port) = (Some(TCP), Some(443));
            is_reply(&Packet { protocol, remote_port, tcp_flags, ..Packet::default() })
        };
        for flags in [ACK, ACK | PSH, ACK | FIN, ACK | FIN | PSH, ACK | SYN] {
            assert!(of(Some(TcpFlags(flags))), "{flags:#x}");
        }
        for flags in [SYN, FIN, 0, FIN | PSH | URG, SYN | FIN | ACK, TcpFlags::UNREAD.0] {
            assert!(!of(Some(TcpFlags(flags))), "{flags:#x}");
        }
        assert!(!of(None));
    }
}
