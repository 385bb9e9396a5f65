//! A program that uses WinDivert: a handle of [`lab::divert`] whose failures are the
//! driver's statuses. Everything else that fails is a panic.

use std::sync::Arc;
use std::time::Duration;

use machine::nt::Kernel;
use machine::status::Status;

pub use lab::divert::Layer;
pub use lab::divert::address::{Address, bit};
use lab::divert::device::{self, Failed, Handle, Received};
pub use lab::divert::device::{PROCESS, flag, parameter, shutdown};
pub use lab::divert::filter::Filter;

/// What becomes ERROR_NO_DATA for a program: `STATUS_PIPE_EMPTY`.
pub const NO_DATA: Status = Status(0xC000_00D9_u32 as i32);
/// What becomes ERROR_HOST_UNREACHABLE: `STATUS_HOPLIMIT_EXCEEDED`.
pub const HOST_UNREACHABLE: Status = Status(0xC000_A012_u32 as i32);

/// The largest packet, and the largest object of a filter.
const MOST: usize = 65_575;

/// The driver's status. Panics if the machine stopped.
#[track_caller]
fn answer<T>(outcome: Result<T, Failed>) -> Result<T, Status> {
    outcome.map_err(|failed| match failed {
        Failed::Refused(_, status) => status,
        other => panic!("{other}"),
    })
}

/// An open handle of WinDivert.
pub struct Divert(Handle);

impl Divert {
    /// Opens the device, without the requests that make a handle of it.
    pub fn raw(kernel: &Arc<Kernel>) -> Self {
        Self(Handle::raw(kernel).unwrap_or_else(|error| panic!("{error}")))
    }

    /// Opens a handle with the filter `true`.
    pub fn open(kernel: &Arc<Kernel>, layer: Layer, priority: i16, flags: u64) -> Result<Self, Status> {
        Self::open_with(kernel, layer, priority, flags, Filter::all(layer))
    }

    /// Opens a handle with a filter.
    pub fn open_with(
        kernel: &Arc<Kernel>,
        layer: Layer,
        priority: i16,
        flags: u64,
        filter: Filter,
    ) -> Result<Self, Status> {
        answer(Handle::open(kernel, layer, priority, flags, &filter)).map(Self)
    }

    pub fn parameter(&self, parameter: u32) -> Result<u64, Status> {
        answer(self.0.parameter(parameter))
    }

    pub fn set_parameter(&self, parameter: u32, value: u64) -> Result<(), Status> {
        answer(self.0.set_parameter(parameter, value))
    }

    pub fn shutdown(&self, how: u32) -> Result<(), Status> {
        answer(self.0.shutdown(how))
    }

    /// Begins to read a packet or an event.
    pub fn start_receive(&self, most: usize) -> Receive {
        self.start_batch(most, 1)
    }

    /// Begins to read at most this number of packets, one after the other in one buffer.
    pub fn start_batch(&self, most: usize, packets: usize) -> Receive {
        Receive(self.0.begin_receive(most, packets).unwrap_or_else(|error| panic!("{error}")))
    }

    /// Reads a packet or an event that comes within the limit.
    pub fn receive(&self, limit: Duration) -> Option<(Vec<u8>, Address)> {
        let read = self.start_receive(MOST);
        read.reply(Some(limit));
        read.packet()
    }

    /// Sends packets, one after the other in one buffer, with their addresses.
    pub fn send_batch(&self, packets: &[u8], addresses: &[Address]) -> Result<(), Status> {
        answer(self.0.send(packets, addresses))
    }

    /// Sends a packet with the address that came with it.
    pub fn send(&self, packet: &[u8], address: &Address) -> Result<(), Status> {
        self.send_batch(packet, std::slice::from_ref(address))
    }

    pub fn close(self) {
        self.0.close().unwrap_or_else(|error| panic!("{error}"));
    }
}

/// A read that was begun.
pub struct Receive(device::Receive);

impl Receive {
    /// Ends the read. Returns the packet or the event that it has got.
    pub fn packet(&self) -> Option<(Vec<u8>, Address)> {
        // A machine that has stopped answers nothing.
        self.0.cancel().ok()?;
        let read = self.0.wait(None).ok()??;
        if read.status == Status::CANCELLED {
            return None;
        }
        assert!(read.status.is_success(), "{}", read.status);
        Some((read.packets, read.addresses[0]))
    }

    /// What was read; `None` if `limit` expires first.
    pub fn reply(&self, limit: Option<Duration>) -> Option<Received> {
        self.0.wait(limit).unwrap_or_else(|error| panic!("{error}"))
    }
}
