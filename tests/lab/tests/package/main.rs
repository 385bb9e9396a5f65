//! The driver package: rules of the INF, signatures and catalog.

mod inf;
mod inf_rules;
mod signatures;
