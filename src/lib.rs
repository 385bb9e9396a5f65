//! hushport.sys, a Windows Filtering Platform callout driver.
//!
//! It blocks replies for closed ports, and checks the order in which connections
//! pass the layers.
//!
//! | folder | guarantee |
//! |---|---|
//! | `ffi` | RAW: the WDK's declarations as bindgen names them |
//! | `kernel` | SAFE WRAPPERS: the only hand-written unsafe |
//! | `driver` | WIRING, unsafe denied: ordered start and stop, the callouts' handlers |
//! | [`logic`] | PURE, unsafe forbidden: the table of callouts, the decision, the policy |
//!
//! Imports go one way: `driver` → `kernel` → `ffi`, and anything → `logic`, which
//! imports no other folder. Nothing on a packet's path allocates, locks, blocks, has
//! an unbounded loop, or can panic. docs/ARCHITECTURE.md follows one packet through
//! the driver.
//!
//! Targets other than Windows build only `logic`, for its tests.
#![cfg_attr(driver, no_std)]

pub mod logic;

#[cfg(driver)]
mod driver;
#[cfg(driver)]
mod ffi;
#[cfg(driver)]
mod kernel;

#[cfg(driver)]
kernel::entry::driver_entry!(driver::Driver);
