//! What a program does with a device.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::super::cpu::Irql;
use super::super::guest::Stop;
use super::super::types::{Address, DEVICE_OBJECT, FILE_OBJECT, HANDLE, UNICODE_STRING};
use super::super::{Kernel, cpu, foreign};
use super::buffers::{Buffers, Method};
use super::send::{self, Sent};
use super::{Wanted, cancel, major, stack};
use crate::schedule::Waited;
use crate::status::Status;
use crate::verifier::{Violation, rules};

/// The tag of file objects.
const FILE_TAG: u32 = u32::from_le_bytes(*b"File");
/// `IO_TYPE_FILE` (`wdm.h`).
const IO_TYPE_FILE: i16 = 5;

/// Flags of a device object (`wdm.h`).
pub(super) mod flag {
    pub(in crate::nt::irp) const BUFFERED_IO: u32 = 0x4;
    pub(in crate::nt::irp) const EXCLUSIVE: u32 = 0x8;
    pub(in crate::nt::irp) const DIRECT_IO: u32 = 0x10;
    pub(in crate::nt::irp) const INITIALIZING: u32 = 0x80;
}

/// Why a device was not opened.
#[derive(Clone, Debug)]
pub enum OpenError {
    /// The system or the driver refused.
    Refused(Status),
    /// The driver stopped the machine.
    Stopped(Stop),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(status) => write!(f, "the device cannot be opened: {status}"),
            Self::Stopped(stop) => write!(f, "opening the device stopped the machine: {stop}"),
        }
    }
}

impl std::error::Error for OpenError {}

/// Rights with which a device is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// `FILE_READ_DATA`.
    pub read: bool,
    /// `FILE_WRITE_DATA`.
    pub write: bool,
}

impl Access {
    /// Both.
    pub const FULL: Self = Self { read: true, write: true };

    /// Whether it includes what a mask asks for: `FILE_READ_DATA`, `FILE_WRITE_DATA`.
    pub(in crate::nt) fn has(self, mask: u32) -> bool {
        (mask & 1 == 0 || self.read) && (mask & 2 == 0 || self.write)
    }
}

/// The outcome of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// `IoStatus.Status`.
    pub status: Status,
    /// `IoStatus.Information`.
    pub information: u64,
    /// The program's second buffer, whole.
    pub output: Vec<u8>,
}

/// A device that can be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name, such as `\Device\Sample`; empty if it has none.
    pub name: String,
    /// The links that lead to it, without their folder.
    pub links: Vec<String>,
}

/// An open handle of a device. Dropping it closes it.
pub struct File {
    kernel: Arc<Kernel>,
    object: Address,
    device: Address,
    process: u32,
    access: Access,
    /// The handle in its process; 0 until it is open.
    handle: HANDLE,
}

/// A file object whose last handle is closed.
#[derive(Clone, Copy, Debug)]
pub struct Unclosed {
    device: Address,
    process: u32,
}

/// A request that is under way.
pub struct Request {
    kernel: Arc<Kernel>,
    irp: Address,
    reply: Arc<Mutex<Option<Reply>>>,
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "File({:#x})", self.object)
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Request({:#x}, {:?})", self.irp, self.reply())
    }
}

impl Kernel {
    /// The devices that drivers have created.
    pub fn devices(&self) -> Vec<Device> {
        let objects = self.objects();
        let live = objects.devices.values().filter(|device| !device.deleted);
        let links = |name: &str| {
            let of_device = objects.links.iter().filter(|(_, link)| link.device.eq_ignore_ascii_case(name));
            of_device.map(|(link, _)| link.clone()).collect()
        };
        live.map(|device| Device { links: links(&device.name), name: device.name.clone() }).collect()
    }

    /// Waits until `over` returns true, at most for `limit`. It is asked again whenever a
    /// request is completed or the machine stops. Returns whether it did.
    pub fn wait_for_requests(&self, limit: Duration, over: impl FnMut() -> bool) -> bool {
        let what = || "some request to be completed".to_owned();
        in_kernel(self, |kernel| kernel.bell.wait(&what, Some(limit), over)) == Waited::Ready
    }

    /// Opens a device for a process: `\\.\Sample`, `\??\Sample` or `\Device\Sample`.
    /// The path may go on after the device's name.
    ///
    /// # Errors
    /// If there is no such device, its driver refuses, or the machine stops.
    pub fn open(self: &Arc<Self>, path: &str, process: u32, access: Access) -> Result<File, OpenError> {
        if let Some(stop) = self.stopped() {
            return Err(OpenError::Stopped(stop.clone()));
        }
        self.begin_process(process).map_err(OpenError::Refused)?;
        let Some((device, rest)) = self.find_device(path) else {
            return Err(OpenError::Refused(Status::OBJECT_NAME_NOT_FOUND));
        };
        let object: DEVICE_OBJECT = foreign::read(device).expect("a device object");
        if object.Flags & (flag::BUFFERED_IO | flag::DIRECT_IO) == flag::BUFFERED_IO | flag::DIRECT_IO {
            let text = format!("device {device:#x}");
            self.condemn(Violation::new(&rules::DEVICE_BOTH_IO, [0; 3], text));
            if let Some(stop) = self.stopped() {
                return Err(OpenError::Stopped(stop.clone()));
            }
        }
        if object.Flags & flag::INITIALIZING != 0 {
            return Err(OpenError::Refused(Status::NO_SUCH_DEVICE));
        }
        if !self.objects().open_device(device, object.Flags & flag::EXCLUSIVE != 0) {
            return Err(OpenError::Refused(Status::ACCESS_DENIED));
        }
        let file = new_file_object(self, device, &rest, access);
        let mut file = File { kernel: Arc::clone(self), object: file, device, process, access, handle: 0 };
        let request = file.send(major::CREATE, 0, [0; 4], Buffers::none()).map_err(OpenError::Stopped)?;
        let reply = request.wait(None).map_err(OpenError::Stopped)?.expect("a wait without limit ends");
        if !reply.status.is_success() {
            // There is no cleanup for a file that was not opened.
            return Err(OpenError::Refused(reply.status));
        }
        let mut objects = self.objects();
        // Handles of a process are multiples of 4.
        let of_process = objects.file_handles.range((process, 0)..=(process, HANDLE::MAX));
        file.handle = of_process.last().map_or(0, |((_, last), _)| *last) + 4;
        objects.file_handles.insert((process, file.handle), (file.object, access));
        drop(objects);
        Ok(file)
    }
}

fn new_file_object(kernel: &Kernel, device: Address, rest: &str, access: Access) -> Address {
    let name: Vec<u8> = rest.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let size = size_of::<FILE_OBJECT>();
    let address = kernel.pool().allocate_for_system(size + name.len().next_multiple_of(8), FILE_TAG);
    let object = FILE_OBJECT {
        Type: IO_TYPE_FILE,
        Size: size as i16,
        DeviceObject: device,
        ReadAccess: access.read.into(),
        WriteAccess: access.write.into(),
        FileName: UNICODE_STRING {
            Length: name.len() as u16,
            MaximumLength: name.len() as u16,
            Buffer: if name.is_empty() { 0 } else { address + size },
        },
        ..FILE_OBJECT::zeroed()
    };
    foreign::write(address, &object).expect("the I/O manager's own memory");
    foreign::write_bytes(address + size, &name).expect("the I/O manager's own memory");
    kernel.objects().files.insert(address, device);
    address
}

impl File {
    /// Sends a device control request. `output` is the program's second buffer as it
    /// is before the request.
    ///
    /// # Errors
    /// What stopped the machine.
    pub fn control(&self, code: u32, input: &[u8], output: &[u8]) -> Result<Request, Stop> {
        /// `FILE_READ_ACCESS` and `FILE_WRITE_ACCESS` of an I/O control code.
        const READ: u32 = 1 << 14;
        const WRITE: u32 = 2 << 14;
        if (code & READ != 0 && !self.access.read) || (code & WRITE != 0 && !self.access.write) {
            return Ok(self.refused(Status::ACCESS_DENIED));
        }
        let method = Method::of_code(code);
        let buffers = Buffers::new(&self.kernel, method, input, output);
        let parameters = [output.len() as u64, input.len() as u64, code.into(), 0];
        self.send(major::DEVICE_CONTROL, code, parameters, buffers)
    }

    /// Reads at most `length` bytes.
    ///
    /// # Errors
    /// What stopped the machine.
    pub fn read(&self, length: usize) -> Result<Request, Stop> {
        if !self.access.read {
            return Ok(self.refused(Status::ACCESS_DENIED));
        }
        let method = self.method(Method::OutDirect);
        let buffers = Buffers::new(&self.kernel, method, &[], &vec![0; length]);
        self.send(major::READ, 0, [length as u64, 0, 0, 0], buffers)
    }

    /// Writes bytes.
    ///
    /// # Errors
    /// What stopped the machine.
    pub fn write(&self, bytes: &[u8]) -> Result<Request, Stop> {
        if !self.access.write {
            return Ok(self.refused(Status::ACCESS_DENIED));
        }
        let buffers = match self.method(Method::InDirect) {
            // The second buffer is the one whose pages are locked.
            Method::InDirect => Buffers::new(&self.kernel, Method::InDirect, &[], bytes),
            method => Buffers::new(&self.kernel, method, bytes, &[]),
        };
        self.send(major::WRITE, 0, [bytes.len() as u64, 0, 0, 0], buffers)
    }

    /// How reads and writes of the device pass their buffer.
    fn method(&self, direct: Method) -> Method {
        // The flags of the device that gets the request first count.
        let object: DEVICE_OBJECT = foreign::read(stack::top_of(self.device)).expect("a device object");
        match object.Flags {
            flags if flags & flag::BUFFERED_IO != 0 => Method::Buffered,
            flags if flags & flag::DIRECT_IO != 0 => direct,
            _ => Method::Neither,
        }
    }

    fn send(&self, major: u8, code: u32, parameters: [u64; 4], buffers: Buffers) -> Result<Request, Stop> {
        let (device, file, process) = (self.device, self.object, self.process);
        let wanted = Wanted { major, minor: 0, code, device, file, process, parameters, buffers };
        let Sent { irp, reply } = send::send(&self.kernel, wanted)?;
        Ok(Request { kernel: Arc::clone(&self.kernel), irp, reply })
    }

    /// A request that the I/O manager answers itself.
    fn refused(&self, status: Status) -> Request {
        let reply = Reply { status, information: 0, output: Vec::new() };
        Request { kernel: Arc::clone(&self.kernel), irp: 0, reply: Arc::new(Mutex::new(Some(reply))) }
    }

    /// Closes the handle: cleanup, then the end of its requests, then close. Requests
    /// that the driver still has are cancelled, as at the end of their thread.
    ///
    /// # Errors
    /// What stopped the machine.
    pub fn close(mut self) -> Result<(), Stop> {
        self.close_once()
    }

    /// Its file object and its device.
    pub(super) fn objects(&self) -> (Address, Address) {
        (self.object, self.device)
    }

    /// Its handle, as the process passes it to a driver.
    pub fn handle(&self) -> u64 {
        self.handle as u64
    }

    fn close_once(&mut self) -> Result<(), Stop> {
        let handle = std::mem::take(&mut self.handle);
        let object = self.object;
        if object == 0 {
            return Ok(());
        }
        let for_it = self.kernel.act_for(self.kernel.device_driver(self.device));
        let outcome = if handle == 0 { Ok(()) } else { self.clean_up(handle) };
        self.object = 0;
        let rest = Unclosed { device: self.device, process: self.process };
        let is_referenced = {
            let mut objects = self.kernel.objects();
            let is_referenced = handle != 0 && outcome.is_ok() && objects.referenced.contains_key(&object);
            if is_referenced {
                objects.unclosed.insert(object, rest);
            }
            is_referenced
        };
        let outcome = match (outcome, handle) {
            // The last driver that lets go of it closes it.
            (Ok(()), _) if is_referenced => return Ok(()),
            (Ok(()), handle) if handle != 0 => send_close(&self.kernel, object, rest),
            (outcome, _) => outcome,
        };
        free_file_object(&self.kernel, object);
        drop(for_it);
        outcome
    }

    /// Sends the cleanup, and ends the requests that the driver still has.
    fn clean_up(&self, handle: HANDLE) -> Result<(), Stop> {
        self.kernel.objects().file_handles.remove(&(self.process, handle));
        self.send(major::CLEANUP, 0, [0; 4], Buffers::none())?.wait(None)?;
        for irp in self.pending() {
            in_kernel(&self.kernel, |kernel| cancel::cancel(kernel, irp))?;
        }
        let kernel = &self.kernel;
        let what = || "the requests of a closed file to be completed".to_owned();
        let limit = kernel.options().drain_limit;
        let none_left = || self.pending().is_empty() || kernel.stopped().is_some();
        let _waited = in_kernel(kernel, |kernel| kernel.bell.wait(&what, Some(limit), none_left));
        let left = self.describe_pending();
        if let Some((irp, text)) = left.first() {
            let text = format!("{text}: cancelled, and not completed within {limit:?}");
            let parameters = [*irp as u64, limit.as_millis() as u64, 0];
            kernel.condemn(Violation::new(&rules::IRP_NOT_CANCELLED, parameters, text));
        }
        kernel.stopped().map_or(Ok(()), |stop| Err(stop.clone()))
    }

    fn pending(&self) -> Vec<Address> {
        let irps = self.kernel.irps();
        let mine = irps.iter().filter(|(_, irp)| irp.file == self.object && irp.completed.is_none());
        mine.map(|(address, _)| *address).collect()
    }

    fn describe_pending(&self) -> Vec<(Address, String)> {
        let irps = self.kernel.irps();
        let mine = irps.iter().filter(|(_, irp)| irp.file == self.object && irp.completed.is_none());
        mine.map(|(address, irp)| (*address, irp.describe(*address))).collect()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // What stopped the machine is in the machine.
        let _ = self.close_once();
    }
}

impl Request {
    /// The outcome, if the request is completed.
    pub fn reply(&self) -> Option<Reply> {
        self.reply.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until the request is completed. `None` if `limit` expires first.
    ///
    /// # Errors
    /// What stopped the machine.
    pub fn wait(&self, limit: Option<Duration>) -> Result<Option<Reply>, Stop> {
        let what = || "a request to be completed".to_owned();
        let done = || self.reply().is_some() || self.kernel.stopped().is_some();
        let _waited = in_kernel(&self.kernel, |kernel| kernel.bell.wait(&what, limit, done));
        match (self.reply(), self.kernel.stopped()) {
            (Some(reply), _) => Ok(Some(reply)),
            (None, Some(stop)) => Err(stop.clone()),
            (None, None) => Ok(None),
        }
    }

    /// Asks the driver to cancel the request, as `CancelIoEx` does. The request is
    /// completed when the driver has done so.
    ///
    /// # Errors
    /// What stopped the machine.
    pub fn cancel(&self) -> Result<(), Stop> {
        if self.reply().is_none() {
            in_kernel(&self.kernel, |kernel| cancel::cancel(kernel, self.irp))?;
        }
        Ok(())
    }
}

/// Sends the close of a file object, and waits for it.
fn send_close(kernel: &Kernel, file: Address, rest: Unclosed) -> Result<(), Stop> {
    let Unclosed { device, process } = rest;
    let (parameters, buffers) = ([0; 4], Buffers::none());
    let wanted =
        Wanted { major: major::CLOSE, minor: 0, code: 0, device, file, process, parameters, buffers };
    let Sent { reply, .. } = send::send(kernel, wanted)?;
    let is_over = || reply.lock().unwrap_or_else(PoisonError::into_inner).is_some();
    let what = || "a file to be closed".to_owned();
    let done = || is_over() || kernel.stopped().is_some();
    let _waited = in_kernel(kernel, |kernel| kernel.bell.wait(&what, None, done));
    kernel.stopped().map_or(Ok(()), |stop| Err(stop.clone()))
}

fn free_file_object(kernel: &Kernel, object: Address) {
    kernel.objects().close_file(object);
    super::free_system_block(kernel, object, FILE_TAG);
}

impl Kernel {
    /// Closes a file object to which no driver has a reference any more, if its handle is
    /// closed.
    pub(in crate::nt) fn let_go_of_file(&self, object: Address) {
        let rest = self.objects().unclosed.remove(&object);
        if let Some(rest) = rest {
            // What stopped the machine is in the machine.
            let _closed = send_close(self, object, rest);
            free_file_object(self, object);
        }
    }
}

/// Runs `f` in the machine: where the thread is, or on the first processor.
fn in_kernel<R>(kernel: &Kernel, f: impl FnOnce(&Kernel) -> R) -> R {
    match std::ptr::eq(cpu::kernel(), kernel) {
        true => f(kernel),
        false => kernel.on_processor(0, Irql::PASSIVE, f),
    }
}
