//! Runs driver code of a mapped file on kernel stacks, and reports its faults.
#![expect(unsafe_code, reason = "calls addresses that the driver registered")]

use std::time::Duration;

use super::guest::{Cause, Exception, Guest, Place, Stop};
use super::types::Address;
use super::{ring, seh};
use crate::image::{self, Access, FaultKind, FaultReport, Raised, Residence};

/// Runs the code of mapped images.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mapped;

impl Guest for Mapped {
    unsafe fn call(&self, entry: Address, arguments: &[u64]) -> Result<u64, Stop> {
        image::register_describer(describe);
        image::register_environment(ring::ENVIRONMENT);
        image::register_raises(seh::raises);
        let entry = entry as *const std::ffi::c_void;
        // SAFETY: by this function's contract.
        unsafe { image::call(entry, arguments) }.map_err(|stop| match stop {
            // `trace` is in the text already.
            image::Stop::BugCheck { code, parameters, text, .. } => Stop::BugCheck { code, parameters, text },
            image::Stop::Fault(report) => {
                Stop::Fault { exception: exception(&report), text: report.to_string() }
            }
        })
    }

    fn escape(&self, stop: Stop) -> ! {
        image::escape(match stop {
            Stop::BugCheck { code, parameters, text } => image::Stop::bug_check(code, parameters, text),
            // What stopped an inner call also ends the outer calls. The machine
            // keeps the first stop.
            Stop::Fault { text, .. } | Stop::Deadlock { waits: text } => {
                image::Stop::bug_check(0, [0; 4], text)
            }
            Stop::ThreadEnded => image::Stop::bug_check(0, [0; 4], ""),
        })
    }

    fn raise(&self, raised: &Raised) {
        if let Err(stop) = image::raise(raised) {
            image::escape(stop)
        }
    }

    fn c_specific_handler(&self, arguments: [u64; 4]) -> Option<u32> {
        match image::c_specific_handler(arguments) {
            Ok(disposition) => disposition,
            Err(stop) => image::escape(stop),
        }
    }

    fn unwind_to(&self, frame: u64, ip: u64, value: u64) {
        if let Err(stop) = image::unwind_to(frame, ip, value) {
            image::escape(stop)
        }
    }

    fn in_call(&self) -> bool {
        image::in_call()
    }

    fn trace(&self) -> String {
        image::backtrace().to_string()
    }

    fn frames(&self) -> Vec<u64> {
        let frames = image::backtrace().0.into_iter().map(|frame| frame.address);
        // Exports lie between the driver's frames.
        frames.filter(|&address| image::residence(address) == Some(Residence::Loaded)).collect()
    }

    fn arguments(&self, export: &str, count: usize) -> Option<Vec<u64>> {
        image::arguments(export, count)
    }

    fn place(&self, address: u64) -> Option<Place> {
        if image::is_on_kernel_stack(address) {
            return Some(Place::Stack);
        }
        let executable = image::section_is_executable(address)?;
        Some(if executable { Place::Code } else { Place::Data })
    }

    fn describe(&self, address: u64) -> String {
        // The return address may belong to the next source line, so go one byte
        // back.
        image::describe(address.saturating_sub(1))
    }

    fn measure_stack(&self) -> bool {
        // A nested call's usage counts for the outer call.
        let free = !image::in_call();
        if free {
            image::stack_used_reset();
        }
        free
    }

    fn stack_used(&self) -> usize {
        image::stack_used()
    }

    fn leave_stack(&self, bytes: Option<usize>) {
        image::leave_stack(bytes);
    }

    fn watch(&self, allotment: Duration, raised: bool) {
        image::watch(allotment, raised);
    }

    fn end_watch(&self) {
        image::end_watch();
    }

    fn overdue(&self) -> Option<Duration> {
        image::overdue()
    }
}

fn exception(report: &FaultReport) -> Exception {
    exception_of(report.kind, report.address, report.rip)
}

/// A fault as the kernel knows it.
pub(super) fn exception_of(kind: FaultKind, address: Option<u64>, instruction: u64) -> Exception {
    let cause = match kind {
        FaultKind::AccessViolation(Access::Read) => Cause::Read,
        FaultKind::AccessViolation(Access::Write) => Cause::Write,
        FaultKind::AccessViolation(Access::Execute) => Cause::Execute,
        FaultKind::StackOverflow => Cause::StackOverflow,
        FaultKind::OutOfTime => Cause::OutOfTime,
        FaultKind::PrivilegedInstruction | FaultKind::Interrupt(_) => Cause::Privileged,
        FaultKind::SystemCall(_) => Cause::SystemCall,
        FaultKind::IllegalInstruction => Cause::IllegalInstruction,
        FaultKind::FastFail(code) => Cause::FastFail(code),
        FaultKind::Breakpoint => Cause::Breakpoint,
        FaultKind::DivideError => Cause::Divide,
        // Compilers do not generate code that raises the other vectors.
        FaultKind::GeneralProtection | FaultKind::Exception(_) => Cause::Protection,
    };
    Exception { cause, address, instruction }
}

fn describe(address: u64) -> Option<String> {
    super::describe_address(address as Address)
}
