//! What a fuzzer calls with its bytes, and the tests with bytes from a seed.
//!
//! A target panics, or dies of a fault, where the driver did what it must not.

pub mod classify;
pub mod decision;
pub mod order;
pub mod registry;
pub mod replay;

/// A target: its name, which is also its folder of inputs, and its function.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
}

/// Every target.
pub const TARGETS: [Target; 6] = [
    Target { name: "classify", run: classify::run },
    Target { name: "policies", run: classify::run_any_policy },
    Target { name: "registry", run: registry::run },
    Target { name: "decision", run: decision::run },
    Target { name: "order", run: order::run },
    Target { name: "replay", run: replay::run },
];

/// Lets the drivers stop that this thread's inputs have left running.
pub fn finish() {
    classify::finish();
    replay::finish();
}

/// The target of a name.
pub fn named(name: &str) -> Option<Target> {
    TARGETS.into_iter().find(|target| target.name == name)
}
