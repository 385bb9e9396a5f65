//! Reports breaches of rules and stops the machine.

use std::ops::Range;
use std::sync::Arc;

use nix::sys::mman::ProtFlags;

use super::Kernel;
use super::cpu::{self, Irql};
use super::foreign::{BadPointer, BadString};
use super::guest::Stop;
use super::paging;
use super::types::Address;
use crate::driver::{DriverId, Origin};
use crate::verifier::{Finding, Violation, rules};
use crate::wfp::{self, Engine};

/// Why an export's body could not continue.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The driver passed a bad pointer.
    Pointer(BadPointer),
    /// The `UNICODE_STRING` at this address cannot be read.
    String(Address, BadString),
    /// The driver broke a rule.
    Rule(Violation),
}

impl From<BadPointer> for Trouble {
    fn from(bad: BadPointer) -> Self {
        Self::Pointer(bad)
    }
}

impl From<Violation> for Trouble {
    fn from(violation: Violation) -> Self {
        Self::Rule(violation)
    }
}

impl Kernel {
    /// Reports a breach that an export detected. A fatal breach ends the driver's
    /// call here, so the caller must not own anything with a destructor.
    pub(crate) fn violate(&self, violation: Violation) {
        let Origin { driver, stack } = self.origin();
        let violation = self.with_name(violation, driver);
        let stop = bugcheck(&violation);
        let driver = Arc::clone(self.service_name(driver));
        if self.verifier().report(Finding { violation, driver, stack }) {
            self.stop(stop);
        }
    }

    /// The value of an export's body. A bad pointer raises an exception where it does on
    /// Windows. Reports a breach, and returns `otherwise` if the breach is tolerated.
    pub(crate) fn settle<T: Copy>(&self, outcome: Result<T, impl Into<Trouble>>, otherwise: T) -> T {
        let trouble = match outcome {
            Ok(value) => return value,
            Err(trouble) => trouble.into(),
        };
        if let Trouble::Pointer(bad) | Trouble::String(_, BadString::Pointer(bad)) = trouble {
            self.raise_bad_pointer(bad);
        }
        let violation = self.breach(trouble);
        self.violate(violation);
        otherwise
    }

    /// The breach that `trouble` is.
    pub(crate) fn breach(&self, trouble: Trouble) -> Violation {
        match trouble {
            Trouble::Pointer(bad) | Trouble::String(_, BadString::Pointer(bad)) => self.bad_pointer(bad),
            Trouble::String(address, BadString::Malformed) => Violation::new(
                &rules::MALFORMED_STRING_ELSEWHERE,
                [self.call_site(), address as u64, 0],
                format!("UNICODE_STRING at {address:#x}"),
            ),
            Trouble::Rule(violation) => violation,
        }
    }

    /// Reports a breach that was detected outside driver code. A fatal breach stops
    /// the machine at the driver's next call of an export.
    pub(crate) fn condemn(&self, violation: Violation) {
        self.condemn_driver(self.caller(), violation);
    }

    /// As [`Self::condemn`], for a breach of a certain driver.
    pub(crate) fn condemn_driver(&self, driver: DriverId, violation: Violation) {
        let violation = self.with_name(violation, driver);
        let stop = bugcheck(&violation);
        let (driver, stack) = (Arc::clone(self.service_name(driver)), Vec::new());
        if self.verifier().report(Finding { violation, driver, stack }) {
            self.halt(stop);
        }
    }

    /// Stops the machine from an export and leaves the driver's call. The caller
    /// must not own anything with a destructor.
    pub(crate) fn stop(&self, stop: Stop) -> ! {
        let stop = match stop {
            Stop::BugCheck { code, parameters, text } => {
                let trace = self.guest().trace();
                let text = if trace.is_empty() { text } else { format!("{text}\n{trace}") };
                Stop::BugCheck { code, parameters, text }
            }
            other => other,
        };
        self.halt(stop.clone());
        self.guest().escape(stop)
    }

    /// Leaves the driver's call if the machine has stopped. Has no effect on a thread of
    /// the system's own, such as one that waits for a timer.
    pub(crate) fn leave_if_stopped(&self) {
        if let Some(stop) = self.stopped().filter(|_| self.guest().in_call()) {
            self.guest().escape(stop.clone());
        }
    }

    /// Records what ended a call of `driver` at `irql`. A fault breaks a rule, and
    /// becomes the bugcheck that Windows would show.
    pub(super) fn driver_stopped(&self, stop: Stop, irql: Irql, driver: DriverId) -> Stop {
        let stop = match stop {
            Stop::Fault { exception, text } => {
                let driver = self.faulting(exception.instruction, driver);
                let violation = self.with_name(self.exception(&exception, irql, &text), driver);
                let parameters = violation.bugcheck_parameters();
                let stop =
                    Stop::BugCheck { code: violation.code, parameters, text: format!("{violation}\n{text}") };
                // Fatal even if the rule is tolerated, because the call cannot
                // continue.
                let driver = Arc::clone(self.service_name(driver));
                self.verifier().report(Finding { violation, driver, stack: Vec::new() });
                stop
            }
            bugcheck => bugcheck,
        };
        self.halt(stop.clone());
        stop
    }

    /// The breach for a bad pointer: to freed pool, beyond a block, or to unmapped
    /// memory.
    pub(crate) fn bad_pointer(&self, bad: BadPointer) -> Violation {
        self.bad_pointer_at(bad, cpu::irql())
    }

    /// Makes sections of a driver pageable: their addresses, and whether they are writable
    /// and executable.
    pub fn add_pageable(&self, sections: Vec<(Range<u64>, bool, bool)>) {
        for (range, writable, executable) in sections {
            let mut access = ProtFlags::PROT_READ;
            access.set(ProtFlags::PROT_WRITE, writable);
            access.set(ProtFlags::PROT_EXEC, executable);
            paging::add(self.pool().id(), range.start as usize..range.end as usize, access);
        }
    }

    /// Forgets the pageable sections in an image that is about to be unmapped.
    pub fn remove_pageable(&self, image: Range<u64>) {
        paging::remove(&(image.start as usize..image.end as usize));
    }

    /// Whether an address is in pageable memory: paged pool, or a pageable section of a
    /// driver.
    pub(super) fn is_pageable(&self, address: Address) -> bool {
        paging::is_pageable(address)
    }

    /// Refuses pageable memory for an object that other processors access at any
    /// level.
    pub(super) fn resident(&self, object: Address) -> Result<(), Violation> {
        match self.is_pageable(object) {
            true => Err(Violation::new(&rules::LOCK_PAGEABLE, [object as u64, 0, 0], format!("{object:#x}"))),
            false => Ok(()),
        }
    }

    /// Reports what callouts do wrong in the engine as soon as it happens.
    pub(super) fn watch_engine(&self, engine: &Engine) {
        let machine = self.weak();
        engine.set_observer(Box::new(move |violation| {
            if let Some(kernel) = machine.upgrade() {
                kernel.condemn_driver(violation.driver, engine_violation(violation));
            }
        }));
    }
}

/// The breach for a violation that the engine detected.
fn engine_violation(violation: &wfp::Violation) -> Violation {
    let rule = match violation.rule {
        wfp::Rule::WriteWithoutRight => &rules::ACTION_WITHOUT_RIGHT,
        wfp::Rule::RightRaised => &rules::RIGHT_RAISED,
        wfp::Rule::UnknownAction => &rules::UNKNOWN_ACTION,
        wfp::Rule::InvalidAbsorb => &rules::INVALID_ABSORB,
        // Unsubscribing in the callback is detected before it reaches the engine.
        wfp::Rule::BlockedFlow => &rules::FLOW_ESTABLISHED_BLOCKED,
        wfp::Rule::NoStreamAction => &rules::STREAM_WITHOUT_ACTION,
        wfp::Rule::WaitsForItself => &rules::CALLOUT_DEADLOCK,
    };
    let callout = violation.callout_id.map_or(0, u64::from);
    let layer = violation.layer.map_or(0, |layer| layer.0.into());
    Violation::new(rule, [callout, layer, 0], violation.to_string())
}

/// Describes a pool address of this thread's machine, for fault reports.
pub fn describe_address(address: Address) -> Option<String> {
    if cpu::kernel().is_null() {
        return None;
    }
    let (_, text) = Kernel::current().pool().try_describe(address)?;
    Some(text)
}

fn bugcheck(violation: &Violation) -> Stop {
    Stop::BugCheck {
        code: violation.code,
        parameters: violation.bugcheck_parameters(),
        text: violation.to_string(),
    }
}
