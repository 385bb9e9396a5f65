//! A packet, as far as the decisions look.

use core::net::IpAddr;

use crate::logic::address::Address;
use crate::logic::layers::Family;
use crate::logic::policy::Sender;
use crate::logic::scan::Remote;
use crate::logic::tcp;

/// What a classify says of a packet, asked one by one, and only as far as the
/// decision comes: most of it is never read.
#[allow(missing_docs, reason = "the fields of `Packet` say it")]
pub trait Shown {
    fn protocol(&self) -> Option<u8>;
    fn local_port(&self) -> Option<u16>;
    fn remote_address(&self) -> Option<Address>;
    fn interface(&self) -> Option<u64>;
    fn marks(&self) -> Marks;
    fn has_flow(&self) -> bool;
    fn has_endpoint(&self) -> bool;
    fn discard(&self) -> Option<Discard>;
    fn tcp_flags(&self) -> Option<TcpFlags>;
    fn icmp(&self) -> Option<Icmp>;

    /// Where it came from, as scan detection knows it.
    #[inline(always)]
    fn remote(&self) -> Option<Remote> {
        match self.remote_address()? {
            // One number at once, and not first an address of either family.
            Address::V4(bits) => Some(Address::V4(bits).into()),
            Address::V6(bits) => Some(Address::V6(bits).into()),
        }
    }

    /// By what it may be exempt.
    #[inline(always)]
    fn sender(&self) -> Sender {
        Sender {
            protocol: self.protocol(),
            local_port: self.local_port(),
            address: self.remote_address(),
            interface: self.interface(),
        }
    }

    /// All of it at once.
    fn packet(&self) -> Packet {
        Packet {
            protocol: self.protocol(),
            local_port: self.local_port(),
            remote_address: self.remote_address().map(IpAddr::from),
            interface: self.interface(),
            loopback: self.marks().has(Marks::LOOPBACK),
            ipsec_secured: self.marks().has(Marks::IPSEC_SECURED),
            flow: self.has_flow(),
            endpoint: self.has_endpoint(),
            discard: self.discard(),
            tcp_flags: self.tcp_flags(),
            icmp: self.icmp(),
        }
    }
}

/// A packet, as far as the decisions look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    /// IP protocol, where the layer gives it or the header could be read.
    pub protocol: Option<u8>,
    /// The port it was for.
    pub local_port: Option<u16>,
    /// Where it came from.
    pub remote_address: Option<IpAddr>,
    /// LUID of the interface it came through.
    pub interface: Option<u64>,
    /// `FWP_CONDITION_FLAG_IS_LOOPBACK`.
    pub loopback: bool,
    /// `FWP_CONDITION_FLAG_IS_IPSEC_SECURED`.
    pub ipsec_secured: bool,
    /// It belongs to a data flow.
    pub flow: bool,
    /// An endpoint took it: a connection's, or a listener's.
    pub endpoint: bool,
    /// Why it was discarded, where the engine says so.
    pub discard: Option<Discard>,
    /// The segment's flags, where its header could be read.
    pub tcp_flags: Option<TcpFlags>,
    /// Its ICMP type and code, where the layer has them.
    pub icmp: Option<Icmp>,
}

/// An ICMP message's type and code; at layers that have ports in their places,
/// only the protocol tells which they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct Icmp {
    pub family: Family,
    pub kind: u16,
    pub code: u16,
}

impl Shown for Packet {
    fn protocol(&self) -> Option<u8> {
        self.protocol
    }

    fn local_port(&self) -> Option<u16> {
        self.local_port
    }

    fn remote_address(&self) -> Option<Address> {
        self.remote_address.map(Address::from)
    }

    fn interface(&self) -> Option<u64> {
        self.interface
    }

    fn marks(&self) -> Marks {
        let mark = |mark: Marks, is_set| if is_set { mark } else { Marks::NONE };
        mark(Marks::LOOPBACK, self.loopback).or(mark(Marks::IPSEC_SECURED, self.ipsec_secured))
    }

    fn has_flow(&self) -> bool {
        self.flow
    }

    fn has_endpoint(&self) -> bool {
        self.endpoint
    }

    fn discard(&self) -> Option<Discard> {
        self.discard
    }

    fn tcp_flags(&self) -> Option<TcpFlags> {
        self.tcp_flags
    }

    fn icmp(&self) -> Option<Icmp> {
        self.icmp
    }
}

/// What may exempt a packet whoever sent it: two of the conditions' flags, in
/// their places there (`FWP_CONDITION_FLAG_*`, fwptypes.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks(u32);

impl Marks {
    /// Neither.
    pub const NONE: Self = Self(0);
    /// `FWP_CONDITION_FLAG_IS_LOOPBACK`.
    pub const LOOPBACK: Self = Self(1);
    /// `FWP_CONDITION_FLAG_IS_IPSEC_SECURED`.
    pub const IPSEC_SECURED: Self = Self(2);

    /// Those among a condition's flags.
    pub const fn of_flags(flags: u32) -> Self {
        Self(flags & (Self::LOOPBACK.0 | Self::IPSEC_SECURED.0))
    }

    /// As a number.
    pub(super) const fn bits(self) -> u16 {
        self.0 as u16
    }

    /// Either.
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether one of these is among them.
    pub const fn has(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }
}

/// Why a packet was discarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Discard {
    /// Who discarded it.
    pub module: Module,
    /// The module's own reason.
    pub reason: u32,
}

/// `FWPS_DISCARD_MODULE0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Module {
    /// The network layer.
    Network,
    /// The transport layer.
    Transport,
    /// A filter, or IPsec.
    General,
    /// A number that `fwpstypes.h` does not have.
    Other,
}

/// The flags byte of a TCP header (RFC 9293, 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// In place of flags that could not be read: all but those that would make
    /// it a reset, which no scan has a name for.
    pub const UNREAD: Self = Self(0x3b);

    /// Whether the segment is a reset.
    pub fn is_reset(self) -> bool {
        self.0 & tcp::RST != 0
    }

    /// Whether it asks for a connection.
    #[inline(always)]
    pub fn is_syn(self) -> bool {
        self.without_ecn() == Self(tcp::SYN)
    }

    /// The same without the flags of ECN (RFC 3168, 6.1.1), which make no
    /// difference.
    #[inline(always)]
    pub fn without_ecn(self) -> Self {
        Self(self.0 & tcp::ALL)
    }
}
