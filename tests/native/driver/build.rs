//! Prepares the driver's source for the host.
//!
//! It compiles a copy of `src` with two changes, because the host differs from Windows:
//! the calling convention `"C"` becomes `"win64"`, and C's `long` becomes 32 bits. Line
//! numbers stay, so reports of sanitizers and coverage name lines of `src`.

#[path = "../../../build.rs"]
#[allow(dead_code, reason = "the driver's own build script, for its declarations")]
mod windows;

use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// The Windows target with the host's processor. Its layouts are used.
const TARGET: &str = "x86_64-pc-windows-msvc";

/// Faults that `HUSHPORT_PLANTED` plants in the copy: name, file, old and new texts. The
/// sanitizers must find them.
const PLANTED: [(&str, &str, &[[&str; 2]]); 2] = [
    // Other processors may see the policy before its contents.
    (
        "race",
        "kernel/current.rs",
        &[
            ["self.value.load(Ordering::SeqCst)", "self.value.load(Ordering::Relaxed)"],
            [
                "self.value.store(value.as_ptr(), Ordering::SeqCst)",
                "self.value.store(value.as_ptr(), Ordering::Relaxed)",
            ],
        ],
    ),
    // Reads one byte too many of a packet.
    (
        "overrun",
        "kernel/wfp/net_buffer.rs",
        &[["filled.as_mut_ptr(), here)", "filled.as_mut_ptr(), here + 1)"]],
    ),
];

/// Functions of the host's C library, in the host's calling convention.
const HOST_HAS: [&str; 4] = ["memcmp", "memcpy", "memmove", "memset"];

fn main() {
    println!("cargo::rustc-check-cfg=cfg(driver)");
    println!("cargo::rustc-cfg=driver");
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("../../..");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    println!("cargo::rerun-if-changed={}", root.join("src").display());
    println!("cargo::rerun-if-changed={}", root.join("build.rs").display());
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=HUSHPORT_PLANTED");
    let _absent = fs::remove_dir_all(out.join("src"));
    copy(&root.join("src"), &out.join("src")).expect("the source can be read and OUT_DIR written");
    if let Ok(name) = env::var("HUSHPORT_PLANTED") {
        plant(&name, &out.join("src")).expect("OUT_DIR can be read and written");
    }
    let declared = windows::declarations(&root.join("src/ffi/wdk.h"), TARGET);
    fs::write(out.join("bindings.rs"), bindings(&declared)).expect("OUT_DIR can be written");
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let from = entry?.path();
        let to = to.join(from.file_name().expect("an entry has a name"));
        if from.is_dir() {
            copy(&from, &to)?;
        } else if from.extension().is_some_and(|extension| extension == "rs") {
            let text = natively(&fs::read_to_string(&from)?);
            fs::write(&to, if from.ends_with("src/lib.rs") { included(&text) } else { text })?;
        }
    }
    Ok(())
}

fn plant(name: &str, source: &Path) -> io::Result<()> {
    let known = PLANTED.iter().find(|(known, ..)| *known == name);
    let (_, file, changes) = known.unwrap_or_else(|| panic!("HUSHPORT_PLANTED={name}: no such fault"));
    let mut text = fs::read_to_string(source.join(file))?;
    for [from, to] in *changes {
        assert!(text.contains(from), "{file} does not read {from:?} any more");
        text = text.replace(from, to);
    }
    fs::write(source.join(file), text)
}

fn natively(source: &str) -> String {
    source.replace("extern \"C\"", "extern \"win64\"")
}

/// A crate root for `include!`, without inner attributes and docs. Their lines stay
/// empty.
fn included(root: &str) -> String {
    let inner = |line: &str| line.starts_with("//!") || line.starts_with("#![");
    root.lines().map(|line| if inner(line) { "\n".to_owned() } else { format!("{line}\n") }).collect()
}

fn bindings(declared: &str) -> String {
    let mut blocks = declared.split("unsafe extern \"C\" {\n");
    let head = blocks.next().unwrap_or_default().to_owned();
    let kept = blocks.filter(|block| !HOST_HAS.iter().any(|name| block.contains(&format!("fn {name}("))));
    let text = kept.fold(head, |text, block| text + "unsafe extern \"C\" {\n" + block);
    [("c_ulonglong", "u64"), ("c_longlong", "i64"), ("c_ulong", "u32"), ("c_long", "i32")]
        .into_iter()
        .fold(natively(&text), |text, (c, rust)| text.replace(&format!("::core::ffi::{c}"), rust))
}
