//! RAW: the WDK's declarations, as bindgen names them; nothing else.
//!
//! build.rs generates functions, types, enumerators and plain macros from `wdk.h`.
//! With the feature `wdk` it generates those names from the kit's headers and
//! wdk-sys. [`constants`] has the macros that bindgen cannot evaluate, for both
//! builds.
#![allow(
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::multiple_unsafe_ops_per_block,
    clippy::undocumented_unsafe_blocks,
    dead_code,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unsafe_code,
    unsafe_op_in_unsafe_fn,
    unused_imports,
    reason = "generated from C; the names are the header's"
)]

mod constants;
mod declarations {
    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}

pub use constants::*;
pub use declarations::*;

/// A macro on arm64 (wdm.h).
#[cfg(target_arch = "aarch64")]
pub use declarations::KfLowerIrql as KeLowerIrql;
