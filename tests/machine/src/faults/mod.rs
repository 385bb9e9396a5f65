//! The calls of a driver that can fail, how they fail, and when they do.
//!
//! | module | holds |
//! |---|---|
//! | [`table`] | the calls that can fail, how, and those that cannot |
//! | [`inject`] | makes planned calls fail in one machine |
#![forbid(unsafe_code)]

pub mod inject;
pub mod table;

pub use inject::{BeforeCall, Faults, Injection, Mode, Plan};
pub use table::{FALLIBLE, Fallible, INFALLIBLE, entry};
