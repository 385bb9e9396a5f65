//! Reads hand-written mutations, and those that are left out with a reason.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Mutation;
use crate::setup;

/// The folder of the data files, relative to the checkout.
pub const FOLDER: &str = "tests/lab/mutations";

/// `written.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    mutation: Vec<Entry>,
}

/// A text and its replacement. The text occurs once in the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    file: String,
    from: String,
    to: String,
}

/// `left-out.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeftOut {
    /// Files that are not compiled into what the suites run.
    #[serde(default)]
    skipped: Vec<Skipped>,
    /// Mutations without an observable effect.
    #[serde(default)]
    equivalent: Vec<Equivalent>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Skipped {
    file: String,
    reason: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Equivalent {
    file: String,
    /// The mutation's name without its position.
    change: String,
    /// The source line where it begins.
    line: String,
    reason: String,
}

/// Reads every written mutation.
///
/// # Errors
/// If one does not apply exactly once; the error names it.
pub fn list() -> Result<Vec<Mutation>> {
    let File { mutation } = read("written.toml")?;
    mutation.into_iter().map(mutation_of).collect()
}

fn mutation_of(Entry { name, file, from, to }: Entry) -> Result<Mutation> {
    let path = setup::root().join(&file);
    let source = std::fs::read_to_string(&path).with_context(|| format!("{name:?}: cannot read {file}"))?;
    let (from, to) = (from.trim_matches('\n'), to.trim_matches('\n'));
    ensure!(from != to, "{name:?} changes nothing");
    let found: Vec<_> = source.match_indices(from).map(|(at, _)| at).collect();
    ensure!(
        found.len() == 1,
        "{name:?} must apply exactly once, but {file} has its text {} times:\n{from}",
        found.len()
    );
    let range = found[0]..found[0] + from.len();
    Ok(Mutation { name: format!("{file}: {name}"), file, range, text: to.to_owned(), written: true })
}

impl LeftOut {
    /// Reads the data file.
    ///
    /// # Errors
    /// If it cannot be read, or an entry has no reason.
    pub fn read() -> Result<Self> {
        let left_out: Self = read("left-out.toml")?;
        let reasons = left_out.skipped.iter().map(|one| (&one.file, &one.reason));
        let reasons = reasons.chain(left_out.equivalent.iter().map(|one| (&one.change, &one.reason)));
        for (what, reason) in reasons {
            ensure!(reason.len() > 10, "left-out.toml: {what}: a reason is required");
        }
        Ok(left_out)
    }

    /// Removes the mutations that are left out.
    ///
    /// # Errors
    /// If an entry matches no mutation, because then the code has changed and the
    /// entry must be reviewed.
    pub fn remove_from(&self, mutations: Vec<Mutation>) -> Result<Vec<Mutation>> {
        let mut used = vec![false; self.equivalent.len()];
        let mut kept = Vec::new();
        for mutation in mutations {
            if self.skipped.iter().any(|skipped| skipped.file == mutation.file) {
                continue;
            }
            let path = setup::root().join(&mutation.file);
            let source = std::fs::read_to_string(&path)?;
            let line = mutation.line(&source);
            let matches = |one: &Equivalent| {
                (&*one.file, &*one.change, &*one.line) == (&*mutation.file, mutation.change(), line)
            };
            match self.equivalent.iter().position(matches) {
                Some(entry) => used[entry] = true,
                None => kept.push(mutation),
            }
        }
        if let Some(entry) = used.iter().position(|used| !used) {
            let Equivalent { file, change, line, .. } = &self.equivalent[entry];
            anyhow::bail!("left-out.toml: {file} has no mutation {change:?} at {line:?} any more");
        }
        Ok(kept)
    }
}

fn read<T: DeserializeOwned>(name: &str) -> Result<T> {
    let path: PathBuf = setup::root().join(FOLDER).join(name);
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    toml::from_str(&text).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_written_mutation_applies_exactly_once() {
        let written = list().unwrap();
        assert!(written.len() >= 40, "{}", written.len());
        let mut names: Vec<_> = written.iter().map(|mutation| &mutation.name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), written.len(), "two mutations have one name");
        assert!(written.iter().all(|mutation| mutation.file.starts_with("src/")));
    }

    #[test]
    fn every_skipped_file_exists() {
        for Skipped { file, .. } in LeftOut::read().unwrap().skipped {
            assert!(setup::root().join(&file).is_file(), "{file}");
        }
    }

    #[test]
    fn a_text_that_does_not_occur_exactly_once_is_an_error() {
        let entry = |from: &str| Entry {
            name: "a change".into(),
            file: "src/lib.rs".into(),
            from: from.into(),
            to: "nothing".into(),
        };
        for from in ["mod ", "what no file says"] {
            let error = mutation_of(entry(from)).unwrap_err().to_string();
            assert!(error.contains("a change") && error.contains("src/lib.rs"), "{error}");
        }
    }
}
