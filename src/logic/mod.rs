//! PURE: the tables and decisions, without kernel types and without unsafe.
#![forbid(unsafe_code)]

pub mod callouts;
pub mod epoch;
pub mod layers;
pub mod policy;
pub mod stealth;
pub mod tcp;
