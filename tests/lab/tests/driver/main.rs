//! The shipping driver, held to what it promises.

mod answers;
mod buffers;
mod calls;
mod events;
mod forms;
mod gone;
mod image;
mod lifecycle;
mod mode;
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
