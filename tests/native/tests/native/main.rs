//! Tests of the native build, and comparisons with the image.

mod bounds;
mod differential;
mod event_schema;
mod fuzz_targets;
mod layers;
mod order_rows;
mod storms;
