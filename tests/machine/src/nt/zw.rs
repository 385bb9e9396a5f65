//! System services: registry, events, handles (`wdm.h`, `ntifs.h`).
#![expect(non_snake_case, reason = "the names are the NT API's own")]

use std::sync::Arc;

use super::cpu::Irql;
use super::enter::enter;
use super::foreign::{self, BadString};
use super::information::{answer, key_information, value_information};
use super::io;
use super::ke;
use super::objects::{Event, INVALID_HANDLE, Notice, Object};
use super::registry::{Answered, RegistryValue, Watch};
use super::types::{
    Address, BOOLEAN, HANDLE, IO_STATUS_BLOCK, LARGE_INTEGER, NTSTATUS, OBJECT_ATTRIBUTES, UNICODE_STRING,
    WORK_QUEUE_ITEM,
};
use super::work::Job;
use super::{Kernel, Trouble, status};
use crate::status::Status;
use crate::verifier::{Violation, rules};

/// Path of a handle's key, or the error that the call returns.
pub(super) fn key(kernel: &Kernel, handle: HANDLE) -> Result<String, Status> {
    match kernel.objects().handle(handle) {
        Some(Object::Key(path, generation, _)) => match kernel.registry().generation(path) {
            Some(now) if now == *generation => Ok(path.clone()),
            _ => Err(status::KEY_DELETED),
        },
        Some(_) => Err(Status::OBJECT_TYPE_MISMATCH),
        None => Err(Status::INVALID_HANDLE),
    }
}

/// A string that Driver Verifier checks: the lengths are even, and in order.
fn string(address: Address) -> Result<String, Trouble> {
    let text = foreign::read_unicode_string(address);
    let odd = foreign::read::<UNICODE_STRING>(address).is_ok_and(|it| it.MaximumLength % 2 != 0);
    match text {
        Ok(text) if !odd => Ok(text),
        Err(BadString::Pointer(bad)) => Err(bad.into()),
        _ => {
            let parameters = [Kernel::current().call_site(), address as u64, 0];
            let text = format!("UNICODE_STRING at {address:#x}");
            Err(Violation::new(&rules::MALFORMED_STRING, parameters, text).into())
        }
    }
}

/// `ZwOpenKey`.
pub extern "win64" fn ZwOpenKey(
    KeyHandle: Address,
    DesiredAccess: u32,
    ObjectAttributes: Address,
) -> NTSTATUS {
    let kernel = enter!(ZwOpenKey);
    let outcome = open_key(&kernel, KeyHandle, DesiredAccess, ObjectAttributes);
    kernel.settle(outcome, Status::UNSUCCESSFUL).0
}

/// The path that attributes name, or the error that the call returns.
fn path_of(kernel: &Kernel, attributes: Address) -> Result<Result<String, Status>, Trouble> {
    let attributes: OBJECT_ATTRIBUTES = foreign::read(attributes)?;
    if attributes.Length as usize != size_of::<OBJECT_ATTRIBUTES>() {
        return Ok(Err(Status::INVALID_PARAMETER));
    }
    let name = string(attributes.ObjectName)?;
    Ok(match attributes.RootDirectory {
        0 => Ok(name),
        root => key(kernel, root).map(|root| format!(r"{root}\{name}")),
    })
}

/// A key's security does not apply to kernel callers, so the handle has the access that
/// was asked for.
fn open_key(kernel: &Kernel, out: Address, access: u32, attributes: Address) -> Result<Status, Trouble> {
    let path = match path_of(kernel, attributes)? {
        Ok(path) => path,
        Err(status) => return Ok(status),
    };
    let Some(generation) = kernel.registry().generation(&path) else {
        return Ok(Status::OBJECT_NAME_NOT_FOUND);
    };
    let handle = kernel.objects().open(kernel.caller(), Object::Key(path, generation, access));
    foreign::write(out, &handle)?;
    Ok(Status::SUCCESS)
}

/// `ZwCreateKey`: opens the key, and creates it first if it does not exist. Only its
/// parent must exist.
pub extern "win64" fn ZwCreateKey(
    KeyHandle: Address,
    DesiredAccess: u32,
    ObjectAttributes: Address,
    TitleIndex: u32,
    Class: Address,
    CreateOptions: u32,
    Disposition: Address,
) -> NTSTATUS {
    let kernel = enter!(ZwCreateKey);
    let _ = (TitleIndex, Class, CreateOptions);
    let outcome = create_key(&kernel, KeyHandle, DesiredAccess, ObjectAttributes, Disposition);
    kernel.settle(outcome, Status::UNSUCCESSFUL).0
}

fn create_key(
    kernel: &Kernel,
    out: Address,
    access: u32,
    attributes: Address,
    disposition: Address,
) -> Result<Status, Trouble> {
    /// `REG_CREATED_NEW_KEY` and `REG_OPENED_EXISTING_KEY` (`wdm.h`).
    const NEW: u32 = 1;
    const EXISTING: u32 = 2;
    let path = match path_of(kernel, attributes)? {
        Ok(path) => path,
        Err(status) => return Ok(status),
    };
    let parent = path.rsplit_once('\\').map_or("", |(parent, _)| parent);
    if kernel.registry().generation(parent).is_none() {
        return Ok(Status::OBJECT_NAME_NOT_FOUND);
    }
    let existed = kernel.registry().has_key(&path);
    let watches = kernel.registry().create_key(&path);
    kernel.complete_watches(watches, Status::SUCCESS);
    if disposition != 0 {
        foreign::write(disposition, &if existed { EXISTING } else { NEW })?;
    }
    open_key(kernel, out, access, attributes)
}

/// `ZwSetValueKey`.
pub extern "win64" fn ZwSetValueKey(
    KeyHandle: HANDLE,
    ValueName: Address,
    TitleIndex: u32,
    Type: u32,
    Data: Address,
    DataSize: u32,
) -> NTSTATUS {
    let kernel = enter!(ZwSetValueKey);
    let _ = TitleIndex;
    let outcome = set_value(&kernel, KeyHandle, ValueName, Type, Data, DataSize);
    kernel.settle(outcome, Status::UNSUCCESSFUL).0
}

fn set_value(
    kernel: &Kernel,
    handle: HANDLE,
    name: Address,
    kind: u32,
    data: Address,
    size: u32,
) -> Result<Status, Trouble> {
    let name = string(name)?;
    let path = match key(kernel, handle) {
        Ok(path) => path,
        Err(status) => return Ok(status),
    };
    let data = foreign::read_bytes(data, size as usize)?;
    let watches = kernel.registry().set_value(&path, &name, RegistryValue { kind, data });
    kernel.complete_watches(watches, Status::SUCCESS);
    Ok(Status::SUCCESS)
}

/// `ZwQueryKey` with `KeyBasicInformation` or `KeyFullInformation`.
pub extern "win64" fn ZwQueryKey(
    KeyHandle: HANDLE,
    KeyInformationClass: i32,
    KeyInformation: Address,
    Length: u32,
    ResultLength: Address,
) -> NTSTATUS {
    let kernel = enter!(ZwQueryKey);
    let information = key(&kernel, KeyHandle).and_then(|path| {
        let summary = kernel.registry().summary(&path);
        key_information(KeyInformationClass, &summary.ok_or(Status::OBJECT_NAME_NOT_FOUND)?)
    });
    let outcome = match information {
        Ok((bytes, fixed)) => answer(&bytes, fixed, KeyInformation, Length, ResultLength),
        Err(status) => Ok(status),
    };
    kernel.settle(outcome, Status::UNSUCCESSFUL).0
}

/// `ZwQueryValueKey`, with basic, full or partial information.
pub extern "win64" fn ZwQueryValueKey(
    KeyHandle: HANDLE,
    ValueName: Address,
    KeyValueInformationClass: i32,
    KeyValueInformation: Address,
    Length: u32,
    ResultLength: Address,
) -> NTSTATUS {
    let kernel = enter!(ZwQueryValueKey);
    let outcome = query_value(&kernel, KeyHandle, ValueName).and_then(|found| {
        let information = found.and_then(|found| value_information(KeyValueInformationClass, &found));
        match information {
            Ok((bytes, fixed)) => Ok(answer(&bytes, fixed, KeyValueInformation, Length, ResultLength)?),
            Err(status) => Ok(status),
        }
    });
    kernel.settle(outcome, Status::UNSUCCESSFUL).0
}

type Found = Result<Answered, Status>;

fn query_value(kernel: &Kernel, handle: HANDLE, name: Address) -> Result<Found, Trouble> {
    let name = string(name)?;
    Ok(key(kernel, handle).and_then(|path| {
        let value = kernel.registry().read(&path, &name, kernel.reader());
        value.ok_or(Status::OBJECT_NAME_NOT_FOUND)
    }))
}

/// `ZwNotifyChangeKey`. For kernel callers, `ApcRoutine` is a `WORK_QUEUE_ITEM` and
/// `ApcContext` its queue (documentation).
pub extern "win64" fn ZwNotifyChangeKey(
    KeyHandle: HANDLE,
    Event: HANDLE,
    ApcRoutine: Address,
    ApcContext: Address,
    IoStatusBlock: Address,
    CompletionFilter: u32,
    WatchTree: BOOLEAN,
    Buffer: Address,
    BufferSize: u32,
    Asynchronous: BOOLEAN,
) -> NTSTATUS {
    let kernel = enter!(ZwNotifyChangeKey);
    /// `CriticalWorkQueue` and `DelayedWorkQueue` (`wdm.h`).
    const QUEUES: std::ops::RangeInclusive<Address> = 0..=1;
    /// Every `REG_NOTIFY_*` bit (`winnt.h`).
    const FILTERS: u32 = 0x1000_000F;
    let bad_queue = ApcRoutine != 0 && !QUEUES.contains(&ApcContext);
    if bad_queue {
        let text = format!("ApcContext {ApcContext:#x}");
        let parameters = [kernel.call_site(), ApcContext as u64, 0];
        kernel.violate(Violation::new(&rules::NOTIFY_CONTEXT, parameters, text));
    }
    if ApcRoutine != 0 {
        kernel.settle(io::resident_item(&kernel, ApcRoutine), ());
    }
    let bad_filter = CompletionFilter == 0 || CompletionFilter & !FILTERS != 0;
    if bad_queue || bad_filter || Buffer != 0 || BufferSize != 0 {
        return Status::INVALID_PARAMETER.0;
    }
    let request = NotifyRequest {
        handle: KeyHandle,
        event: Event,
        work_item: ApcRoutine,
        status_block: IoStatusBlock,
        filter: CompletionFilter,
        subtree: WatchTree != 0,
    };
    let id = match request.register(&kernel) {
        Ok(Some(id)) => id,
        // The event has occurred already: it has not to be awaited.
        Ok(None) => return Status::SUCCESS.0,
        Err(status) => return status.0,
    };
    if Asynchronous == 0 {
        let fired = || !kernel.registry().has_watch(|notice: &Notice| notice.id == id);
        return ke::wait(&kernel, &|| "a registry key to change".to_owned(), None, fired).0;
    }
    Status::PENDING.0
}

struct NotifyRequest {
    handle: HANDLE,
    event: HANDLE,
    work_item: Address,
    status_block: Address,
    filter: u32,
    subtree: bool,
}

impl NotifyRequest {
    /// Adds the watch. Returns the notice's id; `None` if the key has changed since the
    /// last notice of this handle, so that the watch is complete at once.
    fn register(self, kernel: &Kernel) -> Result<Option<Address>, Status> {
        /// `KEY_NOTIFY` and `KEY_ALL_ACCESS`'s generic form (`winnt.h`).
        const NOTIFY: u32 = 0x10;
        const GENERIC: u32 = 0xF000_0000 | 0x0200_0000;
        let key = key(kernel, self.handle)?;
        let driver = kernel.caller();
        let access = match kernel.objects().handle(self.handle) {
            Some(Object::Key(_, _, access)) => *access,
            _ => 0,
        };
        if access & (NOTIFY | GENERIC) == 0 {
            return Err(Status::ACCESS_DENIED);
        }
        let mut objects = kernel.objects();
        let event = match self.event {
            0 => None,
            handle => match objects.handle(handle) {
                Some(Object::Event(event)) => Some(Arc::clone(event)),
                Some(_) => return Err(Status::OBJECT_TYPE_MISMATCH),
                None => return Err(Status::INVALID_HANDLE),
            },
        };
        if let Some(event) = &event {
            event.set(false);
        }
        let id = objects.opaque();
        drop(objects);
        let complete = kernel.registry().watch(Watch {
            key,
            handle: self.handle,
            filter: self.filter,
            subtree: self.subtree,
            notice: Notice { driver, id, event, work_item: self.work_item, status_block: self.status_block },
        });
        match complete {
            None => Ok(Some(id)),
            Some(watch) => {
                kernel.complete_watches(vec![watch], Status::SUCCESS);
                Ok(None)
            }
        }
    }
}

/// Completes a watch: first the status block, then work item and event.
pub(super) fn complete_watch(kernel: &Kernel, notice: &Notice, status: Status) {
    let block = IO_STATUS_BLOCK { Pointer: u64::from(status.0 as u32), Information: 0 };
    let driver = notice.driver;
    if let Err(bad) = foreign::write(notice.status_block, &block) {
        kernel.condemn_driver(driver, kernel.bad_pointer(bad));
    }
    if notice.work_item != 0 {
        match foreign::read::<WORK_QUEUE_ITEM>(notice.work_item) {
            Ok(item) => kernel.work().push(
                Job::WorkQueueItem {
                    item: notice.work_item,
                    routine: item.WorkerRoutine,
                    parameter: item.Parameter,
                },
                driver,
            ),
            Err(bad) => kernel.condemn_driver(driver, kernel.bad_pointer(bad)),
        }
    }
    if let Some(event) = &notice.event {
        event.set(true);
    }
    kernel.bell.ring();
}

/// `ZwCreateEvent`. Events have no names in the lab.
pub extern "win64" fn ZwCreateEvent(
    EventHandle: Address,
    DesiredAccess: u32,
    ObjectAttributes: Address,
    EventType: i32,
    InitialState: BOOLEAN,
) -> NTSTATUS {
    let kernel = enter!(ZwCreateEvent);
    let _ = DesiredAccess;
    let outcome = create_event(&kernel, EventHandle, ObjectAttributes, EventType, InitialState != 0);
    kernel.settle(outcome, Status::UNSUCCESSFUL).0
}

fn create_event(
    kernel: &Kernel,
    out: Address,
    attributes: Address,
    kind: i32,
    signaled: bool,
) -> Result<Status, Trouble> {
    if attributes != 0 {
        let attributes: OBJECT_ATTRIBUTES = foreign::read(attributes)?;
        if attributes.Length as usize != size_of::<OBJECT_ATTRIBUTES>() {
            return Ok(Status::INVALID_PARAMETER);
        }
        // Without a directory, a name is a path from the root.
        if attributes.ObjectName != 0
            && attributes.RootDirectory == 0
            && !string(attributes.ObjectName)?.starts_with('\\')
        {
            return Ok(Status::OBJECT_PATH_SYNTAX_BAD);
        }
    }
    if !matches!(kind, 0 | 1) {
        return Ok(Status::INVALID_PARAMETER_4);
    }
    let event = Event::new(kind == 1, signaled);
    let handle = kernel.objects().open(kernel.caller(), Object::Event(Arc::new(event)));
    foreign::write(out, &handle)?;
    Ok(Status::SUCCESS)
}

/// `ZwSetEvent`.
pub extern "win64" fn ZwSetEvent(EventHandle: HANDLE, PreviousState: Address) -> NTSTATUS {
    let kernel = enter!(ZwSetEvent);
    let event = match kernel.objects().handle(EventHandle) {
        Some(Object::Event(event)) => Arc::clone(event),
        Some(_) => return Status::OBJECT_TYPE_MISMATCH.0,
        None => return Status::INVALID_HANDLE.0,
    };
    let previous = i32::from(event.set(true));
    drop(event);
    kernel.bell.ring();
    let written = match PreviousState {
        0 => Ok(()),
        _ => foreign::write(PreviousState, &previous),
    };
    kernel.settle(written, ());
    Status::SUCCESS.0
}

/// `ZwWaitForSingleObject` on an event or a thread.
pub extern "win64" fn ZwWaitForSingleObject(
    Handle: HANDLE,
    Alertable: BOOLEAN,
    Timeout: Address,
) -> NTSTATUS {
    // Read the timeout before `enter!`, because it decides the IRQL ceiling.
    let timeout = foreign::read_optional::<LARGE_INTEGER>(Timeout);
    let is_test = matches!(timeout, Ok(Some(LARGE_INTEGER { QuadPart: 0 })));
    let ceiling = if is_test { Irql::DISPATCH } else { Irql::APC };
    let kernel = enter!(ZwWaitForSingleObject, ceiling);
    let _ = Alertable;
    let timeout = kernel.settle(timeout, None);
    // The wait references the object, so closing the handle does not end it. The machine
    // keeps the reference, so that a call that is abandoned owns nothing.
    let number = {
        let mut objects = kernel.objects();
        let object = match objects.handle(Handle) {
            Some(object @ (Object::Event(_) | Object::Thread(_))) => object.clone(),
            Some(_) => return Status::OBJECT_TYPE_MISMATCH.0,
            None => return Status::INVALID_HANDLE.0,
        };
        let number = objects.opaque() as u64;
        objects.awaited.insert(number, object);
        number
    };
    let take = || match kernel.objects().awaited.get(&number) {
        Some(Object::Event(event)) if event.synchronization => event.set(false),
        Some(Object::Event(event) | Object::Thread(event)) => event.is_signaled(),
        _ => true,
    };
    let what = || match kernel.objects().awaited.get(&number) {
        Some(Object::Thread(_)) => format!("the end of the thread of handle {Handle:#x}"),
        _ => format!("the event of handle {Handle:#x}"),
    };
    let waited = ke::wait_for_object(&kernel, &what, timeout.map(|t| t.QuadPart), take);
    kernel.objects().awaited.remove(&number);
    waited.0
}

/// `ZwClose`. Closing a watched key completes its watches with
/// `STATUS_NOTIFY_CLEANUP`.
pub extern "win64" fn ZwClose(Handle: HANDLE) -> NTSTATUS {
    let kernel = enter!(ZwClose);
    kernel.settle(close(&kernel, Handle), Status::INVALID_HANDLE).0
}

fn close(kernel: &Kernel, handle: HANDLE) -> Result<Status, Violation> {
    let closed = kernel.objects().close(handle);
    if closed.is_none() {
        let text = format!("ZwClose of {handle:#x}");
        return match kernel.is_closed_handle(handle) {
            true => Err(Violation::new(&rules::BAD_HANDLE, [handle as u64, INVALID_HANDLE, 0], text)),
            // A program's handle: the page names the status.
            false => Ok(Status::INVALID_HANDLE),
        };
    }
    let watches = kernel.registry().take_watches_of(handle);
    kernel.complete_watches(watches, status::NOTIFY_CLEANUP);
    Ok(Status::SUCCESS)
}
