//! The framework's driver object (`wdfdriver.h`, `wdfminiport.h`).

use std::mem::offset_of;

use super::super::cpu::Irql;
use super::super::enter::enter;
use super::super::types::{
    Address, BOOLEAN, DRIVER_OBJECT, NTSTATUS, WDF_DRIVER_CONFIG, WDF_DRIVER_GLOBALS,
    WDF_DRIVER_VERSION_AVAILABLE_PARAMS,
};
use super::super::{Kernel, foreign};
use super::object::{self, Parent};
use super::{Data, Kind, bind, boolean, finish, finish_value, finish_void, not_null, strings};
use crate::driver::DriverId;
use crate::status::Status;

/// `WDF_DRIVER_INIT_FLAGS` (`wdfdriver.h`).
mod init {
    pub(super) const NON_PNP: u32 = 1;
    pub(super) const NO_DISPATCH_OVERRIDE: u32 = 2;
    /// Flags that a driver may set, with the one for companions.
    pub(super) const VALID: u32 = NON_PNP | NO_DISPATCH_OVERRIDE | 0x10;
}

/// `WdfDriverCreate`.
pub extern "win64" fn WdfDriverCreate(
    DriverGlobals: Address,
    DriverObject: Address,
    RegistryPath: Address,
    DriverAttributes: Address,
    DriverConfig: Address,
    Driver: Address,
) -> NTSTATUS {
    let kernel = enter!(WdfDriverCreate);
    let _ = DriverGlobals;
    let create = || {
        not_null("DriverObject", DriverObject)?;
        not_null("RegistryPath", RegistryPath)?;
        let config: WDF_DRIVER_CONFIG = foreign::read_sized(not_null("DriverConfig", DriverConfig)?)?;
        if config.Size as usize != size_of::<WDF_DRIVER_CONFIG>() {
            return Ok(Status::INFO_LENGTH_MISMATCH);
        }
        let is_plain = config.DriverInitFlags & init::NO_DISPATCH_OVERRIDE != 0;
        let is_legacy = config.DriverInitFlags & init::NON_PNP != 0;
        if config.DriverInitFlags & !init::VALID != 0
            || (!is_plain && is_legacy && config.EvtDriverDeviceAdd != 0)
        {
            return Ok(Status::INVALID_PARAMETER);
        }
        if kernel.wdf_driver() != 0 {
            return Ok(Status::DRIVER_INTERNAL_ERROR);
        }
        set_tag(&kernel, &config);
        let handle =
            match object::create(&kernel, Kind::Driver, DriverAttributes, Parent::Fixed(0), Data::Driver)? {
                Ok(handle) => handle,
                Err(status) => return Ok(status),
            };
        let mut framework = kernel.framework();
        let client =
            framework.clients.get_mut(&kernel.caller()).expect("a driver that calls the framework is bound");
        client.driver = handle;
        client.config = config;
        let globals_at = client.globals.start();
        let mut globals: WDF_DRIVER_GLOBALS = client.globals.get(globals_at);
        globals.Driver = handle;
        globals.DriverFlags = config.DriverInitFlags;
        // The driver's library displaces DriverUnload only if the framework has set it.
        let displaced = !(is_plain || is_legacy) || config.EvtDriverUnload != 0;
        globals.DisplaceDriverUnload = displaced.into();
        client.globals.put(globals_at, &globals);
        drop(framework);
        if displaced && !is_plain {
            let routine = bind::unload_routine(&kernel);
            foreign::write(DriverObject + offset_of!(DRIVER_OBJECT, DriverUnload), &routine)?;
        }
        if Driver != 0 {
            foreign::write(Driver, &handle)?;
        }
        Ok(Status::SUCCESS)
    };
    finish(&kernel, create())
}

/// Sets the tag of the driver's memory: its own, or the first characters of its
/// service's name.
fn set_tag(kernel: &Kernel, config: &WDF_DRIVER_CONFIG) {
    /// The tag of samples, which the framework does not take.
    const SAMPLE: u32 = u32::from_le_bytes(*b"Ddk ");
    let mut framework = kernel.framework();
    let client =
        framework.clients.get_mut(&kernel.caller()).expect("a driver that calls the framework is bound");
    let tag = match config.DriverPoolTag {
        0 | SAMPLE => {
            let mut tag = *b"FxDr";
            if client.service.len() > 2 {
                for (to, from) in tag.iter_mut().zip(client.service.bytes().chain(*b"  ")) {
                    *to = from;
                }
            }
            u32::from_le_bytes(tag)
        }
        tag => tag,
    };
    let at = client.globals.start();
    let globals: WDF_DRIVER_GLOBALS = client.globals.get(at);
    client.globals.put(at, &WDF_DRIVER_GLOBALS { DriverTag: tag, ..globals });
}

/// Runs what `DriverUnload` of a driver of the framework does: the driver's callback,
/// then the deletion of its control devices.
pub(super) fn unload(kernel: &Kernel, owner: DriverId) {
    let (driver, callback) = {
        let framework = kernel.framework();
        let client = framework.clients.get(&owner);
        client.map_or((0, 0), |client| (client.driver, client.config.EvtDriverUnload))
    };
    if callback != 0 {
        let _ = kernel.call_driver(callback, &[driver as u64], Irql::PASSIVE, "EvtDriverUnload");
    }
    let devices: Vec<Address> = {
        let framework = kernel.framework();
        let own = |object: &object::Object| object.kind == Kind::Device && object.owner == owner;
        let devices = framework.objects.iter().filter(|(_, object)| own(object));
        devices.map(|(handle, _)| *handle).collect()
    };
    for device in devices {
        object::delete_here(kernel, device);
    }
}

/// `WdfDriverMiniportUnload`, for a driver that the port driver unloads.
pub extern "win64" fn WdfDriverMiniportUnload(DriverGlobals: Address, Driver: Address) {
    let kernel = enter!(WdfDriverMiniportUnload);
    let _ = DriverGlobals;
    let check = || {
        kernel.framework().object_of(Driver, Kind::Driver)?;
        let owner = kernel.framework().owner(Driver);
        unload(&kernel, owner);
        Ok(())
    };
    finish_void(&kernel, check());
}

/// `WdfDriverWdmGetDriverObject`.
pub extern "win64" fn WdfDriverWdmGetDriverObject(DriverGlobals: Address, Driver: Address) -> Address {
    let kernel = enter!(WdfDriverWdmGetDriverObject);
    let _ = DriverGlobals;
    let get = || {
        let mut framework = kernel.framework();
        framework.object_of(Driver, Kind::Driver)?;
        let client = framework.clients.get(&framework.owner(Driver));
        Ok(client.map_or(0, |client| client.object))
    };
    finish_value(&kernel, get())
}

/// `WdfWdmDriverGetWdfDriverHandle`.
pub extern "win64" fn WdfWdmDriverGetWdfDriverHandle(
    DriverGlobals: Address,
    DriverObject: Address,
) -> Address {
    let kernel = enter!(WdfWdmDriverGetWdfDriverHandle);
    let _ = DriverGlobals;
    let framework = kernel.framework();
    let found = framework.clients.values().find(|client| client.object == DriverObject);
    found.map_or(0, |client| client.driver)
}

/// `WdfDriverIsVersionAvailable`.
pub extern "win64" fn WdfDriverIsVersionAvailable(
    DriverGlobals: Address,
    Driver: Address,
    VersionAvailableParams: Address,
) -> BOOLEAN {
    let kernel = enter!(WdfDriverIsVersionAvailable);
    let _ = DriverGlobals;
    let ask = || {
        kernel.framework().object_of(Driver, Kind::Driver)?;
        let wanted: WDF_DRIVER_VERSION_AVAILABLE_PARAMS =
            foreign::read(not_null("VersionAvailableParams", VersionAvailableParams)?)?;
        Ok(boolean(wanted.MajorVersion == bind::MAJOR && wanted.MinorVersion <= bind::MINOR))
    };
    finish_value(&kernel, ask())
}

/// `WdfDriverRetrieveVersionString`: the framework's version as text.
pub extern "win64" fn WdfDriverRetrieveVersionString(
    DriverGlobals: Address,
    Driver: Address,
    String: Address,
) -> NTSTATUS {
    let kernel = enter!(WdfDriverRetrieveVersionString);
    let _ = DriverGlobals;
    let retrieve = || {
        kernel.framework().object_of(Driver, Kind::Driver)?;
        strings::set(
            &kernel,
            String,
            &format!("Kernel Mode Driver Framework version {}.{}", bind::MAJOR, bind::MINOR),
        )
    };
    finish(&kernel, retrieve())
}
