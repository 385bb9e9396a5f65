//! Remotes, and the techniques that they scan with.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Seed, fold};
use crate::logic::address::Address;
use crate::logic::protocol::{TCP, UDP};
use crate::logic::stealth::PacketView;
use crate::logic::tcp::{ACK, FIN, PSH, SYN, TcpFlags, URG};

/// A remote address. IPv4 addresses are mapped (RFC 4291, 2.5.5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Remote(pub u128);

impl From<Ipv4Addr> for Remote {
    fn from(address: Ipv4Addr) -> Self {
        IpAddr::from(address).into()
    }
}

impl From<Ipv6Addr> for Remote {
    fn from(address: Ipv6Addr) -> Self {
        IpAddr::from(address).into()
    }
}

impl From<IpAddr> for Remote {
    fn from(address: IpAddr) -> Self {
        Address::from(address).into()
    }
}

impl From<Address> for Remote {
    #[inline(always)]
    fn from(address: Address) -> Self {
        match address {
            Address::V4(bits) => Self(0xffff_0000_0000 | u128::from(bits)),
            Address::V6(bits) => Self(bits),
        }
    }
}

impl Remote {
    /// The address in its own family.
    pub fn address(self) -> IpAddr {
        Ipv6Addr::from_bits(self.0).to_canonical()
    }

    pub(super) const fn halves(self) -> [u64; 2] {
        [(self.0 >> 64) as u64, self.0 as u64]
    }

    /// The hash of a remote.
    #[inline(always)]
    pub(super) const fn hash(self, Seed(seed): Seed) -> u64 {
        let [high, low] = self.halves();
        fold(high.wrapping_add(seed), low.wrapping_sub(seed))
    }
}

/// The technique of a probe, with nmap's names. A connect scan begins like a SYN
/// scan, and a window scan is like an ACK scan.
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

    /// The technique of a packet to a closed port. `None` if no scan sends such a
    /// packet.
    #[inline(always)]
    pub fn of(packet: &impl PacketView) -> Option<Self> {
        match packet.protocol()? {
            UDP => Some(Self::Udp),
            TCP => match packet.tcp_flags() {
                Some(flags) => Self::of_segment(flags),
                None => Some(Self::Other),
            },
            _ => None,
        }
    }

    /// The technique of a segment. `None` for a reset. The flags of ECN (RFC 3168,
    /// 6.1.1) come with any SYN and make no difference.
    #[inline(always)]
    pub fn of_segment(flags: TcpFlags) -> Option<Self> {
        /// Indexed by the six flags, so that a lookup takes one load.
        static BY_FLAGS: [Technique; 64] = {
            let (mut by_flags, mut flags) = ([Technique::Other; 64], 0);
            while flags < by_flags.len() {
                by_flags[flags] = Technique::of_flags(flags as u8);
                flags += 1;
            }
            by_flags
        };
        if flags.is_reset() {
            return None;
        }
        // Six bits are always within bounds.
        Some(BY_FLAGS[usize::from(flags.without_ecn().0)])
    }

    const fn of_flags(flags: u8) -> Self {
        const XMAS: u8 = FIN | PSH | URG;
        const MAIMON: u8 = FIN | ACK;
        match flags {
            SYN => Self::Syn,
            FIN => Self::Fin,
            0 => Self::Null,
            XMAS => Self::Xmas,
            ACK => Self::Ack,
            MAIMON => Self::Maimon,
            _ => Self::Other,
        }
    }
}

/// The techniques a remote was seen to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Techniques(u8);

impl Techniques {
    /// Whether a technique is in the set.
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
