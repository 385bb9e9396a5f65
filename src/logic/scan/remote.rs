//! Who asks, and how.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::mix;
use crate::logic::stealth::TcpFlags;
use crate::logic::tcp::{ACK, FIN, PSH, RST, SYN, URG};

/// A remote address; IPv4 is mapped (RFC 4291, 2.5.5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Remote(pub u128);

impl From<Ipv4Addr> for Remote {
    fn from(address: Ipv4Addr) -> Self {
        Self(address.to_ipv6_mapped().to_bits())
    }
}

impl From<Ipv6Addr> for Remote {
    fn from(address: Ipv6Addr) -> Self {
        Self(address.to_bits())
    }
}

impl From<IpAddr> for Remote {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => address.into(),
        }
    }
}

impl Remote {
    /// As an address of its own family.
    pub fn address(self) -> IpAddr {
        Ipv6Addr::from_bits(self.0).to_canonical()
    }

    pub(super) const fn halves(self) -> [u64; 2] {
        [(self.0 >> 64) as u64, self.0 as u64]
    }

    /// A remote's mark, never 0.
    pub(super) const fn hash(self, seed: u64) -> u64 {
        let [high, low] = self.halves();
        mix(low, mix(high, seed)) | 1
    }
}

/// How a port is asked, named as nmap names its scans. A connect scan's first
/// segment is a SYN scan's, a window scan's an ACK scan's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Technique {
    /// `-sS`, `-sT`.
    Syn,
    /// `-sF`.
    Fin,
    /// `-sN`.
    Null,
    /// `-sX`: FIN, PSH, URG.
    Xmas,
    /// `-sA`, `-sW`.
    Ack,
    /// `-sM`: FIN, ACK.
    Maimon,
    /// `-sU`.
    Udp,
    /// Other flags (`--scanflags`), or flags that could not be read.
    Other,
}

impl Technique {
    /// Every technique.
    pub const ALL: [Self; 8] =
        [Self::Syn, Self::Fin, Self::Null, Self::Xmas, Self::Ack, Self::Maimon, Self::Udp, Self::Other];

    /// A segment's. `None` for a reset, which asks nothing. The flags of ECN
    /// (RFC 3168, 6.1.1) come with any SYN and make no difference.
    pub const fn of_segment(flags: TcpFlags) -> Option<Self> {
        const XMAS: u8 = FIN | PSH | URG;
        const MAIMON: u8 = FIN | ACK;
        Some(match flags.0 & (FIN | SYN | RST | PSH | ACK | URG) {
            flags if flags & RST != 0 => return None,
            SYN => Self::Syn,
            FIN => Self::Fin,
            0 => Self::Null,
            XMAS => Self::Xmas,
            ACK => Self::Ack,
            MAIMON => Self::Maimon,
            _ => Self::Other,
        })
    }
}

/// The techniques a remote was seen to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Techniques(u8);

impl Techniques {
    /// Whether it is among them.
    pub const fn has(self, technique: Technique) -> bool {
        self.0 & 1 << technique as u8 != 0
    }

    pub(super) const fn bit(technique: Technique) -> u8 {
        1 << technique as u8
    }

    pub(super) const fn of_bits(bits: u8) -> Self {
        Self(bits)
    }
}
