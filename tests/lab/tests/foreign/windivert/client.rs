//! A program that uses WinDivert's device as its library does (`windivert_device.h`).

use std::sync::Arc;
use std::time::Duration;

use machine::nt::Kernel;
use machine::nt::irp::{Access, File, Reply, Request};
use machine::status::Status;

/// The id of the program's process.
pub const PROCESS: u32 = 5678;

/// `WINDIVERT_FLAG_*`.
pub mod flag {
    pub const SNIFF: u64 = 1;
    pub const DROP: u64 = 2;
    pub const RECV_ONLY: u64 = 4;
}

/// `WINDIVERT_PARAM_*`.
pub const QUEUE_LENGTH: u32 = 0;
pub const QUEUE_TIME: u32 = 1;
pub const QUEUE_SIZE: u32 = 2;
pub const VERSION_MAJOR: u32 = 3;
pub const VERSION_MINOR: u32 = 4;

/// `WINDIVERT_SHUTDOWN_RECV`.
pub const SHUTDOWN_RECV: u32 = 1;

/// `WINDIVERT_LAYER_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    Network,
    Forward,
    Flow,
    Socket,
    Reflect,
}

impl Layer {
    pub const ALL: [Self; 5] = [Self::Network, Self::Forward, Self::Flow, Self::Socket, Self::Reflect];

    /// The flags that the layer requires: FLOW and REFLECT events can only be watched,
    /// SOCKET operations only be received.
    pub fn flags(self) -> u64 {
        match self {
            Self::Network | Self::Forward => 0,
            Self::Socket => flag::RECV_ONLY,
            Self::Flow | Self::Reflect => flag::SNIFF | flag::RECV_ONLY,
        }
    }
}

/// The code of one of its requests: `CTL_CODE(FILE_DEVICE_NETWORK, …)`.
const fn code(function: u32, method: u32, write: bool) -> u32 {
    0x12 << 16 | if write { 3 << 14 } else { 1 << 14 } | function << 2 | method
}

const IN_DIRECT: u32 = 1;
const OUT_DIRECT: u32 = 2;
const INITIALIZE: u32 = code(0x921, OUT_DIRECT, true);
const STARTUP: u32 = code(0x922, IN_DIRECT, true);
const RECV: u32 = code(0x923, OUT_DIRECT, false);
const SEND: u32 = code(0x924, IN_DIRECT, true);
const SET_PARAM: u32 = code(0x925, IN_DIRECT, true);
const GET_PARAM: u32 = code(0x926, OUT_DIRECT, false);
const SHUTDOWN: u32 = code(0x927, IN_DIRECT, true);

/// An open handle of WinDivert.
pub struct Divert {
    file: File,
}

/// A `WINDIVERT_IOCTL`: 16 bytes.
fn ioctl(first: [u32; 2], second: u64) -> Vec<u8> {
    let words = first.into_iter().flat_map(u32::to_le_bytes);
    words.chain(second.to_le_bytes()).collect()
}

impl Divert {
    /// Opens the device, without the requests that make a handle of it.
    pub fn raw(kernel: &Arc<Kernel>) -> Self {
        let file = kernel.open(r"\\.\WinDivert", PROCESS, Access::FULL);
        Self { file: file.unwrap_or_else(|error| panic!("{error}")) }
    }

    /// Opens a handle with the filter `true`.
    pub fn open(kernel: &Arc<Kernel>, layer: Layer, priority: i32, flags: u64) -> Result<Self, Status> {
        let handle = Self::raw(kernel);
        // WINDIVERT_VERSION: magic, 2.2, 64 bits.
        let mut version = [0; 64];
        version[..8].copy_from_slice(&0x4C4C_4476_6964_5724_u64.to_le_bytes());
        for (at, number) in [(8, 2u32), (12, 2), (16, 64)] {
            version[at..at + 4].copy_from_slice(&number.to_le_bytes());
        }
        let reply =
            handle.ask(INITIALIZE, &ioctl([layer as u32, (priority + 30_000) as u32], flags), &version)?;
        assert_eq!(reply.output[..8], 0x5359_5376_6964_5723_u64.to_le_bytes(), "WINDIVERT_MAGIC_SYS");
        // One test that holds for every packet: field ZERO equals 0; then accept.
        let mut filter = [0; 24];
        filter[2..4].copy_from_slice(&0x7FFEu16.to_le_bytes());
        filter[4..6].copy_from_slice(&0x7FFFu16.to_le_bytes());
        // Inbound, outbound, IPv4, IPv6, and every event.
        let all = match layer {
            Layer::Network | Layer::Forward => 0xF0u64,
            Layer::Flow => 0x1F0,
            Layer::Socket => 0x3EF0,
            Layer::Reflect => 0,
        };
        handle.ask(STARTUP, &ioctl([all as u32, 0], 0), &filter)?;
        Ok(handle)
    }

    fn ask(&self, code: u32, input: &[u8], output: &[u8]) -> Result<Reply, Status> {
        let request = self.file.control(code, input, output).unwrap_or_else(|stop| panic!("{stop:?}"));
        let reply = request.wait(None).unwrap_or_else(|stop| panic!("{stop:?}")).unwrap();
        if reply.status.is_success() { Ok(reply) } else { Err(reply.status) }
    }

    pub fn parameter(&self, parameter: u32) -> Result<u64, Status> {
        let reply = self.ask(GET_PARAM, &ioctl([parameter, 0], 0), &[0; 8])?;
        Ok(u64::from_le_bytes(reply.output.try_into().unwrap()))
    }

    pub fn set_parameter(&self, parameter: u32, value: u64) -> Result<(), Status> {
        let mut input = value.to_le_bytes().to_vec();
        input.extend(parameter.to_le_bytes());
        input.extend([0; 4]);
        self.ask(SET_PARAM, &input, &[]).map(drop)
    }

    pub fn shutdown(&self, how: u32) -> Result<(), Status> {
        self.ask(SHUTDOWN, &ioctl([how, 0], 0), &[]).map(drop)
    }

    /// Begins to read a packet or an event.
    pub fn start_receive(&self, most: usize) -> Receive {
        let address = Box::new([0; 80]);
        let at = std::ptr::from_ref(&*address).expose_provenance() as u64;
        let mut input = at.to_le_bytes().to_vec();
        input.extend([0; 8]);
        let request =
            self.file.control(RECV, &input, &vec![0; most]).unwrap_or_else(|stop| panic!("{stop:?}"));
        Receive { request, address }
    }

    /// Sends a packet with the address that came with it. Returns when the driver has
    /// injected it.
    pub fn send(&self, packet: &[u8], address: &[u8; 80]) -> Result<(), Status> {
        let mut input = (std::ptr::from_ref(address).expose_provenance() as u64).to_le_bytes().to_vec();
        input.extend(80u64.to_le_bytes());
        self.ask(SEND, &input, packet).map(drop)
    }

    pub fn close(self) {
        self.file.close().unwrap_or_else(|stop| panic!("{stop:?}"));
    }
}

/// A read that was begun.
pub struct Receive {
    request: Request,
    /// `WINDIVERT_ADDRESS`. The driver writes it.
    address: Box<[u8; 80]>,
}

/// A `WINDIVERT_ADDRESS`.
#[derive(Debug)]
pub struct Address {
    pub bytes: [u8; 80],
}

impl Address {
    pub fn event(&self) -> u8 {
        self.bytes[9]
    }

    /// Sniffed 1, outbound 2, loopback 4, impostor 8, IPv6 0x10.
    pub fn bits(&self) -> u8 {
        self.bytes[10] & 0x1F
    }

    /// The process of a REFLECT event.
    pub fn process(&self) -> u32 {
        u32::from_le_bytes(self.bytes[24..28].try_into().unwrap())
    }

    /// The priority in a REFLECT event.
    pub fn priority(&self) -> i16 {
        i16::from_le_bytes(self.bytes[40..42].try_into().unwrap())
    }

    /// Local port and protocol of a FLOW or SOCKET event.
    pub fn local(&self) -> (u16, u8) {
        (u16::from_le_bytes(self.bytes[68..70].try_into().unwrap()), self.bytes[72])
    }
}

impl Receive {
    /// The outcome; `None` if `limit` expires first.
    pub fn reply(&self, limit: Option<Duration>) -> Option<Reply> {
        self.request.wait(limit).unwrap_or_else(|stop| panic!("{stop:?}"))
    }

    pub fn address(&self) -> Address {
        // SAFETY: the box is this value's own; the driver has written it before the end.
        Address { bytes: unsafe { std::ptr::from_ref(&*self.address).read_volatile() } }
    }
}
