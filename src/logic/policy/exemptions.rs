//! The exemptions: packets that are answered in spite of the policy.

use super::ports::PortSet;
use super::profiles::Profiles;
use super::ranges::{Full, Range, RangeSet};
use crate::logic::address::Address;
use crate::logic::protocol::{TCP, UDP};

/// The most entries of `ExemptPrefixes`. Each takes one range of its family.
pub const PREFIXES: usize = 1024;
/// The most entries of `ExemptInterfaces`.
pub const INTERFACES: usize = 64;

/// The lists of exemptions, made for fast lookups: a bitmap of ports, an index of
/// address ranges, a short list of interfaces, and a set of profiles.
///
/// About 58 KB. The type contains only integers, and zero means empty, so that it
/// can be made in zeroed memory, never on a kernel stack.
#[derive(Debug)]
#[repr(C)]
pub struct Exemptions {
    tcp: PortSet,
    udp: PortSet,
    v4: RangeSet<u32, PREFIXES>,
    v6: RangeSet<u128, PREFIXES>,
    interfaces: Luids,
    profiles: Profiles,
}

/// A short list of interface LUIDs and interface types, in no order.
#[derive(Debug)]
#[repr(C)]
struct Luids {
    length: usize,
    luids: [u64; INTERFACES],
}

impl Luids {
    fn all(&self) -> &[u64] {
        self.luids.get(..self.length).unwrap_or(&[])
    }

    /// Whether the interface or its type is in the list.
    fn contains(&self, luid: u64) -> bool {
        let of_type = Interface::of_type(luid).0;
        self.all().iter().any(|entry| *entry == luid || *entry == of_type)
    }

    fn insert(&mut self, Interface(entry): Interface) -> Result<(), Full> {
        if self.all().contains(&entry) {
            return Ok(());
        }
        *self.luids.get_mut(self.length).ok_or(Full)? = entry;
        self.length += 1;
        Ok(())
    }
}

/// One entry of `ExemptInterfaces`: a LUID, or a type for all interfaces of it.
///
/// A LUID has the interface's type in its upper 16 bits, and its lower 24 bits are
/// reserved and 0 (`NET_LUID_LH`, ifdef.h). So a type is kept as a number that no
/// LUID is: the type in its place, and 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface(u64);

const TYPE_SHIFT: u32 = 48;

impl Interface {
    /// An interface.
    pub const fn luid(luid: u64) -> Self {
        Self(luid)
    }

    /// All interfaces of a type (`IF_TYPE_*`, ipifcons.h).
    pub const fn kind(kind: u16) -> Self {
        Self((kind as u64) << TYPE_SHIFT | 1)
    }

    /// All interfaces that have the type of this one.
    const fn of_type(luid: u64) -> Self {
        Self::kind((luid >> TYPE_SHIFT) as u16)
    }
}

/// The properties of a packet that exemptions look at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sender {
    /// The IP protocol.
    pub protocol: Option<u8>,
    /// The destination port, if the protocol has ports.
    pub local_port: Option<u16>,
    /// The source address.
    pub address: Option<Address>,
    /// The LUID of the interface that received it.
    pub interface: Option<u64>,
}

/// The list that a packet is on, except `ExemptProfiles`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exemption {
    /// `ExemptPorts`.
    Port,
    /// `ExemptPrefixes`.
    Prefix,
    /// `ExemptInterfaces`.
    Interface,
}

/// One entry of `ExemptPorts`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortEntry {
    /// For TCP.
    pub tcp: bool,
    /// For UDP.
    pub udp: bool,
    /// The first port.
    pub first: u16,
    /// The last port.
    pub last: u16,
}

/// One entry of `ExemptPrefixes`, as a range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefix {
    /// IPv4 addresses as numbers.
    V4(Range<u32>),
    /// IPv6 addresses as numbers.
    V6(Range<u128>),
}

impl Exemptions {
    /// No exemptions; for tests, which have a larger stack.
    #[cfg(test)]
    pub fn empty() -> Self {
        Self {
            tcp: PortSet::empty(),
            udp: PortSet::empty(),
            v4: RangeSet::empty(),
            v6: RangeSet::empty(),
            interfaces: Luids { length: 0, luids: [0; INTERFACES] },
            profiles: Profiles::NONE,
        }
    }

    /// The first list that a packet is on, except `ExemptProfiles`.
    #[inline(never)]
    pub fn of(&self, sender: &Sender) -> Option<Exemption> {
        let ports = match sender.protocol {
            Some(TCP) => Some(&self.tcp),
            Some(UDP) => Some(&self.udp),
            _ => None,
        };
        if ports.zip(sender.local_port).is_some_and(|(ports, port)| ports.contains(port)) {
            return Some(Exemption::Port);
        }
        let prefix = match sender.address {
            Some(Address::V4(address)) => self.v4.contains(address),
            Some(Address::V6(address)) => self.v6.contains(address),
            None => false,
        };
        if prefix {
            return Some(Exemption::Prefix);
        }
        let interface = sender.interface.is_some_and(|luid| self.interfaces.contains(luid));
        interface.then_some(Exemption::Interface)
    }

    /// Whether `ExemptProfiles` has entries.
    pub fn has_profiles(&self) -> bool {
        !self.profiles.is_empty()
    }

    /// Whether `ExemptProfiles` has the profile of a packet's network. An unknown
    /// profile is on no list.
    pub fn has_profile(&self, profile: Option<u32>) -> bool {
        profile.is_some_and(|profile| self.profiles.contains(profile))
    }

    /// Whether all lists are empty.
    pub fn is_empty(&self) -> bool {
        let ports = self.tcp.is_empty() && self.udp.is_empty();
        let prefixes = self.v4.ranges().is_empty() && self.v6.ranges().is_empty();
        ports && prefixes && self.interfaces.all().is_empty() && self.profiles.is_empty()
    }

    /// The number of ports (TCP and UDP counted separately), of prefixes, of
    /// interfaces and their types, and of profiles. Adjacent and overlapping
    /// prefixes are merged and count as one.
    pub fn counts(&self) -> [u32; 4] {
        let prefixes = self.v4.ranges().len().saturating_add(self.v6.ranges().len());
        let ports = self.tcp.count().saturating_add(self.udp.count());
        [ports, prefixes as u32, self.interfaces.all().len() as u32, self.profiles.count()]
    }

    /// Adds ports.
    pub fn insert_ports(&mut self, ports: PortEntry) {
        if ports.tcp {
            self.tcp.insert(ports.first, ports.last);
        }
        if ports.udp {
            self.udp.insert(ports.first, ports.last);
        }
    }

    /// Adds a prefix.
    pub fn insert_prefix(&mut self, prefix: Prefix) -> Result<(), Full> {
        match prefix {
            Prefix::V4(range) => self.v4.insert(range),
            Prefix::V6(range) => self.v6.insert(range),
        }
    }

    /// Adds an interface, or a type of interfaces.
    pub fn insert_interface(&mut self, interface: Interface) -> Result<(), Full> {
        self.interfaces.insert(interface)
    }

    /// Adds a profile by its number.
    pub fn insert_profile(&mut self, profile: u32) {
        self.profiles.insert(profile);
    }

    /// Removes all ports.
    pub fn clear_ports(&mut self) {
        self.tcp.clear();
        self.udp.clear();
    }

    /// Removes all prefixes.
    pub fn clear_prefixes(&mut self) {
        self.v4.clear();
        self.v6.clear();
    }

    /// Removes all interfaces.
    pub fn clear_interfaces(&mut self) {
        self.interfaces.length = 0;
    }

    /// Removes all profiles.
    pub fn clear_profiles(&mut self) {
        self.profiles = Profiles::NONE;
    }
}
