//! `cargo lab wdk` without a WDK, and crates that need one are not built.

use std::process::{Command, Output};

use lab::setup;

fn lab(arguments: &[&str]) -> Output {
    let mut lab = Command::new(setup::profile_directory().unwrap().join("lab"));
    lab.arg("wdk").args(arguments).env_remove("WDKContentRoot").output().unwrap()
}

/// The one line that a failing `cargo lab wdk` prints.
fn refused(arguments: &[&str]) -> String {
    let output = lab(arguments);
    let printed = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{arguments:?}: {printed}");
    assert_eq!(printed.lines().count(), 1, "{arguments:?}: {printed}");
    printed
}

#[test]
fn without_a_kit_one_line_says_what_is_missing() {
    let printed = refused(&[]);
    assert!(printed.contains("--content-root DIR") && printed.contains("DIR/Include/VERSION"), "{printed}");
}

#[test]
fn a_folder_that_is_no_kit_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let shown = folder.path().to_str().unwrap();
    let printed = refused(&["--content-root", shown]);
    assert!(printed.contains(shown) && printed.contains("no folder Include"), "{printed}");
    std::fs::create_dir_all(folder.path().join("Include/10.0.22621.0/shared")).unwrap();
    let printed = refused(&["--content-root", shown]);
    assert!(printed.contains("10.0.22621.0 has no km/fwpsk.h"), "{printed}");
}

/// Packages that cargo would build, with build dependencies.
fn graph(arguments: &[&str]) -> Vec<String> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(setup::root()).args(["tree", "--locked", "--edges", "all", "--prefix", "none"]);
    let output = cargo.args(["--format", "{p}"]).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let packages = String::from_utf8(output.stdout).unwrap();
    let mut packages: Vec<String> =
        packages.lines().filter_map(|line| Some(line.split_once(' ')?.0.to_owned())).collect();
    packages.sort();
    packages.dedup();
    packages
}

/// wdk-build compiles on Windows only. Only the feature `wdk` depends on it.
#[test]
fn no_crate_of_the_kits_is_built_without_it() {
    let lock = std::fs::read_to_string(setup::root().join("Cargo.lock")).unwrap();
    assert!(lock.contains("name = \"wdk-build\""), "the feature depends on it");
    let windows = setup::Target::X64.triple();
    for arguments in [
        // Everything that is built on Linux: lab, native build, unit tests.
        ["--workspace", "--target", "x86_64-unknown-linux-gnu"].as_slice(),
        // The driver as the lab builds it.
        ["--package", "hushport", "--no-default-features", "--target", windows].as_slice(),
    ] {
        let graph = graph(arguments);
        assert!(graph.iter().any(|name| name == "bindgen"), "{arguments:?}: {graph:?}");
        let kits: Vec<_> = graph.iter().filter(|name| name.starts_with("wdk")).collect();
        assert!(kits.is_empty(), "{arguments:?}: {kits:?}");
    }
}
