//! The driver package: rules of the INF, resources, signatures and catalog; what it is
//! made of, and its comparison with files from elsewhere.

mod admx;
mod comparison;
mod inf;
mod inf_rules;
mod provenance;
mod resources;
mod signatures;
