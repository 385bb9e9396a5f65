//! The framework's dispatch routine: turns the I/O manager's requests into callbacks.

use std::mem::offset_of;

use super::super::cpu::Irql;
use super::super::guest::Stop;
use super::super::irp::{self, major};
use super::super::types::{Address, IO_STACK_LOCATION};
use super::super::{Kernel, Trouble, foreign};
use super::device::{FileData, Files};
use super::object::{self, Parent};
use super::request::{self, Place};
use super::{Data, Kind, queue};
use crate::status::Status;

/// `SL_PENDING_RETURNED` (`wdm.h`).
const PENDING_RETURNED: u8 = 1;

/// Handles a request for a device of the framework.
pub(in crate::nt) fn dispatch(kernel: &Kernel, object: Address, irp: Address) -> Result<Status, Stop> {
    let outcome = pass(kernel, object, irp);
    match outcome {
        Ok(status) => match kernel.stopped() {
            Some(stop) => Err(stop.clone()),
            None => Ok(status),
        },
        Err(trouble) => {
            kernel.condemn(kernel.breach(trouble));
            match kernel.stopped() {
                Some(stop) => Err(stop.clone()),
                None => Ok(Status::UNSUCCESSFUL),
            }
        }
    }
}

fn pass(kernel: &Kernel, object: Address, irp: Address) -> Result<Status, Trouble> {
    let location: IO_STACK_LOCATION = foreign::read(irp::stack_location(irp))?;
    let (device, files, caller_context, attributes, file) = {
        let mut framework = kernel.framework();
        let handle = framework.device_of(object);
        let device = framework.device(handle)?;
        let file = device.open.get(&location.FileObject).copied().unwrap_or(0);
        (handle, device.files.clone(), device.caller_context, device.request_attributes.clone(), file)
    };
    match location.MajorFunction {
        major::CREATE => {
            let file = match files.as_ref().map(|files| new_file(kernel, device, files, location.FileObject))
            {
                None => 0,
                Some(made) => match made? {
                    Ok(file) => file,
                    Err(status) => return answer(kernel, irp, status),
                },
            };
            match files.map_or(0, |files| files.config.EvtDeviceFileCreate) {
                0 => answer(kernel, irp, Status::SUCCESS),
                callback => {
                    let request = match request::create(kernel, device, file, irp, attributes)? {
                        Ok(request) => request,
                        Err(status) => {
                            forget_file(kernel, file);
                            return answer(kernel, irp, status);
                        }
                    };
                    kernel.framework().request(request)?.place = Place::Driver;
                    mark_pending(irp)?;
                    let arguments = [device as u64, request as u64, file as u64];
                    let _ = kernel.call_driver(callback, &arguments, Irql::PASSIVE, "EvtDeviceFileCreate");
                    Ok(Status::PENDING)
                }
            }
        }
        major::CLEANUP => {
            call_file(kernel, files.map_or(0, |files| files.config.EvtFileCleanup), file, "EvtFileCleanup");
            queue::flush_file(kernel, device, file)?;
            answer(kernel, irp, Status::SUCCESS)
        }
        major::CLOSE => {
            call_file(kernel, files.map_or(0, |files| files.config.EvtFileClose), file, "EvtFileClose");
            if file != 0 {
                forget_file(kernel, file);
            }
            answer(kernel, irp, Status::SUCCESS)
        }
        major::READ | major::WRITE | major::DEVICE_CONTROL | major::INTERNAL_DEVICE_CONTROL => {
            let request = match request::create(kernel, device, file, irp, attributes)? {
                Ok(request) => request,
                Err(status) => return answer(kernel, irp, status),
            };
            mark_pending(irp)?;
            if caller_context != 0 {
                let arguments = [device as u64, request as u64];
                let name = "EvtIoInCallerContext";
                let _ = kernel.call_driver(caller_context, &arguments, Irql::PASSIVE, name);
                return Ok(Status::PENDING);
            }
            let status = request::enqueue(kernel, device, request)?;
            if !status.is_success() {
                request::complete(kernel, request, status, Some(0))?;
            }
            Ok(Status::PENDING)
        }
        _ => answer(kernel, irp, super::super::status::INVALID_DEVICE_REQUEST),
    }
}

/// Completes a request that the framework answers itself.
fn answer(kernel: &Kernel, irp: Address, status: Status) -> Result<Status, Trouble> {
    irp::set_status(irp, status, 0)?;
    irp::complete(kernel, irp)?;
    Ok(status)
}

fn mark_pending(irp: Address) -> Result<(), Trouble> {
    let at = irp::stack_location(irp) + offset_of!(IO_STACK_LOCATION, Control);
    let control: u8 = foreign::read(at)?;
    Ok(foreign::write(at, &(control | PENDING_RETURNED))?)
}

/// Makes the framework's file object.
fn new_file(
    kernel: &Kernel,
    device: Address,
    files: &Files,
    object: Address,
) -> Result<Result<Address, Status>, Trouble> {
    let attributes = files.attributes.as_ref().map_or(0, |bytes| bytes.as_ptr() as Address);
    let data = Data::File(FileData { device, object });
    let made = object::create(kernel, Kind::File, attributes, Parent::Fixed(device), data)?;
    if let Ok(file) = made {
        kernel.framework().device(device)?.open.insert(object, file);
    }
    Ok(made)
}

/// Deletes the framework's file object.
pub(super) fn forget_file(kernel: &Kernel, file: Address) {
    {
        let mut framework = kernel.framework();
        let Ok(data) = framework.file(file) else { return };
        let (device, object) = (data.device, data.object);
        if let Ok(device) = framework.device(device) {
            device.open.remove(&object);
        }
    }
    object::delete_here(kernel, file);
}

fn call_file(kernel: &Kernel, callback: Address, file: Address, name: &'static str) {
    if callback != 0 && file != 0 {
        let _ = kernel.call_driver(callback, &[file as u64], Irql::PASSIVE, name);
    }
}

/// Cancels a request that its program cancels. Returns whether that had an effect.
pub(in crate::nt) fn cancel(kernel: &Kernel, request: Address) -> Result<bool, Stop> {
    let outcome = match request::note_cancel(kernel, request) {
        Some(Place::Queue) => request::cancel_in_queue(kernel, request).map(|()| true),
        Some(Place::Driver) => request::cancel_owned(kernel, request),
        _ => Ok(false),
    };
    let canceled = outcome.unwrap_or_else(|trouble| {
        kernel.condemn(kernel.breach(trouble));
        false
    });
    match kernel.stopped() {
        Some(stop) => Err(stop.clone()),
        None => Ok(canceled),
    }
}
