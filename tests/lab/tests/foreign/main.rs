//! Drivers that others wrote, and small ones written for single parts of the kernel:
//! devices and requests, the Kernel-Mode Driver Framework, WinDivert.
#![allow(missing_docs, reason = "a test has no interface")]
#![allow(unsafe_code, reason = "calls of a driver take addresses")]

mod attached;
mod beside;
mod kmdf;
mod objects;
mod own_requests;
mod puppet;
mod queues;
mod requests;
mod scopes;
mod seh;
mod several;
mod several_kmdf;
mod several_storm;
mod wdm;
mod windivert;
mod wmi;

use std::path::PathBuf;

use lab::setup;
use machine::nt::Stop;

/// A driver from the folder `drivers`.
fn driver(name: &str, arguments: &[&str]) -> PathBuf {
    let source = setup::root().join("tests/lab/tests/foreign/drivers").join(name);
    setup::compile(&source, arguments).unwrap_or_else(|error| panic!("{error:#}"))
}

/// The text of a stop.
fn text(stop: &Stop) -> String {
    match stop {
        Stop::BugCheck { text, .. } | Stop::Fault { text, .. } => text.clone(),
        Stop::Deadlock { waits } => waits.clone(),
        Stop::ThreadEnded => stop.to_string(),
    }
}
