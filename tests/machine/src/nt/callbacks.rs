//! Executive: callback objects (`wdm.h`).
#![expect(non_snake_case, reason = "the names are the NT API's own")]

use super::cpu;
use super::enter::enter;
use super::foreign;
use super::types::{Address, BOOLEAN, NTSTATUS, OBJECT_ATTRIBUTES};
use super::{Kernel, Trouble};
use crate::driver::DriverId;
use crate::status::Status;
use crate::verifier::{Violation, rules};

/// A callback object.
#[derive(Clone, Debug)]
pub struct CallbackObject {
    name: String,
    multiple: bool,
}

/// A routine that is registered with a callback object.
#[derive(Clone, Copy, Debug)]
pub struct Registered {
    object: Address,
    routine: Address,
    context: Address,
}

/// Objects that the system has ("Callback Objects", Windows driver documentation).
const SYSTEM: [&str; 3] = [r"\Callback\SetSystemTime", r"\Callback\PowerState", r"\Callback\ProcessorAdd"];

/// `ExCreateCallback`. References the object.
pub extern "win64" fn ExCreateCallback(
    CallbackObject: Address,
    ObjectAttributes: Address,
    Create: BOOLEAN,
    AllowMultipleCallbacks: BOOLEAN,
) -> NTSTATUS {
    let kernel = enter!(ExCreateCallback);
    let create = || {
        let attributes: OBJECT_ATTRIBUTES = foreign::read(ObjectAttributes)?;
        let at = attributes.ObjectName;
        let name = match at {
            0 => String::new(),
            at => foreign::read_unicode_string(at).map_err(|bad| Trouble::String(at, bad))?,
        };
        let object = {
            let driver = kernel.caller();
            let mut objects = kernel.objects();
            let known = objects.callback_objects.iter();
            let known =
                known.filter(|_| !name.is_empty()).find(|(_, it)| it.name.eq_ignore_ascii_case(&name));
            let object = match known.map(|(object, _)| *object) {
                Some(object) => object,
                None if Create != 0 || SYSTEM.iter().any(|own| own.eq_ignore_ascii_case(&name)) => {
                    let object = objects.opaque();
                    let multiple = AllowMultipleCallbacks != 0 || Create == 0;
                    objects.callback_objects.insert(object, self::CallbackObject { name, multiple });
                    object
                }
                None => return Ok(Status::OBJECT_NAME_NOT_FOUND),
            };
            objects.reference(object, driver);
            object
        };
        foreign::write(CallbackObject, &object)?;
        Ok::<_, Trouble>(Status::SUCCESS)
    };
    kernel.settle(create(), Status::UNSUCCESSFUL).0
}

/// `ExRegisterCallback`. NULL if the object takes one routine only, and has one.
pub extern "win64" fn ExRegisterCallback(
    CallbackObject: Address,
    CallbackFunction: Address,
    CallbackContext: Address,
) -> Address {
    let kernel = enter!(ExRegisterCallback);
    let register = || {
        let mut objects = kernel.objects();
        let Some(object) = objects.callback_objects.get(&CallbackObject) else {
            let text = format!("ExRegisterCallback: {CallbackObject:#x} is no callback object");
            return Err(Violation::new(&rules::BAD_OBJECT, [CallbackObject as u64, 0, 0], text));
        };
        let taken = objects.registered.values().any(|it| it.object == CallbackObject);
        if taken && !object.multiple {
            return Ok(0);
        }
        let handle = objects.opaque();
        let entry =
            Registered { object: CallbackObject, routine: CallbackFunction, context: CallbackContext };
        objects.registered.insert(handle, entry);
        Ok(handle)
    };
    kernel.settle(register(), 0)
}

/// `ExUnregisterCallback`.
pub extern "win64" fn ExUnregisterCallback(CbRegistration: Address) {
    let kernel = enter!(ExUnregisterCallback);
    let known = kernel.objects().registered.remove(&CbRegistration).is_some();
    if !known {
        let text = format!("ExUnregisterCallback: {CbRegistration:#x} is not registered");
        kernel.violate(Violation::new(&rules::BAD_OBJECT, [CbRegistration as u64, 0, 0], text));
    }
}

/// `ExNotifyCallback`. Calls the routines in the order of their registration.
pub extern "win64" fn ExNotifyCallback(CallbackObject: Address, Argument1: Address, Argument2: Address) {
    let kernel = enter!(ExNotifyCallback);
    let mut after = 0;
    loop {
        let following = {
            let objects = kernel.objects();
            let mut later = objects.registered.range(after + 1..);
            later.find(|(_, it)| it.object == CallbackObject).map(|(handle, it)| (*handle, *it))
        };
        let Some((handle, it)) = following else { return };
        after = handle;
        let arguments = [it.context, Argument1, Argument2].map(|argument| argument as u64);
        let _ = kernel.call_driver(it.routine, &arguments, cpu::irql(), "callback function");
        kernel.leave_if_stopped();
    }
}

impl Kernel {
    /// Describes the routines of a driver that are registered with callback objects.
    pub(super) fn callbacks_of(&self, driver: DriverId) -> Vec<String> {
        let registered: Vec<_> =
            self.objects().registered.iter().map(|(handle, it)| (*handle, it.routine)).collect();
        let own = registered.into_iter().filter(|(_, routine)| self.driver_of(*routine) == driver);
        own.map(|(handle, _)| format!("{handle:#x}")).collect()
    }
}
