//! Turns processor exceptions of driver code into the bugchecks of Windows.

use super::Kernel;
use super::cpu::{self, Irql};
use super::foreign::BadPointer;
use super::guest::{Cause, Exception};
use super::irp::Misused;
use super::pool::Where;
use super::types::Address;
use crate::image::{self, Residence};
use crate::verifier::{Rule, Violation, rules};

/// Kinds of access, as bugcheck 0xD1 encodes them.
const READ: u64 = 0;
const WRITE: u64 = 1;
const EXECUTE: u64 = 8;

/// Who made an access that failed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Driver,
    /// A function of the system, for the driver.
    System,
}

impl Kernel {
    /// The rule that an exception at `irql` breaks.
    pub(super) fn exception(&self, exception: &Exception, irql: Irql, text: &str) -> Violation {
        let Exception { cause, address, instruction } = *exception;
        let access = match cause {
            Cause::Read => READ,
            Cause::Write => WRITE,
            Cause::Execute => EXECUTE,
            Cause::OutOfTime => return self.out_of_time(text),
            cause => return in_thread(trap(cause, instruction, text)),
        };
        let address = address.unwrap_or(instruction);
        let outside = access != EXECUTE && image::residence(instruction).is_none();
        let by = if outside { By::System } else { By::Driver };
        let (rule, place) = self.access_rule(address, access, irql, by);
        // The first line describes the fault. The stop holds the backtrace.
        let what = text.lines().next().unwrap_or_default();
        let detail = if place.is_empty() { what.to_owned() } else { format!("{what}: {place}") };
        accessed(rule, address, access, irql, instruction, detail)
    }

    /// The breach for a bad pointer that an export detected.
    pub(super) fn bad_pointer_at(&self, bad: BadPointer, irql: Irql) -> Violation {
        let (address, access) = (bad.address as u64, u64::from(bad.write));
        let (rule, place) = self.access_rule(address, access, irql, By::System);
        let verb = if bad.write { "writing" } else { "reading" };
        accessed(rule, address, access, irql, self.call_site(), format!("{verb} {address:#x} {place}"))
    }

    /// The rule that an invalid access breaks, and a description of the address.
    fn access_rule(&self, address: u64, access: u64, irql: Irql, by: By) -> (&'static Rule, String) {
        let place = image::residence(address);
        let packets = || self.packets().describe(address as Address);
        match self.misused(address as Address) {
            Some(Misused::OtherProcess) => {
                return (
                    &rules::USER_BUFFER_CONTEXT,
                    "a program's buffer, outside of its process".to_owned(),
                );
            }
            Some(Misused::Direct) => {
                return (&rules::USER_BUFFER_DIRECT, "the buffer is described by IRP.MdlAddress".to_owned());
            }
            None => {}
        }
        let raised = irql >= Irql::DISPATCH;
        let absent = raised && self.is_pageable(address as Address);
        let system = by == By::System;
        match self.pool().describe(address as Address).or_else(packets) {
            _ if place == Some(Residence::Unloaded) => (&rules::UNLOADED_CODE, image::describe(address)),
            Some((Where::Freed, text)) if system => (&rules::FREED_POOL_TOUCHED, text),
            Some((Where::Freed, text)) => (&rules::FREED_POOL_ACCESS, text),
            Some((Where::Live, text)) if absent && access != EXECUTE => (pageable(by), text),
            Some((Where::Live, text)) if access == EXECUTE => (&rules::EXECUTE_DATA, text),
            Some((_, text)) if system => (&rules::BEYOND_POOL_TOUCHED, text),
            Some((_, text)) => (&rules::BEYOND_POOL_ACCESS, text),
            None if absent && system => (&rules::PAGEABLE_TOUCHED, image::describe(address)),
            None if absent => (&rules::PAGEABLE_CODE, image::describe(address)),
            None if place.is_some() && !image::is_discarded(address) && access == EXECUTE => {
                (&rules::EXECUTE_DATA, image::describe(address))
            }
            None if place.is_some() && !image::is_discarded(address) && access == WRITE => {
                (&rules::READ_ONLY_WRITE, image::describe(address))
            }
            None if raised => (pageable(by), image::describe(address)),
            // On Windows, a bad address in user space raises an exception, and one
            // in system space is fatal. All memory of the lab is in the lower half,
            // so only the null region counts as user space.
            None if address < image::NULL_REGION => (&rules::ACCESS_VIOLATION, String::new()),
            None => (&rules::BAD_POINTER, image::describe(address)),
        }
    }
}

/// The rule about memory that is not there at DISPATCH_LEVEL or above.
fn pageable(by: By) -> &'static Rule {
    match by {
        By::Driver => &rules::BAD_POINTER_RAISED,
        By::System => &rules::PAGEABLE_TOUCHED,
    }
}

/// Gives an unhandled exception the code that Windows has for it on this thread.
pub(super) fn in_thread(violation: Violation) -> Violation {
    match cpu::is_system_thread() {
        true => violation.in_system_thread(),
        false => violation,
    }
}

/// A breach with the bugcheck parameters that the reference gives for its code.
fn accessed(
    rule: &'static Rule,
    address: u64,
    access: u64,
    irql: Irql,
    instruction: u64,
    detail: String,
) -> Violation {
    let raised = [&rules::BAD_POINTER_RAISED, &rules::PAGEABLE_TOUCHED, &rules::PAGEABLE_CODE];
    if raised.contains(&rule) {
        Violation::new(rule, [address, irql.0.into(), access], detail).with_fourth(instruction)
    } else if *rule == rules::ACCESS_VIOLATION {
        in_thread(Violation::new(rule, [instruction, access, address], detail))
    } else if *rule == rules::BAD_POINTER {
        /// `NONPAGED_BUGCHECK_NOT_PRESENT_PAGE_TABLE`.
        const NOT_PRESENT: u64 = 2;
        // On x64, it has bits of the page fault's error code: 2 for a write, 0x10 for
        // an execution.
        Violation::new(rule, [address, access * 2, instruction], detail).with_fourth(NOT_PRESENT)
    } else if [&rules::READ_ONLY_WRITE, &rules::EXECUTE_DATA].contains(&rule) {
        // The second parameter is the page table entry, which the lab does not
        // have.
        Violation::new(rule, [address, 0, 0], detail)
    } else {
        Violation::new(rule, [address, access, instruction], detail)
    }
}

/// Exceptions other than failed memory accesses.
fn trap(cause: Cause, instruction: u64, text: &str) -> Violation {
    let (rule, parameters) = match cause {
        Cause::StackOverflow => (&rules::STACK_OVERFLOW, [0; 3]),
        Cause::Privileged => (&rules::RING_0_INSTRUCTION, [instruction, 0, 0]),
        Cause::SystemCall => (&rules::SYSTEM_CALL, [instruction, 0, 0]),
        Cause::IllegalInstruction => (&rules::ILLEGAL_INSTRUCTION, [instruction, 0, 0]),
        Cause::Divide => (&rules::DIVIDE_BY_ZERO, [instruction, 0, 0]),
        Cause::Breakpoint => (&rules::BREAKPOINT, [instruction, 0, 0]),
        Cause::FastFail(code) => (&rules::FAST_FAIL, [code.into(), 0, 0]),
        // Windows reports `#GP` to handlers as an access violation at address -1.
        Cause::Protection | Cause::OutOfTime | Cause::Read | Cause::Write | Cause::Execute => {
            (&rules::ACCESS_VIOLATION, [instruction, 0, u64::MAX])
        }
    };
    Violation::new(rule, parameters, text.lines().next().unwrap_or_default())
}
