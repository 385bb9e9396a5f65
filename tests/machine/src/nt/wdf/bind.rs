//! Binds a driver to the framework: wdfldr.sys.
//!
//! The code that the framework's library links into a driver passes a
//! `WDF_BIND_INFO`. It names the version and the place for the table of functions.

use std::sync::LazyLock;

use super::super::enter::{Export, enter};
use super::super::memory::{Guarded, PAGE};
use super::super::types::{
    Address, NTSTATUS, WDF_BIND_INFO, WDF_BIND_INFO2, WDF_DRIVER_CONFIG, WDF_DRIVER_GLOBALS,
};
use super::super::{Kernel, Trouble, foreign};
use super::{Framework, bad_handle, finish, object};
use crate::driver::DriverId;
use crate::exports;
use crate::status::Status;

/// The module that exports the functions of the table.
const MODULE: &str = "Wdf01000.sys";
/// The framework's newest version.
pub(super) const MAJOR: u32 = 1;
pub(super) const MINOR: u32 = 33;
/// Up to this number of functions (version 1.13), the table is copied into the
/// driver; later versions get its address.
const LAST_COPIED: u32 = 438;
/// The numbers of functions in the tables of all versions: 1.0, 1.1, 1.5, 1.9, 1.11,
/// 1.13, 1.15, 1.19, 1.21, 1.23, 1.25, 1.29, 1.31. The versions between have the table
/// of the one before.
const COUNTS: [u32; 13] = [383, 386, 387, 396, 432, 438, 444, 446, 448, 451, 453, 454, 458];

/// The functions of the table, in its order.
static FUNCTIONS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let facts = exports::FUNCTIONS.as_object().into_iter().flatten();
    let placed = facts.filter_map(|(name, fact)| Some((fact["place"].as_u64()?, name.clone())));
    let mut placed: Vec<_> = placed.collect();
    placed.sort();
    placed.into_iter().map(|(_, name)| name).collect()
});

/// A driver that is bound.
#[derive(Debug)]
pub(super) struct Client {
    /// `WDF_DRIVER_GLOBALS`.
    pub globals: Guarded,
    /// The table, if the driver has only its address.
    _table: Option<Guarded>,
    /// The driver object.
    pub object: Address,
    /// The WDFDRIVER, or 0.
    pub driver: Address,
    /// What it passed to WdfDriverCreate.
    pub config: WDF_DRIVER_CONFIG,
    /// The name of its service.
    pub service: String,
}

impl Client {
    /// The tag of memory that the framework allocates for the driver.
    pub fn tag(&self) -> u32 {
        self.globals.get::<WDF_DRIVER_GLOBALS>(self.globals.start()).DriverTag
    }
}

impl Framework {
    /// The driver with these `WDF_DRIVER_GLOBALS`, and its WDFDRIVER.
    fn bound_to(&self, globals: Address) -> Option<(DriverId, Address)> {
        let found = self.clients.iter().find(|(_, client)| client.globals.start() == globals)?;
        Some((*found.0, found.1.driver))
    }
}

/// `WdfVersionBind`.
pub extern "win64" fn WdfVersionBind(
    DriverObject: Address,
    RegistryPath: Address,
    BindInfo: Address,
    ComponentGlobals: Address,
) -> NTSTATUS {
    let kernel = enter!(WdfVersionBind);
    let _ = RegistryPath;
    finish(&kernel, bind(&kernel, DriverObject, BindInfo, ComponentGlobals))
}

fn bind(kernel: &Kernel, driver: Address, info_at: Address, out: Address) -> Result<Status, Trouble> {
    let info: WDF_BIND_INFO = foreign::read(info_at)?;
    let component = foreign::read_wide(info.Component)?.unwrap_or_default();
    let is_newer = info.Version.Major != MAJOR || info.Version.Minor > MINOR;
    if component != "KmdfLibrary" || is_newer || !COUNTS.contains(&info.FuncCount) {
        let (major, minor, count) = (info.Version.Major, info.Version.Minor, info.FuncCount);
        kernel.log(format!(
            "WdfVersionBind: {component} {major}.{minor} with {count} functions is not {MAJOR}.0 to {MAJOR}.{MINOR}"
        ));
        return Ok(Status::INVALID_PARAMETER);
    }
    let Some((owner, service)) = kernel.driver_with(driver) else { return Ok(Status::INVALID_PARAMETER) };
    let table: Vec<u8> = FUNCTIONS[..info.FuncCount as usize]
        .iter()
        .flat_map(|name| kernel.link(MODULE, name).to_le_bytes())
        .collect();
    let table = match info.FuncCount {
        ..=LAST_COPIED => {
            foreign::write_bytes(info.FuncTable, &table)?;
            None
        }
        _ => {
            let pages = Guarded::new(table.len());
            pages.put_bytes(pages.start(), &table);
            foreign::write(info.FuncTable, &pages.start())?;
            Some(pages)
        }
    };
    if info.Size as usize >= size_of::<WDF_BIND_INFO2>() {
        let more: WDF_BIND_INFO2 = foreign::read(info_at)?;
        foreign::write(more.ClientVersionHigherThanFramework, &0u8)?;
        foreign::write(more.FuncCountPtr, &info.FuncCount)?;
    }
    let globals = Guarded::new(PAGE);
    let mut name = [0; 32];
    for (to, from) in name[..31].iter_mut().zip(service.bytes()) {
        *to = from;
    }
    globals.put(globals.start(), &WDF_DRIVER_GLOBALS { DriverName: name, ..WDF_DRIVER_GLOBALS::zeroed() });
    foreign::write(out, &globals.start())?;
    let (object, config) = (driver, WDF_DRIVER_CONFIG::zeroed());
    let client = Client { globals, _table: table, object, driver: 0, config, service };
    kernel.framework().clients.insert(owner, client);
    Ok(Status::SUCCESS)
}

/// `WdfVersionUnbind`. Deletes what is left of the driver's objects.
pub extern "win64" fn WdfVersionUnbind(
    RegistryPath: Address,
    BindInfo: Address,
    ComponentGlobals: Address,
) -> NTSTATUS {
    let kernel = enter!(WdfVersionUnbind);
    let _ = (RegistryPath, BindInfo);
    let unbind = || {
        let Some((owner, driver)) = kernel.framework().bound_to(ComponentGlobals) else {
            let text = format!("{ComponentGlobals:#x} are the globals of no driver");
            return Err(bad_handle(ComponentGlobals, text).into());
        };
        if driver != 0 {
            object::delete(&kernel, driver)?;
        }
        object::report_left(&kernel, owner);
        kernel.framework().clients.remove(&owner);
        Ok(Status::SUCCESS)
    };
    finish(&kernel, unbind())
}

/// `WdfVersionBindClass`. The machine has no class extensions.
pub extern "win64" fn WdfVersionBindClass(
    BindInfo: Address,
    ComponentGlobals: Address,
    ClassBindInfo: Address,
) -> NTSTATUS {
    let kernel = enter!(WdfVersionBindClass);
    let _ = (BindInfo, ComponentGlobals);
    let name = || {
        // WDF_CLASS_BIND_INFO begins with its size and the name of the class.
        let name: Address = foreign::read(ClassBindInfo + 8)?;
        let name = foreign::read_wide(name)?.unwrap_or_default();
        kernel.log(format!("WdfVersionBindClass: there is no class extension {name}"));
        Ok(Status::OBJECT_NAME_NOT_FOUND)
    };
    finish(&kernel, name())
}

/// `WdfVersionUnbindClass`.
pub extern "win64" fn WdfVersionUnbindClass(
    BindInfo: Address,
    ComponentGlobals: Address,
    ClassBindInfo: Address,
) {
    enter!(WdfVersionUnbindClass);
    let _ = (BindInfo, ComponentGlobals, ClassBindInfo);
}

/// The address of the framework's own unload routine for a driver.
pub(super) fn unload_routine(kernel: &Kernel) -> Address {
    let address = unload as *const () as *const std::ffi::c_void;
    kernel.bind(MODULE, "DriverUnload", Some(Export { address, stack_args: 0 }))
}

/// The `DriverUnload` of a driver that the framework created. Calls EvtDriverUnload.
extern "win64" fn unload(driver_object: Address) {
    let kernel = Kernel::current();
    kernel.leave_if_stopped();
    if let Some((driver, _)) = kernel.driver_with(driver_object) {
        super::driver::unload(&kernel, driver);
    }
    kernel.leave_if_stopped();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_function_at_every_place() {
        assert_eq!(FUNCTIONS.len(), COUNTS[COUNTS.len() - 1] as usize);
        for (place, name) in FUNCTIONS.iter().enumerate() {
            assert_eq!(exports::FUNCTIONS[name]["place"], place, "{name}");
        }
    }

    #[test]
    fn the_counts_are_those_of_the_headers() {
        let facts: serde_json::Value =
            serde_json::from_str(include_str!("../../../facts/kmdf.json")).unwrap();
        for (version, count) in facts["counts"].as_object().unwrap() {
            assert!(COUNTS.contains(&(count.as_u64().unwrap() as u32)), "1.{version}");
        }
    }
}
