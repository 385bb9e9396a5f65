//! Builds a request, passes it to the driver, and checks what the driver returns.

use std::mem::offset_of;
use std::sync::{Arc, Mutex, PoisonError};

use super::super::cpu::Irql;
use super::super::guest::Stop;
use super::super::process::SYSTEM_PROCESS;
use super::super::types::{Address, DEVICE_OBJECT, DRIVER_OBJECT, IO_STACK_LOCATION, IRP, LIST_ENTRY};
use super::super::{Kernel, cpu, foreign, wdf};
use super::buffers::Buffers;
use super::{IRP_TAG, Irp, Reply, first_location, major, stack};
use crate::status::Status;
use crate::verifier::{Violation, rules};

/// `IO_TYPE_IRP` (`wdm.h`).
const IO_TYPE_IRP: i16 = 6;
/// `UserMode` (`wdm.h`).
const USER_MODE: i8 = 1;

/// A request to make.
pub(in crate::nt) struct Wanted {
    pub major: u8,
    pub minor: u8,
    pub code: u32,
    pub device: Address,
    pub file: Address,
    pub process: u32,
    pub(super) parameters: [u64; 4],
    pub(super) buffers: Buffers,
}

/// A request that the driver has got.
pub(super) struct Sent {
    pub irp: Address,
    pub reply: Arc<Mutex<Option<Reply>>>,
}

/// Passes a request to its driver at PASSIVE_LEVEL.
pub(super) fn send(kernel: &Kernel, wanted: Wanted) -> Result<Sent, Stop> {
    let reply = Arc::new(Mutex::new(None));
    let (device, major, process) = (stack::top_of(wanted.device), wanted.major, wanted.process);
    let _for_it = kernel.act_for(kernel.device_driver(device));
    let irp = build(kernel, wanted, Arc::clone(&reply));
    let pass =
        |kernel: &Kernel| kernel.run_as(process, || dispatch(kernel, device, major, irp, Irql::PASSIVE));
    let (routine, status) = match std::ptr::eq(cpu::kernel(), kernel) {
        true => pass(kernel),
        false => kernel.on_processor(0, Irql::PASSIVE, pass),
    }?;
    check(kernel, irp, routine, status);
    match kernel.stopped() {
        Some(stop) => Err(stop.clone()),
        None => Ok(Sent { irp, reply }),
    }
}

/// Sends a request of WMI's, and waits for its answer.
pub(in crate::nt) fn system_control(
    kernel: &Kernel,
    device: Address,
    minor: u8,
    parameters: [u64; 4],
) -> Result<Option<Reply>, Stop> {
    let (major, code, file, process) = (major::SYSTEM_CONTROL, 0, 0, SYSTEM_PROCESS);
    let wanted = Wanted { major, minor, code, device, file, process, parameters, buffers: Buffers::none() };
    let Sent { reply, .. } = send(kernel, wanted)?;
    let answer = || reply.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let what = || "an answer to WMI".to_owned();
    let _waited = kernel.bell.wait(&what, None, || answer().is_some() || kernel.stopped().is_some());
    Ok(answer())
}

/// Calls the dispatch routine of the device's driver. Returns its address, which is 0 for
/// one of the system's own, and what it returned.
pub(super) fn dispatch(
    kernel: &Kernel,
    device: Address,
    major: u8,
    irp: Address,
    level: Irql,
) -> Result<(Address, Status), Stop> {
    if kernel.objects().devices.get(&device).is_some_and(|device| device.framework != 0) {
        return wdf::dispatch(kernel, device, irp).map(|status| (0, status));
    }
    let object: DEVICE_OBJECT = foreign::read(device).expect("a device object");
    let routine = object.DriverObject + offset_of!(DRIVER_OBJECT, MajorFunction) + 8 * usize::from(major);
    let routine: Address = foreign::read(routine).expect("a driver object");
    if routine == super::super::io::invalid_device_request as *const () as Address {
        // The default entry of the table is the system's own.
        let _ = super::set_status(irp, super::super::status::INVALID_DEVICE_REQUEST, 0);
        let _ = super::complete(kernel, irp);
        return Ok((0, super::super::status::INVALID_DEVICE_REQUEST));
    }
    let value = kernel.call_driver(routine, &[device as u64, irp as u64], level, "dispatch routine")?;
    Ok((routine, Status(value as u32 as i32)))
}

/// Writes the request into memory, and enters it in the table.
fn build(kernel: &Kernel, wanted: Wanted, reply: Arc<Mutex<Option<Reply>>>) -> Address {
    let top = stack::top_of(wanted.device);
    let locations = foreign::read::<DEVICE_OBJECT>(top).map_or(1, |device| device.StackSize).max(1);
    let size = size_of::<IRP>() + locations as usize * size_of::<IO_STACK_LOCATION>();
    let irp = kernel.pool().allocate_for_system(size, IRP_TAG);
    let list = irp + offset_of!(IRP, ThreadListEntry);
    let is_control = matches!(wanted.major, major::DEVICE_CONTROL | major::INTERNAL_DEVICE_CONTROL);
    let input = wanted.buffers.input.as_ref().map_or(0, |buffer| buffer.address());
    let output = wanted.buffers.user_buffer();
    let header = IRP {
        Type: IO_TYPE_IRP,
        Size: size as u16,
        MdlAddress: wanted.buffers.mdl,
        SystemBuffer: wanted.buffers.system,
        ThreadListEntry: LIST_ENTRY { Flink: list, Blink: list },
        RequestorMode: USER_MODE,
        StackCount: locations,
        CurrentLocation: locations,
        UserBuffer: if output == 0 && !is_control { input } else { output },
        Thread: cpu::thread_object(|| kernel.objects().opaque()),
        CurrentStackLocation: irp + size - size_of::<IO_STACK_LOCATION>(),
        OriginalFileObject: wanted.file,
        ..IRP::zeroed()
    };
    let mut parameters = wanted.parameters;
    if is_control && wanted.code & 3 == 3 {
        // Type3InputBuffer.
        parameters[3] = input as u64;
    }
    let location = IO_STACK_LOCATION {
        MajorFunction: wanted.major,
        MinorFunction: wanted.minor,
        Parameters: parameters,
        DeviceObject: top,
        FileObject: wanted.file,
        ..IO_STACK_LOCATION::zeroed()
    };
    foreign::write_bytes(irp, &vec![0; size]).expect("the I/O manager's own memory");
    foreign::write(irp, &header).expect("the I/O manager's own memory");
    foreign::write(header.CurrentStackLocation, &location).expect("the I/O manager's own memory");
    let entry = Irp {
        major: wanted.major,
        code: wanted.code,
        device: wanted.device,
        file: wanted.file,
        process: wanted.process,
        framework: 0,
        buffers: Some(wanted.buffers),
        reply,
        status: None,
        returned: None,
        completed: None,
    };
    kernel.irps().insert(irp, entry);
    irp
}

/// Compares what the dispatch routine returned with what it did.
fn check(kernel: &Kernel, irp: Address, routine: Address, status: Status) {
    /// No status at all: a variable that was not initialized.
    const ILLEGAL: Status = Status(-1);
    let (text, answer, marked) = {
        let mut irps = kernel.irps();
        let Some(known) = irps.get_mut(&irp) else { return };
        known.returned = Some(status);
        let (text, completed, answer) = (known.describe(irp), known.completed, known.status);
        // A request that is not completed is in memory as long as the table is locked.
        let control = || foreign::read::<IO_STACK_LOCATION>(first_location(irp)).map_or(0, |it| it.Control);
        let marked = completed.unwrap_or_else(|| control() & super::PENDING_RETURNED != 0);
        if completed.is_some() {
            irps.remove(&irp);
        }
        (text, answer, marked)
    };
    let parameter = u64::from(status.0 as u32);
    let (rule, fourth) = match (status == Status::PENDING, marked, answer) {
        _ if status == ILLEGAL => (&rules::IRP_STATUS_ILLEGAL, parameter),
        (true, false, _) => (&rules::IRP_NOT_MARKED_PENDING, parameter),
        (false, true, _) => (&rules::IRP_MARKED_PENDING, parameter),
        (false, false, None) => (&rules::IRP_NOT_COMPLETED, 0),
        (false, false, Some(answer)) if answer != status => {
            (&rules::IRP_STATUS_DIFFERS, u64::from(answer.0 as u32))
        }
        _ => return,
    };
    let text = format!("{text}: the dispatch routine returned {status}");
    kernel.condemn(Violation::new(rule, [routine as u64, irp as u64, fourth], text));
}
