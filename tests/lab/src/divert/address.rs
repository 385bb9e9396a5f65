//! `WINDIVERT_ADDRESS`: where a packet or an event comes from.

use std::net::{Ipv6Addr, SocketAddr};

use super::device::flag;

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
    /// All layers.
    pub const ALL: [Self; 5] = [Self::Network, Self::Forward, Self::Flow, Self::Socket, Self::Reflect];

    /// The flags that the layer requires: FLOW and REFLECT events can only be watched,
    /// SOCKET operations only be received.
    pub fn flags(self) -> u64 {
        match self {
            Self::Network | Self::Forward => 0,
            Self::Socket => flag::RECV_ONLY,
            Self::Flow | Self::Reflect => flag::SNIFF | flag::RECV_ONLY,
        }
    }

    /// Whether it shows packets, which can be sent back.
    pub fn has_packets(self) -> bool {
        matches!(self, Self::Network | Self::Forward)
    }
}

/// Bytes of a `WINDIVERT_ADDRESS`.
pub const SIZE: usize = 80;

/// A `WINDIVERT_ADDRESS`.
#[derive(Clone, Copy, Debug)]
pub struct Address {
    /// As the driver writes it.
    pub bytes: [u8; SIZE],
}

/// The bits of an address, from `Sniffed` on.
#[allow(missing_docs, reason = "the names are windivert.h's own")]
pub mod bit {
    pub const SNIFFED: u8 = 0x01;
    pub const OUTBOUND: u8 = 0x02;
    pub const LOOPBACK: u8 = 0x04;
    pub const IMPOSTOR: u8 = 0x08;
    pub const IPV6: u8 = 0x10;
    pub const IP_CHECKSUM: u8 = 0x20;
    pub const TCP_CHECKSUM: u8 = 0x40;
    pub const UDP_CHECKSUM: u8 = 0x80;
    /// Those that say that checksums are valid.
    pub const CHECKSUMS: u8 = IP_CHECKSUM | TCP_CHECKSUM | UDP_CHECKSUM;
}

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
    /// The address of a packet that a program makes for the network layer.
    pub fn of_packet(bits: u8, interface: u32) -> Self {
        let mut bytes = [0; SIZE];
        bytes[10] = bits;
        bytes[16..20].copy_from_slice(&interface.to_le_bytes());
        Self { bytes }
    }

    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        std::array::from_fn(|byte| self.bytes[at + byte])
    }

    fn word(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.array(at))
    }

    fn half(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.array(at))
    }

    /// The number of its [`Layer`].
    pub fn layer(&self) -> u8 {
        self.bytes[8]
    }

    /// `WINDIVERT_EVENT_*`.
    pub fn event(&self) -> u8 {
        self.bytes[9]
    }

    /// All [`bit`]s.
    pub fn all_bits(&self) -> u8 {
        self.bytes[10]
    }

    /// The [`bit`]s without those of checksums.
    pub fn bits(&self) -> u8 {
        self.all_bits() & !bit::CHECKSUMS
    }

    /// Interface and sub-interface of a packet.
    pub fn interface(&self) -> (u32, u32) {
        (self.word(16), self.word(20))
    }

    /// Endpoint and parent endpoint of a FLOW or SOCKET event.
    pub fn endpoints(&self) -> [u64; 2] {
        [16, 24].map(|at| u64::from_le_bytes(self.array(at)))
    }

    /// The process of a FLOW or SOCKET event.
    pub fn process(&self) -> u32 {
        self.word(32)
    }

    /// Local and remote end of a FLOW or SOCKET event. An address is a number in the byte
    /// order of the machine, the lowest word first; IPv4's are mapped.
    pub fn ends(&self) -> [SocketAddr; 2] {
        [(36, 68), (52, 70)].map(|(at, port)| {
            let ip = Ipv6Addr::from_bits(u128::from_le_bytes(self.array(at)));
            SocketAddr::new(ip.into(), self.half(port))
        })
    }

    /// The protocol of a FLOW or SOCKET event.
    pub fn protocol(&self) -> u8 {
        self.bytes[72]
    }

    /// Process, layer, flags and priority of the handle that a REFLECT event is about.
    pub fn reflected(&self) -> (u32, u32, u64, i16) {
        let flags = u64::from_le_bytes(self.array(32));
        (self.word(24), self.word(28), flags, self.half(40) as i16)
    }

    /// `in`, `out`, and more if there is more.
    pub fn direction(&self) -> String {
        let has = |bit| self.all_bits() & bit != 0;
        let marks = [(bit::LOOPBACK, " loopback"), (bit::IMPOSTOR, " impostor")];
        let marks: String = marks.iter().filter(|(bit, _)| has(*bit)).map(|(_, name)| *name).collect();
        format!("{:3}{marks}", if has(bit::OUTBOUND) { "out" } else { "in" })
    }

    /// An event in one line.
    pub fn event_text(&self) -> String {
        let event = self.event();
        let name = EVENTS.get(usize::from(event)).copied().unwrap_or("an unknown event");
        match event {
            1..=7 => {
                let [local, remote] =
                    self.ends().map(|end| SocketAddr::new(end.ip().to_canonical(), end.port()));
                let (process, protocol) = (self.process(), self.protocol());
                format!("{name} process {process}, protocol {protocol}, {local} <-> {remote}")
            }
            8 | 9 => {
                let (process, layer, _, priority) = self.reflected();
                format!("{name} process {process}, layer {layer}, priority {priority}")
            }
            _ => name.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_told_with_its_ends() {
        let mut address = Address { bytes: [0; SIZE] };
        address.bytes[9] = 4;
        address.bytes[10] = 2 | 4;
        address.bytes[32] = 9;
        address.bytes[36..44].copy_from_slice(&[2, 0, 77, 10, 0xFF, 0xFF, 0, 0]);
        address.bytes[52..60].copy_from_slice(&[1, 0, 77, 10, 0xFF, 0xFF, 0, 0]);
        address.bytes[68..73].copy_from_slice(&[0x39, 0x30, 80, 0, 6]);
        let expected = "SOCKET_CONNECT process 9, protocol 6, 10.77.0.2:12345 <-> 10.77.0.1:80";
        assert_eq!(address.event_text(), expected);
        assert_eq!(address.direction(), "out loopback");
        address.bytes[9] = 8;
        address.bytes[40..42].copy_from_slice(&(-7i16).to_le_bytes());
        assert!(address.event_text().contains("priority -7"), "{}", address.event_text());
    }
}
