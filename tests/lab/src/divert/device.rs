//! The requests that WinDivert's driver takes (`windivert_device.h`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use machine::nt::irp::{Access, File, OpenError, Reply, Request};
use machine::nt::{Kernel, Stop};
use machine::status::Status;

use super::address::{Address, Layer, SIZE};
use super::filter::Filter;

/// The code of one of its requests: `CTL_CODE(FILE_DEVICE_NETWORK, …)`.
const fn code(function: u32, method: u32, access: u32) -> u32 {
    const FILE_DEVICE_NETWORK: u32 = 0x12;
    FILE_DEVICE_NETWORK << 16 | access << 14 | function << 2 | method
}

const IN_DIRECT: u32 = 1;
const OUT_DIRECT: u32 = 2;
const READ: u32 = 1;
const READ_AND_WRITE: u32 = 3;
const INITIALIZE: u32 = code(0x921, OUT_DIRECT, READ_AND_WRITE);
const STARTUP: u32 = code(0x922, IN_DIRECT, READ_AND_WRITE);
const RECEIVE: u32 = code(0x923, OUT_DIRECT, READ);
const SEND: u32 = code(0x924, IN_DIRECT, READ_AND_WRITE);
const SET_PARAMETER: u32 = code(0x925, IN_DIRECT, READ_AND_WRITE);
const GET_PARAMETER: u32 = code(0x926, OUT_DIRECT, READ);
const SHUTDOWN: u32 = code(0x927, IN_DIRECT, READ_AND_WRITE);

/// `WINDIVERT_MAGIC_DLL` and `WINDIVERT_MAGIC_SYS`.
const MAGIC_LIBRARY: u64 = 0x4C4C_4476_6964_5724;
const MAGIC_DRIVER: u64 = 0x5359_5376_6964_5723;

/// `WINDIVERT_FLAG_*`.
#[allow(missing_docs, reason = "the names are windivert.h's own")]
pub mod flag {
    pub const SNIFF: u64 = 1;
    pub const DROP: u64 = 2;
    pub const RECV_ONLY: u64 = 4;
    pub const SEND_ONLY: u64 = 8;
    pub const FRAGMENTS: u64 = 0x20;
}

/// `WINDIVERT_PARAM_*`.
#[allow(missing_docs, reason = "the names are windivert.h's own")]
pub mod parameter {
    pub const QUEUE_LENGTH: u32 = 0;
    pub const QUEUE_TIME: u32 = 1;
    pub const QUEUE_SIZE: u32 = 2;
    pub const VERSION_MAJOR: u32 = 3;
    pub const VERSION_MINOR: u32 = 4;
}

/// `WINDIVERT_SHUTDOWN_*`.
#[allow(missing_docs, reason = "the names are windivert.h's own")]
pub mod shutdown {
    pub const RECV: u32 = 1;
    pub const SEND: u32 = 2;
    pub const BOTH: u32 = 3;
}

/// `WINDIVERT_PRIORITY_HIGHEST`; the lowest is its negative.
pub const HIGHEST: i16 = 30_000;
/// The id of the process that opens handles.
pub const PROCESS: u32 = 5678;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// The device was not opened.
    #[error(transparent)]
    NotOpened(#[from] OpenError),
    /// The driver refused the request.
    #[error("WinDivert refuses {0}: {1}")]
    Refused(&'static str, Status),
    /// The machine stopped.
    #[error("{0}: {1}")]
    Stopped(&'static str, Stop),
    /// The driver answers as none of version 2.2.
    #[error("the driver does not answer as WinDivert 2.2: is it another driver?")]
    OtherDriver,
}

/// An open handle.
pub struct Handle {
    file: File,
}

/// A `WINDIVERT_IOCTL`.
fn request(first: u64, second: u64) -> Vec<u8> {
    [first, second].into_iter().flat_map(u64::to_le_bytes).collect()
}

impl Handle {
    /// Opens the device, without the requests that make a handle of it.
    ///
    /// # Errors
    /// If there is no device, or the driver refuses.
    pub fn raw(kernel: &Arc<Kernel>) -> Result<Self, Failed> {
        Ok(Self { file: kernel.open(r"\\.\WinDivert", PROCESS, Access::FULL)? })
    }

    /// Opens a handle with [`flag`]s.
    ///
    /// # Errors
    /// If there is no device, or the driver refuses.
    pub fn open(
        kernel: &Arc<Kernel>,
        layer: Layer,
        priority: i16,
        flags: u64,
        filter: &Filter,
    ) -> Result<Self, Failed> {
        let handle = Self::raw(kernel)?;
        // WINDIVERT_VERSION: magic, 2.2, 64 bits.
        let mut version = MAGIC_LIBRARY.to_le_bytes().to_vec();
        version.extend([2u32, 2, 64].into_iter().flat_map(u32::to_le_bytes));
        version.resize(64, 0);
        // The driver takes priorities from 0.
        let priority = (i32::from(priority) + i32::from(HIGHEST)) as u32;
        let first = u64::from(priority) << 32 | layer as u64;
        let reply = handle.ask("the handle", INITIALIZE, &request(first, flags), &version)?;
        if !reply.output.starts_with(&MAGIC_DRIVER.to_le_bytes()) {
            return Err(Failed::OtherDriver);
        }
        handle.ask("the filter", STARTUP, &request(filter.flags, 0), &filter.tests)?;
        Ok(handle)
    }

    fn ask(&self, what: &'static str, code: u32, input: &[u8], output: &[u8]) -> Result<Reply, Failed> {
        let stopped = |stop| Failed::Stopped(what, stop);
        let request = self.file.control(code, input, output).map_err(stopped)?;
        let reply = request.wait(None).map_err(stopped)?.expect("a wait without a limit ends");
        if reply.status.is_success() { Ok(reply) } else { Err(Failed::Refused(what, reply.status)) }
    }

    /// Reads a [`parameter`].
    ///
    /// # Errors
    /// If the driver refuses, or the machine stops.
    pub fn parameter(&self, parameter: u32) -> Result<u64, Failed> {
        let reply = self.ask("a parameter", GET_PARAMETER, &request(parameter.into(), 0), &[0; 8])?;
        Ok(reply.output.try_into().map_or(0, u64::from_le_bytes))
    }

    /// Sets a [`parameter`].
    ///
    /// # Errors
    /// If the driver refuses, or the machine stops.
    pub fn set_parameter(&self, parameter: u32, value: u64) -> Result<(), Failed> {
        self.ask("a parameter", SET_PARAMETER, &request(value, parameter.into()), &[]).map(drop)
    }

    /// Ends receiving, sending, or both ([`shutdown`]).
    ///
    /// # Errors
    /// If the driver refuses, or the machine stops.
    pub fn shutdown(&self, how: u32) -> Result<(), Failed> {
        self.ask("a shutdown", SHUTDOWN, &request(how.into(), 0), &[]).map(drop)
    }

    /// Begins to receive at most this number of packets, or an event, into a buffer of
    /// `most` bytes. Packets lie one after the other.
    ///
    /// # Errors
    /// If the machine stops.
    pub fn begin_receive(&self, most: usize, packets: usize) -> Result<Receive, Failed> {
        let addresses = Box::new(Addresses {
            length: ((packets * SIZE) as u32).into(),
            words: (0..packets).map(|_| Default::default()).collect(),
        });
        let at = addresses.words.as_ptr().expose_provenance() as u64;
        let length = addresses.length.as_ptr().expose_provenance() as u64;
        let request = self.file.control(RECEIVE, &request(at, length), &vec![0; most]);
        Ok(Receive { request: request.map_err(|stop| Failed::Stopped("receiving", stop))?, addresses })
    }

    /// Sends packets, which lie one after the other, with their addresses. Returns when
    /// the driver has injected them.
    ///
    /// # Errors
    /// If the driver refuses, or the machine stops.
    pub fn send(&self, packets: &[u8], addresses: &[Address]) -> Result<(), Failed> {
        let addresses: Vec<u8> = addresses.iter().flat_map(|address| address.bytes).collect();
        let at = addresses.as_ptr().expose_provenance() as u64;
        self.ask("a packet", SEND, &request(at, addresses.len() as u64), packets).map(drop)
    }

    /// Closes the handle.
    ///
    /// # Errors
    /// If the machine stops.
    pub fn close(self) -> Result<(), Failed> {
        self.file.close().map_err(|stop| Failed::Stopped("closing the handle", stop))
    }
}

/// A receive that was begun.
pub struct Receive {
    request: Request,
    addresses: Box<Addresses>,
}

/// What the driver writes beside the packets.
struct Addresses {
    /// Their size in bytes.
    length: AtomicU32,
    /// Each a `WINDIVERT_ADDRESS`.
    words: Box<[[AtomicU64; SIZE / 8]]>,
}

/// What was received.
pub struct Received {
    /// The packets; empty for an event. If it failed, the whole buffer.
    pub packets: Vec<u8>,
    /// The status with which the receive ended.
    pub status: Status,
    /// Where each packet, or the event, comes from.
    pub addresses: Vec<Address>,
}

impl Drop for Receive {
    /// The driver must not write what does not exist any more.
    fn drop(&mut self) {
        // A machine that has stopped writes nothing.
        let _stopped = self.cancel();
    }
}

impl Receive {
    /// Waits. `None` if `limit` expires first.
    ///
    /// # Errors
    /// If the machine stops.
    pub fn wait(&self, limit: Option<Duration>) -> Result<Option<Received>, Failed> {
        let waited = self.request.wait(limit).map_err(|stop| Failed::Stopped("receiving", stop))?;
        Ok(waited.map(|mut reply| {
            if reply.status.is_success() {
                reply.output.truncate(reply.information as usize);
            }
            Received { packets: reply.output, status: reply.status, addresses: self.addresses.read() }
        }))
    }

    /// Cancels the receive, unless it has ended.
    ///
    /// # Errors
    /// If the machine stops.
    pub fn cancel(&self) -> Result<(), Failed> {
        let stopped = |stop| Failed::Stopped("a cancellation", stop);
        if self.request.reply().is_none() {
            self.request.cancel().map_err(stopped)?;
        }
        self.request.wait(None).map(drop).map_err(stopped)
    }
}

impl Addresses {
    fn read(&self) -> Vec<Address> {
        let count = self.length.load(Ordering::Acquire) as usize / SIZE;
        let one = |words: &[AtomicU64; SIZE / 8]| {
            let mut bytes = [0; SIZE];
            for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
                to.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
            }
            Address { bytes }
        };
        self.words.iter().take(count).map(one).collect()
    }
}
