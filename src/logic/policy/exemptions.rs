//! Who is answered although silence is asked for.

use super::ports::PortSet;
use super::ranges::{Full, Range, RangeSet};
use crate::logic::address::Address;
use crate::logic::protocol::{TCP, UDP};

/// Most entries of `ExemptPrefixes`; each takes one range of its family.
pub const PREFIXES: usize = 1024;
/// Most entries of `ExemptInterfaces`.
pub const INTERFACES: usize = 64;

/// The exemption lists, ready to be looked up on a packet's path: one bit of a
/// map for the port, a table of places for the address, and a look at each of
/// the interfaces.
///
/// About 58 KB of integers only, and empty where all of them are zero: made in
/// zeroed memory, never on a kernel stack.
#[derive(Debug)]
#[repr(C)]
pub struct Exemptions {
    tcp: PortSet,
    udp: PortSet,
    v4: RangeSet<u32, PREFIXES>,
    v6: RangeSet<u128, PREFIXES>,
    interfaces: Luids,
}

/// A few numbers without an order.
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

    fn contains(&self, luid: u64) -> bool {
        self.all().contains(&luid)
    }

    fn insert(&mut self, luid: u64) -> Result<(), Full> {
        if self.contains(luid) {
            return Ok(());
        }
        *self.luids.get_mut(self.length).ok_or(Full)? = luid;
        self.length += 1;
        Ok(())
    }
}

/// What a packet is looked up by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sender {
    /// IP protocol.
    pub protocol: Option<u8>,
    /// The port it was for, where its protocol has ports.
    pub local_port: Option<u16>,
    /// Where it came from.
    pub address: Option<Address>,
    /// LUID of the interface it came through.
    pub interface: Option<u64>,
}

/// Which list a packet is on.
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
    /// Of TCP.
    pub tcp: bool,
    /// Of UDP.
    pub udp: bool,
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
}

/// One entry of `ExemptPrefixes`, as the addresses it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefix {
    /// IPv4 addresses as numbers.
    V4(Range<u32>),
    /// IPv6 addresses as numbers.
    V6(Range<u128>),
}

impl Exemptions {
    /// Nothing exempted; for tests, which have memory to spare on their stacks.
    #[cfg(test)]
    pub fn empty() -> Self {
        Self {
            tcp: PortSet::empty(),
            udp: PortSet::empty(),
            v4: RangeSet::empty(),
            v6: RangeSet::empty(),
            interfaces: Luids { length: 0, luids: [0; INTERFACES] },
        }
    }

    /// The first list that a packet is on.
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

    /// Whether nothing is exempted.
    pub fn is_empty(&self) -> bool {
        let ports = self.tcp.is_empty() && self.udp.is_empty();
        let prefixes = self.v4.ranges().is_empty() && self.v6.ranges().is_empty();
        ports && prefixes && self.interfaces.all().is_empty()
    }

    /// How many ports (TCP and UDP counted apart), prefixes and interfaces are
    /// exempted; ranges that touch are one.
    pub fn counts(&self) -> [u32; 3] {
        let prefixes = self.v4.ranges().len().saturating_add(self.v6.ranges().len());
        let ports = self.tcp.count().saturating_add(self.udp.count());
        [ports, prefixes as u32, self.interfaces.all().len() as u32]
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

    /// Adds an interface by its LUID.
    pub fn insert_interface(&mut self, luid: u64) -> Result<(), Full> {
        self.interfaces.insert(luid)
    }

    /// Takes out all ports.
    pub fn clear_ports(&mut self) {
        self.tcp.clear();
        self.udp.clear();
    }

    /// Takes out all prefixes.
    pub fn clear_prefixes(&mut self) {
        self.v4.clear();
        self.v6.clear();
    }

    /// Takes out all interfaces.
    pub fn clear_interfaces(&mut self) {
        self.interfaces.length = 0;
    }
}
