//! Changes the sources that require a Windows host, text by text.
//!
//! wdk-build requires a Windows host. A copy of it is changed in those places, and
//! so are the driver's manifest and build script. If a text is not found, that is
//! an error: the original has changed, and this file must be reviewed.

use std::path::Path;

use anyhow::{Context, Result, ensure};

/// The driver's manifest as a package without a workspace, whose build script uses
/// this copy of wdk-build on any host.
pub fn manifest(text: &str, wdk_build: &Path) -> Result<String> {
    let start = text.find("members = [").context("Cargo.toml: no list of members")?;
    let end = start + text[start..].find(']').context("Cargo.toml: the list of members has no end")?;
    let alone = format!("{}members = [{}", &text[..start], &text[end..]);
    let patched = replace(
        "Cargo.toml",
        &alone,
        "[target.'cfg(windows)'.build-dependencies]",
        "[target.'cfg(unix)'.build-dependencies]",
    )?;
    // TOML basic strings have the escapes of JSON.
    let path = serde_json::to_string(&wdk_build.to_string_lossy())?;
    Ok(format!("{patched}\n[patch.crates-io]\nwdk-build = {{ path = {path} }}\n"))
}

/// The driver's build script.
pub fn build_script(text: &str) -> Result<String> {
    replace("build.rs", text, r#"feature = "wdk", windows"#, r#"feature = "wdk", unix"#)
}

/// A file of wdk-build.
pub fn wdk_build(path: &Path, text: &str) -> Result<String> {
    let name = path.display().to_string();
    if path.ends_with("src/utils.rs") {
        // The crate `windows` is used only to find kits in the registry. Here the
        // environment names the kit.
        let text = section(&name, text, "use windows::{\n", "\n};\n", STAND_INS)?;
        let text = section(&name, &text, "fn read_registry_key_string_value(", "\n}\n", NO_REGISTRY)?;
        // In functions that only the packaging tasks call.
        return replace(&name, &text, "compile_error!(", "panic!(");
    }
    if path.ends_with("src/cargo_make.rs") {
        return replace(&name, text, "std::os::windows::fs::symlink_file(", "std::os::unix::fs::symlink(");
    }
    if path.ends_with("Cargo.toml") {
        return section(&name, text, "[dependencies.windows]\n", "\n]\n", "");
    }
    Ok(text.to_owned())
}

const STAND_INS: &str = "\
const HKEY_LOCAL_MACHINE: () = ();
macro_rules! s {
    ($text:literal) => {
        $text
    };
}
";

const NO_REGISTRY: &str = "\
fn read_registry_key_string_value((): (), _: &str, _: &str) -> Option<String> {
    None
}
";

fn replace(name: &str, text: &str, from: &str, to: &str) -> Result<String> {
    ensure!(text.contains(from), "{name} has changed: {from:?} is not in it any more");
    Ok(text.replace(from, to))
}

/// Replaces everything from `start` to the next `end`, both included.
fn section(name: &str, text: &str, start: &str, end: &str, by: &str) -> Result<String> {
    let changed = || format!("{name} has changed: no {start:?} up to {end:?}");
    let (before, rest) = text.split_once(start).with_context(changed)?;
    let (_, after) = rest.split_once(end).with_context(changed)?;
    Ok(format!("{before}{by}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UTILS: &str = r#"use std::env;

use windows::{
    Win32::System::Registry::HKEY_LOCAL_MACHINE,
    core::{PCSTR, s},
};

fn known() -> Option<String> {
    read_registry_key_string_value(HKEY_LOCAL_MACHINE, s!("SOFTWARE"), s!("KitsRoot10"))
}

fn read_registry_key_string_value(
    key_handle: HKEY,
) -> Option<String> {
    if true {
        return None;
    }
    None
}

pub fn set_var() {
    compile_error!("a Windows host");
}
"#;

    #[test]
    fn wdk_build_reads_no_registry_and_refuses_no_host() {
        let patched = wdk_build(Path::new("wdk-build-0.6.0/src/utils.rs"), UTILS).unwrap();
        assert!(!patched.contains("windows::") && !patched.contains("compile_error"), "{patched}");
        assert!(!patched.contains("key_handle") && patched.contains("fn known()"), "{patched}");
        syn_reads(&patched);
    }

    #[test]
    fn wdk_builds_manifest_loses_the_crate_windows() {
        let text = "[dependencies.a]\nversion = \"1\"\n\n[dependencies.windows]\nversion = \"0\"\nfeatures = [\n    \"x\",\n]\n\n[lints]\n";
        let patched = wdk_build(Path::new("x/Cargo.toml"), text).unwrap();
        assert_eq!(patched, "[dependencies.a]\nversion = \"1\"\n\n\n[lints]\n");
    }

    #[test]
    fn a_missing_text_is_an_error() {
        for (file, text) in [("src/utils.rs", ""), ("src/cargo_make.rs", "fn main() {}"), ("Cargo.toml", "")]
        {
            let error = wdk_build(Path::new(file), text).unwrap_err().to_string();
            assert!(error.contains("has changed"), "{error}");
        }
        assert!(build_script("fn main() {}").is_err());
        assert!(manifest("[package]", Path::new("/w")).is_err());
    }

    #[test]
    fn the_drivers_own_files_can_be_patched() {
        let read = |name: &str| std::fs::read_to_string(crate::setup::root().join(name)).unwrap();
        let script = build_script(&read("build.rs")).unwrap();
        assert!(!script.contains(r#"feature = "wdk", windows"#));
        syn_reads(&script);
        let manifest = manifest(&read("Cargo.toml"), Path::new("/a \"b\"")).unwrap();
        assert!(manifest.contains("members = []"), "{manifest}");
        assert!(manifest.ends_with("wdk-build = { path = \"/a \\\"b\\\"\" }\n"), "{manifest}");
        // The Windows dependencies of the driver do not change.
        assert!(manifest.contains("[target.'cfg(windows)'.dependencies]\nwdk"), "{manifest}");
    }

    fn syn_reads(text: &str) {
        syn::parse_file(text).unwrap();
    }
}
