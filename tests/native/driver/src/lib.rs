//! The driver, compiled for the host: see `build.rs` for what differs.
//!
//! Everything it imports is a symbol that `hushport-native` defines, and its
//! entry point is the symbol `DriverEntry`.
#![no_std]

include!(concat!(env!("OUT_DIR"), "/src/lib.rs"));
