//! The driver on several processors: loaded, unloaded, its policy changing, BFE
//! coming and going, all under traffic.
//!
//! `HUSHPORT_LAB_SEEDS=N` plays N seeds of each kind instead of a few.

mod actors;
mod deadlocks;
mod flows;
mod load_cycles;
mod missing_key;
mod processor_groups;
mod stage;
mod storms;
mod suspended;
