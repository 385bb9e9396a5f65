//! Which calls of a driver can fail, how, and which do.
//!
//! | module | holds |
//! |---|---|
//! | [`table`] | which calls can fail, how, and which cannot |
//! | [`inject`] | which calls fail in one machine |
#![forbid(unsafe_code)]

pub mod inject;
pub mod table;

pub use inject::{Faults, Injection, Mode, Plan};
pub use table::{FALLIBLE, Fallible, INFALLIBLE, entry};
