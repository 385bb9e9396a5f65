//! The SBOM and the record of the build say what is so.

use std::collections::{BTreeMap, BTreeSet};

use lab::provenance::build_info::{BuildInfo, INPUTS};
use lab::provenance::sbom;
use lab::setup::{self, Target};
use machine::image::{PdbId, Symbols};
use object::Object;
use serde_json::Value;
use toml::Table;

use crate::signatures::{TIME, make};

fn bom(target: Target) -> Value {
    serde_json::from_str(&sbom::of(setup::build(target).unwrap(), target, TIME).unwrap()).unwrap()
}

/// The components by name and version: scope and hash.
fn components(bom: &Value) -> BTreeMap<(String, String), (String, Option<String>)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let components = bom["components"].as_array().unwrap().iter();
    let pairs = components.map(|component| {
        let hash = component["hashes"][0]["content"].as_str().map(str::to_owned);
        ((text(&component["name"]), text(&component["version"])), (text(&component["scope"]), hash))
    });
    pairs.collect()
}

/// The packages of Cargo.lock that are not of this repository: name and version, and hash.
fn locked() -> BTreeMap<(String, String), String> {
    let lock = std::fs::read_to_string(setup::root().join("Cargo.lock")).unwrap();
    let lock: Table = lock.parse().unwrap();
    let text = |package: &toml::Value, key: &str| Some(package.get(key)?.as_str()?.to_owned());
    let packages = lock["package"].as_array().unwrap().iter();
    let packages = packages.filter_map(|package| {
        Some(((text(package, "name")?, text(package, "version")?), text(package, "checksum")?))
    });
    packages.collect()
}

#[test]
fn the_sbom_has_the_crates_of_cargo_lock() {
    let bom = bom(Target::X64);
    assert_eq!((bom["bomFormat"].as_str(), bom["specVersion"].as_str()), (Some("CycloneDX"), Some("1.5")));
    assert_eq!(bom["metadata"]["component"]["type"], "device-driver");
    assert_eq!(bom["metadata"]["component"]["name"], "hushport");
    assert_eq!(bom["metadata"]["timestamp"], "2026-02-03T04:05:06Z");
    let mut listed = components(&bom);
    for name in sbom::LIBRARY {
        let key = listed.keys().find(|(other, _)| other == name).unwrap().clone();
        assert_eq!(listed.remove(&key).unwrap().0, "required", "{name}");
    }
    let hashes: BTreeMap<_, _> =
        listed.iter().map(|(key, (_, hash))| (key.clone(), hash.clone().unwrap_or_default())).collect();
    assert_eq!(hashes, locked());
    // What runs during the build is told apart, and has its licence.
    let role = |name: &str| {
        let components = bom["components"].as_array().unwrap();
        let found = components.iter().find(|component| component["name"] == name).unwrap();
        (found["properties"][0]["value"].as_str().unwrap().to_owned(), found["licenses"].is_array())
    };
    assert_eq!(role("bindgen"), ("builds".to_owned(), true));
    assert_eq!(role("embed-resource"), ("builds".to_owned(), true));
    assert_eq!(role("smoltcp").0, "tests, or another build");
    assert_eq!(role("wdk-sys").0, "tests, or another build");
    // Every reference leads to a component.
    let mut references: BTreeSet<&str> =
        bom["components"].as_array().unwrap().iter().map(|one| one["bom-ref"].as_str().unwrap()).collect();
    references.insert(bom["metadata"]["component"]["bom-ref"].as_str().unwrap());
    for dependency in bom["dependencies"].as_array().unwrap() {
        let on = dependency["dependsOn"].as_array().into_iter().flatten();
        for reference in on.chain([&dependency["ref"]]) {
            assert!(references.contains(reference.as_str().unwrap()), "{reference}");
        }
    }
}

/// The crate of a source file in the PDB: of the library, of a registry, or of ours.
fn crate_of_file(file: &str) -> Option<String> {
    // The distributed library was built on Windows.
    let parts: Vec<&str> = file.split(['/', '\\']).filter(|part| !part.is_empty()).collect();
    match parts[..] {
        ["src" | "target", ..] => Some("hushport".to_owned()),
        ["rustc", _, "library", name, ..] => Some(name.replace('-', "_")),
        ["cargo", "registry", "src", _, package, ..] => Some(package.rsplit_once('-')?.0.replace('-', "_")),
        _ => None,
    }
}

/// Functions and their source files, also of inlined code, name only crates that the SBOM
/// has as linked; and each of these leaves a trace.
#[test]
fn the_pdb_names_the_crates_that_the_sbom_has_as_linked() {
    for target in Target::ALL {
        let sys = &setup::build(target).unwrap().sys;
        let bytes = std::fs::read(sys).unwrap();
        let file = object::read::pe::PeFile64::parse(&*bytes).unwrap();
        let view = file.pdb_info().unwrap().unwrap();
        let path = String::from_utf8_lossy(view.path()).into_owned();
        let id = PdbId { guid: uuid::Uuid::from_bytes_le(view.guid()), age: view.age(), path };
        let symbols = Symbols::beside(sys, id).unwrap();
        let mut seen = BTreeSet::new();
        for function in symbols.functions() {
            for rva in function.range.clone().step_by(4) {
                for frame in symbols.resolve(rva) {
                    if let Some(path) = frame.file {
                        seen.insert(crate_of_file(&path).unwrap_or_else(|| panic!("{path}")));
                    }
                }
            }
            let name = function.name.trim_start_matches(['<', '&']);
            if let Some((first, _)) = name.split_once("::") {
                seen.insert(first.to_owned());
            }
        }
        let bom = bom(target);
        let linked: BTreeSet<String> = components(&bom)
            .into_iter()
            .filter(|(_, (scope, _))| scope == "required")
            .map(|((name, _), _)| name.replace('-', "_"))
            .chain(["hushport".to_owned()])
            .collect();
        let known: BTreeSet<String> =
            locked().into_keys().map(|(name, _)| name.replace('-', "_")).chain(linked.clone()).collect();
        // Names of traits and of primitive types may begin a function's name, too.
        let crates: BTreeSet<String> = seen.into_iter().filter(|name| known.contains(name)).collect();
        assert!(crates.is_subset(&linked), "{target:?}: {crates:?} in the PDB, {linked:?} in the SBOM");
        assert!(crates.contains("hushport") && crates.contains("core"), "{target:?}: {crates:?}");
    }
}

#[test]
fn files_of_the_pdb_belong_to_crates() {
    for (file, name) in [
        ("/src/logic/tcp.rs", "hushport"),
        ("/target/lab/driver/x/build/hushport-0/out/bindings.rs", "hushport"),
        ("/rustc/0123/library/core/src/num/mod.rs", "core"),
        ("/rustc/0123/library\\core\\src\\result.rs", "core"),
        ("/rustc/0123/library/compiler-builtins/compiler-builtins/src/mem/impls.rs", "compiler_builtins"),
        ("/cargo/registry/src/index.crates.io-1949/wdk-sys-0.5.2/src/lib.rs", "wdk_sys"),
    ] {
        assert_eq!(crate_of_file(file).as_deref(), Some(name), "{file}");
    }
    assert_eq!(crate_of_file("/home/me/hushport/src/lib.rs"), None);
}

#[test]
fn the_record_has_every_input_and_what_came_out() {
    let package = make(Target::X64, "record");
    let text = std::fs::read_to_string(package.folder.join("BUILDINFO.json")).unwrap();
    let info = BuildInfo::parse(text.as_bytes()).unwrap();
    assert_eq!(info.to_json().unwrap(), text);
    assert_eq!(info.target, Target::X64.triple());
    let document = std::fs::read_to_string(setup::root().join("docs/BUILD.md")).unwrap();
    assert_eq!(info.inputs.len(), INPUTS.len());
    for (name, _) in INPUTS {
        let input = &info.inputs[name];
        assert!(!input.version.is_empty(), "{name}");
        assert!(document.contains(&format!("\n| `{name}` | ")), "docs/BUILD.md has no row {name}");
        let digests = input.sha256.values().chain(input.made.values());
        digests.for_each(|digest| assert_eq!(digest.len(), 64, "{name}"));
    }
    let has_files =
        ["source", "Cargo.lock", "compiler", "library", "linker", "libclang", "resource compiler"];
    assert!(has_files.iter().all(|name| !info.inputs[*name].sha256.is_empty()), "{text}");
    assert!(info.inputs["libclang"].made.contains_key("bindings.rs"));
    assert!(info.inputs["compiler"].version.contains("commit-hash: "));
    assert!(info.inputs["profile"].version.contains("opt-level=\"z\""));
    assert_eq!(info.inputs["time"].version, TIME.to_string());
    let digest = |bytes: &[u8]| lab::provenance::sha256(bytes);
    let built = &setup::build(Target::X64).unwrap().sys;
    assert_eq!(info.outputs["hushport.sys"], digest(&std::fs::read(built).unwrap()));
    for extension in ["pdb", "inf"] {
        let file = std::fs::read(package.file(extension)).unwrap();
        assert_eq!(info.outputs[&format!("hushport.{extension}")], digest(&file), "{extension}");
    }
}

#[test]
fn a_record_that_is_none_is_refused() {
    for text in ["", "{}", "[1", "{\"format\":2,\"target\":\"x\",\"inputs\":{},\"outputs\":{}}"] {
        assert!(BuildInfo::parse(text.as_bytes()).is_err(), "{text}");
    }
    let deep = "[".repeat(100_000);
    assert!(BuildInfo::parse(deep.as_bytes()).is_err());
}
