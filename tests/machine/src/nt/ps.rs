//! System threads (`wdm.h`).
#![expect(non_snake_case, reason = "the names are the NT API's own")]

use std::cell::Cell;

use super::enter::enter;
use super::foreign::{self, BadPointer};
use super::guest::Stop;
use super::objects::Object;
use super::types::{Address, HANDLE, NTSTATUS, OBJECT_ATTRIBUTES};
use super::{Kernel, Trouble};
use crate::status::Status;

/// `PsCreateSystemThread`. The machine has no other process, so an argument for one is not
/// supported.
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
    let _ = DesiredAccess;
    if ProcessHandle != 0 {
        return Status::NOT_IMPLEMENTED.0;
    }
    let outs = (ThreadHandle, ClientId);
    let outcome = create(&kernel, outs, ObjectAttributes, StartRoutine, StartContext).map_err(Trouble::from);
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

fn create(
    kernel: &Kernel,
    (out, client): (Address, Address),
    attributes: Address,
    routine: Address,
    context: Address,
) -> Result<Status, BadPointer> {
    /// OBJ_PERMANENT, OBJ_EXCLUSIVE and OBJ_OPENIF (`ntdef.h`): not valid for a thread.
    const NOT_OF_THREADS: u32 = 0x10 | 0x20 | 0x80;
    /// The id of the system process.
    const SYSTEM: u64 = 4;
    if attributes != 0 {
        let attributes: OBJECT_ATTRIBUTES = foreign::read(attributes)?;
        let is_whole = attributes.Length as usize == size_of::<OBJECT_ATTRIBUTES>();
        if !is_whole || attributes.Attributes & NOT_OF_THREADS != 0 {
            return Ok(Status::INVALID_PARAMETER);
        }
    }
    let Some(ended) = kernel.start_thread(routine, context) else {
        return Ok(Status::INSUFFICIENT_RESOURCES);
    };
    let handle = kernel.objects().open(kernel.caller(), Object::Thread(ended));
    foreign::write(out, &handle)?;
    if client != 0 {
        // CLIENT_ID: the ids of process and thread.
        let thread = kernel.objects().opaque() as u64 & 0xFFFF_FFFC;
        foreign::write(client, &SYSTEM)?;
        foreign::write(client + size_of::<u64>(), &thread)?;
    }
    Ok(Status::SUCCESS)
}
