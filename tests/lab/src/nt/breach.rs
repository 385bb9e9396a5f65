//! Breaches of rules: reporting them, and stopping the machine.

use super::Kernel;
use super::cpu::{self, Irql};
use super::foreign::{BadPointer, BadString};
use super::guest::Stop;
use super::pool::Where;
use super::types::Address;
use crate::verifier::{Finding, Violation, rules};

/// Why an export's body could not go on.
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
    /// Reports a breach that an export noticed. If it is fatal, the driver's
    /// call ends here: the caller must own nothing with a destructor.
    pub(crate) fn violate(&self, violation: Violation) {
        let stack = self.guest().frames();
        let stop = bugcheck(&violation);
        if self.verifier().report(Finding { violation, stack }) {
            self.stop(stop);
        }
    }

    /// The value of an export's body, or `otherwise` after reporting a breach
    /// that is tolerated.
    pub(crate) fn settle<T: Copy>(&self, outcome: Result<T, impl Into<Trouble>>, otherwise: T) -> T {
        let violation = match outcome {
            Ok(value) => return value,
            Err(trouble) => self.breach(trouble.into()),
        };
        self.violate(violation);
        otherwise
    }

    /// Trouble as the breach it is.
    pub(crate) fn breach(&self, trouble: Trouble) -> Violation {
        match trouble {
            Trouble::Pointer(bad) | Trouble::String(_, BadString::Pointer(bad)) => self.bad_pointer(bad),
            Trouble::String(address, BadString::Malformed) => Violation::new(
                &rules::MALFORMED_STRING,
                [0, address as u64, 0],
                format!("UNICODE_STRING at {address:#x}"),
            ),
            Trouble::Rule(violation) => violation,
        }
    }

    /// Reports a breach noticed outside driver code. A fatal one stops the
    /// machine at the driver's next call into it.
    pub(crate) fn condemn(&self, violation: Violation) {
        let stop = bugcheck(&violation);
        let stack = Vec::new();
        if self.verifier().report(Finding { violation, stack }) {
            self.halt(stop);
        }
    }

    /// Stops the machine from within an export and leaves the driver's call;
    /// the caller must own nothing with a destructor.
    pub(crate) fn stop(&self, stop: Stop) -> ! {
        self.halt(stop.clone());
        self.guest().escape(stop)
    }

    /// Leaves the driver's call if the machine has stopped.
    pub(crate) fn leave_if_stopped(&self) {
        if let Some(stop) = self.stopped() {
            self.guest().escape(stop.clone());
        }
    }

    /// Takes note of what ended a driver call. A fault in or beyond a pool
    /// block is the breach of a rule as well.
    pub(super) fn driver_stopped(&self, stop: &Stop) {
        self.halt(stop.clone());
        if let Stop::Fault { address: Some(address), write, .. } = stop {
            let address = *address as Address;
            if self.pool().describe(address).is_some() {
                let write = *write;
                self.condemn(self.bad_pointer(BadPointer { address, write }));
            }
        }
    }

    /// A bad pointer as the breach it is: freed pool, beyond a block, or
    /// nowhere at all.
    pub(crate) fn bad_pointer(&self, bad: BadPointer) -> Violation {
        let place = self.pool().describe(bad.address);
        let (rule, text) = match place {
            Some((Where::Freed, text)) => (&rules::FREED_POOL_ACCESS, text),
            Some((_, text)) => (&rules::BEYOND_POOL_ACCESS, text),
            None if cpu::irql() >= Irql::DISPATCH => (&rules::BAD_POINTER_RAISED, String::new()),
            None => (&rules::BAD_POINTER, String::new()),
        };
        let verb = if bad.write { "writing" } else { "reading" };
        let text = format!("{verb} {:#x} {text}", bad.address);
        Violation::new(rule, [bad.address as u64, bad.write.into(), 0], text)
    }
}

/// What lies at an address of the pool of the machine this thread is in; for
/// fault reports.
pub fn describe_address(address: Address) -> Option<String> {
    if cpu::kernel().is_null() {
        return None;
    }
    let (_, text) = Kernel::current().pool().try_describe(address)?;
    Some(text)
}

fn bugcheck(violation: &Violation) -> Stop {
    Stop::BugCheck {
        code: violation.rule.code,
        parameters: violation.bugcheck_parameters(),
        text: violation.to_string(),
    }
}
