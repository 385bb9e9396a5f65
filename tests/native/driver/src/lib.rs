//! The driver, compiled for the host: see `build.rs` for what differs.
//!
//! Everything it imports is a symbol that `hushport-native` defines, and its
//! entry point is the symbol `DriverEntry`.
//!
//! The unit tests in the source are the driver's own package's.
#![cfg_attr(not(test), no_std)]

#[cfg(not(test))]
include!(concat!(env!("OUT_DIR"), "/src/lib.rs"));
