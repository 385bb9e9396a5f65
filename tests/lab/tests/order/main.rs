//! `CheckOrder` on faulty networks reports true deviations and no false ones.

mod connections;
mod lossy_wire;
mod network;
mod network_faults;
mod omissions;
mod quiet;
mod random_exchanges;
mod reauthorizations;
mod segment;
#[path = "../support/mod.rs"]
mod support;
mod taken;
