//! Where the checkout lies and where the lab keeps its files.
//!
//! Both are found when the program runs. A path that is compiled into a program
//! is wrong as soon as the checkout is moved.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use anyhow::{Context, Result};

/// Files that only the top of a checkout has.
const MARKS: [&str; 3] = ["rust-toolchain.toml", "src/lib.rs", "tests/lab/Cargo.toml"];

/// The top of the checkout, without symbolic links.
///
/// # Panics
/// If there is none, see [`checkout`].
pub fn root() -> &'static Path {
    checkout().unwrap_or_else(|error| panic!("{error}"))
}

/// The top of the checkout: the one that cargo runs this program from, else the
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

/// The checkout that a path lies in.
fn above(path: &Path) -> Option<PathBuf> {
    let path = path.canonicalize().ok()?;
    let is_top = |folder: &&Path| MARKS.iter().all(|mark| folder.join(mark).is_file());
    path.ancestors().find(is_top).map(Path::to_path_buf)
}

/// Where the lab keeps what it makes: `target/lab`.
pub fn state() -> PathBuf {
    state_of(&target_directory(), root())
}

/// Where a checkout's lab keeps what it makes: `lab` in cargo's target directory. A target directory outside the checkout may
/// serve several checkouts: each has a folder of its own in it.
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

/// Cargo's target directory. An environment variable, an option or any of cargo's
/// configuration files may have set it; only where this program lies is certain.
pub fn target_directory() -> PathBuf {
    let program = std::env::current_exe().and_then(|program| program.canonicalize());
    let found = program.ok().and_then(|program| target_around(&program));
    found.unwrap_or_else(|| root().join("target"))
}

/// Cargo puts programs in `TARGET/PROFILE` or `TARGET/TRIPLE/PROFILE`, and those
/// of tests in a folder `deps` there.
fn target_around(program: &Path) -> Option<PathBuf> {
    let target = profile_around(program)?.parent()?;
    let name = target.file_name()?.to_str()?;
    let is_triple = name.starts_with(std::env::consts::ARCH) && name.split('-').count() > 2;
    let target = if is_triple { target.parent()? } else { target };
    Some(target.to_path_buf())
}

/// Cargo's folder of this program's profile, where the built programs lie.
pub fn profile_directory() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    profile_around(&program).map(Path::to_path_buf).context("a program lies in a folder")
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
        // A folder whose name begins like the checkout's is not in it.
        assert_ne!(state("/c2/target", "/c"), Path::new("/c2/target/lab"));
    }
}
