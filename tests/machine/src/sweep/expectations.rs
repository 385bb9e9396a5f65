//! What is known about a driver, and what it must do when calls fail.

use crate::Machine;
use crate::nt::Trace;
use crate::verifier::Rule;
use crate::wfp::{Engine, Objects};

/// The expectations of a driver whose calls fail. Methods with a default are for
/// drivers of which more is known than that they load and unload.
pub trait Expectations: Sync {
    /// The name of the driver's service.
    fn service(&self) -> &str;

    /// Whether the driver is loaded although it imports functions that the lab does not
    /// model.
    fn may_lack_imports(&self) -> bool {
        true
    }

    /// Prepares a machine before the driver is loaded. The sessions listen until the run
    /// ends.
    fn prepare(&self, _machine: &Machine) -> Vec<Trace> {
        Vec::new()
    }

    /// The driver's work, as it completes "expected the driver to …" in a report.
    fn work(&self) -> &'static str {
        "do its work"
    }

    /// Whether it does its work now. `Err`: it does only a part of it, which is a
    /// problem.
    fn works(&self, _engine: &Engine) -> Result<bool, String> {
        Ok(false)
    }

    /// Other problems. `own`: what the engine holds beside the objects of others. `works`:
    /// whether the driver does its work.
    fn problems(&self, _engine: &Engine, _own: &Objects, _works: bool) -> Vec<String> {
        Vec::new()
    }

    /// Changes the driver's configuration, and lets the time pass within which the driver
    /// looks at it. The last step restores what was before. Returns `false` if there is no
    /// such step. The calls of the driver may fail meanwhile.
    fn configure(&self, _machine: &Machine, _step: usize) -> bool {
        false
    }

    /// Whether the driver has taken over this step of [`Self::configure`]. Its calls work
    /// again, and it has had 10 s.
    fn has_followed(&self, _machine: &Machine, _step: usize) -> bool {
        true
    }

    /// Whether the machine has a time of its own, so that the driver's threads make their
    /// calls in a fixed order. No thread beside the sweep's may call the driver then.
    fn has_own_time(&self) -> bool {
        false
    }

    /// Changes the driver's configuration and back, and checks that it follows. The calls
    /// of the driver work meanwhile.
    fn follows(&self, _machine: &Machine) -> Result<(), String> {
        Ok(())
    }

    /// Whether it follows BFE: it waits if BFE starts later, and works again after BFE was
    /// stopped and started. Otherwise BFE runs all the time.
    fn follows_bfe(&self) -> bool {
        true
    }

    /// Whether it may refuse to start without BFE, as a driver does whose service depends on
    /// BFE's. Then BFE runs all the time.
    fn may_need_bfe(&self) -> bool {
        false
    }

    /// What programs do with the driver after it has started.
    fn use_it(&self, _machine: &Machine) {}

    /// The rules about leftovers that it breaks if a call failed that it needs to remove
    /// them. What it has left may keep it from starting again.
    fn may_leave(&self) -> &[&'static Rule] {
        &[]
    }

    /// Traffic before the driver is stopped.
    fn before_stop(&self, _engine: &Engine) {}

    /// Whether `DriverEntry` has to return the status of the call that failed.
    fn names_the_cause(&self) -> bool {
        false
    }
}

/// A driver of which only the service is known.
#[derive(Clone, Debug)]
pub struct AnyDriver {
    /// The name of its service.
    pub service: String,
}

impl Expectations for AnyDriver {
    fn service(&self) -> &str {
        &self.service
    }

    fn may_need_bfe(&self) -> bool {
        true
    }
}
