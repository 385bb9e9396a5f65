//! hushport-conformance.sys: measures what the filter engine does where Microsoft's
//! documents are open.
//!
//! It has callouts at hushport's layers, and describes what they see of a few probes.
//! Besides, it asks the engine some questions of its own. `Parameters\Probes` and
//! `Parameters\Step` under its service key control it; it answers under
//! `Parameters\Report`, one value for each measurement, and by ETW.
//! docs/CONFORMANCE.md describes the values.
//!
//! It is for machines that can be restarted, not for production: a classify may wait
//! there for some milliseconds, which is one of the questions.
//!
//! | module | guarantee |
//! |---|---|
//! | `ffi`, `kernel`, `logic` | hushport's own, compiled from `src` |
//! | `wrappers` | SAFE WRAPPERS of this driver: its only hand-written unsafe |
//! | `probe` | which packets are measured, and what callouts do to them |
//! | `measure` | what a callout does: describe, decide |
//! | `steps`, `report` | what the thread does; what it writes |
//!
//! On other targets than Windows the crate is empty.
#![cfg_attr(driver, no_std)]

#[cfg(driver)]
#[allow(dead_code, unused_imports, reason = "hushport uses more of it")]
#[path = "../../../src/ffi/mod.rs"]
mod ffi;
#[cfg(driver)]
#[allow(dead_code, unused_imports, reason = "hushport uses more of it")]
#[path = "../../../src/kernel/mod.rs"]
mod kernel;
#[cfg(driver)]
#[allow(dead_code, unused_imports, reason = "hushport uses more of it")]
#[path = "../../../src/logic/mod.rs"]
mod logic;

#[cfg(driver)]
mod driver;
#[cfg(driver)]
mod events;
#[cfg(driver)]
mod measure;
#[cfg(driver)]
mod probe;
#[cfg(driver)]
mod report;
#[cfg(driver)]
mod steps;
#[cfg(driver)]
mod wrappers;

#[cfg(driver)]
kernel::entry::driver_entry!(driver::Conformance);
