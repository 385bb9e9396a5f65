//! Finds the checkout and the folder for the lab's files.
//!
//! Both are found at run time, because a compiled-in path is wrong as soon as the
//! checkout is moved.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use anyhow::{Context, Result};

/// Files that identify the root of a checkout.
const MARKS: [&str; 3] = ["rust-toolchain.toml", "src/lib.rs", "tests/lab/Cargo.toml"];

/// The root of the checkout, without symbolic links.
///
/// # Panics
/// If there is none, see [`checkout`].
pub fn root() -> &'static Path {
    checkout().unwrap_or_else(|error| panic!("{error}"))
}

/// The root of the checkout: the one that cargo runs this program from, else the
/// one around the current directory, else the one around the program.
///
/// # Errors
/// If the program runs outside any checkout.
pub fn checkout() -> Result<&'static Path> {
    static ROOT: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
        let manifest = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        let starts = [manifest, std::env::current_dir().ok(), std::env::current_exe().ok()];
        starts.into_iter().flatten().find_map(|start| above(&start))
    });
    ROOT.as_deref().context(
        "there is no checkout of hushport around the current directory: \
         run `cargo lab` in one",
    )
}

/// The checkout that contains a path.
fn above(path: &Path) -> Option<PathBuf> {
    let path = path.canonicalize().ok()?;
    let is_top = |folder: &&Path| MARKS.iter().all(|mark| folder.join(mark).is_file());
    path.ancestors().find(is_top).map(Path::to_path_buf)
}

/// The folder for the lab's files: `target/lab`.
pub fn state() -> PathBuf {
    state_of(&target_directory(), root())
}

/// The folder for a checkout's files: `lab` in cargo's target directory. Several
/// checkouts may share a target directory outside of them, so there each has its
/// own folder.
pub fn state_of(target: &Path, root: &Path) -> PathBuf {
    let state = target.join("lab");
    if target.starts_with(root) {
        return state;
    }
    let mut hasher = DefaultHasher::new();
    root.hash(&mut hasher);
    let name = root.file_name().unwrap_or_default().to_string_lossy();
    state.join(format!("{name}-{:016x}", hasher.finish()))
}

/// Cargo's target directory. An environment variable, an option or any
/// configuration file of cargo may set it, so it is derived from the location of
/// this program.
pub fn target_directory() -> PathBuf {
    let program = std::env::current_exe().and_then(|program| program.canonicalize());
    let found = program.ok().and_then(|program| target_around(&program));
    found.unwrap_or_else(|| root().join("target"))
}

/// Cargo writes programs to `TARGET/PROFILE` or `TARGET/TRIPLE/PROFILE`, and test
/// programs to a folder `deps` there.
fn target_around(program: &Path) -> Option<PathBuf> {
    let target = profile_around(program)?.parent()?;
    let name = target.file_name()?.to_str()?;
    let is_triple = name.starts_with(std::env::consts::ARCH) && name.split('-').count() > 2;
    let target = if is_triple { target.parent()? } else { target };
    Some(target.to_path_buf())
}

/// The folder of this program's profile, which contains the built programs.
pub fn profile_directory() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    profile_around(&program).map(Path::to_path_buf).context("the program has no profile folder")
}

fn profile_around(program: &Path) -> Option<&Path> {
    let folder = program.parent()?;
    if folder.file_name()? == "deps" { folder.parent() } else { Some(folder) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkout_is_found_from_any_folder_in_it() {
        let top = tempfile::tempdir().unwrap();
        let top = top.path().canonicalize().unwrap();
        let root = top.join("ein Ordner #1 100%/hushport");
        for mark in MARKS {
            std::fs::create_dir_all(root.join(mark).parent().unwrap()).unwrap();
            std::fs::write(root.join(mark), "").unwrap();
        }
        let link = top.join("link");
        std::os::unix::fs::symlink(&root, &link).unwrap();
        for start in ["", "src", "tests/lab", "tests/lab/Cargo.toml"] {
            assert_eq!(above(&root.join(start)), Some(root.clone()), "{start}");
            assert_eq!(above(&link.join(start)), Some(root.clone()), "{start}");
        }
        assert_eq!(above(&top), None);
        assert_eq!(above(&root.join("absent")), None);
    }

    #[test]
    fn the_target_directory_is_where_the_program_lies() {
        for (program, target) in [
            ("/c/target/lab/lab", "/c/target"),
            ("/c/target/lab/deps/host-0123456789abcdef", "/c/target"),
            ("/t/x86_64-unknown-linux-gnu/lab/lab", "/t"),
            ("/t/x86_64-unknown-linux-gnu/lab/deps/host-0123456789abcdef", "/t"),
        ] {
            assert_eq!(target_around(Path::new(program)), Some(target.into()), "{program}");
        }
    }

    #[test]
    fn checkouts_with_one_target_directory_keep_their_files_apart() {
        let state = |target: &str, root: &str| state_of(Path::new(target), Path::new(root));
        assert_eq!(state("/c/target", "/c"), Path::new("/c/target/lab"));
        let (one, other) = (state("/t", "/a/hushport"), state("/t", "/b/hushport"));
        assert_ne!(one, other);
        assert_eq!(one, state("/t", "/a/hushport"));
        assert!(one.starts_with("/t/lab"));
        // A folder whose name only begins like the checkout's is not in it.
        assert_ne!(state("/c2/target", "/c"), Path::new("/c2/target/lab"));
    }
}
