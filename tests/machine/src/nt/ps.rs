//! System threads (`wdm.h`).
#![expect(non_snake_case, reason = "the names are the NT API's own")]

use super::enter::enter;
use super::foreign::{self, BadPointer};
use super::objects::Object;
use super::types::{Address, HANDLE, NTSTATUS};
use super::{Kernel, Trouble};
use crate::status::Status;

/// `PsCreateSystemThread`. The machine has no processes and no client ids, so
/// arguments for these are not supported.
pub extern "win64" fn PsCreateSystemThread(
    ThreadHandle: Address,
    DesiredAccess: u32,
    ObjectAttributes: Address,
    ProcessHandle: HANDLE,
    ClientId: Address,
    StartRoutine: Address,
    StartContext: Address,
) -> NTSTATUS {
    let kernel = enter!(PsCreateSystemThread);
    let _ = (DesiredAccess, ObjectAttributes);
    if ProcessHandle != 0 || ClientId != 0 {
        return Status::NOT_IMPLEMENTED.0;
    }
    let outcome = create(&kernel, ThreadHandle, StartRoutine, StartContext).map_err(Trouble::from);
    kernel.settle(outcome, Status::UNSUCCESSFUL).0
}

fn create(kernel: &Kernel, out: Address, routine: Address, context: Address) -> Result<Status, BadPointer> {
    let Some(ended) = kernel.start_thread(routine, context) else {
        return Ok(Status::INSUFFICIENT_RESOURCES);
    };
    let handle = kernel.objects().open(kernel.caller(), Object::Thread(ended));
    foreign::write(out, &handle)?;
    Ok(Status::SUCCESS)
}
