//! The memory of a request, for each of the four ways to pass buffers.

use super::super::Kernel;
use super::super::foreign::{self, BadPointer};
use super::super::memory::{Guarded, PAGE};
use super::super::types::{Address, MDL, MDL_PAGES_LOCKED};
use crate::status::Status;

/// The tag of the I/O manager's copies of buffers.
pub(super) const BUFFER_TAG: u32 = u32::from_le_bytes(*b"IoSB");
/// The tag of the I/O manager's MDLs.
const MDL_TAG: u32 = u32::from_le_bytes(*b"Mdl ");

/// How a request passes its buffers (`METHOD_*`, `wdm.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    /// The I/O manager copies both buffers.
    Buffered,
    /// It copies the input, and locks the pages of the second buffer, from which
    /// the driver reads.
    InDirect,
    /// As above; the driver writes into the second buffer.
    OutDirect,
    /// The driver gets the program's addresses.
    Neither,
}

impl Method {
    /// The method in the lowest bits of an I/O control code.
    pub fn of_code(code: u32) -> Self {
        match code & 3 {
            0 => Self::Buffered,
            1 => Self::InDirect,
            2 => Self::OutDirect,
            _ => Self::Neither,
        }
    }
}

/// A buffer of a program. It ends at a guard page.
#[derive(Debug)]
pub(super) struct UserBuffer {
    pages: Guarded,
    length: usize,
    /// Whether its pages are locked, so that they can be accessed from anywhere.
    locked: bool,
    /// Whether it can be accessed now: by a thread of the program, or because it is
    /// locked.
    open: bool,
}

impl UserBuffer {
    /// A buffer with these bytes; `None` for an empty one.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() {
            return None;
        }
        let pages = Guarded::new(bytes.len());
        let buffer = Self { length: bytes.len(), pages, locked: false, open: true };
        buffer.pages.put_bytes(buffer.address(), bytes);
        Some(buffer)
    }

    pub fn address(&self) -> Address {
        self.pages.end() - self.length
    }

    /// Whether an address is in its pages.
    fn contains(&self, address: Address) -> bool {
        self.pages.contains(address)
    }

    fn set_open(&mut self, open: bool) {
        let open = open || self.locked;
        if self.open != open {
            self.open = open;
            self.pages.set_accessible(open);
        }
    }

    fn bytes(&self) -> Vec<u8> {
        foreign::read_bytes(self.address(), self.length).unwrap_or_default()
    }
}

/// The memory of a request.
#[derive(Debug)]
pub(super) struct Buffers {
    pub method: Method,
    pub input: Option<UserBuffer>,
    pub output: Option<UserBuffer>,
    /// The I/O manager's copy, or 0.
    pub system: Address,
    /// The MDL of the second buffer, or 0.
    pub mdl: Address,
    /// Where a request with direct I/O says that the program's second buffer is. A driver
    /// has no use for that address.
    shadow: Option<Guarded>,
    /// What the second buffer held before the request.
    before: Vec<u8>,
}

/// What is wrong with an access to a program's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::nt) enum Misused {
    /// It is of another process than the one whose thread accessed it.
    OtherProcess,
    /// The request passes it by an MDL.
    Direct,
}

impl Buffers {
    /// No memory.
    pub fn none() -> Self {
        let (input, output, shadow) = (None, None, None);
        Self { method: Method::Neither, input, output, system: 0, mdl: 0, shadow, before: Vec::new() }
    }

    /// The memory of a request with `input`, and with room for `output` bytes, which
    /// hold `filled` before the request.
    pub fn new(kernel: &Kernel, method: Method, input: &[u8], output: &[u8]) -> Self {
        let mut it = Self {
            method,
            input: UserBuffer::new(input),
            output: UserBuffer::new(output),
            system: 0,
            mdl: 0,
            shadow: None,
            before: output.to_vec(),
        };
        let copied = match method {
            Method::Buffered => input.len().max(output.len()),
            Method::InDirect | Method::OutDirect => input.len(),
            Method::Neither => 0,
        };
        if copied > 0 {
            // What the program did not pass is not initialized, as on Windows.
            it.system = kernel.pool().allocate_for_system(copied, BUFFER_TAG);
            foreign::write_bytes(it.system, input).expect("the I/O manager's own memory");
        }
        if let (Method::InDirect | Method::OutDirect, Some(buffer)) = (method, &it.output) {
            it.mdl = mdl(kernel, buffer);
            let shadow = Guarded::new(buffer.length);
            shadow.set_accessible(false);
            it.shadow = Some(shadow);
        }
        it
    }

    /// `IRP.UserBuffer`, as the I/O manager sets it for this method.
    pub fn user_buffer(&self) -> Address {
        match (&self.shadow, &self.output) {
            (Some(shadow), Some(output)) => shadow.end() - output.length,
            (_, Some(output)) => output.address(),
            (_, None) => 0,
        }
    }

    /// Lets the program's buffers be accessed at their own addresses, or not. Those that
    /// are copied or locked by the I/O manager always can.
    pub fn set_open(&mut self, open: bool) {
        if self.method == Method::Neither {
            self.input.iter_mut().chain(&mut self.output).for_each(|buffer| buffer.set_open(open));
        }
    }

    /// Notes that the pages at an address are locked, if they are the program's.
    pub fn lock(&mut self, address: Address) {
        for buffer in self.input.iter_mut().chain(&mut self.output).filter(|it| it.contains(address)) {
            buffer.locked = true;
            buffer.set_open(true);
        }
    }

    /// Why an access to an address faults, if it is of one of the program's buffers.
    pub fn misused(&self, address: Address) -> Option<Misused> {
        if self.shadow.as_ref().is_some_and(|shadow| shadow.contains(address)) {
            return Some(Misused::Direct);
        }
        let mut buffers = self.input.iter().chain(&self.output);
        buffers.any(|buffer| !buffer.open && buffer.contains(address)).then_some(Misused::OtherProcess)
    }

    /// Whether an address is in a buffer of the program.
    pub fn is_of_program(&self, address: Address) -> bool {
        [&self.input, &self.output].into_iter().flatten().any(|buffer| buffer.contains(address))
    }

    /// The address of the locked buffer, if a write request's driver has changed it.
    pub fn changed(&self) -> Option<Address> {
        let buffer = self.output.as_ref().filter(|_| self.method == Method::InDirect)?;
        (buffer.bytes() != self.before).then(|| buffer.address())
    }

    /// Most bytes that are copied back to the program; `None` if none are.
    pub fn copied_back(&self) -> Option<usize> {
        let length = self.output.as_ref().map(|buffer| buffer.length);
        length.filter(|_| self.method == Method::Buffered)
    }

    /// Copies the result to the program, and returns its buffer. An error status
    /// copies nothing.
    pub fn finish(&mut self, status: Status, information: u64) -> Result<Vec<u8>, BadPointer> {
        // The I/O manager completes a request in the context of its program.
        self.set_open(true);
        let Some(output) = &self.output else { return Ok(Vec::new()) };
        if self.method == Method::Buffered && !is_error(status) {
            let length = (information as usize).min(output.length);
            let bytes = foreign::read_bytes(self.system, length)?;
            foreign::write_bytes(output.address(), &bytes)?;
        }
        Ok(output.bytes())
    }

    /// Frees the I/O manager's memory.
    pub fn release(self, kernel: &Kernel) {
        for (address, tag) in [(self.system, BUFFER_TAG), (self.mdl, MDL_TAG)] {
            if address != 0 {
                super::free_system_block(kernel, address, tag);
            }
        }
    }
}

/// `NT_ERROR` (`ntdef.h`): the two highest bits are set.
pub(super) fn is_error(status: Status) -> bool {
    status.0 as u32 >> 30 == 3
}

/// An MDL of a program's locked pages.
fn mdl(kernel: &Kernel, buffer: &UserBuffer) -> Address {
    let start = buffer.address();
    let offset = start % PAGE;
    let pages = (offset + buffer.length).div_ceil(PAGE);
    // The numbers of the pages follow the structure.
    let size = size_of::<MDL>() + 8 * pages;
    let address = kernel.pool().allocate_for_system(size, MDL_TAG);
    let mdl = MDL {
        Size: size as i16,
        MdlFlags: MDL_PAGES_LOCKED,
        StartVa: start - offset,
        ByteCount: buffer.length as u32,
        ByteOffset: offset as u32,
        ..MDL::zeroed()
    };
    foreign::write(address, &mdl).expect("the I/O manager's own memory");
    address
}
