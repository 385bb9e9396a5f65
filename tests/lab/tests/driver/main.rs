//! The shipping driver, held to what it promises.

mod calls;
mod events;
mod gone;
mod image;
mod lifecycle;
mod policy;
mod registration;
mod scan;
mod scans;
mod stealth;
#[path = "../support/mod.rs"]
mod support;
mod told;
mod verdicts;
mod watching;
