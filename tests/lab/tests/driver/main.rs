//! The shipping driver, held to what it promises.

mod answers;
mod buffers;
mod events;
mod forms;
mod image;
mod lifecycle;
mod mode;
mod policy;
mod registration;
mod scan;
mod stealth;
#[path = "../support/mod.rs"]
mod support;
mod told;
mod watching;
