//! hushport.sys: a Windows Filtering Platform driver that keeps closed ports
//! silent and watches the layers that connections pass.
//!
//! | folder | guarantee |
//! |---|---|
//! | `ffi` | RAW: the WDK's declarations as bindgen names them |
//! | `kernel` | SAFE WRAPPERS: the only hand-written unsafe |
//! | `driver` | WIRING, unsafe denied: ordered start and stop, the callouts' handlers |
//! | [`logic`] | PURE, unsafe forbidden: the table of callouts, the decision, the policy |
//!
//! Arrows go one way: `driver` → `kernel` → `ffi`, and anything → `logic`,
//! which imports nothing. Nothing on a packet's path allocates, locks, blocks,
//! loops without a bound, or can panic. docs/ARCHITECTURE.md walks one packet
//! through.
//!
//! Off Windows only `logic` is built, for its tests.
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
