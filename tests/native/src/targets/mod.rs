//! Fuzz targets. Tests call them with bytes from a seed.
//!
//! A target panics or faults if the driver did something forbidden.

pub mod classify;
pub mod decision;
pub mod order;
pub mod registry;
pub mod replay;

/// A target: its name, which is also the name of its folder of inputs, and its function.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
}

/// All targets.
pub const TARGETS: [Target; 6] = [
    Target { name: "classify", run: classify::run },
    Target { name: "policies", run: classify::run_any_policy },
    Target { name: "registry", run: registry::run },
    Target { name: "decision", run: decision::run },
    Target { name: "order", run: order::run },
    Target { name: "replay", run: replay::run },
];

/// Stops the drivers that this thread's inputs have left running.
pub fn finish() {
    classify::finish();
    replay::finish();
}

/// The target with this name.
pub fn named(name: &str) -> Option<Target> {
    TARGETS.into_iter().find(|target| target.name == name)
}
