//! `WINDIVERT_ADDRESS`: where a packet or an event comes from.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// `WINDIVERT_LAYER`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
#[allow(missing_docs, reason = "the names are windivert.h's own")]
pub enum Layer {
    #[default]
    Network = 0,
    Forward = 1,
    Flow = 2,
    Socket = 3,
    Reflect = 4,
}

impl Layer {
    /// Whether it shows packets, which can be sent back.
    pub fn has_packets(self) -> bool {
        matches!(self, Self::Network | Self::Forward)
    }
}

/// Bytes of a `WINDIVERT_ADDRESS`.
pub const SIZE: usize = 80;

/// A `WINDIVERT_ADDRESS`.
#[derive(Clone, Debug)]
pub struct Address(pub [u8; SIZE]);

/// Names of `WINDIVERT_EVENT_*`, by number.
const EVENTS: [&str; 10] = [
    "NETWORK_PACKET",
    "FLOW_ESTABLISHED",
    "FLOW_DELETED",
    "SOCKET_BIND",
    "SOCKET_CONNECT",
    "SOCKET_LISTEN",
    "SOCKET_ACCEPT",
    "SOCKET_CLOSE",
    "REFLECT_OPEN",
    "REFLECT_CLOSE",
];

impl Address {
    fn word(&self, at: usize) -> u32 {
        let bytes = [0, 1, 2, 3].map(|byte| self.0[at + byte]);
        u32::from_le_bytes(bytes)
    }

    fn half(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.0[at], self.0[at + 1]])
    }

    /// `in`, `out`, and more if there is more.
    pub fn direction(&self) -> String {
        const OUTBOUND: u8 = 2;
        const LOOPBACK: u8 = 4;
        const IMPOSTOR: u8 = 8;
        let bits = self.0[10];
        let marks = [(LOOPBACK, " loopback"), (IMPOSTOR, " impostor")];
        let marks: String = marks.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect();
        format!("{:3}{marks}", if bits & OUTBOUND != 0 { "out" } else { "in" })
    }

    /// An event in one line.
    pub fn event_text(&self) -> String {
        let event = self.0[9];
        let name = EVENTS.get(usize::from(event)).copied().unwrap_or("an unknown event");
        match event {
            1..=7 => {
                // Flow and socket: the process, the addresses, the ports, the protocol.
                let [local, remote] =
                    [(36, 68), (52, 70)].map(|(ip, port)| SocketAddr::new(self.ip(ip), self.half(port)));
                format!("{name} process {}, protocol {}, {local} <-> {remote}", self.word(32), self.0[72])
            }
            8 | 9 => {
                let priority = self.half(40) as i16;
                format!("{name} process {}, layer {}, priority {priority}", self.word(24), self.word(28))
            }
            _ => name.to_owned(),
        }
    }

    /// An address as four words in host order, the lowest first; IPv4 is mapped.
    fn ip(&self, at: usize) -> IpAddr {
        let words = [3, 2, 1, 0].map(|word| u128::from(self.word(at + 4 * word)));
        let bits = words.into_iter().fold(0, |bits, word| bits << 32 | word);
        Ipv6Addr::from_bits(bits).to_canonical()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_told_with_its_ends() {
        let mut address = Address([0; SIZE]);
        address.0[9] = 4;
        address.0[10] = 2 | 4;
        address.0[32] = 9;
        address.0[36..44].copy_from_slice(&[2, 0, 77, 10, 0xFF, 0xFF, 0, 0]);
        address.0[52..60].copy_from_slice(&[1, 0, 77, 10, 0xFF, 0xFF, 0, 0]);
        address.0[68..73].copy_from_slice(&[0x39, 0x30, 80, 0, 6]);
        let expected = "SOCKET_CONNECT process 9, protocol 6, 10.77.0.2:12345 <-> 10.77.0.1:80";
        assert_eq!(address.event_text(), expected);
        assert_eq!(address.direction(), "out loopback");
        address.0[9] = 8;
        address.0[40..42].copy_from_slice(&(-7i16).to_le_bytes());
        assert!(address.event_text().contains("priority -7"), "{}", address.event_text());
    }
}
