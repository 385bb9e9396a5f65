//! RAW: the WDK's declarations, as bindgen names them; nothing else.
//!
//! Functions, types, enumerators and plain macros come from the header through
//! build.rs; [`constants`] has the macros bindgen cannot evaluate.
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
    reason = "generated from C; the names are the header's"
)]

mod constants;

pub use constants::*;

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
