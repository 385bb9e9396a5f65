//! Kernel: references to objects, and priorities of threads (`wdm.h`, `ntddk.h`).
#![expect(non_snake_case, reason = "the names are the NT API's own")]

use super::cpu;
use super::enter::enter;
use super::objects::Object as HandleObject;
use super::types::{Address, HANDLE, NTSTATUS};
use super::{Kernel, foreign, process};
use crate::status::Status;
use crate::verifier::{Violation, rules};

/// `KernelMode` (`wdm.h`).
const KERNEL_MODE: i8 = 0;
/// `NtCurrentThread()`: the calling thread in place of a handle.
const CURRENT_THREAD: HANDLE = usize::MAX - 1;

/// `ObReferenceObjectByHandle`, of the calling thread, an event, a thread, or a file of the
/// calling process. The type is not checked: `ExEventObjectType` and others are variables
/// that the lab lacks.
pub extern "win64" fn ObReferenceObjectByHandle(
    Handle: HANDLE,
    DesiredAccess: u32,
    ObjectType: Address,
    AccessMode: i8,
    Object: Address,
    HandleInformation: Address,
) -> NTSTATUS {
    let kernel = enter!(ObReferenceObjectByHandle);
    kernel.settle(check_reference(&kernel, Handle, ObjectType, AccessMode), ());
    if HandleInformation != 0 {
        return Status::NOT_IMPLEMENTED.0;
    }
    let found = {
        let mut objects = kernel.objects();
        match objects.handle(Handle).cloned() {
            Some(HandleObject::Event(event) | HandleObject::Thread(event)) => {
                let address = event.address();
                objects.held.insert(address, event);
                Ok(address)
            }
            Some(HandleObject::Process(id)) => Ok(objects.process(id)),
            Some(HandleObject::Key(..)) => Err(Status::OBJECT_TYPE_MISMATCH),
            None if Handle == CURRENT_THREAD => {
                let address = cpu::thread_object(|| objects.opaque());
                if let Some(thread) = objects.running.get(&address).cloned() {
                    objects.held.insert(address, thread);
                }
                Ok(address)
            }
            None => match objects.file_handles.get(&(process::current(), Handle)) {
                Some((object, access)) if AccessMode == KERNEL_MODE || access.has(DesiredAccess) => {
                    Ok(*object)
                }
                Some(_) => Err(Status::ACCESS_DENIED),
                None => Err(Status::INVALID_HANDLE),
            },
        }
    };
    let object = match found {
        Ok(object) => object,
        Err(status) => return status.0,
    };
    let driver = kernel.caller();
    kernel.objects().reference(object, driver);
    kernel.settle(foreign::write(Object, &object), ());
    Status::SUCCESS.0
}

/// What Driver Verifier checks of a handle whose object a driver references.
fn check_reference(kernel: &Kernel, handle: HANDLE, kind: Address, mode: i8) -> Result<(), Violation> {
    /// Handles of the kernel, and pseudo handles, have the high bit set.
    fn is_kernel(handle: HANDLE) -> bool {
        (handle as isize) < 0
    }
    let text = format!("handle {handle:#x}, access mode {mode}");
    let (number, kind) = (handle as u64, kind as u64);
    let in_system = process::current() == process::SYSTEM_PROCESS;
    let open = handle == CURRENT_THREAD || {
        let objects = kernel.objects();
        objects.handle(handle).is_some() || objects.file_handles.contains_key(&(process::current(), handle))
    };
    match () {
        () if handle == 0 => {
            let parameters = [number, kind, 0];
            Err(Violation::new(&rules::REFERENCE_NULL_HANDLE, parameters, text))
        }
        () if mode == KERNEL_MODE && !is_kernel(handle) && !in_system => {
            let process = kernel.process_object(process::current());
            let parameters = [number, process as u64, kernel.call_site()];
            Err(Violation::new(&rules::REFERENCE_USER_HANDLE, parameters, text))
        }
        () if mode != KERNEL_MODE && open && handle != CURRENT_THREAD && in_system => {
            let parameters = [number, kind, mode as u64];
            Err(Violation::new(&rules::REFERENCE_KERNEL_HANDLE, parameters, text))
        }
        () if !open => Err(Violation::new(&rules::REFERENCE_BAD_HANDLE, [number, kind, 0], text)),
        () => Ok(()),
    }
}

/// `ObfReferenceObject`. Returns the number of the driver's references.
pub extern "win64" fn ObfReferenceObject(Object: Address) -> i64 {
    let kernel = enter!(ObfReferenceObject);
    let known = is_object(&kernel, Object);
    if !known {
        kernel.violate(bad("ObfReferenceObject", Object));
        return 0;
    }
    let driver = kernel.caller();
    kernel.objects().reference(Object, driver) as i64
}

/// Whether this is an object that a driver can reference.
fn is_object(kernel: &Kernel, address: Address) -> bool {
    let objects = kernel.objects();
    objects.referenced.contains_key(&address)
        || objects.processes.contains_key(&address)
        || objects.devices.contains_key(&address)
        || objects.files.contains_key(&address)
        || cpu::thread_object(|| 0) == address
}

/// `ObfDereferenceObject`. Returns the number of references that are left.
pub extern "win64" fn ObfDereferenceObject(Object: Address) -> i64 {
    let kernel = enter!(ObfDereferenceObject);
    let driver = kernel.caller();
    let left = kernel.objects().dereference(Object, driver);
    match left {
        Some(left) => {
            if left == 0 {
                kernel.objects().held.remove(&Object);
                kernel.let_go_of_file(Object);
            }
            left as i64
        }
        None => {
            let text = "ObfDereferenceObject without a reference of the driver's";
            let parameters = [Object as u64, u64::MAX, 0];
            kernel.violate(match is_object(&kernel, Object) {
                true => Violation::new(&rules::REFERENCE_COUNT, parameters, text),
                false => bad("ObfDereferenceObject", Object),
            });
            0
        }
    }
}

/// `ObOpenObjectByPointer`, of a process, an event or a thread.
pub extern "win64" fn ObOpenObjectByPointer(
    Object: Address,
    HandleAttributes: u32,
    PassedAccessState: Address,
    DesiredAccess: u32,
    ObjectType: Address,
    AccessMode: i8,
    Handle: Address,
) -> NTSTATUS {
    let kernel = enter!(ObOpenObjectByPointer);
    let _ = (HandleAttributes, PassedAccessState, DesiredAccess, ObjectType, AccessMode);
    let driver = kernel.caller();
    let opened = {
        let mut objects = kernel.objects();
        let process = objects.processes.get(&Object).copied().map(HandleObject::Process);
        let event = || objects.held.get(&Object).cloned().map(HandleObject::Event);
        process.or_else(event).map(|object| objects.open(driver, object))
    };
    let Some(handle) = opened else {
        kernel.violate(bad("ObOpenObjectByPointer", Object));
        return Status::INVALID_PARAMETER.0;
    };
    kernel.settle(foreign::write(Handle, &handle), ());
    Status::SUCCESS.0
}

/// `KeSetPriorityThread`, of the calling thread. Returns the old priority.
pub extern "win64" fn KeSetPriorityThread(Thread: Address, Priority: i32) -> i32 {
    let kernel = enter!(KeSetPriorityThread);
    if !is_own(&kernel, Thread) || !(1..=31).contains(&Priority) {
        kernel.violate(bad("KeSetPriorityThread", Thread));
        return 0;
    }
    cpu::set_priority(Priority)
}

/// `KeSetBasePriorityThread`, of the calling thread, which is one of the system
/// process. Returns the old increment over the priority of the process.
pub extern "win64" fn KeSetBasePriorityThread(Thread: Address, Increment: i32) -> i32 {
    let kernel = enter!(KeSetBasePriorityThread);
    if !is_own(&kernel, Thread) {
        kernel.violate(bad("KeSetBasePriorityThread", Thread));
        return 0;
    }
    let priority = cpu::NORMAL_PRIORITY.saturating_add(Increment).clamp(1, 15);
    cpu::set_priority(priority) - cpu::NORMAL_PRIORITY
}

/// Whether this is the calling thread's object, with a reference.
fn is_own(kernel: &Kernel, thread: Address) -> bool {
    kernel.objects().referenced.contains_key(&thread) && cpu::thread_object(|| 0) == thread
}

fn bad(call: &str, object: Address) -> Violation {
    Violation::new(&rules::BAD_OBJECT, [object as u64, 0, 0], format!("{call}: not an object that it takes"))
}
