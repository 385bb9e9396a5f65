//! Addresses that stand for several machines: broadcast and multicast.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::options::Options;
use crate::wire::Family;

/// The groups that every Windows joins: all nodes (RFC 1112; RFC 4291, 2.7.1), and those
/// of its resolver and of SSDP (RFC 6762, RFC 4795, UPnP).
pub(super) const USUAL: [IpAddr; 8] = [
    v4(224, 0, 0, 1),
    v4(224, 0, 0, 251),
    v4(224, 0, 0, 252),
    v4(239, 255, 255, 250),
    v6(0x1),
    v6(0xfb),
    v6(0x1_0003),
    v6(0xc),
];

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

/// A group of the link.
const fn v6(group: u128) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from_bits(0xff02 << 112 | group))
}

/// The group to which neighbors send solicitations for an address (RFC 4291, 2.7.1).
fn solicited(address: Ipv6Addr) -> IpAddr {
    v6(0x1_ff00_0000 | address.to_bits() & 0xff_ffff)
}

impl Options {
    /// `NL_ADDRESS_TYPE` (`nldef.h`): unspecified 0, unicast 1, multicast 3, broadcast 4.
    pub fn address_type(&self, address: IpAddr) -> u8 {
        match address {
            _ if address.is_unspecified() => 0,
            _ if address.is_multicast() => 3,
            IpAddr::V4(v4) if v4.is_broadcast() || self.broadcasts.contains(&address) => 4,
            _ => 1,
        }
    }

    /// Whether an address stands for several machines. Nobody answers a segment, nor
    /// reports an error about a packet, for such an address (RFC 9293, 3.9.2.2; RFC 1122,
    /// 3.2.2; RFC 4443, 2.4).
    pub fn is_for_several(&self, address: IpAddr) -> bool {
        matches!(self.address_type(address), 3 | 4)
    }

    /// Whether the host takes packets for an address (RFC 1122, 3.2.1.3).
    pub(super) fn receives(&self, address: IpAddr) -> bool {
        match self.address_type(address) {
            4 => true,
            3 => self.groups.contains(&address) || address == solicited(self.network.host.1),
            _ => address == self.network.host_address(Family::of(address)),
        }
    }
}
