//! Driver code that was mapped from a file: it runs on kernel stacks of its own
//! and its faults are named.
#![expect(unsafe_code, reason = "calls addresses that the driver registered")]

use std::ffi::c_void;

use super::guest::{Guest, Stop};
use crate::image;

/// Runs the code of mapped images.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mapped;

impl Guest for Mapped {
    fn call(&self, entry: *const c_void, arguments: &[u64]) -> Result<u64, Stop> {
        // SAFETY: the kernel calls what the driver gave it as a routine of this
        // type; what it does wrong then is its fault, and caught as such.
        unsafe { image::call(entry, arguments) }.map_err(|stop| match stop {
            image::Stop::BugCheck { code, parameters, text, backtrace } => {
                let text = if backtrace.0.is_empty() { text } else { format!("{text}\n{backtrace}") };
                Stop::BugCheck { code, parameters, text }
            }
            image::Stop::Fault(report) => Stop::Fault(report.to_string()),
        })
    }

    fn escape(&self, stop: Stop) -> ! {
        image::escape(match stop {
            Stop::BugCheck { code, parameters, text } => image::Stop::bug_check(code, parameters, text),
            // A fault that an inner call met already ends the outer ones too.
            Stop::Fault(text) => image::Stop::bug_check(0, [0; 4], text),
        })
    }

    fn frames(&self) -> Vec<u64> {
        image::backtrace().0.iter().map(|frame| frame.address).collect()
    }
}
