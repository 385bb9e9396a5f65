//! I/O requests: how programs reach a driver's devices.
//!
//! | module | content |
//! |---|---|
//! | this one | the table of requests, and the exports that drivers call |
//! | [`file`] | what a program does: open, read, write, control, cancel, close |
//! | `buffers` | a request's memory: the program's, and the I/O manager's copy of it |
//! | `send` | builds a request, calls the driver, checks what it returns |
//! | `stack` | attached devices: a request goes down, and comes back up |
//! | `made`, `build` | requests that drivers make themselves |
#![expect(non_snake_case, reason = "the names are the NT API's own")]

mod buffers;
mod build;
mod cancel;
mod file;
mod made;
mod send;
mod stack;

use std::collections::BTreeMap;
use std::mem::offset_of;
use std::sync::{Arc, Mutex};

use super::enter::enter;
use super::foreign;
use super::types::{Address, IO_STACK_LOCATION, IO_STATUS_BLOCK, IRP};
use super::{Kernel, Trouble, cpu};
use crate::status::Status;
use crate::verifier::{Violation, rules};

use buffers::Buffers;
pub(super) use buffers::Misused;
pub use build::*;
pub use cancel::*;
pub(super) use file::Unclosed;
pub use file::{Access, Device, File, OpenError, Reply, Request};
pub(super) use made::MadeIrps;
pub use made::*;
pub(super) use send::{Wanted, system_control};
pub(super) use stack::is_device;
pub use stack::*;

/// `IRP_MJ_*` (`wdm.h`).
pub mod major {
    #![allow(missing_docs, reason = "the names are wdm.h's own")]
    pub const CREATE: u8 = 0x00;
    pub const CLOSE: u8 = 0x02;
    pub const READ: u8 = 0x03;
    pub const WRITE: u8 = 0x04;
    pub const DEVICE_CONTROL: u8 = 0x0E;
    pub const INTERNAL_DEVICE_CONTROL: u8 = 0x0F;
    pub const CLEANUP: u8 = 0x12;
    pub const SYSTEM_CONTROL: u8 = 0x17;
}

/// `IRP_MN_*` (`wdm.h`).
pub mod minor {
    #![allow(missing_docs, reason = "the names are wdm.h's own")]
    pub const REGINFO_EX: u8 = 0x0B;
}

/// `SL_PENDING_RETURNED` (`wdm.h`), which `IoMarkIrpPending` sets.
const PENDING_RETURNED: u8 = 1;

/// The tag of a request's memory.
const IRP_TAG: u32 = u32::from_le_bytes(*b"Irp ");

/// A request that is not over.
#[derive(Debug)]
pub(super) struct Irp {
    /// `IRP_MJ_*`.
    pub major: u8,
    /// The I/O control code, for a device control request.
    pub code: u32,
    /// The device object.
    pub device: Address,
    /// The file object.
    pub file: Address,
    /// The id of the process that made it.
    pub process: u32,
    /// The request of the framework that stands for it, or 0.
    pub framework: Address,
    /// Its memory, until it is completed.
    buffers: Option<Buffers>,
    reply: Arc<Mutex<Option<Reply>>>,
    /// The status with which it was completed.
    status: Option<Status>,
    /// What the dispatch routine returned; `None` while it runs.
    returned: Option<Status>,
    /// Whether the driver marked it pending, once it is completed.
    completed: Option<bool>,
}

impl Irp {
    fn describe(&self, address: Address) -> String {
        let name = match self.major {
            major::CREATE => "IRP_MJ_CREATE",
            major::CLOSE => "IRP_MJ_CLOSE",
            major::READ => "IRP_MJ_READ",
            major::WRITE => "IRP_MJ_WRITE",
            major::CLEANUP => "IRP_MJ_CLEANUP",
            major::SYSTEM_CONTROL => "IRP_MJ_SYSTEM_CONTROL",
            _ => return format!("IRP {address:#x}, control code {:#x}", self.code),
        };
        format!("IRP {address:#x}, {name}")
    }
}

/// The requests of a machine that are not over, by address.
pub(super) type Irps = BTreeMap<Address, Irp>;

impl Kernel {
    /// Runs `f` as a thread of a process, which can access the buffers of its program.
    pub(super) fn run_as<R>(&self, process: u32, f: impl FnOnce() -> R) -> R {
        self.count_threads(process, 1);
        let result = super::process::run_in(process, f);
        self.count_threads(process, -1);
        result
    }

    /// Counts a thread that enters a process or leaves it.
    fn count_threads(&self, process: u32, change: i32) {
        let inside = {
            let mut objects = self.objects();
            let count = objects.inside.entry(process).or_default();
            *count += change;
            *count
        };
        if inside == 0 || (inside == 1 && change > 0) {
            let mut irps = self.irps();
            let own = irps.values_mut().filter(|irp| irp.process == process);
            own.filter_map(|irp| irp.buffers.as_mut()).for_each(|buffers| buffers.set_open(inside > 0));
        }
    }

    /// Notes that the pages at an address are locked, if they are a program's.
    pub(super) fn lock_users(&self, address: Address) {
        self.irps().values_mut().filter_map(|irp| irp.buffers.as_mut()).for_each(|it| it.lock(address));
    }

    /// Why an access to an address faults, if it is of a program's buffer. `None` also
    /// while another thread changes the requests.
    pub(super) fn misused(&self, address: Address) -> Option<Misused> {
        let irps = self.try_irps()?;
        irps.values().find_map(|irp| irp.buffers.as_ref()?.misused(address))
    }
}

/// The id of the process that made a request.
pub(super) fn requestor(kernel: &Kernel, irp: Address) -> Result<u32, Violation> {
    let id = kernel.irps().get(&irp).map(|known| known.process);
    id.ok_or_else(|| not_a_request(irp))
}

impl Kernel {
    /// Whether an address is in a buffer of a program that made a request.
    pub(super) fn is_program_buffer(&self, address: Address) -> bool {
        self.irps().values().filter_map(|irp| irp.buffers.as_ref()).any(|it| it.is_of_program(address))
    }
}

fn not_a_request(irp: Address) -> Violation {
    Violation::new(&rules::BAD_OBJECT, [irp as u64, 0, 0], format!("{irp:#x} is no IRP, or it is over"))
}

/// The address of the stack location of the driver that has a request now.
pub(super) fn stack_location(irp: Address) -> Address {
    foreign::read(irp + offset_of!(IRP, CurrentStackLocation)).unwrap_or(irp + size_of::<IRP>())
}

/// The stack location of the driver that gets a request first, which is the last one.
fn first_location(irp: Address) -> Address {
    let count = foreign::read::<i8>(irp + offset_of!(IRP, StackCount)).unwrap_or(1).max(1);
    irp + size_of::<IRP>() + (count as usize - 1) * size_of::<IO_STACK_LOCATION>()
}

/// `IofCompleteRequest`.
pub extern "win64" fn IofCompleteRequest(Irp: Address, PriorityBoost: i8) {
    let kernel = enter!(IofCompleteRequest);
    // The lab does not model priority boosts.
    let _ = PriorityBoost;
    kernel.settle(complete(&kernel, Irp), ());
}

/// Completes a request with the status that its driver has written into it.
pub(super) fn complete(kernel: &Kernel, irp: Address) -> Result<(), Trouble> {
    let (known, text) = {
        let irps = kernel.irps();
        let known = irps.get(&irp);
        (known.map(|known| known.completed.is_some()), known.map(|known| known.describe(irp)))
    };
    let text = text.unwrap_or_else(|| format!("IRP {irp:#x}"));
    if known != Some(false) {
        return Err(made::not_to_complete(kernel, irp, text).into());
    }
    let mut header: IRP = foreign::read(irp)?;
    let mut status = Status(header.IoStatus.Pointer as u32 as i32);
    if [Status::PENDING.0, -1].contains(&status.0) {
        let parameters = [u64::from(status.0 as u32), irp as u64, 0];
        return Err(Violation::new(&rules::IRP_COMPLETED_PENDING, parameters, text).into());
    }
    if header.CancelRoutine != 0 {
        let parameters = [header.CancelRoutine as u64, irp as u64, 0];
        return Err(Violation::new(&rules::IRP_CANCEL_ROUTINE_SET, parameters, text).into());
    }
    let of_driver = made::is_made(kernel, irp);
    if header.StackCount > 1 || of_driver {
        if stack::climb(kernel, irp)? {
            return Ok(());
        }
        if of_driver {
            return made::finish(kernel, irp);
        }
        header = foreign::read(irp)?;
        status = Status(header.IoStatus.Pointer as u32 as i32);
    }
    let location: IO_STACK_LOCATION = foreign::read(first_location(irp))?;
    let marked = location.Control & PENDING_RETURNED != 0;
    let information = header.IoStatus.Information;
    let invariant = location.MajorFunction == major::WRITE && kernel.verifier().checks(&rules::MDL_INVARIANT);
    let mut irps = kernel.irps();
    let Some(known) = irps.get_mut(&irp) else { return Ok(()) };
    if let Some(longest) = known.buffers.as_ref().and_then(Buffers::copied_back)
        && status.0 >= 0
        && information > longest as u64
    {
        drop(irps);
        let text = format!("{text}: Information {information}, the output buffer has {longest} bytes");
        let parameters = [kernel.call_site(), irp as u64, 0];
        return Err(Violation::new(&rules::IRP_INFORMATION, parameters, text).into());
    }
    known.completed = Some(marked);
    known.status = Some(status);
    if let Some(changed) = known.buffers.as_ref().filter(|_| invariant).and_then(Buffers::changed) {
        let parameters = [known.device as u64, irp as u64, changed as u64];
        drop(irps);
        return Err(Violation::new(&rules::MDL_INVARIANT, parameters, text).into());
    }
    let mut buffers = known.buffers.take();
    let output = match &mut buffers {
        Some(buffers) => buffers.finish(status, information)?,
        None => Vec::new(),
    };
    *known.reply.lock().unwrap_or_else(std::sync::PoisonError::into_inner) =
        Some(Reply { status, information, output });
    if known.returned.is_some() {
        irps.remove(&irp);
    }
    drop(irps);
    if let Some(buffers) = buffers {
        buffers.release(kernel);
    }
    free_system_block(kernel, irp, IRP_TAG);
    kernel.bell.ring();
    Ok(())
}

/// Frees memory of the I/O manager's, which a driver may have overrun.
fn free_system_block(kernel: &Kernel, address: Address, tag: u32) {
    if let Err(violation) = kernel.pool().free(address, tag, cpu::irql(), kernel.guest().frames()) {
        kernel.condemn(violation);
    }
}

/// Writes the status with which a request will be completed.
pub(super) fn set_status(irp: Address, status: Status, information: u64) -> Result<(), Trouble> {
    let block = IO_STATUS_BLOCK { Pointer: u64::from(status.0 as u32), Information: information };
    Ok(foreign::write(irp + offset_of!(IRP, IoStatus), &block)?)
}
