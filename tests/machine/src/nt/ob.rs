//! Kernel: references to objects, and priorities of threads (`wdm.h`, `ntddk.h`).
#![expect(non_snake_case, reason = "the names are the NT API's own")]

use super::cpu;
use super::enter::enter;
use super::types::{Address, HANDLE, NTSTATUS};
use super::{Kernel, foreign, process};
use crate::status::Status;
use crate::verifier::{Violation, rules};

/// `KernelMode` (`wdm.h`).
const KERNEL_MODE: i8 = 0;
/// `NtCurrentThread()`: the calling thread in place of a handle.
const CURRENT_THREAD: HANDLE = usize::MAX - 1;

/// `ObReferenceObjectByHandle`, of the calling thread only.
pub extern "win64" fn ObReferenceObjectByHandle(
    Handle: HANDLE,
    DesiredAccess: u32,
    ObjectType: Address,
    AccessMode: i8,
    Object: Address,
    HandleInformation: Address,
) -> NTSTATUS {
    let kernel = enter!(ObReferenceObjectByHandle);
    let _ = DesiredAccess;
    kernel.settle(check_reference(&kernel, Handle, ObjectType, AccessMode), ());
    if Handle != CURRENT_THREAD || HandleInformation != 0 {
        return Status::NOT_IMPLEMENTED.0;
    }
    let object = cpu::thread_object(|| kernel.objects().opaque());
    *kernel.objects().referenced.entry(object).or_default() += 1;
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
    let open = handle == CURRENT_THREAD || kernel.objects().handle(handle).is_some();
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
    let mut objects = kernel.objects();
    let count = objects.referenced.entry(Object).or_default();
    *count += 1;
    i64::from(*count)
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
    let mut objects = kernel.objects();
    let left = objects.referenced.get(&Object).and_then(|count| count.checked_sub(1));
    match left {
        Some(0) => drop(objects.referenced.remove(&Object)),
        Some(left) => drop(objects.referenced.insert(Object, left)),
        None => {
            drop(objects);
            let text = "ObfDereferenceObject without a reference of the driver's";
            let parameters = [Object as u64, u64::MAX, 0];
            kernel.violate(match is_object(&kernel, Object) {
                true => Violation::new(&rules::REFERENCE_COUNT, parameters, text),
                false => bad("ObfDereferenceObject", Object),
            });
            return 0;
        }
    }
    i64::from(left.unwrap_or(0))
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
