//! A copy of the checkout to which mutations are applied.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::Mutation;
use crate::setup::{self, clean_command};

/// The copy. It has a target folder of its own, so that the user's builds stay
/// fresh.
#[derive(Debug)]
pub struct Tree {
    root: PathBuf,
    hash: String,
}

impl Tree {
    /// Updates the copy: the files that git tracks, and new files that it does not
    /// ignore, as they are in the checkout now.
    ///
    /// # Errors
    /// If git cannot list the files, or a file cannot be copied.
    pub fn bring_up_to_date() -> Result<Self> {
        let root = setup::state().join("mutate/tree");
        let mut git = clean_command("git");
        git.current_dir(setup::root());
        let listed = setup::run(git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]))?;
        let names: BTreeSet<&str> = listed.split('\0').filter(|name| !name.is_empty()).collect();
        let mut hasher = Sha256::new();
        for name in names.iter().copied().filter(|name| setup::root().join(name).is_file()) {
            let text = std::fs::read(setup::root().join(name)).with_context(|| name.to_owned())?;
            hasher.update(name);
            hasher.update((text.len() as u64).to_le_bytes());
            hasher.update(&text);
            put(&root.join(name), &text)?;
        }
        remove_others(&root, &root, &names)?;
        let hash = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { root, hash })
    }

    /// The root of the copy.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A hash over all files.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Runs `f` with a mutation applied. Afterwards the file is restored in any
    /// case.
    ///
    /// # Errors
    /// Those of `f`, or if the mutation cannot be applied or removed.
    pub fn with<R>(&self, mutation: &Mutation, f: impl FnOnce() -> Result<R>) -> Result<R> {
        let path = self.root.join(&mutation.file);
        let before = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        std::fs::write(&path, mutation.apply(&before)?)?;
        let result = f();
        std::fs::write(&path, before)?;
        result
    }
}

/// Writes a file only if its text differs, because cargo compares modification
/// times.
fn put(path: &Path, text: &[u8]) -> Result<()> {
    if std::fs::read(path).is_ok_and(|there| there == text) {
        return Ok(());
    }
    let folder = path.parent().context("the path has no folder")?;
    std::fs::create_dir_all(folder)?;
    std::fs::write(path, text).with_context(|| path.display().to_string())
}

/// Removes files that are no longer in the checkout.
fn remove_others(root: &Path, folder: &Path, names: &BTreeSet<&str>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.strip_prefix(root)?.to_string_lossy().into_owned();
        if path.is_dir() && name != "target" {
            remove_others(root, &path, names)?;
        } else if !path.is_dir() && !names.contains(&*name) {
            std::fs::remove_file(&path)?;
        }
    }
    Ok(())
}
