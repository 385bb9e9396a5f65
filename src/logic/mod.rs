//! PURE: tables and decisions, without kernel types and without unsafe.
#![forbid(unsafe_code)]

pub mod address;
mod atomic;
pub mod bytes;
pub mod callouts;
pub mod counters;
pub mod event_log;
pub mod events;
pub mod flow;
pub mod ip;
pub mod layers;
pub mod mix;
pub mod order;
pub mod policy;
pub mod processor;
pub mod protection;
pub mod protocol;
pub mod rate;
#[cfg(all(test, loom))]
mod replaced_model;
pub mod scan;
pub mod stealth;
pub mod tcp;
pub mod tracelogging;
pub mod transport;
pub mod waiting;
