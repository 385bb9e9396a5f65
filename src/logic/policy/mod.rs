//! What the administrator asks for: one whole policy, from registry values.
//!
//! [`VALUES`] is the table of the values and the one place that names them;
//! [`parse`](mod@parse) reads the lists, [`Exemptions`] answers for a packet.

#[cfg(test)]
mod entries_tests;
pub mod exemptions;
pub mod parse;
pub mod ports;
pub mod ranges;
pub mod reason;
pub mod settings;
pub mod values;

pub use exemptions::{Exemption, Exemptions, Sender};
pub use reason::Reason;
pub use settings::{Mode, Policy, Trace};
pub use values::{RegistryValue, Rejected, VALUES};
