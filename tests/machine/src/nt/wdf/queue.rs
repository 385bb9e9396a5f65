//! Queues of requests (`wdfio.h`).

use std::collections::{BTreeSet, VecDeque};

use super::super::cpu::Irql;
use super::super::enter::enter;
use super::super::irp::major;
use super::super::types::{Address, NTSTATUS, WDF_IO_QUEUE_CONFIG};
use super::super::{Kernel, Trouble, foreign};
use super::object::{self, Parent};
use super::request::{self, Place};
use super::{
    Data as ObjectData, Framework, Kind, finish, finish_value, finish_void, not_null, scope, status,
};
use crate::status::Status;

/// `WDF_IO_QUEUE_DISPATCH_TYPE` (`wdfio.h`).
mod dispatch_type {
    pub(super) const SEQUENTIAL: i32 = 1;
    pub(super) const PARALLEL: i32 = 2;
    pub(super) const MANUAL: i32 = 3;
}

/// A callback that a queue calls once, with its context.
type Once = Option<(Address, Address)>;

/// A queue.
#[derive(Debug)]
pub(super) struct Data {
    pub device: Address,
    pub is_default: bool,
    config: WDF_IO_QUEUE_CONFIG,
    waiting: VecDeque<Address>,
    /// Requests that the driver has got from the queue and has not completed.
    owned: BTreeSet<Address>,
    /// Whether it takes new requests.
    accepts: bool,
    /// Whether it gives requests to the driver.
    dispatches: bool,
    /// Called when no request is left: the end of a purge or a drain.
    empty: Once,
    /// Called when the driver owns no request any more: the end of a stop.
    returned: Once,
    /// Called when a request arrives in an empty manual queue.
    ready: Once,
    /// Whether a thread is giving requests to the driver, one after the other.
    presenting: bool,
}

/// `WdfIoQueueCreate`.
pub extern "win64" fn WdfIoQueueCreate(
    DriverGlobals: Address,
    Device: Address,
    Config: Address,
    QueueAttributes: Address,
    Queue: Address,
) -> NTSTATUS {
    let kernel = enter!(WdfIoQueueCreate);
    let _ = DriverGlobals;
    let create = || {
        let config: WDF_IO_QUEUE_CONFIG = foreign::read_sized(not_null("Config", Config)?)?;
        use dispatch_type::{MANUAL, PARALLEL, SEQUENTIAL};
        if ![SEQUENTIAL, PARALLEL, MANUAL].contains(&config.DispatchType) {
            return Ok(Status::INVALID_PARAMETER);
        }
        let is_default = config.DefaultQueue != 0;
        let callbacks = [config.EvtIoDefault, config.EvtIoRead, config.EvtIoWrite, config.EvtIoDeviceControl];
        if config.DispatchType != MANUAL
            && callbacks.iter().chain([&config.EvtIoInternalDeviceControl]).all(|at| *at == 0)
        {
            return Ok(status::NO_CALLBACK);
        }
        if kernel.framework().device(Device)?.default_queue != 0 && is_default {
            return Ok(Status::UNSUCCESSFUL);
        }
        let data = ObjectData::Queue(Data {
            device: Device,
            is_default,
            config,
            waiting: VecDeque::new(),
            owned: BTreeSet::new(),
            accepts: true,
            dispatches: true,
            empty: None,
            returned: None,
            ready: None,
            presenting: false,
        });
        let parent = Parent::Default(Device);
        let made = object::create(&kernel, Kind::Queue, QueueAttributes, parent, data)?;
        if let (Ok(queue), true) = (made, is_default) {
            kernel.framework().device(Device)?.default_queue = queue;
        }
        if let (Ok(_), 0) = (made, Queue) {
            return Ok(Status::SUCCESS);
        }
        object::give(made, Queue)
    };
    finish(&kernel, create())
}

impl Data {
    /// Whether the queue may give one more request to the driver by itself.
    fn may_present(&self) -> bool {
        use dispatch_type::{PARALLEL, SEQUENTIAL};
        let most = match (self.config.DispatchType, self.config.NumberOfPresentedRequests) {
            (SEQUENTIAL, _) => 1,
            // Versions before 1.9 have no limit there.
            (PARALLEL, 0) => usize::MAX,
            (PARALLEL, most) => most as usize,
            _ => 0,
        };
        self.dispatches && self.owned.len() < most && !self.waiting.is_empty()
    }

    /// The callback for a request: that of its type, or the default one.
    fn callback(&self, major: u8) -> (Address, &'static str) {
        let (own, name) = match major {
            major::READ => (self.config.EvtIoRead, "EvtIoRead"),
            major::WRITE => (self.config.EvtIoWrite, "EvtIoWrite"),
            major::DEVICE_CONTROL => (self.config.EvtIoDeviceControl, "EvtIoDeviceControl"),
            major::INTERNAL_DEVICE_CONTROL => {
                (self.config.EvtIoInternalDeviceControl, "EvtIoInternalDeviceControl")
            }
            _ => (0, ""),
        };
        if own != 0 { (own, name) } else { (self.config.EvtIoDefault, "EvtIoDefault") }
    }
}

/// Puts a request into a queue, and lets the queue give it to the driver. Returns a
/// status if the queue does not take it.
pub(super) fn insert(kernel: &Kernel, queue: Address, request: Address) -> Result<Status, Trouble> {
    let (zero, ready) = {
        let mut framework = kernel.framework();
        let length = framework.request(request)?.transfer_length;
        let data = framework.queue(queue)?;
        if !data.accepts {
            return Ok(status::BUSY);
        }
        let zero = length == Some(0) && data.config.AllowZeroLengthRequests == 0;
        let first = data.waiting.is_empty();
        if !zero {
            data.waiting.push_back(request);
        }
        let ready = data.ready.filter(|_| first && !zero);
        let request = framework.request(request)?;
        request.queue = queue;
        request.place = if zero { Place::Driver } else { Place::Queue };
        (zero, ready)
    };
    if zero {
        // The framework completes reads and writes of no bytes itself.
        request::complete(kernel, request, Status::SUCCESS, Some(0))?;
        return Ok(Status::SUCCESS);
    }
    if let Some((callback, context)) = ready {
        let arguments = [queue as u64, context as u64];
        let _ = kernel.call_driver(callback, &arguments, Irql::PASSIVE, "EvtIoQueueState");
    }
    if request::is_canceled(kernel, request) {
        request::cancel_in_queue(kernel, request)?;
    }
    present(kernel, queue);
    Ok(Status::SUCCESS)
}

/// Gives requests to the driver while the queue may.
pub(super) fn present(kernel: &Kernel, queue: Address) {
    loop {
        let next = {
            let mut framework = kernel.framework();
            let Ok(data) = framework.queue(queue) else { return };
            // A callback that completes its request inside leads here again; the
            // outer loop goes on then. A parallel queue lets other threads present.
            let parallel = data.config.DispatchType == dispatch_type::PARALLEL;
            if !data.may_present() || (data.presenting && !parallel) {
                return;
            }
            data.presenting = true;
            take(&mut framework, queue, 0)
        };
        let Some(request) = next else { return };
        call_back(kernel, queue, request);
        if let Ok(data) = kernel.framework().queue(queue) {
            data.presenting = false;
        }
        if kernel.stopped().is_some() {
            return;
        }
    }
}

/// Takes the first request of a file (any, if 0) from a queue for the driver.
fn take(framework: &mut Framework, queue: Address, file: Address) -> Option<Address> {
    let waiting: Vec<Address> = framework.queue(queue).ok()?.waiting.iter().copied().collect();
    let found = waiting
        .into_iter()
        .find(|request| file == 0 || framework.request(*request).is_ok_and(|request| request.file == file))?;
    let data = framework.queue(queue).ok()?;
    data.waiting.retain(|request| *request != found);
    data.owned.insert(found);
    framework.request(found).ok()?.place = Place::Driver;
    Some(found)
}

fn call_back(kernel: &Kernel, queue: Address, request: Address) {
    let (callback, name, arguments) = {
        let mut framework = kernel.framework();
        let Ok(data) = framework.request(request) else { return };
        let (major, parameters) = (data.major, data.parameters);
        let Ok(data) = framework.queue(queue) else { return };
        let (callback, name) = data.callback(major);
        let mut arguments = vec![queue as u64, request as u64];
        match name {
            "EvtIoDefault" => {}
            "EvtIoRead" | "EvtIoWrite" => arguments.push(parameters[0]),
            // Output length, input length, code.
            _ => arguments.extend_from_slice(&parameters[..3]),
        }
        (callback, name, arguments)
    };
    if callback == 0 {
        let invalid = super::super::status::INVALID_DEVICE_REQUEST;
        let _ = request::complete(kernel, request, invalid, Some(0));
        return;
    }
    scope::call(kernel, queue, callback, &arguments, (Irql::PASSIVE, name));
}

/// Forgets a request that the driver got from the queue: it is completed, or in
/// another queue now.
pub(super) fn leave(kernel: &Kernel, queue: Address, request: Address) {
    if let Ok(data) = kernel.framework().queue(queue) {
        data.owned.remove(&request);
        data.waiting.retain(|waiting| *waiting != request);
    }
    settle(kernel, queue);
    present(kernel, queue);
}

/// Calls the callbacks that wait for the queue to be empty.
fn settle(kernel: &Kernel, queue: Address) {
    let due: Vec<(Address, Address)> = {
        let mut framework = kernel.framework();
        let Ok(data) = framework.queue(queue) else { return };
        if !data.owned.is_empty() {
            return;
        }
        let empty = if data.waiting.is_empty() { data.empty.take() } else { None };
        data.returned.take().into_iter().chain(empty).collect()
    };
    kernel.bell.ring();
    for (callback, context) in due.into_iter().filter(|(callback, _)| *callback != 0) {
        let arguments = [queue as u64, context as u64];
        scope::call(kernel, queue, callback, &arguments, (Irql::PASSIVE, "EvtIoQueueState"));
    }
}

/// Cancels everything in a queue, and asks the driver to cancel what it has got. The
/// queue takes no new requests.
fn purge(kernel: &Kernel, queue: Address, then: Once) -> Result<(), Trouble> {
    let (waiting, owned) = {
        let mut framework = kernel.framework();
        let data = framework.queue(queue)?;
        data.accepts = false;
        data.empty = then;
        (data.waiting.iter().copied().collect::<Vec<_>>(), data.owned.iter().copied().collect::<Vec<_>>())
    };
    for request in waiting {
        request::cancel_in_queue(kernel, request)?;
    }
    for request in owned {
        request::cancel_owned(kernel, request)?;
    }
    settle(kernel, queue);
    Ok(())
}

/// Purges a queue that is deleted.
pub(super) fn close(kernel: &Kernel, queue: Address) {
    if let Err(trouble) = purge(kernel, queue, None) {
        kernel.condemn(kernel.breach(trouble));
    }
}

/// Cancels the requests of a file that wait in any queue of a device.
pub(super) fn flush_file(kernel: &Kernel, device: Address, file: Address) -> Result<(), Trouble> {
    let waiting: Vec<Address> = {
        let framework = kernel.framework();
        let queues = framework.objects.values().filter_map(|object| match &object.data {
            ObjectData::Queue(queue) if queue.device == device => Some(queue),
            _ => None,
        });
        let all = queues.flat_map(|queue| queue.waiting.iter().copied());
        let of_file = |request: &Address| match framework.objects.get(request).map(|object| &object.data) {
            Some(ObjectData::Request(request)) => request.file == file,
            _ => false,
        };
        all.filter(of_file).collect()
    };
    for request in waiting {
        request::cancel_in_queue(kernel, request)?;
    }
    Ok(())
}

/// Waits until a queue has no requests, in the queue or with the driver.
fn wait_empty(kernel: &Kernel, queue: Address, with_waiting: bool) {
    let what = || "a queue of the framework to be empty".to_owned();
    let _over = super::super::ke::wait(kernel, &what, None, || match kernel.framework().queue(queue) {
        Ok(data) => data.owned.is_empty() && (!with_waiting || data.waiting.is_empty()),
        Err(_) => true,
    });
}

/// `WdfIoQueuePurge`.
pub extern "win64" fn WdfIoQueuePurge(
    DriverGlobals: Address,
    Queue: Address,
    PurgeComplete: Address,
    Context: Address,
) {
    let kernel = enter!(WdfIoQueuePurge);
    let _ = DriverGlobals;
    finish_void(&kernel, purge(&kernel, Queue, Some((PurgeComplete, Context))));
}

/// `WdfIoQueuePurgeSynchronously`.
pub extern "win64" fn WdfIoQueuePurgeSynchronously(DriverGlobals: Address, Queue: Address) {
    let kernel = enter!(WdfIoQueuePurgeSynchronously);
    let _ = DriverGlobals;
    let purged = purge(&kernel, Queue, None);
    finish_void(&kernel, purged);
    wait_empty(&kernel, Queue, true);
}

/// `WdfIoQueueDrain`: takes no new requests, and goes on with those it has.
pub extern "win64" fn WdfIoQueueDrain(
    DriverGlobals: Address,
    Queue: Address,
    DrainComplete: Address,
    Context: Address,
) {
    let kernel = enter!(WdfIoQueueDrain);
    let _ = DriverGlobals;
    let drain = || {
        {
            let mut framework = kernel.framework();
            let data = framework.queue(Queue)?;
            data.accepts = false;
            data.empty = Some((DrainComplete, Context));
        }
        settle(&kernel, Queue);
        Ok(())
    };
    finish_void(&kernel, drain());
}

/// `WdfIoQueueDrainSynchronously`.
pub extern "win64" fn WdfIoQueueDrainSynchronously(DriverGlobals: Address, Queue: Address) {
    let kernel = enter!(WdfIoQueueDrainSynchronously);
    let _ = DriverGlobals;
    let drain = || {
        kernel.framework().queue(Queue)?.accepts = false;
        Ok(())
    };
    finish_void(&kernel, drain());
    wait_empty(&kernel, Queue, true);
}

/// `WdfIoQueueStop`: takes requests, and gives none to the driver.
pub extern "win64" fn WdfIoQueueStop(
    DriverGlobals: Address,
    Queue: Address,
    StopComplete: Address,
    Context: Address,
) {
    let kernel = enter!(WdfIoQueueStop);
    let _ = DriverGlobals;
    let stop = || {
        {
            let mut framework = kernel.framework();
            let data = framework.queue(Queue)?;
            data.dispatches = false;
            data.returned = Some((StopComplete, Context));
        }
        settle(&kernel, Queue);
        Ok(())
    };
    finish_void(&kernel, stop());
}

/// `WdfIoQueueStopSynchronously`.
pub extern "win64" fn WdfIoQueueStopSynchronously(DriverGlobals: Address, Queue: Address) {
    let kernel = enter!(WdfIoQueueStopSynchronously);
    let _ = DriverGlobals;
    let stop = || {
        kernel.framework().queue(Queue)?.dispatches = false;
        Ok(())
    };
    finish_void(&kernel, stop());
    wait_empty(&kernel, Queue, false);
}

/// `WdfIoQueueStart`: takes requests and gives them to the driver.
pub extern "win64" fn WdfIoQueueStart(DriverGlobals: Address, Queue: Address) {
    let kernel = enter!(WdfIoQueueStart);
    let _ = DriverGlobals;
    let start = || {
        {
            let mut framework = kernel.framework();
            let data = framework.queue(Queue)?;
            (data.accepts, data.dispatches) = (true, true);
        }
        present(&kernel, Queue);
        Ok(())
    };
    finish_void(&kernel, start());
}

/// `WdfIoQueueGetState`. Returns `WDF_IO_QUEUE_STATE` flags.
pub extern "win64" fn WdfIoQueueGetState(
    DriverGlobals: Address,
    Queue: Address,
    QueueRequests: Address,
    DriverRequests: Address,
) -> i32 {
    let kernel = enter!(WdfIoQueueGetState);
    let _ = DriverGlobals;
    let get = || {
        let (accepts, dispatches, waiting, owned) = {
            let mut framework = kernel.framework();
            let data = framework.queue(Queue)?;
            (data.accepts, data.dispatches, data.waiting.len() as u32, data.owned.len() as u32)
        };
        for (out, count) in [(QueueRequests, waiting), (DriverRequests, owned)] {
            if out != 0 {
                foreign::write(out, &count)?;
            }
        }
        let flags = [(accepts, 1), (dispatches, 2), (waiting == 0, 4), (owned == 0, 8)];
        Ok(flags.iter().filter(|(set, _)| *set).map(|(_, flag)| flag).sum())
    };
    finish_value(&kernel, get())
}

/// `WdfIoQueueGetDevice`.
pub extern "win64" fn WdfIoQueueGetDevice(DriverGlobals: Address, Queue: Address) -> Address {
    let kernel = enter!(WdfIoQueueGetDevice);
    let _ = DriverGlobals;
    let get = || Ok(kernel.framework().queue(Queue)?.device);
    finish_value(&kernel, get())
}

/// Gives the driver the next request of a queue: of one file, if `file` is not 0.
fn retrieve(kernel: &Kernel, queue: Address, file: Address, out: Address) -> Result<Status, Trouble> {
    not_null("OutRequest", out)?;
    let taken = {
        let mut framework = kernel.framework();
        if file != 0 {
            framework.file(file)?;
        }
        let data = framework.queue(queue)?;
        match (data.config.DispatchType, data.dispatches) {
            (_, false) => Err(status::PAUSED),
            (dispatch_type::PARALLEL, _) => Err(super::super::status::INVALID_DEVICE_REQUEST),
            _ => take(&mut framework, queue, file).ok_or(Status::NO_MORE_ENTRIES),
        }
    };
    foreign::write(out, &taken.unwrap_or(0))?;
    Ok(taken.err().unwrap_or(Status::SUCCESS))
}

/// `WdfIoQueueRetrieveNextRequest`, of a manual or a sequential queue.
pub extern "win64" fn WdfIoQueueRetrieveNextRequest(
    DriverGlobals: Address,
    Queue: Address,
    OutRequest: Address,
) -> NTSTATUS {
    let kernel = enter!(WdfIoQueueRetrieveNextRequest);
    let _ = DriverGlobals;
    finish(&kernel, retrieve(&kernel, Queue, 0, OutRequest))
}

/// `WdfIoQueueRetrieveRequestByFileObject`.
pub extern "win64" fn WdfIoQueueRetrieveRequestByFileObject(
    DriverGlobals: Address,
    Queue: Address,
    FileObject: Address,
    OutRequest: Address,
) -> NTSTATUS {
    let kernel = enter!(WdfIoQueueRetrieveRequestByFileObject);
    let _ = DriverGlobals;
    finish(&kernel, retrieve(&kernel, Queue, FileObject, OutRequest))
}

/// `WdfIoQueueReadyNotify`, of a manual queue. NULL ends the notification.
pub extern "win64" fn WdfIoQueueReadyNotify(
    DriverGlobals: Address,
    Queue: Address,
    QueueReady: Address,
    Context: Address,
) -> NTSTATUS {
    let kernel = enter!(WdfIoQueueReadyNotify);
    let _ = DriverGlobals;
    let notify = || {
        let mut framework = kernel.framework();
        let data = framework.queue(Queue)?;
        if data.config.DispatchType != dispatch_type::MANUAL || (QueueReady != 0 && data.ready.is_some()) {
            return Ok(super::super::status::INVALID_DEVICE_REQUEST);
        }
        data.ready = (QueueReady != 0).then_some((QueueReady, Context));
        Ok(Status::SUCCESS)
    };
    finish(&kernel, notify())
}

/// The callback for requests that are cancelled while they wait in the queue, or 0.
pub(super) fn canceled_callback(framework: &mut Framework, queue: Address) -> Address {
    framework.queue(queue).map_or(0, |data| data.config.EvtIoCanceledOnQueue)
}

/// Gives a waiting request to the driver, which must complete it.
pub(super) fn hand_over(framework: &mut Framework, queue: Address, request: Address) {
    if let Ok(data) = framework.queue(queue) {
        data.waiting.retain(|waiting| *waiting != request);
        data.owned.insert(request);
    }
}

/// Puts a request of the driver's back to the head of its manual queue.
pub(super) fn put_back(kernel: &Kernel, queue: Address, request: Address) -> Result<Status, Trouble> {
    let mut framework = kernel.framework();
    let Ok(data) = framework.queue(queue) else {
        return Ok(super::super::status::INVALID_DEVICE_REQUEST);
    };
    if data.config.DispatchType != dispatch_type::MANUAL || !data.owned.remove(&request) {
        return Ok(super::super::status::INVALID_DEVICE_REQUEST);
    }
    data.waiting.push_front(request);
    framework.request(request)?.place = Place::Queue;
    drop(framework);
    match request::is_canceled(kernel, request) {
        true => request::cancel_in_queue(kernel, request).map(|()| Status::SUCCESS),
        false => Ok(Status::SUCCESS),
    }
}
