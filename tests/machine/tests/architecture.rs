//! The order of the modules, as the crate's documentation lists them, and that
//! the crate knows no particular driver.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every source file below a path, with its text.
fn sources(path: &Path) -> Vec<(PathBuf, String)> {
    if path.is_file() {
        return vec![(path.to_owned(), std::fs::read_to_string(path).unwrap())];
    }
    let mut entries: Vec<_> = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    entries.iter().flat_map(|entry| sources(entry)).collect()
}

/// The modules in the order of the table in `lib.rs`.
fn listed() -> Vec<String> {
    let text = std::fs::read_to_string(folder().join("lib.rs")).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("//! | [`"));
    rows.map(|row| row.split('`').next().unwrap().to_owned()).collect()
}

/// The modules of the crate that a text names.
fn imported(text: &str) -> BTreeSet<String> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let mut names = BTreeSet::new();
    for line in code {
        for path in line.split("crate::").skip(1) {
            // `use crate::{a, b}` would hide names from this test.
            assert!(!path.starts_with('{'), "{line}");
            let name = path.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap();
            names.insert(name.to_owned());
        }
    }
    names
}

#[test]
fn every_module_is_listed() {
    let files = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let there: BTreeSet<String> =
        files.map(|file| file.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    let listed: BTreeSet<String> = listed().into_iter().chain(["lib".to_owned()]).collect();
    assert_eq!(listed, there);
}

#[test]
fn a_module_imports_only_modules_above_it() {
    let listed = listed();
    let mut arrows = 0;
    for (place, module) in listed.iter().enumerate() {
        let folder = folder().join(module);
        let path = if folder.is_dir() { folder } else { folder.with_extension("rs") };
        for (file, text) in sources(&path) {
            for name in imported(&text) {
                // The crate's root offers the last modules' names; macros have no module.
                let name = match &*name {
                    "Machine" | "StartError" => "assembly",
                    "every_export" => "exports",
                    name => name,
                };
                let other = listed.iter().position(|module| *module == name);
                let other = other.unwrap_or_else(|| panic!("{}: no module {name}", file.display()));
                assert!(other <= place, "{} imports {name}, which is below it", file.display());
                arrows += usize::from(other < place);
            }
        }
    }
    assert!(arrows > 50, "{arrows} imports found");
}

#[test]
fn no_driver_is_named() {
    for (file, text) in sources(&folder()) {
        let text = text.to_lowercase();
        assert!(!text.contains("hushport"), "{}", file.display());
    }
}
