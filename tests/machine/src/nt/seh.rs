//! Exceptions: raising them, handling them, and access to a program's memory
//! (`wdm.h`, `ntifs.h`).
//!
//! [`image::seh`] searches the driver's handlers. This file decides which faults are
//! exceptions on Windows, and has the exports.
//!
//! [`image::seh`]: crate::image
#![expect(non_snake_case, reason = "the names are the NT API's own")]

use super::cpu::Irql;
use super::enter::enter;
use super::fault;
use super::foreign::{self, BadPointer};
use super::guest::{Cause, Exception};
use super::types::{Address, NTSTATUS};
use super::{Kernel, cpu};
use crate::image::{self, Raised};
use crate::status::Status;
use crate::verifier::{Violation, rules};

/// The first address of the kernel's half (`MmSystemRangeStart`), as far as the lab can
/// tell: its own memory is below.
const KERNEL_HALF: u64 = 1 << 47;
/// A page, for which ProbeForWrite writes one byte.
const PAGE: usize = 4096;

/// `EXCEPTION_RECORD.ExceptionInformation[0]` of an access violation.
const READ: u64 = 0;
const WRITE: u64 = 1;
const EXECUTE: u64 = 8;

/// `STATUS_*` of exceptions of the processor (`ntstatus.h`).
const ILLEGAL_INSTRUCTION: Status = Status(0xC000_001D_u32 as i32);
const INTEGER_DIVIDE_BY_ZERO: Status = Status(0xC000_0094_u32 as i32);
const BREAKPOINT: Status = Status(0x8000_0003_u32 as i32);
const DATATYPE_MISALIGNMENT: Status = Status(0x8000_0002_u32 as i32);

fn access_violation(kind: u64, address: u64) -> Raised {
    Raised::new(Status::ACCESS_VIOLATION.0 as u32, true, &[kind, address])
}

/// The exception that Windows raises for a fault of the driver. `None` if the fault stops
/// Windows whatever handlers there are: an invalid address of the kernel's, or a page
/// fault at DISPATCH_LEVEL ("Handling Exceptions", Windows driver documentation).
pub(super) fn raises(fault: image::Fault) -> Option<Raised> {
    if cpu::kernel().is_null() {
        return None;
    }
    let kernel = Kernel::current();
    let Exception { cause, address, .. } = super::mapped::exception_of(fault.kind, fault.address, 0);
    let access = |kind| {
        let address = address.filter(|address| kernel.raises_exception(*address))?;
        Some(access_violation(kind, address))
    };
    let plain = |status: Status| Some(Raised::new(status.0 as u32, true, &[]));
    match cause {
        _ if kernel.stopped().is_some() => None,
        Cause::Read => access(READ),
        Cause::Write => access(WRITE),
        Cause::Execute => access(EXECUTE),
        // Windows reports `#GP` as an access violation at address -1.
        Cause::Protection => Some(access_violation(READ, u64::MAX)),
        Cause::IllegalInstruction => plain(ILLEGAL_INSTRUCTION),
        Cause::Divide => plain(INTEGER_DIVIDE_BY_ZERO),
        Cause::Breakpoint => plain(BREAKPOINT),
        Cause::StackOverflow
        | Cause::OutOfTime
        | Cause::Privileged
        | Cause::SystemCall
        | Cause::FastFail(_) => None,
    }
}

impl Kernel {
    /// Whether a page fault at an address raises an exception, at this thread's IRQL.
    fn raises_exception(&self, address: u64) -> bool {
        cpu::irql() < Irql::DISPATCH && self.is_users(address)
    }

    /// Whether an address is one of a program's, not of the kernel or a driver. A wild
    /// pointer in the lower half is one.
    fn is_users(&self, address: u64) -> bool {
        let address_in_pool = |address| self.pool().try_describe(address).is_some();
        address < KERNEL_HALF
            && self.misused(address as Address).is_none()
            && image::residence(address).is_none()
            && !image::is_on_kernel_stack(address)
            && !address_in_pool(address as Address)
            && self.packets().describe(address as Address).is_none()
    }

    /// Raises an exception in the running export. Returns if the driver does not handle
    /// it. The export's frames must own nothing with a destructor.
    pub(super) fn raise(&self, status: Status, parameters: &[u64]) {
        self.guest().raise(&Raised::new(status.0 as u32, false, parameters));
    }

    /// Raises an exception, which stops the machine if the driver does not handle it.
    pub(super) fn raise_or_stop(&self, status: Status, parameters: &[u64]) {
        let caller = self.call_site();
        self.raise(status, parameters);
        let mut all = [0; 2];
        all.iter_mut().zip(parameters).for_each(|(to, from)| *to = *from);
        // The bugcheck's parameters: the code, the address, and the exception's first two.
        let violation = match status {
            Status::ACCESS_VIOLATION => {
                Violation::new(&rules::ACCESS_VIOLATION, [caller, all[0], all[1]], format!("{status}"))
            }
            _ => {
                let parameters = [u64::from(status.0 as u32), caller, all[0]];
                Violation::new(&rules::UNHANDLED_EXCEPTION, parameters, format!("{status}"))
                    .with_fourth(all[1])
            }
        };
        self.violate(fault::in_thread(violation));
    }

    /// Raises the exception of an export that met a bad pointer of the driver, if Windows
    /// does. Returns if it does not, or if the driver does not handle it.
    pub(super) fn raise_bad_pointer(&self, bad: BadPointer) {
        if self.raises_exception(bad.address as u64) {
            let kind = if bad.write { WRITE } else { READ };
            self.raise(Status::ACCESS_VIOLATION, &[kind, bad.address as u64]);
        }
    }
}

/// `__C_specific_handler`: searches and runs the blocks of a function's scope table. It
/// returns an `EXCEPTION_DISPOSITION`.
pub extern "win64" fn __C_specific_handler(
    ExceptionRecord: Address,
    EstablisherFrame: Address,
    ContextRecord: Address,
    DispatcherContext: Address,
) -> i32 {
    let kernel = enter!(__C_specific_handler);
    let arguments = [ExceptionRecord, EstablisherFrame, ContextRecord, DispatcherContext];
    match kernel.guest().c_specific_handler(arguments.map(|argument| argument as u64)) {
        Some(disposition) => disposition as i32,
        None => {
            let text = "__C_specific_handler: no exception is being handled".to_owned();
            kernel.violate(Violation::new(&rules::BAD_OBJECT, [DispatcherContext as u64, 0, 0], text));
            1
        }
    }
}

/// Unwinds; `name` is the export.
fn unwind(kernel: &Kernel, name: &str, frame: Address, ip: Address, value: Address) {
    kernel.guest().unwind_to(frame as u64, ip as u64, value as u64);
    let text = format!("{name}: {frame:#x} is no frame of this thread");
    kernel.violate(Violation::new(&rules::BAD_OBJECT, [frame as u64, 0, 0], text));
}

/// `_local_unwind`: leaves a `__try` block for another place of its function. It runs the
/// `__finally` blocks in between.
pub extern "win64" fn _local_unwind(Frame: Address, TargetIp: Address) {
    let kernel = enter!(_local_unwind);
    unwind(&kernel, "_local_unwind", Frame, TargetIp, 0);
}

/// `RtlUnwind`.
pub extern "win64" fn RtlUnwind(
    TargetFrame: Address,
    TargetIp: Address,
    ExceptionRecord: Address,
    ReturnValue: Address,
) {
    let kernel = enter!(RtlUnwind);
    // Its flags go to the handlers, which look at those of the unwind only.
    let _ = ExceptionRecord;
    unwind(&kernel, "RtlUnwind", TargetFrame, TargetIp, ReturnValue);
}

/// `RtlUnwindEx`. The context record and the history are memory for the system's use.
pub extern "win64" fn RtlUnwindEx(
    TargetFrame: Address,
    TargetIp: Address,
    ExceptionRecord: Address,
    ReturnValue: Address,
    ContextRecord: Address,
    HistoryTable: Address,
) {
    let kernel = enter!(RtlUnwindEx);
    let _ = (ExceptionRecord, ContextRecord, HistoryTable);
    unwind(&kernel, "RtlUnwindEx", TargetFrame, TargetIp, ReturnValue);
}

/// `ExRaiseStatus`.
pub extern "win64" fn ExRaiseStatus(Code: NTSTATUS) {
    let kernel = enter!(ExRaiseStatus);
    kernel.raise_or_stop(Status(Code), &[]);
}

/// `RtlRaiseStatus`.
pub extern "win64" fn RtlRaiseStatus(Code: NTSTATUS) {
    let kernel = enter!(RtlRaiseStatus);
    kernel.raise_or_stop(Status(Code), &[]);
}

/// `ExRaiseAccessViolation`.
pub extern "win64" fn ExRaiseAccessViolation() {
    let kernel = enter!(ExRaiseAccessViolation);
    kernel.raise_or_stop(Status::ACCESS_VIOLATION, &[]);
}

/// `ExRaiseDatatypeMisalignment`.
pub extern "win64" fn ExRaiseDatatypeMisalignment() {
    let kernel = enter!(ExRaiseDatatypeMisalignment);
    kernel.raise_or_stop(DATATYPE_MISALIGNMENT, &[]);
}

/// Whether all of a range are a program's addresses, and it does not wrap.
pub(super) fn is_users_range(kernel: &Kernel, address: Address, length: usize) -> bool {
    let Some(last) = address.checked_add(length.max(1) - 1) else { return false };
    let pages = (address..=last).step_by(PAGE);
    pages.chain([last]).all(|at| kernel.is_users(at as u64))
}

/// What a probe raises, if anything: the status and its parameters.
fn probe(
    kernel: &Kernel,
    address: Address,
    length: usize,
    alignment: u32,
    write: bool,
) -> Option<(Status, [u64; 2])> {
    if length == 0 {
        return None;
    }
    if alignment > 1 && !address.is_multiple_of(alignment as usize) {
        return Some((DATATYPE_MISALIGNMENT, [0; 2]));
    }
    let kind = if write { WRITE } else { READ };
    let violation = |at: Address| Some((Status::ACCESS_VIOLATION, [kind, at as u64]));
    if !is_users_range(kernel, address, length) {
        return violation(address);
    }
    // "ProbeForRead [does] not check that memory is accessible" (its reference page);
    // ProbeForWrite writes to each page.
    match write.then(|| first_inaccessible(address, length, true)).flatten() {
        Some(at) => violation(at),
        None => None,
    }
}

/// The first address of a range, in steps of pages, that cannot be read, or written.
pub(super) fn first_inaccessible(address: Address, length: usize, write: bool) -> Option<Address> {
    let next_page = (address & !(PAGE - 1)).checked_add(PAGE)?;
    let end = address.checked_add(length)?;
    let mut places = std::iter::once(address).chain((next_page..end).step_by(PAGE));
    places.find(|&at| match foreign::read::<u8>(at) {
        Ok(byte) => write && foreign::write(at, &byte).is_err(),
        Err(_) => true,
    })
}

/// `ProbeForRead`.
pub extern "win64" fn ProbeForRead(Address: Address, Length: usize, Alignment: u32) {
    let kernel = enter!(ProbeForRead);
    if let Some((status, parameters)) = probe(&kernel, Address, Length, Alignment, false) {
        kernel.raise_or_stop(status, &parameters);
    }
}

/// `ProbeForWrite`.
pub extern "win64" fn ProbeForWrite(Address: Address, Length: usize, Alignment: u32) {
    let kernel = enter!(ProbeForWrite);
    if let Some((status, parameters)) = probe(&kernel, Address, Length, Alignment, true) {
        kernel.raise_or_stop(status, &parameters);
    }
}

/// Raises the access violation of a probe, for another export.
pub(super) fn raise_access_violation(kernel: &Kernel, address: Address, write: bool) {
    let kind = if write { WRITE } else { READ };
    kernel.raise_or_stop(Status::ACCESS_VIOLATION, &[kind, address as u64]);
}
