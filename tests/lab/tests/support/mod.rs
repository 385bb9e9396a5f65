//! Functions that several test programs share.
#![allow(dead_code, reason = "each test file uses a part")]

use std::time::{Duration, Instant};

use serde_json::Value;

/// A fact table of the WDK, by its file name.
pub fn facts(name: &str) -> Value {
    let path = lab::setup::root().join(format!("tests/machine/facts/{name}.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Waits until something holds that a system thread of the driver does.
///
/// # Panics
/// After 20 s, with `what`.
pub fn eventually(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
