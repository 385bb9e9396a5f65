//! Several processors: load, unload, reload and BFE restarts under traffic.
//!
//! `HUSHPORT_LAB_SEEDS=N` plays N seeds of each kind.

mod active;
mod actors;
mod deadlocks;
mod flows;
mod load_cycles;
mod missing_key;
mod models;
mod processor_groups;
mod stage;
mod storms;
mod suspended;
