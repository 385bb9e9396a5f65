//! The driver package: rules of the INF, resources, signatures and catalog.

mod admx;
mod inf;
mod inf_rules;
mod resources;
mod signatures;
