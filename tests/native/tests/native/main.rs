//! The native build, held to the same as the image, and to the image itself.

mod bounds;
mod differential;
mod event_schema;
mod fuzz_targets;
mod layers;
mod storms;
