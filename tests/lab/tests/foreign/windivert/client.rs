//! A program that uses WinDivert's device as its library does (`windivert_device.h`).

use std::net::{Ipv6Addr, SocketAddr};
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
    pub const SEND_ONLY: u64 = 8;
    pub const FRAGMENTS: u64 = 0x20;
}

/// `WINDIVERT_PARAM_*`.
pub const QUEUE_LENGTH: u32 = 0;
pub const QUEUE_TIME: u32 = 1;
pub const QUEUE_SIZE: u32 = 2;
pub const VERSION_MAJOR: u32 = 3;
pub const VERSION_MINOR: u32 = 4;

/// `WINDIVERT_SHUTDOWN_*`.
pub const SHUTDOWN_RECV: u32 = 1;
pub const SHUTDOWN_SEND: u32 = 2;
pub const SHUTDOWN_BOTH: u32 = 3;

/// What becomes ERROR_NO_DATA for a program: `STATUS_PIPE_EMPTY`.
pub const NO_DATA: Status = Status(0xC000_00D9_u32 as i32);
/// What becomes ERROR_HOST_UNREACHABLE: `STATUS_HOPLIMIT_EXCEEDED`.
pub const HOST_UNREACHABLE: Status = Status(0xC000_A012_u32 as i32);

/// The size of a `WINDIVERT_ADDRESS`.
pub const ADDRESS: usize = 80;

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

/// A filter: what the driver may skip, and one test.
#[derive(Clone, Copy, Debug)]
pub struct Filter {
    /// `WINDIVERT_FILTER_FLAG_*`.
    flags: u32,
    /// `WINDIVERT_FILTER_FIELD_*`, and the number that it must have.
    equals: (u16, u32),
}

impl Filter {
    /// The field ZERO is always 0.
    const TRUE: (u16, u32) = (0, 0);

    /// Inbound, outbound, IPv4, IPv6, and every event.
    pub fn all(layer: Layer) -> Self {
        let flags = match layer {
            Layer::Network | Layer::Forward => 0xF0,
            Layer::Flow => 0x1F0,
            Layer::Socket => 0x3EF0,
            Layer::Reflect => 0,
        };
        Self { flags, equals: Self::TRUE }
    }

    /// `false`.
    pub fn none(layer: Layer) -> Self {
        Self { equals: (Self::TRUE.0, 1), ..Self::all(layer) }
    }

    /// `event == …`, at the SOCKET layer.
    pub fn socket_event(event: u8) -> Self {
        /// `WINDIVERT_FILTER_FIELD_EVENT`.
        const EVENT: u16 = 70;
        Self { flags: 0xF0 | 0x200 << (event - 3), equals: (EVENT, event.into()) }
    }

    /// A `WINDIVERT_FILTER`: the test, where it leads, and its argument.
    fn record(self) -> [u8; 24] {
        const ACCEPT: u16 = 0x7FFE;
        const REJECT: u16 = 0x7FFF;
        let (field, value) = self.equals;
        let mut record = [0; 24];
        record[..2].copy_from_slice(&field.to_le_bytes());
        record[2..4].copy_from_slice(&ACCEPT.to_le_bytes());
        record[4..6].copy_from_slice(&REJECT.to_le_bytes());
        record[8..12].copy_from_slice(&value.to_le_bytes());
        record
    }
}

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
        Self::open_with(kernel, layer, priority, flags, Filter::all(layer))
    }

    /// Opens a handle with a filter.
    pub fn open_with(
        kernel: &Arc<Kernel>,
        layer: Layer,
        priority: i32,
        flags: u64,
        filter: Filter,
    ) -> Result<Self, Status> {
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
        handle.ask(STARTUP, &ioctl([filter.flags, 0], 0), &filter.record())?;
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
        self.start_batch(most, 1)
    }

    /// Begins to read at most this number of packets, one after the other in one buffer.
    pub fn start_batch(&self, most: usize, packets: usize) -> Receive {
        let length = (packets * ADDRESS) as u32;
        let written = Box::new(Written { length, addresses: vec![[0; ADDRESS]; packets].into() });
        let at = written.addresses.as_ptr().expose_provenance() as u64;
        let length_at = (&raw const written.length).expose_provenance() as u64;
        let input: Vec<u8> = [at, length_at].into_iter().flat_map(u64::to_le_bytes).collect();
        let request =
            self.file.control(RECV, &input, &vec![0; most]).unwrap_or_else(|stop| panic!("{stop:?}"));
        Receive { request, written }
    }

    /// Reads a packet or an event that comes within the limit.
    pub fn receive(&self, limit: Duration) -> Option<(Vec<u8>, Address)> {
        let read = self.start_receive(MOST);
        read.reply(Some(limit));
        read.packet()
    }

    /// Sends packets, one after the other in one buffer, with their addresses. Returns
    /// when the driver has injected them.
    pub fn send_batch(&self, packets: &[u8], addresses: &[Address]) -> Result<(), Status> {
        let addresses: Vec<u8> = addresses.iter().flat_map(|address| address.bytes).collect();
        let words = [addresses.as_ptr().expose_provenance() as u64, addresses.len() as u64];
        let input: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
        self.ask(SEND, &input, packets).map(drop)
    }

    /// Sends a packet with the address that came with it.
    pub fn send(&self, packet: &[u8], address: &Address) -> Result<(), Status> {
        self.send_batch(packet, std::slice::from_ref(address))
    }

    pub fn close(self) {
        self.file.close().unwrap_or_else(|stop| panic!("{stop:?}"));
    }
}

/// The largest packet, and the largest object of a filter.
const MOST: usize = 65_575;

/// A read that was begun.
pub struct Receive {
    request: Request,
    written: Box<Written>,
}

/// What the driver writes beside the packets.
struct Written {
    /// The size of the addresses in bytes.
    length: u32,
    addresses: Box<[[u8; ADDRESS]]>,
}

/// A `WINDIVERT_ADDRESS`.
#[derive(Clone, Copy, Debug)]
pub struct Address {
    pub bytes: [u8; ADDRESS],
}

/// The bits of an address, from `Sniffed` on.
pub mod bit {
    pub const SNIFFED: u8 = 0x01;
    pub const OUTBOUND: u8 = 0x02;
    pub const LOOPBACK: u8 = 0x04;
    pub const IMPOSTOR: u8 = 0x08;
    pub const IPV6: u8 = 0x10;
    pub const IP_CHECKSUM: u8 = 0x20;
    pub const TCP_CHECKSUM: u8 = 0x40;
    pub const UDP_CHECKSUM: u8 = 0x80;
    /// Those that say that checksums are valid.
    pub const CHECKSUMS: u8 = IP_CHECKSUM | TCP_CHECKSUM | UDP_CHECKSUM;
}

impl Address {
    /// The address of a packet that a program makes for the network layer.
    pub fn of_packet(bits: u8, interface: u32) -> Self {
        let mut bytes = [0; ADDRESS];
        bytes[10] = bits;
        bytes[16..20].copy_from_slice(&interface.to_le_bytes());
        Self { bytes }
    }

    fn word(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes[at..at + 4].try_into().unwrap())
    }

    fn half(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.bytes[at..at + 2].try_into().unwrap())
    }

    pub fn layer(&self) -> u8 {
        self.bytes[8]
    }

    pub fn event(&self) -> u8 {
        self.bytes[9]
    }

    /// All [`bit`]s.
    pub fn all_bits(&self) -> u8 {
        self.bytes[10]
    }

    /// The [`bit`]s without those of checksums.
    pub fn bits(&self) -> u8 {
        self.bytes[10] & !bit::CHECKSUMS
    }

    /// Interface and sub-interface of a packet.
    pub fn interface(&self) -> (u32, u32) {
        (self.word(16), self.word(20))
    }

    /// Endpoint and parent endpoint of a FLOW or SOCKET event.
    pub fn endpoints(&self) -> [u64; 2] {
        [16, 24].map(|at| u64::from_le_bytes(self.bytes[at..at + 8].try_into().unwrap()))
    }

    /// The process of a FLOW or SOCKET event.
    pub fn process(&self) -> u32 {
        self.word(32)
    }

    /// Local and remote end of a FLOW or SOCKET event. Addresses are numbers in the byte
    /// order of the machine, the lowest word first; IPv4's are mapped.
    pub fn ends(&self) -> [SocketAddr; 2] {
        [(36, 68), (52, 70)].map(|(at, port)| {
            let number = u128::from_le_bytes(self.bytes[at..at + 16].try_into().unwrap());
            SocketAddr::new(Ipv6Addr::from_bits(number).into(), self.half(port))
        })
    }

    /// The protocol of a FLOW or SOCKET event.
    pub fn protocol(&self) -> u8 {
        self.bytes[72]
    }

    /// Process, layer, flags and priority of the handle that a REFLECT event is about.
    pub fn reflected(&self) -> (u32, u32, u64, i16) {
        let flags = u64::from_le_bytes(self.bytes[32..40].try_into().unwrap());
        (self.word(24), self.word(28), flags, self.half(40) as i16)
    }
}

impl Drop for Receive {
    /// The driver must not write what does not exist any more.
    fn drop(&mut self) {
        self.end();
    }
}

impl Receive {
    /// Cancels the read, unless it has ended.
    fn end(&self) -> Option<Reply> {
        if self.request.reply().is_none() {
            // A machine that has stopped writes nothing.
            let _stopped = self.request.cancel();
        }
        self.request.wait(None).ok().flatten()
    }

    /// Ends the read. Returns the packet or the event that it has got.
    pub fn packet(&self) -> Option<(Vec<u8>, Address)> {
        let reply = self.end()?;
        if reply.status == Status::CANCELLED {
            return None;
        }
        assert!(reply.status.is_success(), "{}", reply.status);
        Some((reply.output[..reply.information as usize].to_vec(), self.address()))
    }

    /// The outcome; `None` if `limit` expires first.
    pub fn reply(&self, limit: Option<Duration>) -> Option<Reply> {
        self.request.wait(limit).unwrap_or_else(|stop| panic!("{stop:?}"))
    }

    /// The address of the first packet.
    pub fn address(&self) -> Address {
        self.addresses()[0]
    }

    /// The addresses of all packets.
    pub fn addresses(&self) -> Vec<Address> {
        // SAFETY: the box is this value's own; the driver has written it before the end.
        let length = unsafe { (&raw const self.written.length).read_volatile() };
        let count = (length as usize / ADDRESS).min(self.written.addresses.len());
        let read = |address: &[u8; ADDRESS]| {
            // SAFETY: as above.
            Address { bytes: unsafe { std::ptr::from_ref(address).read_volatile() } }
        };
        self.written.addresses[..count].iter().map(read).collect()
    }
}
