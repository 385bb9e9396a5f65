//! `CheckOrder` under loss: whatever a network does to a correct connection, the
//! driver reports no deviation; a layer amiss it still reports.

mod connections;
mod lossy_wire;
mod network;
mod network_faults;
mod random_exchanges;
mod segment;
