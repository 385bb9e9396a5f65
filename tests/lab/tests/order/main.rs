//! `CheckOrder` on faulty networks: no false deviation, and true ones are reported.

mod connections;
mod lossy_wire;
mod network;
mod network_faults;
mod random_exchanges;
mod segment;
