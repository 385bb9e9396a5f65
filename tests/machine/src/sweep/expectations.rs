//! What is known of a driver, from which its promises follow.

use crate::Machine;
use crate::nt::Trace;
use crate::wfp::Engine;

/// A driver whose calls fail. The methods with a body are for drivers of which
/// more is known than that they load and unload.
pub trait Expectations: Sync {
    /// The name of its service.
    fn service(&self) -> &str;

    /// Readies a machine before the driver is loaded: registry values, what an
    /// earlier run left in the engine. The sessions listen until the life ends.
    fn prepare(&self, _machine: &Machine) -> Vec<Trace> {
        Vec::new()
    }

    /// What the driver is for, in a report: "expected the driver to …".
    fn work(&self) -> &'static str {
        "do its work"
    }

    /// Whether it does that now. `Err`: it does a part of it, which it must not.
    fn works(&self, _engine: &Engine) -> Result<bool, String> {
        Ok(false)
    }

    /// What else is wrong now. `works`: whether the driver does its work.
    fn problems(&self, _engine: &Engine, _works: bool) -> Vec<String> {
        Vec::new()
    }

    /// Traffic just before the driver is stopped.
    fn before_stop(&self, _engine: &Engine) {}

    /// Whether `DriverEntry` has to return the status of the call that failed.
    fn names_the_cause(&self) -> bool {
        false
    }
}

/// A driver of which nothing is known but its service.
#[derive(Clone, Debug)]
pub struct AnyDriver {
    /// The name of its service.
    pub service: String,
}

impl Expectations for AnyDriver {
    fn service(&self) -> &str {
        &self.service
    }
}
