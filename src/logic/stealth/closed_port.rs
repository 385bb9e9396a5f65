//! What nearly all are that come to the transport layer's discard.

use super::{Discard, Icmp, Marks, Module, Shown, TCP, TcpFlags, inet};
use crate::logic::address::Address;

/// A segment that found no endpoint, with nothing amiss: so little is left to be
/// asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClosedPort {
    /// The port it was for.
    pub local_port: u16,
    /// Where it came from.
    pub remote_address: Address,
    /// Its flags.
    pub tcp_flags: TcpFlags,
    /// What may exempt it.
    pub marks: Marks,
    /// LUID of the interface it came through, where that was read.
    pub interface: Option<u64>,
}

impl Shown for ClosedPort {
    #[inline(always)]
    fn protocol(&self) -> Option<u8> {
        Some(TCP)
    }

    #[inline(always)]
    fn local_port(&self) -> Option<u16> {
        Some(self.local_port)
    }

    #[inline(always)]
    fn remote_address(&self) -> Option<Address> {
        Some(self.remote_address)
    }

    #[inline(always)]
    fn interface(&self) -> Option<u64> {
        self.interface
    }

    #[inline(always)]
    fn marks(&self) -> Marks {
        self.marks
    }

    #[inline(always)]
    fn has_flow(&self) -> bool {
        false
    }

    #[inline(always)]
    fn has_endpoint(&self) -> bool {
        false
    }

    #[inline(always)]
    fn discard(&self) -> Option<Discard> {
        Some(Discard { module: Module::Transport, reason: inet::ENDPOINT_NOT_FOUND })
    }

    #[inline(always)]
    fn tcp_flags(&self) -> Option<TcpFlags> {
        Some(self.tcp_flags)
    }

    #[inline(always)]
    fn icmp(&self) -> Option<Icmp> {
        None
    }
}
