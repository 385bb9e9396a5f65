//! What lies between the network and the host: packets of raw IP.
//!
//! [`Tun`] is the kernel's end of it, inside a [`Namespace`] that holds the
//! scanners and clients; [`MemoryWire`] is the same without a kernel.
//! A [`Lossy`] around either loses and reorders packets.
//! A [`Recording`] around either keeps every packet for a pcap file and for
//! counting.

mod chain;
pub mod compose;
mod lossy;
mod memory;
mod named;
mod namespace;
mod packet;
mod recorder;
mod tun;

use std::io;
use std::time::Duration;

pub(crate) use chain::{Chain, Extension, FIXED as V6_FIXED, extension};
pub use lossy::{Loss, Lossy};
pub use memory::MemoryWire;
pub use named::Named;
pub use namespace::{Namespace, Network};
pub(crate) use packet::reassembled;
pub use packet::{Family, Parsed, Tcp, TcpFlags, Transport, protocol};
pub use recorder::{Captured, Recorder, Recording, Way};
pub use tun::Tun;

/// The most an IP packet can be, and so what a read must have room for.
pub const LARGEST_PACKET: usize = 65_535;

/// One end of a link that carries raw IP packets.
pub trait Wire: Send {
    /// Takes the next packet if one is there; `packet` is overwritten.
    ///
    /// # Errors
    /// What the device reports; "no packet yet" is `Ok(false)`.
    fn read(&mut self, packet: &mut Vec<u8>) -> io::Result<bool>;

    /// Sends one packet. A full queue drops it, as a link does.
    ///
    /// # Errors
    /// What the device reports.
    fn write(&mut self, packet: &[u8]) -> io::Result<()>;

    /// Waits until a packet can be read, at most `timeout`.
    ///
    /// # Errors
    /// What the device reports.
    fn wait(&mut self, timeout: Duration) -> io::Result<()>;
}
