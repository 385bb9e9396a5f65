//! The filter engine: objects, sessions, arbitration, classify.
//!
//! Pure Rust without unsafe. A callout of a loaded driver reaches it as a
//! [`CalloutDriver`]; raw structures are translated in [`crate::nt`].
#![forbid(unsafe_code)]

mod classify;
mod engine;
mod objects;
mod value;

pub use classify::*;
pub use engine::*;
pub use objects::*;
pub use value::*;

/// A GUID (`guiddef.h`).
pub type Guid = uuid::Uuid;
