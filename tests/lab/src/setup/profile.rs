//! The release profile of the workspace, against other settings of the machine.
//!
//! A configuration file of cargo in any folder above the checkout, or in the user's home,
//! can change a profile. Options on the command line come before such files.

use toml::{Table, Value};

/// What the keys are that the workspace does not set ("Profiles", The Cargo Book).
const DEFAULTS: [(&str, Value); 8] = [
    ("codegen-units", Value::Integer(16)),
    ("debug", Value::Boolean(false)),
    ("debug-assertions", Value::Boolean(false)),
    ("incremental", Value::Boolean(false)),
    ("lto", Value::Boolean(false)),
    ("opt-level", Value::Integer(3)),
    ("overflow-checks", Value::Boolean(false)),
    ("rpath", Value::Boolean(false)),
];

/// Keys that only a whole profile has.
const ONLY_OF_ALL: [&str; 3] = ["lto", "panic", "rpath"];

/// The keys and values with which the driver is compiled, by name.
pub fn release() -> Vec<(String, Value)> {
    let manifest = std::fs::read_to_string(super::root().join("Cargo.toml")).unwrap_or_default();
    let manifest: Table = manifest.parse().unwrap_or_default();
    let set = manifest.get("profile").and_then(|profiles| profiles.get("release")).and_then(Value::as_table);
    let mut values: Table = DEFAULTS.map(|(name, value)| (name.to_owned(), value)).into_iter().collect();
    values.extend(set.into_iter().flatten().map(|(name, value)| (name.clone(), value.clone())));
    values.into_iter().collect()
}

/// The options of cargo that set the profile, for all packages and for this one.
pub(super) fn arguments(package: &str) -> Vec<String> {
    let mut arguments = Vec::new();
    for (name, value) in release() {
        let mut set = |key: String| arguments.extend(["--config".to_owned(), format!("{key}={value}")]);
        set(format!("profile.release.{name}"));
        if !ONLY_OF_ALL.contains(&&*name) && !value.is_table() {
            set(format!("profile.release.package.{package}.{name}"));
        }
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profile_is_the_workspaces_with_cargos_defaults() {
        let values: Vec<String> =
            release().into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        for wanted in
            ["codegen-units=1", "debug=\"full\"", "lto=\"fat\"", "opt-level=\"z\"", "panic=\"abort\""]
        {
            assert!(values.iter().any(|value| value == wanted), "{wanted}: {values:?}");
        }
        assert!(values.contains(&"overflow-checks=false".to_owned()));
        let arguments = arguments("hushport").join(" ");
        assert!(arguments.contains("--config profile.release.lto=\"fat\""), "{arguments}");
        assert!(arguments.contains("--config profile.release.package.hushport.opt-level=\"z\""));
        assert!(!arguments.contains("package.hushport.lto"));
    }
}
