//! The Windows Filtering Platform: engine, callouts, and what a classify shows.

pub mod bfe;
pub mod callout;
pub mod engine;
pub mod flow;
pub mod headers;
pub mod incoming;
pub mod indicated;
pub mod indication;
pub mod net_buffer;
pub mod tracking;

use crate::ffi;
use crate::logic::layers::Guid;

/// A GUID in C's layout.
pub(crate) const fn guid(number: Guid) -> ffi::GUID {
    let bytes = (number as u64).to_be_bytes();
    ffi::GUID {
        Data1: (number >> 96) as ffi::ULONG,
        Data2: (number >> 80) as ffi::USHORT,
        Data3: (number >> 64) as ffi::USHORT,
        Data4: bytes,
    }
}
