//! A machine with a running driver, and calls of its callouts.

use std::ops::Deref;

use anyhow::Result;
use machine::Machine;
use machine::assembly::Direct;
use machine::nt::Options;
use machine::nt::registry::RegistryValue;

pub use super::callouts::{Callouts, family_of, layer_name};
use crate::hushport;
use crate::setup::{self, Target};

/// A running driver whose callouts are found by the names of their layers.
pub struct Stage {
    /// The machine.
    pub machine: Machine,
    callouts: Callouts,
}

impl Stage {
    /// The shipping driver with these values.
    ///
    /// # Errors
    /// If it cannot be built or does not start.
    pub fn new(options: Options, values: &[(&str, RegistryValue)]) -> Result<Self> {
        Self::bound(options, values, |_| None)
    }

    /// A driver with some imports bound directly to these functions.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn bound(options: Options, values: &[(&str, RegistryValue)], direct: Direct) -> Result<Self> {
        let mut machine = hushport::machine(options);
        machine.bind_directly(direct);
        for (name, value) in values {
            machine.set_value(name, value.clone());
        }
        machine.start(&setup::build(Target::X64)?.sys)?;
        let callouts = Callouts::of(machine.kernel(), machine.engine())?;
        Ok(Self { machine, callouts })
    }
}

impl Deref for Stage {
    type Target = Callouts;

    fn deref(&self) -> &Callouts {
        &self.callouts
    }
}
