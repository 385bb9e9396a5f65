//! `CheckOrder` under loss: whatever a network does to a correct connection, the
//! driver reports no deviation; a layer amiss it still reports.

mod live;
mod net;
mod properties;
mod segment;
mod stories;
mod weather;
