//! The link between network and host, which carries raw IP packets.
//!
//! [`Tun`] is the kernel's end of the link, in a [`Namespace`] with the scanners
//! and clients. [`MemoryWire`] is a link without a kernel. Both can be wrapped:
//! [`Lossy`] loses and reorders packets, [`Recording`] stores every packet for a
//! pcap file and for counts; [`Observer`] does so from beside a TUN device.

mod chain;
pub mod compose;
mod lossy;
mod memory;
mod named;
mod namespace;
mod observer;
mod packet;
mod recorder;
mod tun;

use std::io;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use chain::{Chain, Extension, FIXED as V6_FIXED, extension};
pub use lossy::{Loss, Lossy};
pub use memory::MemoryWire;
pub use named::Named;
pub use namespace::{Namespace, Network};
pub use observer::Observer;
pub(crate) use packet::reassembled;
pub use packet::{Family, Parsed, Tcp, TcpFlags, Transport, protocol};
pub use recorder::{Captured, Recorder, Recording, Way};
pub use tun::Tun;

/// The maximum size of an IP packet in bytes, and the size of a read buffer.
pub const LARGEST_PACKET: usize = 65_535;

/// One end of a link that carries raw IP packets.
pub trait Wire: Send {
    /// Reads the next packet into `packet`, if there is one; `packet` is
    /// overwritten. Returns whether there was one.
    ///
    /// # Errors
    /// Those of the device.
    fn read(&mut self, packet: &mut Vec<u8>) -> io::Result<bool>;

    /// Sends a packet. A full queue drops it, as a link does.
    ///
    /// # Errors
    /// Those of the device.
    fn write(&mut self, packet: &[u8]) -> io::Result<()>;

    /// Waits until a packet can be read, at most `timeout`.
    ///
    /// # Errors
    /// Those of the device.
    fn wait(&mut self, timeout: Duration) -> io::Result<()>;

    /// What ends a [`wait`](Self::wait) early, from another thread. `None`: nothing does.
    fn waker(&mut self) -> Option<Waker> {
        None
    }
}

/// Wakes who waits for a wire.
pub type Waker = Arc<dyn Fn() + Send + Sync>;
