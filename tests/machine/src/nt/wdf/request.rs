//! Requests of the framework (`wdfrequest.h`).

use super::super::cpu::Irql;
use super::super::enter::enter;
use super::super::irp;
use super::super::types::{Address, BOOLEAN, NTSTATUS, WDF_REQUEST_PARAMETERS};
use super::super::{Kernel, Trouble, foreign};
use super::object::{self, Parent};
use super::{
    Data as ObjectData, Kind, boolean, finish, finish_value, finish_void, not_null, queue, scope, status,
};
use crate::status::Status;
use crate::verifier::{Violation, rules};

/// Who has a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The driver, in EvtIoInCallerContext; the request is in no queue yet.
    CallerContext,
    Queue,
    Driver,
    /// It is completed.
    Completed,
}

/// A request.
#[derive(Debug)]
pub(super) struct Data {
    pub irp: Address,
    pub device: Address,
    /// The framework's file object, or 0.
    pub file: Address,
    pub major: u8,
    pub minor: u8,
    pub code: u32,
    /// As in the stack location.
    pub parameters: [u64; 4],
    /// The length of a read or a write.
    pub transfer_length: Option<u64>,
    /// The queue from which it comes, or 0.
    pub queue: Address,
    pub place: Place,
    /// EvtRequestCancel, while the request can be cancelled; else 0.
    cancel: Address,
    /// Whether its program has cancelled it.
    canceled: bool,
    information: u64,
    /// Memory objects for the input and the output buffer, once the driver has asked.
    pub memories: [Address; 2],
    /// The MDLs that the framework built for the buffers.
    pub mdls: [Address; 2],
}

/// Sub-codes of bugcheck 0x10D/6 (`WDF_REQUEST_FATAL_ERROR_CODES`, `wdfbugcodes.h`).
mod fatal {
    /// The request has no IRP any more.
    pub(super) const NULL_IRP: u64 = 2;
    pub(super) const INFORMATION_LENGTH: u64 = 4;
    pub(super) const NOT_IN_QUEUE: u64 = 5;
}

/// Makes the framework's request for one of the I/O manager's.
pub(super) fn create(
    kernel: &Kernel,
    device: Address,
    file: Address,
    irp: Address,
    attributes: Option<Vec<u8>>,
) -> Result<Result<Address, Status>, Trouble> {
    let location: super::super::types::IO_STACK_LOCATION = foreign::read(irp::stack_location(irp))?;
    let (major, minor) = (location.MajorFunction, location.MinorFunction);
    let is_transfer = matches!(major, irp::major::READ | irp::major::WRITE);
    let data = ObjectData::Request(Data {
        irp,
        device,
        file,
        major,
        minor,
        code: location.Parameters[2] as u32,
        parameters: location.Parameters,
        transfer_length: is_transfer.then_some(location.Parameters[0] & u64::from(u32::MAX)),
        queue: 0,
        place: Place::CallerContext,
        cancel: 0,
        canceled: false,
        information: 0,
        memories: [0; 2],
        mdls: [0; 2],
    });
    let attributes = attributes.as_ref().map_or(0, |bytes| bytes.as_ptr() as Address);
    let made = object::create(kernel, Kind::Request, attributes, Parent::Fixed(0), data)?;
    if let (Ok(handle), Some(irp)) = (made, kernel.irps().get_mut(&irp)) {
        irp.framework = handle;
    }
    Ok(made)
}

/// A breach of bugcheck 0x10D/6.
fn request_error(code: u64, request: Address, text: String) -> Trouble {
    Violation::new(&rules::WDF_REQUEST_ERROR, [code, request as u64, 0], text).into()
}

/// Whether the driver has references to the memory objects of a request's buffers, which
/// end with the request.
fn check_references(kernel: &Kernel, request: Address) -> Result<(), Trouble> {
    let mut framework = kernel.framework();
    let memories = framework.request(request)?.memories;
    let held = memories.iter().filter_map(|memory| framework.objects.get(memory)).map(|it| it.references - 1);
    match held.map(u64::from).sum() {
        0 => Ok(()),
        count => {
            let text = format!("WDFREQUEST {request:#x}: {count} references to its buffers");
            Err(Violation::new(&rules::WDF_BUFFER_REFERENCED, [request as u64, count, 0], text).into())
        }
    }
}

/// Completes a request: its cleanup callbacks and its children's deletion come first.
pub(super) fn complete(
    kernel: &Kernel,
    request: Address,
    status: Status,
    information: Option<u64>,
) -> Result<(), Trouble> {
    let status = windows_status(status);
    check_references(kernel, request)?;
    let (irp, queue, information, file) = {
        let mut framework = kernel.framework();
        let data = framework.request(request)?;
        let information = information.unwrap_or(data.information);
        let refuse = |code, what: &str| {
            Err(request_error(
                code,
                request,
                format!("{what}: WDFREQUEST {request:#x}, code {:#x}", data.code),
            ))
        };
        match data.place {
            Place::Completed => return refuse(fatal::NULL_IRP, "completed again"),
            Place::Queue => return refuse(fatal::NOT_IN_QUEUE, "completed while in a queue"),
            _ if data.cancel != 0 => {
                return refuse(fatal::NULL_IRP, "completed while it can be cancelled");
            }
            _ => {}
        }
        let output = data.parameters[0] & u64::from(u32::MAX);
        let longest = match data.major {
            irp::major::READ | irp::major::WRITE => Some(output),
            irp::major::DEVICE_CONTROL => Some(output).filter(|length| *length > 0),
            _ => None,
        };
        if status.is_success() && longest.is_some_and(|longest| information > longest) {
            return refuse(
                fatal::INFORMATION_LENGTH,
                &format!("completed with {information} bytes for a buffer of {output}"),
            );
        }
        data.place = Place::Completed;
        (data.irp, data.queue, information, data.file)
    };
    let is_create = kernel.irps().get(&irp).is_some_and(|irp| irp.major == irp::major::CREATE);
    object::dispose_early(kernel, request);
    irp::set_status(irp, status, information)?;
    irp::complete(kernel, irp)?;
    object::release(kernel, request);
    if is_create && !status.is_success() && file != 0 {
        super::dispatch::forget_file(kernel, file);
    }
    if queue != 0 {
        queue::leave(kernel, queue, request);
    }
    Ok(())
}

/// The status for the program: those of the framework itself become others.
fn windows_status(status: Status) -> Status {
    /// `FACILITY_DRIVER_FRAMEWORK` in an NTSTATUS.
    const FRAMEWORK: i32 = 0x0020_0000;
    match status {
        status::PAUSED | status::BUSY => Status::DEVICE_BUSY,
        other if other.0 & 0x0FFF_0000 == FRAMEWORK => super::super::status::INVALID_DEVICE_REQUEST,
        other => other,
    }
}

/// `WdfRequestComplete`.
pub extern "win64" fn WdfRequestComplete(DriverGlobals: Address, Request: Address, Outcome: NTSTATUS) {
    let kernel = enter!(WdfRequestComplete);
    let _ = DriverGlobals;
    finish_void(&kernel, complete(&kernel, Request, Status(Outcome), None));
}

/// `WdfRequestCompleteWithInformation`.
pub extern "win64" fn WdfRequestCompleteWithInformation(
    DriverGlobals: Address,
    Request: Address,
    Outcome: NTSTATUS,
    Information: u64,
) {
    let kernel = enter!(WdfRequestCompleteWithInformation);
    let _ = DriverGlobals;
    finish_void(&kernel, complete(&kernel, Request, Status(Outcome), Some(Information)));
}

/// `WdfRequestCompleteWithPriorityBoost`. Boosts are not modelled.
pub extern "win64" fn WdfRequestCompleteWithPriorityBoost(
    DriverGlobals: Address,
    Request: Address,
    Outcome: NTSTATUS,
    PriorityBoost: i8,
) {
    let kernel = enter!(WdfRequestCompleteWithPriorityBoost);
    let _ = (DriverGlobals, PriorityBoost);
    finish_void(&kernel, complete(&kernel, Request, Status(Outcome), None));
}

/// `WdfRequestSetInformation`.
pub extern "win64" fn WdfRequestSetInformation(DriverGlobals: Address, Request: Address, Information: u64) {
    let kernel = enter!(WdfRequestSetInformation);
    let _ = DriverGlobals;
    let set = || {
        kernel.framework().request(Request)?.information = Information;
        Ok(())
    };
    finish_void(&kernel, set());
}

/// `WdfRequestGetInformation`.
pub extern "win64" fn WdfRequestGetInformation(DriverGlobals: Address, Request: Address) -> u64 {
    let kernel = enter!(WdfRequestGetInformation);
    let _ = DriverGlobals;
    let get = || Ok(kernel.framework().request(Request)?.information);
    finish_value(&kernel, get())
}

/// `WdfRequestGetParameters`.
pub extern "win64" fn WdfRequestGetParameters(DriverGlobals: Address, Request: Address, Parameters: Address) {
    let kernel = enter!(WdfRequestGetParameters);
    let _ = DriverGlobals;
    let get = || {
        let at = not_null("Parameters", Parameters)?;
        let size: u16 = foreign::read(at)?;
        let parameters = {
            let mut framework = kernel.framework();
            let data = live(framework.request(Request)?, Request)?;
            let mut words = data.parameters;
            // Lengths have 32 bits in the stack location and 64 bits here.
            match data.major {
                irp::major::DEVICE_CONTROL | irp::major::INTERNAL_DEVICE_CONTROL => {
                    words[0] &= u64::from(u32::MAX);
                    words[1] &= u64::from(u32::MAX);
                }
                irp::major::READ | irp::major::WRITE => words[0] &= u64::from(u32::MAX),
                _ => {}
            }
            WDF_REQUEST_PARAMETERS {
                Size: size,
                MinorFunction: data.minor,
                Type: data.major.into(),
                Parameters: words,
            }
        };
        Ok(foreign::write(at, &parameters)?)
    };
    finish_void(&kernel, get());
}

/// A request that is not completed.
pub(super) fn live(data: &mut Data, request: Address) -> Result<&mut Data, Trouble> {
    match data.place {
        Place::Completed => {
            let text = format!("WDFREQUEST {request:#x} is completed");
            Err(request_error(fatal::NULL_IRP, request, text))
        }
        _ => Ok(data),
    }
}

/// `WdfRequestGetFileObject`. NULL without a configuration of file objects.
pub extern "win64" fn WdfRequestGetFileObject(DriverGlobals: Address, Request: Address) -> Address {
    let kernel = enter!(WdfRequestGetFileObject);
    let _ = DriverGlobals;
    let get = || Ok(live(kernel.framework().request(Request)?, Request)?.file);
    finish_value(&kernel, get())
}

/// `WdfRequestGetIoQueue`. NULL if it comes from no queue.
pub extern "win64" fn WdfRequestGetIoQueue(DriverGlobals: Address, Request: Address) -> Address {
    let kernel = enter!(WdfRequestGetIoQueue);
    let _ = DriverGlobals;
    let get = || Ok(live(kernel.framework().request(Request)?, Request)?.queue);
    finish_value(&kernel, get())
}

/// `WdfRequestWdmGetIrp`.
pub extern "win64" fn WdfRequestWdmGetIrp(DriverGlobals: Address, Request: Address) -> Address {
    let kernel = enter!(WdfRequestWdmGetIrp);
    let _ = DriverGlobals;
    let get = || Ok(live(kernel.framework().request(Request)?, Request)?.irp);
    finish_value(&kernel, get())
}

/// `WdfRequestGetRequestorMode`. Programs make all requests: UserMode.
pub extern "win64" fn WdfRequestGetRequestorMode(DriverGlobals: Address, Request: Address) -> i8 {
    let kernel = enter!(WdfRequestGetRequestorMode);
    let _ = DriverGlobals;
    let get = || {
        live(kernel.framework().request(Request)?, Request)?;
        Ok(1)
    };
    finish_value(&kernel, get())
}

/// `WdfRequestIsFrom32BitProcess`. Every process of the machine has 64 bits.
pub extern "win64" fn WdfRequestIsFrom32BitProcess(DriverGlobals: Address, Request: Address) -> BOOLEAN {
    let kernel = enter!(WdfRequestIsFrom32BitProcess);
    let _ = DriverGlobals;
    let get = || {
        live(kernel.framework().request(Request)?, Request)?;
        Ok(0)
    };
    finish_value(&kernel, get())
}

/// `WdfRequestGetRequestorProcessId`.
pub extern "win64" fn WdfRequestGetRequestorProcessId(DriverGlobals: Address, Request: Address) -> u32 {
    let kernel = enter!(WdfRequestGetRequestorProcessId);
    let _ = DriverGlobals;
    let get = || {
        let irp = live(kernel.framework().request(Request)?, Request)?.irp;
        Ok(irp::requestor(&kernel, irp)?)
    };
    finish_value(&kernel, get())
}

/// `WdfRequestIsCanceled`.
pub extern "win64" fn WdfRequestIsCanceled(DriverGlobals: Address, Request: Address) -> BOOLEAN {
    let kernel = enter!(WdfRequestIsCanceled);
    let _ = DriverGlobals;
    let get = || Ok(boolean(live(kernel.framework().request(Request)?, Request)?.canceled));
    finish_value(&kernel, get())
}

/// Makes a request cancelable. STATUS_CANCELLED if it is cancelled already.
fn mark(kernel: &Kernel, request: Address, callback: Address) -> Result<Status, Trouble> {
    not_null("EvtRequestCancel", callback)?;
    let mut framework = kernel.framework();
    let data = live(framework.request(request)?, request)?;
    if data.place != Place::Driver || data.cancel != 0 {
        let text = format!("WDFREQUEST {request:#x} cannot be marked as cancelable");
        return Err(request_error(fatal::NOT_IN_QUEUE, request, text));
    }
    if data.canceled {
        return Ok(Status::CANCELLED);
    }
    data.cancel = callback;
    Ok(Status::SUCCESS)
}

/// `WdfRequestMarkCancelable`. Calls EvtRequestCancel at once if the request is
/// cancelled already.
pub extern "win64" fn WdfRequestMarkCancelable(
    DriverGlobals: Address,
    Request: Address,
    EvtRequestCancel: Address,
) {
    let kernel = enter!(WdfRequestMarkCancelable);
    let _ = DriverGlobals;
    let mark = || {
        if mark(&kernel, Request, EvtRequestCancel)? == Status::CANCELLED {
            let arguments = [Request as u64];
            let _ = kernel.call_driver(EvtRequestCancel, &arguments, Irql::PASSIVE, "EvtRequestCancel");
        }
        Ok(())
    };
    finish_void(&kernel, mark());
}

/// `WdfRequestMarkCancelableEx`.
pub extern "win64" fn WdfRequestMarkCancelableEx(
    DriverGlobals: Address,
    Request: Address,
    EvtRequestCancel: Address,
) -> NTSTATUS {
    let kernel = enter!(WdfRequestMarkCancelableEx);
    let _ = DriverGlobals;
    finish(&kernel, mark(&kernel, Request, EvtRequestCancel))
}

/// `WdfRequestUnmarkCancelable`. STATUS_CANCELLED if EvtRequestCancel is or will be
/// called.
pub extern "win64" fn WdfRequestUnmarkCancelable(DriverGlobals: Address, Request: Address) -> NTSTATUS {
    let kernel = enter!(WdfRequestUnmarkCancelable);
    let _ = DriverGlobals;
    let unmark = || {
        let mut framework = kernel.framework();
        let data = live(framework.request(Request)?, Request)?;
        if data.canceled {
            return Ok(Status::CANCELLED);
        }
        match std::mem::take(&mut data.cancel) {
            0 => Ok(Status::INVALID_PARAMETER),
            _ => Ok(Status::SUCCESS),
        }
    };
    finish(&kernel, unmark())
}

/// Whether a request's program has cancelled it.
pub(super) fn is_canceled(kernel: &Kernel, request: Address) -> bool {
    kernel.framework().request(request).is_ok_and(|data| data.canceled)
}

/// Notes that a program cancels a request. Returns where it is.
pub(super) fn note_cancel(kernel: &Kernel, request: Address) -> Option<Place> {
    let mut framework = kernel.framework();
    let data = framework.request(request).ok()?;
    data.canceled = true;
    Some(data.place)
}

/// Cancels a request that waits in a queue. EvtIoCanceledOnQueue gets it, or the
/// framework completes it.
pub(super) fn cancel_in_queue(kernel: &Kernel, request: Address) -> Result<(), Trouble> {
    let (queue, callback) = {
        let mut framework = kernel.framework();
        let Ok(data) = framework.request(request) else { return Ok(()) };
        if data.place != Place::Queue {
            return Ok(());
        }
        data.canceled = true;
        data.place = Place::Driver;
        let queue = data.queue;
        let callback = queue::canceled_callback(&mut framework, queue);
        queue::hand_over(&mut framework, queue, request);
        (queue, callback)
    };
    if callback == 0 {
        return complete(kernel, request, Status::CANCELLED, Some(0));
    }
    let arguments = [queue as u64, request as u64];
    scope::call(kernel, queue, callback, &arguments, (Irql::PASSIVE, "EvtIoCanceledOnQueue"));
    Ok(())
}

/// Cancels a request that the driver has, if the driver marked it as cancelable.
/// Returns whether it was.
pub(super) fn cancel_owned(kernel: &Kernel, request: Address) -> Result<bool, Trouble> {
    let (callback, queue) = {
        let mut framework = kernel.framework();
        let Ok(data) = framework.request(request) else { return Ok(false) };
        if data.cancel == 0 {
            return Ok(false);
        }
        data.canceled = true;
        (std::mem::take(&mut data.cancel), data.queue)
    };
    scope::call(kernel, queue, callback, &[request as u64], (Irql::PASSIVE, "EvtRequestCancel"));
    Ok(true)
}

/// `WdfRequestForwardToIoQueue`, of a request that the driver got from another queue of
/// the device.
pub extern "win64" fn WdfRequestForwardToIoQueue(
    DriverGlobals: Address,
    Request: Address,
    DestinationQueue: Address,
) -> NTSTATUS {
    let kernel = enter!(WdfRequestForwardToIoQueue);
    let _ = DriverGlobals;
    let forward = || {
        let from = {
            let mut framework = kernel.framework();
            let device = framework.queue(DestinationQueue)?.device;
            let data = live(framework.request(Request)?, Request)?;
            if data.place != Place::Driver || data.cancel != 0 {
                return Ok(status::REQUEST_INVALID_STATE);
            }
            if data.queue == DestinationQueue || data.device != device {
                return Ok(super::super::status::INVALID_DEVICE_REQUEST);
            }
            data.queue
        };
        let status = queue::insert(&kernel, DestinationQueue, Request)?;
        if status.is_success() && from != 0 {
            queue::leave(&kernel, from, Request);
        }
        Ok(status)
    };
    finish(&kernel, forward())
}

/// `WdfRequestRequeue`: back to the head of its queue. Of manual queues only.
pub extern "win64" fn WdfRequestRequeue(DriverGlobals: Address, Request: Address) -> NTSTATUS {
    let kernel = enter!(WdfRequestRequeue);
    let _ = DriverGlobals;
    let requeue = || {
        let queue = live(kernel.framework().request(Request)?, Request)?.queue;
        queue::put_back(&kernel, queue, Request)
    };
    finish(&kernel, requeue())
}

/// `WdfDeviceEnqueueRequest`, from EvtIoInCallerContext.
pub extern "win64" fn WdfDeviceEnqueueRequest(
    DriverGlobals: Address,
    Device: Address,
    Request: Address,
) -> NTSTATUS {
    let kernel = enter!(WdfDeviceEnqueueRequest);
    let _ = DriverGlobals;
    let enqueue = || {
        {
            let mut framework = kernel.framework();
            framework.device(Device)?;
            let data = live(framework.request(Request)?, Request)?;
            if data.place != Place::CallerContext {
                return Ok(super::super::status::INVALID_DEVICE_REQUEST);
            }
        }
        enqueue(&kernel, Device, Request)
    };
    finish(&kernel, enqueue())
}

/// Puts a request into the queue for its type, or the default queue.
pub(super) fn enqueue(kernel: &Kernel, device: Address, request: Address) -> Result<Status, Trouble> {
    let queue = {
        let mut framework = kernel.framework();
        let major = framework.request(request)?.major;
        let device = framework.device(device)?;
        device.queues.get(&i32::from(major)).copied().unwrap_or(device.default_queue)
    };
    match queue {
        0 => Ok(super::super::status::INVALID_DEVICE_REQUEST),
        queue => queue::insert(kernel, queue, request),
    }
}
