//! What several test files share.
#![allow(dead_code, reason = "each test file uses a part")]

use serde_json::Value;

/// A fact table of the WDK, by its file name.
pub fn facts(name: &str) -> Value {
    let path = lab::setup::root().join(format!("tests/machine/facts/{name}.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
