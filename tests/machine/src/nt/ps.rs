//! System threads (`wdm.h`).
#![expect(non_snake_case, reason = "the names are the NT API's own")]

use std::cell::Cell;

use super::enter::enter;
use super::foreign::{self, BadPointer};
use super::guest::Stop;
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

thread_local! {
    /// Whether this host thread runs the start routine of a driver's thread, and nothing
    /// of the driver's that the routine has caused to be called.
    static IN_ROUTINE: Cell<bool> = const { Cell::new(false) };
    static HAS_ENDED: Cell<bool> = const { Cell::new(false) };
}

/// Notes that driver code is called, and whether it is the start routine of a thread.
/// Returns what was noted before, for [`left`].
pub(super) fn entered(is_start_routine: bool) -> bool {
    IN_ROUTINE.replace(is_start_routine)
}

/// Notes that driver code was left. Returns whether it has ended its thread.
pub(super) fn left(before: bool) -> bool {
    IN_ROUTINE.set(before);
    HAS_ENDED.take()
}

/// `PsTerminateSystemThread`. Fails on threads that are not the driver's own (the page
/// names no status).
pub extern "win64" fn PsTerminateSystemThread(ExitStatus: NTSTATUS) -> NTSTATUS {
    let kernel = enter!(PsTerminateSystemThread);
    let _ = ExitStatus;
    if !IN_ROUTINE.get() {
        return Status::INVALID_PARAMETER.0;
    }
    HAS_ENDED.set(true);
    kernel.guest().escape(Stop::ThreadEnded)
}

fn create(kernel: &Kernel, out: Address, routine: Address, context: Address) -> Result<Status, BadPointer> {
    let Some(ended) = kernel.start_thread(routine, context) else {
        return Ok(Status::INSUFFICIENT_RESOURCES);
    };
    let handle = kernel.objects().open(Object::Thread(ended));
    foreign::write(out, &handle)?;
    Ok(Status::SUCCESS)
}
