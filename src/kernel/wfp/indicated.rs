//! The packet of an indication, as the decisions read it.
//!
//! Protocol and local port are read at once, everything else only when the decision
//! asks.
#![deny(unsafe_code)]

use super::incoming::Incoming;
use crate::ffi;
use crate::logic::address::Address;
use crate::logic::stealth::{ConditionFlags, Discard, Icmp, PacketView};
use crate::logic::tcp::TcpFlags;

/// The packet of an indication.
pub struct IndicatedPacket<'i, 'a> {
    pub(super) incoming: &'i Incoming<'a>,
    pub(super) protocol: Option<u8>,
    pub(super) local_port: Option<u16>,
    /// The source port of a header that was read. `None`: the layer's field has it.
    pub(super) source: Option<u16>,
    pub(super) tcp_flags: TcpFlags,
    /// It was asked, found no endpoint, and resets nothing. Neither is asked again: what is
    /// read behind an acquire cannot be taken from a register.
    pub(super) is_common: bool,
    /// It was asked and is plain ([`Incoming::is_plain`]).
    pub(super) is_plain: bool,
}

impl Incoming<'_> {
    /// The packet as the layer's fields and metadata describe it.
    #[inline(always)]
    pub fn packet(&self) -> IndicatedPacket<'_, '_> {
        let protocol = self.protocol();
        IndicatedPacket {
            incoming: self,
            protocol,
            local_port: self.local_port(),
            source: None,
            tcp_flags: TcpFlags::UNREAD,
            is_common: false,
            is_plain: false,
        }
    }
}

impl IndicatedPacket<'_, '_> {
    /// The packet, which is known to be plain ([`Incoming::is_plain`]).
    #[inline(always)]
    pub fn plain(self) -> Self {
        Self { is_plain: true, ..self }
    }
}

impl PacketView for IndicatedPacket<'_, '_> {
    #[inline(always)]
    fn protocol(&self) -> Option<u8> {
        self.protocol
    }

    #[inline(always)]
    fn local_port(&self) -> Option<u16> {
        self.local_port
    }

    #[inline(always)]
    fn remote_address(&self) -> Option<Address> {
        self.incoming.number(self.incoming.fields().remote_address)
    }

    #[inline(always)]
    fn interface(&self) -> Option<u64> {
        self.incoming.uint64(self.incoming.fields().interface)
    }

    #[inline(always)]
    fn profile(&self) -> Option<u32> {
        self.incoming.profile()
    }

    #[inline(always)]
    fn remote_port(&self) -> Option<u16> {
        match self.source {
            Some(source) => Some(source),
            None => self.incoming.remote_port(),
        }
    }

    #[inline(always)]
    fn condition_flags(&self) -> ConditionFlags {
        const {
            assert!(
                ConditionFlags::of_flags(ffi::FWP_CONDITION_FLAG_IS_LOOPBACK).has(ConditionFlags::LOOPBACK)
            );
            assert!(
                ConditionFlags::of_flags(ffi::FWP_CONDITION_FLAG_IS_IPSEC_SECURED)
                    .has(ConditionFlags::IPSEC_SECURED)
            );
        }
        match self.incoming.flags() {
            Some(flags) => ConditionFlags::of_flags(flags),
            None => ConditionFlags::NONE,
        }
    }

    #[inline(always)]
    fn has_flow(&self) -> bool {
        self.incoming.flow().is_some()
    }

    #[inline(always)]
    fn has_endpoint(&self) -> bool {
        self.incoming.endpoint().is_some()
    }

    #[inline(always)]
    fn discard(&self) -> Option<Discard> {
        self.incoming.discard()
    }

    #[inline(always)]
    fn tcp_flags(&self) -> Option<TcpFlags> {
        Some(self.tcp_flags)
    }

    #[inline(always)]
    fn found_no_endpoint(&self) -> bool {
        self.is_common || self.incoming.found_no_endpoint()
    }

    #[inline(always)]
    fn icmp(&self) -> Option<Icmp> {
        self.incoming.icmp()
    }

    #[inline(always)]
    fn is_reset(&self) -> bool {
        !self.is_common && self.tcp_flags.is_reset()
    }

    #[inline(always)]
    fn is_for_several(&self) -> bool {
        !self.is_plain && self.incoming.is_for_several()
    }

    #[inline(always)]
    fn is_in_other_compartment(&self) -> bool {
        !self.is_plain && self.incoming.is_in_other_compartment()
    }

    #[inline(always)]
    fn compartment(&self) -> Option<u32> {
        self.incoming.compartment()
    }
}
