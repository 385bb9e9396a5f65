//! The driver on several processors: loaded, unloaded, its policy changing, BFE
//! coming and going, all under traffic.
//!
//! `HUSHPORT_LAB_SEEDS=N` plays N seeds of each kind instead of a few.

mod cycles;
mod flows;
mod groups;
mod play;
mod registry;
mod stage;
mod storms;
mod suspended;
mod waits;
