//! Creates a content root for wdk-build from the kit's own headers.
//!
//! The headers stay where they are. This creates a link to them, a table with which
//! clang finds them in any spelling, and import libraries if the kit has none.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Kit, entry, link, place, write};
use crate::setup::{Target, run};

/// Libraries that every link names but that export nothing the driver uses.
const NAMED_ONLY: [&str; 4] = ["BufferOverflowFastFailK", "arm64rt", "hal", "wmilib"];

/// The maximum depth of folders, because a link may lead back into itself.
const DEEPEST: usize = 8;

/// The file for clang's `-ivfsoverlay`. Its name depends on the kit. bindgen gets
/// the name in the environment, so cargo knows when to build again.
pub fn overlay(kit: &Kit) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    kit.hash(&mut hasher);
    place().join(format!("overlay-{:016x}.json", hasher.finish()))
}

/// Creates the content root and returns its path.
pub fn make(kit: &Kit, target: Target, linker: &Path) -> Result<PathBuf> {
    let content_root = place().join("kit");
    let include = content_root.join("Include");
    std::fs::create_dir_all(&include)?;
    let include = include.join(&kit.version);
    link(&kit.include, &include)?;
    write(&overlay(kit), &in_any_spelling(&kit.include, &include)?.to_string())?;
    // The name of the processor in wdk-build.
    let processor = if target == Target::Arm64 { "ARM64" } else { "x64" };
    let libraries = content_root.join("Lib").join(&kit.version).join("km").join(processor);
    std::fs::create_dir_all(&libraries)?;
    let kits = kit.libraries.as_deref().and_then(|folder| entry(folder, target.name()));
    for (library, (module, exports)) in exports(target) {
        let path = libraries.join(format!("{library}.lib"));
        let kits = kits.as_deref().and_then(|folder| entry(folder, &format!("{library}.lib")));
        match kits {
            Some(kits) => link(&kits, &path)?,
            None => import_library(&path, &module, &exports, target, linker)?,
        }
    }
    Ok(content_root)
}

/// The table that maps headers under `virtually`, in any case, to their real names
/// under `really` (LLVM, VirtualFileSystem.h, RedirectingFileSystem).
fn in_any_spelling(really: &Path, virtually: &Path) -> Result<Value> {
    let folders = ["km", "shared"].into_iter().map(|name| {
        let really = entry(really, name).with_context(|| format!("no folder {name}"))?;
        let contents = listed(&really, DEEPEST)?;
        Ok(json!({ "type": "directory", "name": virtually.join(name), "contents": contents }))
    });
    let folders: Vec<Value> = folders.collect::<Result<_>>()?;
    Ok(json!({ "version": 0, "case-sensitive": "false", "roots": folders }))
}

fn listed(folder: &Path, deepest: usize) -> Result<Vec<Value>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let mut list = Vec::with_capacity(paths.len());
    for path in paths {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if !path.is_dir() {
            list.push(json!({ "type": "file", "name": name, "external-contents": path }));
        } else if let Some(deepest) = deepest.checked_sub(1) {
            let contents = listed(&path, deepest)?;
            list.push(json!({ "type": "directory", "name": name, "contents": contents }));
        }
    }
    Ok(list)
}

/// The known libraries by name, each with its module and the exports for a target.
fn exports(target: Target) -> BTreeMap<String, (String, BTreeSet<String>)> {
    let functions: Value = serde_json::from_str(include_str!("../../../../machine/facts/functions.json"))
        .expect("the tables of this repository are JSON");
    let mut libraries: BTreeMap<String, (String, BTreeSet<String>)> =
        NAMED_ONLY.map(|name| (name.to_owned(), (format!("{name}.sys"), BTreeSet::new()))).into();
    for (name, function) in functions.as_object().into_iter().flatten() {
        let kind = function["kind"].get(target.name()).unwrap_or(&function["kind"]);
        let Some(module) = function["module"].as_str().filter(|_| kind == "import") else { continue };
        let library = module.rsplit_once('.').map_or(module, |(stem, _)| stem);
        let (named, exports) = libraries.entry(library.to_owned()).or_default();
        module.clone_into(named);
        exports.insert(name.clone());
    }
    libraries
}

/// Writes an import library with the linker of the toolchain.
fn import_library(
    path: &Path,
    module: &str,
    exports: &BTreeSet<String>,
    target: Target,
    linker: &Path,
) -> Result<()> {
    let definition = path.with_extension("def");
    let exports: String = exports.iter().map(|name| format!("  {name}\n")).collect();
    if path.is_symlink() {
        std::fs::remove_file(path)?;
    }
    if !write(&definition, &format!("LIBRARY {module}\nEXPORTS\n{exports}"))? && path.is_file() {
        return Ok(());
    }
    let mut command = Command::new(linker);
    command.args(["-flavor", "link", "/lib"]).arg(format!("/machine:{}", target.name()));
    command.arg(format!("/def:{}", definition.display())).arg(format!("/out:{}", path.display()));
    run(&mut command).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_listed_as_they_are_named() {
        let root = tempfile::tempdir().unwrap();
        for file in ["KM/crt/String.h", "KM/Wdm.h", "shared/DriverSpecs.h"] {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let overlay = in_any_spelling(root.path(), Path::new("/kit")).unwrap();
        assert_eq!(overlay["case-sensitive"], "false");
        assert_eq!(overlay["roots"][0]["name"], "/kit/km");
        let crt = &overlay["roots"][0]["contents"][1];
        assert_eq!(crt["contents"][0]["name"], "String.h");
        assert_eq!(crt["contents"][0]["external-contents"], json!(root.path().join("KM/crt/String.h")));
        assert_eq!(overlay["roots"][1]["contents"][0]["name"], "DriverSpecs.h");
    }

    #[test]
    fn a_cycle_of_folders_is_not_followed_forever() {
        let root = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(root.path(), root.path().join("again")).unwrap();
        assert_eq!(listed(root.path(), 3).unwrap().len(), 1);
    }

    #[test]
    fn libraries_export_what_is_imported_from_their_modules() {
        let x64 = exports(Target::X64);
        let (module, names) = &x64["fwpkclnt"];
        assert_eq!(module, "fwpkclnt.sys");
        assert!(names.contains("FwpsCalloutRegister3") && !names.contains("ExAllocatePool2"));
        assert!(x64["ntoskrnl"].1.contains("memcpy"));
        // Inline on x64, exported on arm64.
        assert!(!x64["ntoskrnl"].1.contains("KeGetCurrentThread"));
        assert!(exports(Target::Arm64)["ntoskrnl"].1.contains("KeGetCurrentThread"));
        assert!(NAMED_ONLY.iter().all(|name| x64.contains_key(*name)));
    }
}
