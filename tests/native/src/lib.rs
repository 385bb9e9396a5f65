//! Runs the driver's source natively, for sanitizers, coverage and fuzzing.
//!
//! The lab runs the shipping image, but it cannot check every memory access and race of
//! an image. So this crate compiles the driver's source for the host and links it with
//! the lab's exports. Tests compare its behaviour with the image.
//!
//! | module | what it does |
//! |---|---|
//! | [`bounds`] | indications that are too short or have wrong lengths |
//! | [`exports`] | symbols for the driver's imports |
//! | [`builds`] | a machine that runs one of the two builds |
//! | [`input`] | choices from a fuzzer's bytes |
//! | [`indication`] | indications from choices, valid or invalid |
//! | [`oracle`] | indications that must not be blocked, by the documents |
//! | [`counters`] | reads the driver's counters from pool memory |
//! | [`targets`] | fuzz targets, also called by tests |

pub mod bounds;
pub mod builds;
pub mod counters;
pub mod exports;
pub mod indication;
pub mod input;
pub mod oracle;
pub mod targets;
