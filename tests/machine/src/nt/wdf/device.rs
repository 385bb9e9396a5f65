//! Control devices and file objects (`wdfcontrol.h`, `wdfdevice.h`, `wdffileobject.h`).

use std::collections::BTreeMap;

use super::super::enter::enter;
use super::super::types::{
    Address, BOOLEAN, DEVICE_OBJECT, NTSTATUS, WDF_FILEOBJECT_CONFIG, WDF_OBJECT_ATTRIBUTES,
};
use super::super::{Kernel, Trouble, foreign, io};
use super::object::{self, Parent};
use super::{Data as ObjectData, Framework, Kind, finish, finish_value, finish_void, not_null};
use crate::driver::DriverId;
use crate::status::Status;
use crate::verifier::{Violation, rules};

/// Flags of a device object (`wdm.h`).
mod flag {
    pub(super) const BUFFERED_IO: u32 = 0x4;
    pub(super) const EXCLUSIVE: u32 = 0x8;
    pub(super) const DIRECT_IO: u32 = 0x10;
    pub(super) const INITIALIZING: u32 = 0x80;
}

/// `WDF_DEVICE_IO_TYPE` (`wdfdevice.h`).
mod io_type {
    pub(super) const BUFFERED: i32 = 2;
    pub(super) const DIRECT: i32 = 3;
}

/// What a driver puts into a `WDFDEVICE_INIT`.
#[derive(Clone, Debug, Default)]
pub(super) struct Init {
    /// The driver that has allocated it.
    pub owner: DriverId,
    name: String,
    kind: u32,
    characteristics: u32,
    exclusive: bool,
    /// `WDF_DEVICE_IO_TYPE`: buffered unless the driver says otherwise.
    io_type: i32,
    files: Option<Files>,
    caller_context: Address,
    request_attributes: Option<Vec<u8>>,
}

/// The callbacks for files, and their attributes as the driver passed them.
#[derive(Clone, Debug)]
pub(super) struct Files {
    pub config: WDF_FILEOBJECT_CONFIG,
    pub attributes: Option<Vec<u8>>,
}

/// A device.
#[derive(Debug)]
pub(super) struct Data {
    /// The device object.
    pub object: Address,
    pub files: Option<Files>,
    /// `EvtIoInCallerContext`, or 0.
    pub caller_context: Address,
    /// The attributes of requests, as the driver passed them.
    pub request_attributes: Option<Vec<u8>>,
    /// The default queue, or 0.
    pub default_queue: Address,
    /// Queues by the type of request (`WDF_REQUEST_TYPE`) that they get.
    pub queues: BTreeMap<i32, Address>,
    /// File objects of the framework by those of the I/O manager.
    pub open: BTreeMap<Address, Address>,
    links: Vec<String>,
}

/// A file object.
#[derive(Debug)]
pub(super) struct FileData {
    pub device: Address,
    /// The I/O manager's.
    pub object: Address,
}

fn copy_attributes(address: Address) -> Result<Option<Vec<u8>>, Trouble> {
    match address {
        0 => Ok(None),
        at => Ok(Some(foreign::read_bytes(at, size_of::<WDF_OBJECT_ATTRIBUTES>())?)),
    }
}

/// `WdfControlDeviceInitAllocate`. The security descriptor is not modelled: every
/// program may open the device.
pub extern "win64" fn WdfControlDeviceInitAllocate(
    DriverGlobals: Address,
    Driver: Address,
    SDDLString: Address,
) -> Address {
    let kernel = enter!(WdfControlDeviceInitAllocate);
    let _ = (DriverGlobals, SDDLString);
    let allocate = || {
        let (owner, handle) = (kernel.caller(), kernel.objects().opaque());
        let mut framework = kernel.framework();
        framework.object_of(Driver, Kind::Driver)?;
        framework.inits.insert(handle, Init { owner, io_type: io_type::BUFFERED, ..Init::default() });
        Ok(handle)
    };
    finish_value(&kernel, allocate())
}

/// Changes a `WDFDEVICE_INIT`.
fn change(kernel: &Kernel, init: Address, change: impl FnOnce(&mut Init)) -> Result<(), Trouble> {
    let mut framework = kernel.framework();
    match framework.inits.get_mut(&init) {
        Some(init) => {
            change(init);
            Ok(())
        }
        None => Err(bad_init(init)),
    }
}

fn bad_init(init: Address) -> Trouble {
    let text = format!("{init:#x} is no WDFDEVICE_INIT, or a device has taken it");
    Violation::new(&rules::WDF_BAD_HANDLE, [init as u64, 0, 0], text).into()
}

/// `WdfDeviceInitFree`.
pub extern "win64" fn WdfDeviceInitFree(DriverGlobals: Address, DeviceInit: Address) {
    let kernel = enter!(WdfDeviceInitFree);
    let _ = DriverGlobals;
    let removed = kernel.framework().inits.remove(&DeviceInit);
    finish_void(&kernel, removed.map(drop).ok_or_else(|| bad_init(DeviceInit)));
}

/// `WdfDeviceInitAssignName`. NULL removes the name.
pub extern "win64" fn WdfDeviceInitAssignName(
    DriverGlobals: Address,
    DeviceInit: Address,
    DeviceName: Address,
) -> NTSTATUS {
    let kernel = enter!(WdfDeviceInitAssignName);
    let _ = DriverGlobals;
    let assign = || {
        let name = match DeviceName {
            0 => String::new(),
            at => foreign::read_unicode_string(at).map_err(|bad| Trouble::String(at, bad))?,
        };
        change(&kernel, DeviceInit, |init| init.name = name)?;
        Ok(Status::SUCCESS)
    };
    finish(&kernel, assign())
}

/// `WdfDeviceInitAssignSDDLString`. Security is not modelled.
pub extern "win64" fn WdfDeviceInitAssignSDDLString(
    DriverGlobals: Address,
    DeviceInit: Address,
    SDDLString: Address,
) -> NTSTATUS {
    let kernel = enter!(WdfDeviceInitAssignSDDLString);
    let _ = (DriverGlobals, SDDLString);
    finish(&kernel, change(&kernel, DeviceInit, |_| {}).map(|()| Status::SUCCESS))
}

/// `WdfDeviceInitSetDeviceClass`. The class only selects security.
pub extern "win64" fn WdfDeviceInitSetDeviceClass(
    DriverGlobals: Address,
    DeviceInit: Address,
    DeviceClassGuid: Address,
) {
    let kernel = enter!(WdfDeviceInitSetDeviceClass);
    let _ = (DriverGlobals, DeviceClassGuid);
    finish_void(&kernel, change(&kernel, DeviceInit, |_| {}));
}

/// `WdfDeviceInitSetDeviceType`.
pub extern "win64" fn WdfDeviceInitSetDeviceType(
    DriverGlobals: Address,
    DeviceInit: Address,
    DeviceType: u32,
) {
    let kernel = enter!(WdfDeviceInitSetDeviceType);
    let _ = DriverGlobals;
    finish_void(&kernel, change(&kernel, DeviceInit, |init| init.kind = DeviceType));
}

/// `WdfDeviceInitSetCharacteristics`.
pub extern "win64" fn WdfDeviceInitSetCharacteristics(
    DriverGlobals: Address,
    DeviceInit: Address,
    DeviceCharacteristics: u32,
    OrInValues: BOOLEAN,
) {
    let kernel = enter!(WdfDeviceInitSetCharacteristics);
    let _ = DriverGlobals;
    let set = |init: &mut Init| {
        let kept = if OrInValues == 0 { 0 } else { init.characteristics };
        init.characteristics = kept | DeviceCharacteristics;
    };
    finish_void(&kernel, change(&kernel, DeviceInit, set));
}

/// `WdfDeviceInitSetExclusive`.
pub extern "win64" fn WdfDeviceInitSetExclusive(
    DriverGlobals: Address,
    DeviceInit: Address,
    IsExclusive: BOOLEAN,
) {
    let kernel = enter!(WdfDeviceInitSetExclusive);
    let _ = DriverGlobals;
    finish_void(&kernel, change(&kernel, DeviceInit, |init| init.exclusive = IsExclusive != 0));
}

/// `WdfDeviceInitSetIoType`, for reads and writes.
pub extern "win64" fn WdfDeviceInitSetIoType(DriverGlobals: Address, DeviceInit: Address, IoType: i32) {
    let kernel = enter!(WdfDeviceInitSetIoType);
    let _ = DriverGlobals;
    finish_void(&kernel, change(&kernel, DeviceInit, |init| init.io_type = IoType));
}

/// `WdfDeviceInitSetFileObjectConfig`.
pub extern "win64" fn WdfDeviceInitSetFileObjectConfig(
    DriverGlobals: Address,
    DeviceInit: Address,
    FileObjectConfig: Address,
    FileObjectAttributes: Address,
) {
    let kernel = enter!(WdfDeviceInitSetFileObjectConfig);
    let _ = DriverGlobals;
    let set = || {
        let config = foreign::read_sized(not_null("FileObjectConfig", FileObjectConfig)?)?;
        let files = Files { config, attributes: copy_attributes(FileObjectAttributes)? };
        change(&kernel, DeviceInit, |init| init.files = Some(files))
    };
    finish_void(&kernel, set());
}

/// `WdfDeviceInitSetRequestAttributes`.
pub extern "win64" fn WdfDeviceInitSetRequestAttributes(
    DriverGlobals: Address,
    DeviceInit: Address,
    RequestAttributes: Address,
) {
    let kernel = enter!(WdfDeviceInitSetRequestAttributes);
    let _ = DriverGlobals;
    let set = || {
        let attributes = copy_attributes(not_null("RequestAttributes", RequestAttributes)?)?;
        change(&kernel, DeviceInit, |init| init.request_attributes = attributes)
    };
    finish_void(&kernel, set());
}

/// `WdfDeviceInitSetIoInCallerContextCallback`.
pub extern "win64" fn WdfDeviceInitSetIoInCallerContextCallback(
    DriverGlobals: Address,
    DeviceInit: Address,
    EvtIoInCallerContext: Address,
) {
    let kernel = enter!(WdfDeviceInitSetIoInCallerContextCallback);
    let _ = DriverGlobals;
    finish_void(&kernel, change(&kernel, DeviceInit, |init| init.caller_context = EvtIoInCallerContext));
}

/// `WdfDeviceCreate`, of a control device. Takes the `WDFDEVICE_INIT` and writes NULL in
/// its place.
pub extern "win64" fn WdfDeviceCreate(
    DriverGlobals: Address,
    DeviceInit: Address,
    DeviceAttributes: Address,
    Device: Address,
) -> NTSTATUS {
    let kernel = enter!(WdfDeviceCreate);
    let _ = DriverGlobals;
    let create = || {
        let taken: Address = foreign::read(not_null("DeviceInit", DeviceInit)?)?;
        not_null("Device", Device)?;
        let init = {
            let framework = kernel.framework();
            framework.inits.get(&taken).cloned().ok_or_else(|| bad_init(taken))?
        };
        let made = match create(&kernel, init, DeviceAttributes)? {
            Ok(made) => made,
            Err(status) => return Ok(status),
        };
        kernel.framework().inits.remove(&taken);
        foreign::write(DeviceInit, &0usize)?;
        foreign::write(Device, &made)?;
        Ok(Status::SUCCESS)
    };
    finish(&kernel, create())
}

fn create(kernel: &Kernel, init: Init, attributes: Address) -> Result<Result<Address, Status>, Trouble> {
    let (driver, driver_object) = {
        let framework = kernel.framework();
        let client = framework.clients.get(&init.owner).expect("a driver that has a WDFDEVICE_INIT is bound");
        (client.driver, client.object)
    };
    let exclusive = if init.exclusive { flag::EXCLUSIVE } else { 0 };
    let transfer = match init.io_type {
        io_type::BUFFERED => flag::BUFFERED_IO,
        io_type::DIRECT => flag::DIRECT_IO,
        _ => 0,
    };
    let template = DEVICE_OBJECT {
        DriverObject: driver_object,
        DeviceType: init.kind,
        Characteristics: init.characteristics,
        Flags: flag::INITIALIZING | exclusive | transfer,
        ..DEVICE_OBJECT::zeroed()
    };
    let object = match io::create_device(kernel, template, 0, init.name)? {
        Ok(object) => object,
        Err(status) => return Ok(Err(status)),
    };
    let data = ObjectData::Device(Data {
        object,
        files: init.files,
        caller_context: init.caller_context,
        request_attributes: init.request_attributes,
        default_queue: 0,
        queues: BTreeMap::new(),
        open: BTreeMap::new(),
        links: Vec::new(),
    });
    let made = object::create(kernel, Kind::Device, attributes, Parent::Default(driver), data)?;
    match made {
        Ok(handle) => {
            if let Some(device) = kernel.objects().devices.get_mut(&object) {
                device.framework = handle;
            }
        }
        Err(_) => io::delete_device(kernel, object)?,
    }
    Ok(made)
}

/// `WdfControlFinishInitializing`: from now on, the device can be opened.
pub extern "win64" fn WdfControlFinishInitializing(DriverGlobals: Address, Device: Address) {
    let kernel = enter!(WdfControlFinishInitializing);
    let _ = DriverGlobals;
    let finish = || {
        let address = kernel.framework().device(Device)?.object;
        let mut object: DEVICE_OBJECT = foreign::read(address)?;
        object.Flags &= !flag::INITIALIZING;
        Ok(foreign::write(address, &object)?)
    };
    finish_void(&kernel, finish());
}

/// `WdfDeviceCreateSymbolicLink`. The link is removed with the device.
pub extern "win64" fn WdfDeviceCreateSymbolicLink(
    DriverGlobals: Address,
    Device: Address,
    SymbolicLinkName: Address,
) -> NTSTATUS {
    let kernel = enter!(WdfDeviceCreateSymbolicLink);
    let _ = DriverGlobals;
    let create = || {
        let at = not_null("SymbolicLinkName", SymbolicLinkName)?;
        let link = foreign::read_unicode_string(at).map_err(|bad| Trouble::String(at, bad))?;
        let object = kernel.framework().device(Device)?.object;
        let name = kernel.objects().devices.get(&object).map(|device| device.name.clone());
        let name = name.filter(|name| !name.is_empty());
        let Some(name) = name else { return Ok(super::super::status::INVALID_DEVICE_REQUEST) };
        let status = kernel.create_link(&link, name);
        if status.is_success() {
            kernel.framework().device(Device)?.links.push(link);
        }
        Ok(status)
    };
    finish(&kernel, create())
}

/// Removes the device object and the links of a device that is deleted.
pub(super) fn remove(kernel: &Kernel, handle: Address) {
    let (object, links) = {
        let mut framework = kernel.framework();
        let Ok(device) = framework.device(handle) else { return };
        (device.object, std::mem::take(&mut device.links))
    };
    for link in links {
        let _removed = kernel.delete_link(&link);
    }
    if let Err(trouble) = io::delete_device(kernel, object) {
        kernel.condemn(kernel.breach(trouble));
    }
}

impl Framework {
    /// The device whose object this is, or 0.
    pub fn device_of(&self, object: Address) -> Address {
        let mut devices = self.objects.iter().filter_map(|(handle, entry)| match &entry.data {
            ObjectData::Device(device) if device.object == object => Some(*handle),
            _ => None,
        });
        devices.next().unwrap_or(0)
    }
}

/// `WdfDeviceGetDriver`.
pub extern "win64" fn WdfDeviceGetDriver(DriverGlobals: Address, Device: Address) -> Address {
    let kernel = enter!(WdfDeviceGetDriver);
    let _ = DriverGlobals;
    let get = || {
        let mut framework = kernel.framework();
        framework.device(Device)?;
        Ok(framework.driver_handle(framework.owner(Device)))
    };
    finish_value(&kernel, get())
}

/// `WdfDeviceWdmGetDeviceObject`.
pub extern "win64" fn WdfDeviceWdmGetDeviceObject(DriverGlobals: Address, Device: Address) -> Address {
    let kernel = enter!(WdfDeviceWdmGetDeviceObject);
    let _ = DriverGlobals;
    let get = || Ok(kernel.framework().device(Device)?.object);
    finish_value(&kernel, get())
}

/// `WdfWdmDeviceGetWdfDeviceHandle`.
pub extern "win64" fn WdfWdmDeviceGetWdfDeviceHandle(
    DriverGlobals: Address,
    DeviceObject: Address,
) -> Address {
    let kernel = enter!(WdfWdmDeviceGetWdfDeviceHandle);
    let _ = DriverGlobals;
    kernel.framework().device_of(DeviceObject)
}

/// `WdfDeviceGetDefaultQueue`. NULL if there is none.
pub extern "win64" fn WdfDeviceGetDefaultQueue(DriverGlobals: Address, Device: Address) -> Address {
    let kernel = enter!(WdfDeviceGetDefaultQueue);
    let _ = DriverGlobals;
    let get = || Ok(kernel.framework().device(Device)?.default_queue);
    finish_value(&kernel, get())
}

/// `WdfDeviceGetFileObject`: the framework's file object for one of the I/O manager's.
pub extern "win64" fn WdfDeviceGetFileObject(
    DriverGlobals: Address,
    Device: Address,
    FileObject: Address,
) -> Address {
    let kernel = enter!(WdfDeviceGetFileObject);
    let _ = DriverGlobals;
    let get = || Ok(kernel.framework().device(Device)?.open.get(&FileObject).copied().unwrap_or(0));
    finish_value(&kernel, get())
}

/// `WdfDeviceConfigureRequestDispatching`.
pub extern "win64" fn WdfDeviceConfigureRequestDispatching(
    DriverGlobals: Address,
    Device: Address,
    Queue: Address,
    RequestType: i32,
) -> NTSTATUS {
    let kernel = enter!(WdfDeviceConfigureRequestDispatching);
    let _ = DriverGlobals;
    let configure = || {
        let mut framework = kernel.framework();
        framework.queue(Queue)?;
        let device = framework.device(Device)?;
        if device.queues.contains_key(&RequestType) {
            return Ok(Status::INVALID_DEVICE_STATE);
        }
        device.queues.insert(RequestType, Queue);
        Ok(Status::SUCCESS)
    };
    finish(&kernel, configure())
}

/// `WdfFileObjectGetDevice`.
pub extern "win64" fn WdfFileObjectGetDevice(DriverGlobals: Address, FileObject: Address) -> Address {
    let kernel = enter!(WdfFileObjectGetDevice);
    let _ = DriverGlobals;
    let get = || Ok(kernel.framework().file(FileObject)?.device);
    finish_value(&kernel, get())
}

/// `WdfFileObjectWdmGetFileObject`.
pub extern "win64" fn WdfFileObjectWdmGetFileObject(DriverGlobals: Address, FileObject: Address) -> Address {
    let kernel = enter!(WdfFileObjectWdmGetFileObject);
    let _ = DriverGlobals;
    let get = || Ok(kernel.framework().file(FileObject)?.object);
    finish_value(&kernel, get())
}

/// `WdfFileObjectGetFileName`: what follows the device's name.
pub extern "win64" fn WdfFileObjectGetFileName(DriverGlobals: Address, FileObject: Address) -> Address {
    let kernel = enter!(WdfFileObjectGetFileName);
    let _ = DriverGlobals;
    use super::super::types::FILE_OBJECT;
    let get =
        || Ok(kernel.framework().file(FileObject)?.object + std::mem::offset_of!(FILE_OBJECT, FileName));
    finish_value(&kernel, get())
}
