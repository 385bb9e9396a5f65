//! Processes, as drivers see those that call them (`wdm.h`, `ntddk.h`, `ntifs.h`).
#![expect(non_snake_case, reason = "the names are the NT API's own")]

use std::cell::Cell;

use super::enter::enter;
use super::irp;
use super::types::{Address, BOOLEAN, HANDLE, NTSTATUS};
use super::{Kernel, Trouble, cpu, foreign};
use crate::status::Status;
use crate::verifier::{Violation, rules};

/// The process of the kernel's own threads.
pub const SYSTEM_PROCESS: u32 = 4;

thread_local! {
    /// The id of the process whose code this thread runs.
    static CURRENT: Cell<u32> = const { Cell::new(SYSTEM_PROCESS) };
}

/// Runs `f` as a thread of the process with this id.
pub(super) fn run_in<R>(process: u32, f: impl FnOnce() -> R) -> R {
    struct Back(u32);
    impl Drop for Back {
        fn drop(&mut self) {
            CURRENT.set(self.0);
        }
    }
    let _back = Back(CURRENT.replace(process));
    f()
}

/// The id of the process whose code this thread runs.
pub(super) fn current() -> u32 {
    CURRENT.get()
}

impl Kernel {
    /// The object of a process. Made at its first use.
    pub(super) fn process_object(&self, id: u32) -> Address {
        self.objects().process(id)
    }
}

/// `IoGetCurrentProcess`. `PsGetCurrentProcess` is another name of it.
pub extern "win64" fn IoGetCurrentProcess() -> Address {
    let kernel = enter!(IoGetCurrentProcess);
    kernel.process_object(current())
}

/// `PsGetProcessId`.
pub extern "win64" fn PsGetProcessId(Process: Address) -> HANDLE {
    let kernel = enter!(PsGetProcessId);
    let id = kernel.objects().processes.get(&Process).copied();
    match id {
        Some(id) => id as HANDLE,
        None => {
            let text = format!("PsGetProcessId: {Process:#x} is no process");
            kernel.violate(Violation::new(&rules::BAD_OBJECT, [Process as u64, 0, 0], text));
            0
        }
    }
}

/// `PsGetCurrentProcessId`.
pub extern "win64" fn PsGetCurrentProcessId() -> HANDLE {
    enter!(PsGetCurrentProcessId);
    current() as HANDLE
}

/// `PsGetCurrentThreadId`.
pub extern "win64" fn PsGetCurrentThreadId() -> HANDLE {
    let kernel = enter!(PsGetCurrentThreadId);
    let object = cpu::thread_object(|| kernel.objects().opaque());
    // Thread ids are multiples of 4, as process ids are. Opaque addresses are 256 apart.
    (object >> 6) & 0xFFFF_FFFC
}

/// `PsLookupProcessByProcessId`. References the process.
pub extern "win64" fn PsLookupProcessByProcessId(ProcessId: HANDLE, Process: Address) -> NTSTATUS {
    let kernel = enter!(PsLookupProcessByProcessId);
    let outcome = || {
        let driver = kernel.caller();
        let found = {
            let mut objects = kernel.objects();
            let found = objects.processes.iter().find(|(_, id)| **id as HANDLE == ProcessId);
            let Some(object) = found.map(|(object, _)| *object) else {
                return Ok(Status::INVALID_CID);
            };
            objects.reference(object, driver);
            object
        };
        foreign::write(Process, &found)?;
        Ok::<_, Trouble>(Status::SUCCESS)
    };
    kernel.settle(outcome(), Status::UNSUCCESSFUL).0
}

/// `IoGetRequestorProcess`. NULL for a request of the kernel's own.
pub extern "win64" fn IoGetRequestorProcess(Irp: Address) -> Address {
    let kernel = enter!(IoGetRequestorProcess);
    match kernel.settle(irp::requestor(&kernel, Irp).map(Some), None) {
        Some(id) => kernel.process_object(id),
        None => 0,
    }
}

/// `IoGetRequestorProcessId`.
pub extern "win64" fn IoGetRequestorProcessId(Irp: Address) -> u32 {
    let kernel = enter!(IoGetRequestorProcessId);
    kernel.settle(irp::requestor(&kernel, Irp), 0)
}

/// `IoIs32bitProcess`. Every process of the machine has 64 bits.
pub extern "win64" fn IoIs32bitProcess(Irp: Address) -> BOOLEAN {
    let kernel = enter!(IoIs32bitProcess);
    if Irp != 0 {
        kernel.settle(irp::requestor(&kernel, Irp), 0);
    }
    0
}
