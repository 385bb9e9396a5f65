//! Reading the policy from the registry.

use crate::kernel::entry::DriverObject;
use crate::kernel::irql::Passive;
use crate::kernel::registry::Key;
use crate::kernel::status::Result;
use crate::logic::policy::{Policy, VALUES};

/// The policy that `Parameters` holds. An absent value means the default, and
/// so does one of another type or out of range: a slip in one value takes
/// nothing away from the others.
pub fn read(object: &DriverObject, irql: &Passive) -> Result<Policy> {
    let mut policy = Policy::DEFAULT;
    let Some(key) = Key::parameters(object, irql)? else {
        return Ok(policy);
    };
    for value in &VALUES {
        if let Ok(Some(number)) = key.dword(value.name, irql) {
            // Refused, it leaves the default.
            let _applied_or_refused = value.apply(&mut policy, number);
        }
    }
    Ok(policy)
}
