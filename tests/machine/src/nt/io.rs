//! I/O manager: devices, work items, the driver's registry key (`wdm.h`).
#![expect(non_snake_case, reason = "the names are the NT API's own")]

use super::enter::enter;
use super::foreign;
use super::guest::Place;
use super::load::{parameters_key, service_key};
use super::memory::Guarded;
use super::objects::{Device, Object, WorkItem};
use super::types::{Address, BOOLEAN, DEVICE_OBJECT, HANDLE, NTSTATUS, WORK_QUEUE_ITEM};
use super::work::Job;
use super::{Kernel, Trouble, status};
use crate::status::Status;
use crate::verifier::{Violation, rules};

/// `IO_TYPE_DEVICE` (`wdm.h`).
const IO_TYPE_DEVICE: i16 = 3;
/// `DO_EXCLUSIVE` (`wdm.h`).
const DO_EXCLUSIVE: u32 = 0x8;
/// `DO_DEVICE_INITIALIZING` (`wdm.h`).
pub(super) const DO_DEVICE_INITIALIZING: u32 = 0x80;

/// The default of every `MajorFunction` entry. It refuses the request.
pub(super) extern "win64" fn invalid_device_request(_: Address, _: Address) -> NTSTATUS {
    status::INVALID_DEVICE_REQUEST.0
}

fn no_such_object(kind: &str, address: Address) -> Trouble {
    let text = format!("{kind} {address:#x}");
    Violation::new(&rules::BAD_OBJECT, [address as u64, 0, 0], text).into()
}

/// `IoCreateDevice`.
pub extern "win64" fn IoCreateDevice(
    DriverObject: Address,
    DeviceExtensionSize: u32,
    DeviceName: Address,
    DeviceType: u32,
    DeviceCharacteristics: u32,
    Exclusive: BOOLEAN,
    DeviceObject: Address,
) -> NTSTATUS {
    let kernel = enter!(IoCreateDevice);
    let exclusive = if Exclusive == 0 { 0 } else { DO_EXCLUSIVE };
    let template = DEVICE_OBJECT {
        DriverObject,
        Flags: DO_DEVICE_INITIALIZING | exclusive,
        Characteristics: DeviceCharacteristics,
        DeviceType,
        ..DEVICE_OBJECT::zeroed()
    };
    let extension = DeviceExtensionSize as usize;
    let create = || {
        let name = match DeviceName {
            0 => String::new(),
            at => foreign::read_unicode_string(at).map_err(|bad| Trouble::String(at, bad))?,
        };
        match create_device(&kernel, template, extension, name)? {
            Ok(device) => foreign::write(DeviceObject, &device)?,
            Err(status) => return Ok(status),
        }
        Ok::<_, Trouble>(Status::SUCCESS)
    };
    kernel.settle(create(), Status::UNSUCCESSFUL).0
}

/// Creates a device object. Returns its address.
pub(super) fn create_device(
    kernel: &Kernel,
    mut device: DEVICE_OBJECT,
    extension: usize,
    name: String,
) -> Result<Result<Address, Status>, Trouble> {
    device.Type = IO_TYPE_DEVICE;
    device.StackSize = 1;
    let Some((driver, _)) = kernel.driver_with(device.DriverObject) else {
        return Err(no_such_object("DRIVER_OBJECT", device.DriverObject));
    };
    let mut objects = kernel.objects();
    let taken = |device: &Device| device.name.eq_ignore_ascii_case(&name);
    if !name.is_empty() && objects.devices.values().any(taken) {
        return Ok(Err(Status::OBJECT_NAME_COLLISION));
    }
    let room = (size_of::<DEVICE_OBJECT>() + extension).next_multiple_of(16);
    let memory = Guarded::new(room);
    // The object ends at the guard page, so that overruns of the extension fault.
    let address = memory.end() - room;
    device.Size = u16::try_from(room).unwrap_or(u16::MAX);
    if extension > 0 {
        device.DeviceExtension = address + size_of::<DEVICE_OBJECT>();
    }
    memory.put(address, &device);
    objects.devices_made += 1;
    let number = objects.devices_made;
    let entry = Device { driver, number, memory, name, references: 0, deleted: false, open: 0, framework: 0 };
    objects.devices.insert(address, entry);
    objects.deleted_devices.remove(&address);
    drop(objects);
    kernel.link_devices(driver);
    Ok(Ok(address))
}

/// `IoDeleteDevice`. The object stays until no work item refers to it.
pub extern "win64" fn IoDeleteDevice(DeviceObject: Address) {
    let kernel = enter!(IoDeleteDevice);
    let deleted = kernel
        .is_no_provider(DeviceObject)
        .and_then(|()| is_unused(&kernel, DeviceObject))
        .map_err(Trouble::from)
        .and_then(|()| delete_device(&kernel, DeviceObject));
    kernel.settle(deleted, ());
}

/// Refuses to delete a device object to which a registration or a work item refers.
fn is_unused(kernel: &Kernel, device: Address) -> Result<(), Violation> {
    if let Some(engine) = kernel.engine_if_used() {
        // A callout may have been unregistered without the driver.
        let registered = engine.registered_callouts();
        let ids: Vec<u32> = registered.into_iter().filter_map(|key| engine.callout_id(key)).collect();
        kernel.objects().callout_devices.retain(|id, _| ids.contains(id));
    }
    let mut users = kernel.objects().users_of_device(device);
    users.extend(kernel.attached_to(device));
    match users.is_empty() {
        true => Ok(()),
        false => {
            let parameters = [device as u64, users.len() as u64, 0];
            Err(Violation::new(&rules::DEVICE_IN_USE, parameters, users.join("; ")))
        }
    }
}

pub(super) fn delete_device(kernel: &Kernel, address: Address) -> Result<(), Trouble> {
    let driver = kernel.device_driver(address);
    let memory =
        kernel.objects().devices.get(&address).map(|device| device.memory.start()..device.memory.end());
    if let Some(memory) = &memory {
        // The extension goes with the object.
        kernel.check_objects(memory)?;
    }
    let (deleted, before) = {
        let mut objects = kernel.objects();
        (objects.delete_device(address), objects.deleted_devices.contains(&address))
    };
    if !deleted && before {
        let text = format!("DEVICE_OBJECT {address:#x}");
        return Err(Violation::new(&rules::DEVICE_DELETED_TWICE, [kernel.call_site(), 0, 0], text).into());
    }
    let Some(memory) = memory.filter(|_| deleted) else {
        return Err(no_such_object("DEVICE_OBJECT", address));
    };
    kernel.locks().forget(memory.clone());
    kernel.spin_locks.forget(memory.clone());
    kernel.forget_remove_locks(memory);
    kernel.link_devices(driver);
    Ok(())
}

/// `IoOpenDriverRegistryKey`.
pub extern "win64" fn IoOpenDriverRegistryKey(
    DriverObject: Address,
    RegKeyType: i32,
    DesiredAccess: u32,
    Flags: u32,
    DriverRegKey: Address,
) -> NTSTATUS {
    let kernel = enter!(IoOpenDriverRegistryKey);
    // The driver may have whatever access it asks for.
    let asked = (RegKeyType, DesiredAccess, Flags);
    let outcome = open_driver_key(&kernel, DriverObject, asked, DriverRegKey);
    kernel.settle(outcome, Status::UNSUCCESSFUL).0
}

fn open_driver_key(
    kernel: &Kernel,
    driver: Address,
    (kind, access, flags): (i32, u32, u32),
    out: Address,
) -> Result<Status, Trouble> {
    /// `DRIVER_REGKEY_TYPE` (`wdm.h`).
    const PARAMETERS: i32 = 0;
    const PERSISTENT_STATE: i32 = 1;
    let Some(name) = kernel.driver_name(driver) else {
        return Err(no_such_object("DRIVER_OBJECT", driver));
    };
    let path = match kind {
        PARAMETERS => parameters_key(&name),
        PERSISTENT_STATE => format!(r"{}\State", service_key(&name)),
        _ => return Ok(Status::INVALID_PARAMETER),
    };
    if flags != 0 {
        return Ok(Status::INVALID_PARAMETER);
    }
    let Some(generation) = kernel.registry().generation(&path) else {
        return Ok(Status::OBJECT_NAME_NOT_FOUND);
    };
    let handle: HANDLE = kernel.objects().open(kernel.caller(), Object::Key(path, generation, access));
    foreign::write(out, &handle)?;
    Ok(Status::SUCCESS)
}

/// Size of an `IO_WORKITEM`, which is opaque.
const WORK_ITEM_SIZE: usize = 0x58;

/// `IoAllocateWorkItem`. NULL while the lab makes allocations fail.
pub extern "win64" fn IoAllocateWorkItem(DeviceObject: Address) -> Address {
    let kernel = enter!(IoAllocateWorkItem);
    if kernel.pool().take_shortage() {
        return 0;
    }
    let item = kernel.objects().opaque();
    kernel.settle(add_work_item(&kernel, DeviceObject, item, false).map(|()| item), 0)
}

/// `IoSizeofWorkItem`.
pub extern "win64" fn IoSizeofWorkItem() -> u32 {
    enter!(IoSizeofWorkItem);
    WORK_ITEM_SIZE as u32
}

/// `IoInitializeWorkItem`, in resident memory of the driver's.
pub extern "win64" fn IoInitializeWorkItem(IoObject: Address, IoWorkItem: Address) {
    let kernel = enter!(IoInitializeWorkItem);
    let initialize = || {
        foreign::write_bytes(IoWorkItem, &[0; WORK_ITEM_SIZE])?;
        resident_item(&kernel, IoWorkItem)?;
        add_work_item(&kernel, IoObject, IoWorkItem, true)
    };
    kernel.settle(initialize(), ());
}

fn add_work_item(kernel: &Kernel, object: Address, item: Address, in_place: bool) -> Result<(), Trouble> {
    let driver = kernel.caller();
    // A driver object is allowed, for IoQueueWorkItemEx.
    let of_driver = kernel.driver_name(object).is_some();
    let mut objects = kernel.objects();
    if !of_driver && !objects.devices.contains_key(&object) {
        let text = format!("{object:#x} is no device or driver object");
        return Err(Violation::new(&rules::WORK_ITEM_OBJECT, [item as u64, object as u64, 0], text).into());
    }
    let device = if of_driver { 0 } else { object };
    let entry = WorkItem { driver, device, in_place, queued: false, routine: 0 };
    objects.work_items.insert(item, entry);
    Ok(())
}

/// "Drivers must specify DelayedWorkQueue" (`IoQueueWorkItem`).
fn is_delayed(queue: i32) -> Result<(), Violation> {
    /// `DelayedWorkQueue` (`wdm.h`).
    const DELAYED: i32 = 1;
    match queue {
        DELAYED => Ok(()),
        other => Err(Violation::new(&rules::WORK_QUEUE_TYPE, [other as u64, 0, 0], format!("queue {other}"))),
    }
}

/// `IoQueueWorkItem`. The routine gets the device object and the context.
pub extern "win64" fn IoQueueWorkItem(
    IoWorkItem: Address,
    WorkerRoutine: Address,
    QueueType: i32,
    Context: Address,
) {
    let kernel = enter!(IoQueueWorkItem);
    // One worker serves all queue types.
    kernel.settle(check_queue(&kernel, IoWorkItem, WorkerRoutine, QueueType), ());
    kernel.settle(is_delayed(QueueType), ());
    kernel.settle(queue(&kernel, IoWorkItem, WorkerRoutine, (Context, QueueType), false), ());
}

/// `IoQueueWorkItemEx`. The routine also gets the work item.
pub extern "win64" fn IoQueueWorkItemEx(
    IoWorkItem: Address,
    WorkerRoutine: Address,
    QueueType: i32,
    Context: Address,
) {
    let kernel = enter!(IoQueueWorkItemEx);
    kernel.settle(check_queue(&kernel, IoWorkItem, WorkerRoutine, QueueType), ());
    kernel.settle(is_delayed(QueueType), ());
    kernel.settle(queue(&kernel, IoWorkItem, WorkerRoutine, (Context, QueueType), true), ());
}

/// `ExQueueWorkItem`, with a `WORK_QUEUE_ITEM` of the driver's own.
pub extern "win64" fn ExQueueWorkItem(WorkItem: Address, QueueType: i32) {
    let kernel = enter!(ExQueueWorkItem);
    let queue = || {
        let item: WORK_QUEUE_ITEM = foreign::read(WorkItem)?;
        resident_item(&kernel, WorkItem)?;
        check_queue(&kernel, WorkItem, item.WorkerRoutine, QueueType)?;
        if kernel.work().queued_item_in(&(WorkItem..WorkItem + 1)).is_some() {
            return Err(queued_twice(WorkItem, QueueType).into());
        }
        let (routine, parameter) = (item.WorkerRoutine, item.Parameter);
        kernel.work().push(Job::WorkQueueItem { item: WorkItem, routine, parameter }, kernel.caller());
        Ok::<_, Trouble>(())
    };
    kernel.settle(queue(), ());
}

/// Refuses a work item in pageable memory.
pub(super) fn resident_item(kernel: &Kernel, item: Address) -> Result<(), Violation> {
    match kernel.is_pageable(item) {
        true => {
            let text = format!("work item {item:#x}");
            Err(Violation::new(&rules::WORK_ITEM_PAGEABLE, [item as u64, 0, 0], text))
        }
        false => Ok(()),
    }
}

/// Checks the type of queue (`WORK_QUEUE_TYPE`, `wdm.h`) and the routine of a work item.
fn check_queue(kernel: &Kernel, item: Address, routine: Address, queue: i32) -> Result<(), Violation> {
    /// Critical, delayed, hypercritical, normal, background, real time, super critical.
    const TYPES: std::ops::Range<i32> = 0..7;
    /// `CustomPriorityWorkQueue` and a priority.
    const CUSTOM: std::ops::Range<i32> = 32..64;
    let about = |rule| {
        let parameters = [item as u64, queue as u32 as u64, 0];
        Err(Violation::new(rule, parameters, format!("queue {queue}, routine {routine:#x}")))
    };
    if !TYPES.contains(&queue) && !CUSTOM.contains(&queue) {
        return about(&rules::WORK_ITEM_QUEUE);
    }
    let bad =
        routine == 0 || matches!(kernel.guest().place(routine as u64), Some(Place::Data | Place::Stack));
    if bad { about(&rules::WORK_ITEM_ROUTINE) } else { Ok(()) }
}

fn queued_twice(item: Address, queue: i32) -> Violation {
    let parameters = [item as u64, queue as u32 as u64, 0];
    Violation::new(&rules::WORK_ITEM_QUEUED_TWICE, parameters, format!("work item {item:#x}"))
}

fn queue(
    kernel: &Kernel,
    item: Address,
    routine: Address,
    (context, queue): (Address, i32),
    extended: bool,
) -> Result<(), Trouble> {
    let mut objects = kernel.objects();
    let Some(entry) = objects.work_items.get_mut(&item) else {
        return Err(no_such_object("IO_WORKITEM", item));
    };
    // "If the caller will later pass the work item to IoQueueWorkItem, DeviceObject must
    // point to a device object" (IoAllocateWorkItem).
    if entry.device == 0 && !extended {
        let text = format!("work item {item:#x}");
        return Err(Violation::new(&rules::WORK_ITEM_OF_DRIVER, [item as u64, 0, 0], text).into());
    }
    if entry.queued {
        return Err(queued_twice(item, queue).into());
    }
    entry.queued = true;
    entry.routine = routine;
    let driver = entry.driver;
    let object = match entry.device {
        0 => kernel.driver_object(driver),
        device => device,
    };
    if let Some(device) = objects.devices.get_mut(&object) {
        device.references += 1;
    }
    drop(objects);
    kernel.work().push(Job::IoWorkItem { item, routine, object, context, extended }, driver);
    Ok(())
}

/// `IoFreeWorkItem`. A work item's routine may free it.
pub extern "win64" fn IoFreeWorkItem(IoWorkItem: Address) {
    let kernel = enter!(IoFreeWorkItem);
    kernel.settle(remove_work_item(&kernel, IoWorkItem, false), ());
}

/// `IoUninitializeWorkItem`, of a work item that [`IoInitializeWorkItem`] initialized.
pub extern "win64" fn IoUninitializeWorkItem(IoWorkItem: Address) {
    let kernel = enter!(IoUninitializeWorkItem);
    kernel.settle(remove_work_item(&kernel, IoWorkItem, true), ());
}

fn remove_work_item(kernel: &Kernel, item: Address, in_place: bool) -> Result<(), Trouble> {
    let mut objects = kernel.objects();
    match objects.work_items.remove(&item).filter(|entry| entry.in_place == in_place) {
        None => Err(no_such_object("IO_WORKITEM", item)),
        Some(WorkItem { queued: true, routine, .. }) => {
            let text = format!("work item {item:#x}");
            let parameters = [item as u64, routine as u64, 0];
            Err(Violation::new(&rules::WORK_ITEM_FREED_ACTIVE, parameters, text).into())
        }
        Some(_) => Ok(()),
    }
}
