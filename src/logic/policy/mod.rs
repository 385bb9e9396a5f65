//! The policy: what the administrator asks for, read from registry values.
//!
//! [`VALUES`] is the table of the values, and the only place with their names.
//! [`parse`](mod@parse) reads the entries of lists, and [`Exemptions`] looks packets
//! up.

pub mod exemptions;
pub mod parse;
pub mod ports;
pub mod profiles;
pub mod ranges;
pub mod reason;
pub mod settings;
#[cfg(test)]
mod tests;
pub mod values;

pub use exemptions::{Exemption, Exemptions, Sender};
pub use profiles::PROFILES;
pub use reason::Reason;
pub use settings::{Mode, Policy, Trace};
pub use values::{RegistryValue, Rejected, VALUES, ValueSet};
