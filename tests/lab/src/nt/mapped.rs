//! Driver code that was mapped from a file: it runs on kernel stacks of its own
//! and its faults are named.
#![expect(unsafe_code, reason = "calls addresses that the driver registered")]

use super::guest::{Guest, Stop};
use super::types::Address;
use crate::image::{self, Access, FaultKind};

/// Runs the code of mapped images.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mapped;

impl Guest for Mapped {
    unsafe fn call(&self, entry: Address, arguments: &[u64]) -> Result<u64, Stop> {
        image::register_describer(describe);
        let entry = entry as *const std::ffi::c_void;
        // SAFETY: by this function's contract.
        unsafe { image::call(entry, arguments) }.map_err(|stop| match stop {
            image::Stop::BugCheck { code, parameters, text, backtrace } => {
                let text = if backtrace.0.is_empty() { text } else { format!("{text}\n{backtrace}") };
                Stop::BugCheck { code, parameters, text }
            }
            image::Stop::Fault(report) => Stop::Fault {
                address: report.address,
                write: report.kind == FaultKind::AccessViolation(Access::Write),
                text: report.to_string(),
            },
        })
    }

    fn escape(&self, stop: Stop) -> ! {
        image::escape(match stop {
            Stop::BugCheck { code, parameters, text } => image::Stop::bug_check(code, parameters, text),
            // What stopped an inner call ends the outer ones, too; the machine
            // keeps the first stop as the one that counts.
            Stop::Fault { text, .. } | Stop::Deadlock { waits: text } => {
                image::Stop::bug_check(0, [0; 4], text)
            }
        })
    }

    fn frames(&self) -> Vec<u64> {
        image::backtrace().0.iter().map(|frame| frame.address).collect()
    }
}

fn describe(address: u64) -> Option<String> {
    super::describe_address(address as Address)
}
