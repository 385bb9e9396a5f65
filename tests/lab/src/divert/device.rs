//! The requests that WinDivert's driver takes (`windivert_device.h`).

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use machine::nt::irp::{Access, File, Reply, Request};
use machine::nt::memory::Guarded;
use machine::nt::{Kernel, foreign};

use super::address::{Address, Layer, SIZE};
use super::{Plan, refused};

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

/// `WINDIVERT_MAGIC_DLL` and `WINDIVERT_MAGIC_SYS`.
const MAGIC_LIBRARY: u64 = 0x4C4C_4476_6964_5724;
const MAGIC_DRIVER: u64 = 0x5359_5376_6964_5723;

/// `WINDIVERT_FLAG_*`.
const SNIFF: u64 = 1;
const RECV_ONLY: u64 = 4;
/// `WINDIVERT_PRIORITY_HIGHEST`; the driver takes priorities from 0.
const HIGHEST: i32 = 30_000;

/// The id of the process that opens the handle.
const PROCESS: u32 = 5678;

/// An open handle.
pub struct Handle {
    file: File,
}

/// A `WINDIVERT_IOCTL`.
fn request(first: u64, second: u64) -> Vec<u8> {
    [first, second].into_iter().flat_map(u64::to_le_bytes).collect()
}

impl Handle {
    /// Opens a handle.
    ///
    /// # Errors
    /// If the driver refuses.
    pub fn open(kernel: &Arc<Kernel>, plan: &Plan) -> Result<Self> {
        let (filter, layer) = (plan.wanted.compile()?, plan.wanted.layer);
        let priority = i32::from(plan.priority);
        ensure!((-HIGHEST..=HIGHEST).contains(&priority), "priority {priority}: expected -30000 to 30000");
        let file = kernel.open(r"\\.\WinDivert", PROCESS, Access::FULL)?;
        let handle = Self { file };
        // WINDIVERT_VERSION: magic, 2.2, 64 bits.
        let mut version = MAGIC_LIBRARY.to_le_bytes().to_vec();
        version.extend([2u32, 2, 64].into_iter().flat_map(u32::to_le_bytes));
        version.resize(64, 0);
        let first = u64::from((priority + HIGHEST) as u32) << 32 | layer as u64;
        let reply =
            handle.ask("the handle", INITIALIZE, &request(first, flags(layer, plan.sniff)), &version)?;
        let is_driver = reply.output.starts_with(&MAGIC_DRIVER.to_le_bytes());
        ensure!(is_driver, "the driver does not answer as WinDivert 2.2: is it another driver?");
        handle.ask("the filter", STARTUP, &request(plan.wanted.flags(), 0), &filter)?;
        Ok(handle)
    }

    fn ask(&self, what: &str, code: u32, input: &[u8], output: &[u8]) -> Result<Reply> {
        let stopped = |stop| anyhow!("{what}: {stop}");
        let request = self.file.control(code, input, output).map_err(stopped)?;
        let reply = request.wait(None).map_err(stopped)?.context("a wait without limit ends")?;
        if reply.status.is_success() { Ok(reply) } else { Err(refused(what, reply.status)) }
    }

    /// Begins to receive a packet or an event.
    ///
    /// # Errors
    /// If the machine stops.
    pub fn begin_receive(&self, most: usize) -> Result<Receive> {
        let address = Guarded::new(SIZE);
        let input = request(address.start() as u64, 0);
        let request = self.file.control(RECEIVE, &input, &vec![0; most]);
        Ok(Receive { request: request.map_err(|stop| anyhow!("receiving: {stop}"))?, address })
    }

    /// Sends a packet with the address that came with it.
    ///
    /// # Errors
    /// If the driver refuses, or the machine stops.
    pub fn send(&self, packet: &[u8], address: &Address) -> Result<()> {
        let memory = Guarded::new(SIZE);
        memory.put_bytes(memory.start(), &address.0);
        self.ask("a packet", SEND, &request(memory.start() as u64, SIZE as u64), packet).map(drop)
    }

    /// Closes the handle. Packets that wait in it are dropped.
    ///
    /// # Errors
    /// If the machine stops.
    pub fn close(self) -> Result<()> {
        self.file.close().map_err(|stop| anyhow!("closing the handle: {stop}"))
    }
}

/// The flags that a layer requires: FLOW and REFLECT events can only be watched; SOCKET
/// operations can be blocked, which this does not do.
fn flags(layer: Layer, sniff: bool) -> u64 {
    match layer {
        Layer::Network | Layer::Forward if sniff => SNIFF,
        Layer::Network | Layer::Forward => 0,
        Layer::Flow | Layer::Socket | Layer::Reflect => SNIFF | RECV_ONLY,
    }
}

/// A receive that was begun.
pub struct Receive {
    request: Request,
    /// The `WINDIVERT_ADDRESS` that the driver writes.
    address: Guarded,
}

/// What was received.
pub struct Received {
    /// The packet; empty for an event.
    pub packet: Vec<u8>,
    /// Where it comes from.
    pub address: Address,
}

impl Receive {
    /// Waits. `None` if nothing comes within `limit`.
    ///
    /// # Errors
    /// If the driver ends the receive without a packet, or the machine stops.
    pub fn wait(&self, limit: Duration) -> Result<Option<Received>> {
        let waited = self.request.wait(Some(limit)).map_err(|stop| anyhow!("receiving: {stop}"))?;
        let Some(mut reply) = waited else { return Ok(None) };
        if !reply.status.is_success() {
            return Err(refused("a receive", reply.status));
        }
        reply.output.truncate(reply.information as usize);
        let bytes = foreign::read_bytes(self.address.start(), SIZE).ok();
        let bytes = bytes.and_then(|bytes| <[u8; SIZE]>::try_from(bytes).ok());
        let address = Address(bytes.context("the memory of an address")?);
        Ok(Some(Received { packet: reply.output, address }))
    }
}
