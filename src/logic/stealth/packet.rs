//! The view of a packet that the decisions read.

use core::net::IpAddr;

use super::discard::{Discard, Module, inet};
use crate::logic::address::Address;
use crate::logic::layers::Family;
use crate::logic::policy::Sender;
use crate::logic::scan::Remote;
use crate::logic::tcp::TcpFlags;

/// The view of an indicated packet. A decision reads one field after another and
/// stops as soon as it can, so most fields are never read.
#[allow(missing_docs, reason = "the fields of `Packet` are documented")]
pub trait PacketView {
    fn protocol(&self) -> Option<u8>;
    fn local_port(&self) -> Option<u16>;
    fn remote_address(&self) -> Option<Address>;
    fn interface(&self) -> Option<u64>;
    fn profile(&self) -> Option<u32>;
    fn remote_port(&self) -> Option<u16>;
    fn condition_flags(&self) -> ConditionFlags;
    fn has_flow(&self) -> bool;
    fn has_endpoint(&self) -> bool;
    fn discard(&self) -> Option<Discard>;
    fn tcp_flags(&self) -> Option<TcpFlags>;
    fn icmp(&self) -> Option<Icmp>;
    fn is_for_several(&self) -> bool;
    fn compartment(&self) -> Option<u32>;

    /// Whether the transport layer discarded the packet because no endpoint took it,
    /// and it belongs to no flow and no endpoint, as in the common case. An
    /// implementation may find this out more cheaply, but must return the same.
    #[inline(always)]
    fn found_no_endpoint(&self) -> bool {
        !self.has_flow()
            && !self.has_endpoint()
            && self.discard() == Some(Discard { module: Module::Transport, reason: inet::ENDPOINT_NOT_FOUND })
    }

    /// Whether it is in another compartment than the machine's own. One that is not known
    /// counts as the machine's own.
    #[inline(always)]
    fn is_in_other_compartment(&self) -> bool {
        self.compartment().is_some_and(is_other_compartment)
    }

    /// Whether it is a segment that resets a connection.
    #[inline(always)]
    fn is_reset(&self) -> bool {
        matches!(self.tcp_flags(), Some(flags) if flags.is_reset())
    }

    /// The sender, for scan detection.
    #[inline(always)]
    fn remote(&self) -> Option<Remote> {
        match self.remote_address()? {
            // Converts each family directly, without a match on the result.
            Address::V4(bits) => Some(Address::V4(bits).into()),
            Address::V6(bits) => Some(Address::V6(bits).into()),
        }
    }

    /// The key for the lists of exemptions.
    #[inline(always)]
    fn sender(&self) -> Sender {
        Sender {
            protocol: self.protocol(),
            local_port: self.local_port(),
            address: self.remote_address(),
            interface: self.interface(),
        }
    }

    /// Reads all fields, for events.
    fn to_packet(&self) -> Packet {
        let flags = self.condition_flags();
        Packet {
            protocol: self.protocol(),
            local_port: self.local_port(),
            remote_address: self.remote_address().map(IpAddr::from),
            interface: self.interface(),
            profile: self.profile(),
            remote_port: self.remote_port(),
            loopback: flags.has(ConditionFlags::LOOPBACK),
            ipsec_secured: flags.has(ConditionFlags::IPSEC_SECURED),
            compartment: self.compartment(),
            for_several: self.is_for_several(),
            flow: self.has_flow(),
            endpoint: self.has_endpoint(),
            discard: self.discard(),
            tcp_flags: self.tcp_flags(),
            icmp: self.icmp(),
        }
    }
}

/// A packet with all fields that the decisions can read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    /// The IP protocol, if the layer has it or the header could be read.
    pub protocol: Option<u8>,
    /// The destination port.
    pub local_port: Option<u16>,
    /// The source address.
    pub remote_address: Option<IpAddr>,
    /// The LUID of the interface that received it.
    pub interface: Option<u64>,
    /// The profile of the interface's network, if the layer has it.
    pub profile: Option<u32>,
    /// The source port.
    pub remote_port: Option<u16>,
    /// `FWP_CONDITION_FLAG_IS_LOOPBACK`.
    pub loopback: bool,
    /// `FWP_CONDITION_FLAG_IS_IPSEC_SECURED`.
    pub ipsec_secured: bool,
    /// The network compartment, if the layer shows it.
    pub compartment: Option<u32>,
    /// Whether it is for several machines: its destination is a broadcast or multicast
    /// address.
    pub for_several: bool,
    /// Whether it belongs to a flow.
    pub flow: bool,
    /// Whether it belongs to an endpoint of a connection or a listener.
    pub endpoint: bool,
    /// Why it was discarded, if the engine says so.
    pub discard: Option<Discard>,
    /// The segment's flags, if its header could be read.
    pub tcp_flags: Option<TcpFlags>,
    /// The ICMP type and code, if the layer has them.
    pub icmp: Option<Icmp>,
}

/// The type and code of an ICMP message. Some layers have ports in the same fields;
/// then the protocol tells which they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Icmp {
    pub family: Family,
    pub kind: u16,
    pub code: u16,
}

impl Icmp {
    /// Whether it is the error port unreachable or protocol unreachable: RFC 792,
    /// destination unreachable, code 2 protocol, code 3 port; RFC 4443, 3.1 code 4
    /// port, 3.4 code 1 unrecognized next header.
    pub const fn is_unreachable(self) -> bool {
        matches!(
            (self.family, self.kind, self.code),
            (Family::V4, 3, 2 | 3) | (Family::V6, 1, 4) | (Family::V6, 4, 1)
        )
    }
}

impl PacketView for Packet {
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

    fn profile(&self) -> Option<u32> {
        self.profile
    }

    fn remote_port(&self) -> Option<u16> {
        self.remote_port
    }

    fn condition_flags(&self) -> ConditionFlags {
        let mark = |mark: ConditionFlags, is_set| if is_set { mark } else { ConditionFlags::NONE };
        mark(ConditionFlags::LOOPBACK, self.loopback)
            .or(mark(ConditionFlags::IPSEC_SECURED, self.ipsec_secured))
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

    fn is_for_several(&self) -> bool {
        self.for_several
    }

    fn compartment(&self) -> Option<u32> {
        self.compartment
    }
}

/// `NET_IF_COMPARTMENT_ID_PRIMARY` (ifdef.h): the compartment of the machine's own
/// network stack. Containers have others.
pub const PRIMARY_COMPARTMENT: u32 = 1;

/// Whether this is the number of another compartment than the machine's own. 0 is
/// `NET_IF_COMPARTMENT_ID_UNSPECIFIED` (ifdef.h), so it says nothing.
#[inline(always)]
pub const fn is_other_compartment(number: u32) -> bool {
    number > PRIMARY_COMPARTMENT
}

/// The condition flags that can exempt a packet: two of `FWP_CONDITION_FLAG_*`
/// (fwptypes.h), with their values there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConditionFlags(u32);

impl ConditionFlags {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// `FWP_CONDITION_FLAG_IS_LOOPBACK`.
    pub const LOOPBACK: Self = Self(1);
    /// `FWP_CONDITION_FLAG_IS_IPSEC_SECURED`.
    pub const IPSEC_SECURED: Self = Self(2);

    /// The flags in a layer's field `FLAGS`.
    pub const fn of_flags(flags: u32) -> Self {
        Self(flags & (Self::LOOPBACK.0 | Self::IPSEC_SECURED.0))
    }

    /// The flags as a number.
    pub(super) const fn bits(self) -> u16 {
        self.0 as u16
    }

    /// The union of both.
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether one of `others` is set.
    pub const fn has(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }
}
