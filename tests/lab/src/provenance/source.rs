//! The source of a build: its commit, and a digest of the files that shape the driver.

use anyhow::{Context, Result};

use super::sha256_of_all;
use crate::setup;

/// Files and folders of the checkout that shape the driver or its INF. The lock file is an
/// input of its own.
const SHAPING: [&str; 5] = ["Cargo.toml", "build.rs", "inf", "rust-toolchain.toml", "src"];

/// The source of a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The commit that is checked out, if there is one.
    pub commit: Option<String>,
    /// Whether files differ from the commit.
    pub is_modified: bool,
    /// SHA-256 over all files that shape the driver.
    pub sha256: String,
}

impl Source {
    /// The source in this checkout.
    pub fn of_checkout() -> Result<Self> {
        let commit = git(&["rev-parse", "HEAD"]);
        let status = git(&["status", "--porcelain", "--untracked-files=no"]);
        let sha256 = sha256_of_all(setup::root(), &SHAPING)?;
        Ok(Self { commit, is_modified: status.is_some_and(|status| !status.is_empty()), sha256 })
    }
}

/// The time of a build, in seconds since 1970: `SOURCE_DATE_EPOCH`
/// (reproducible-builds.org), else the time of the commit.
///
/// # Errors
/// If the variable has no number, or there is neither a variable nor a commit.
pub fn time() -> Result<u64> {
    if let Ok(text) = std::env::var("SOURCE_DATE_EPOCH") {
        return text
            .parse()
            .with_context(|| format!("SOURCE_DATE_EPOCH={text}: expected seconds since 1970"));
    }
    let time = git(&["log", "-1", "--format=%ct"]).and_then(|time| time.parse().ok());
    time.context("the checkout has no commit whose time counts: set SOURCE_DATE_EPOCH to seconds since 1970")
}

/// What git prints in the checkout; none if git or the commit is missing. The checkout may
/// belong to another user.
fn git(arguments: &[&str]) -> Option<String> {
    let mut git = setup::clean_command("git");
    // A repository around the checkout, of somebody else, does not count.
    if !setup::root().join(".git").exists() {
        return None;
    }
    git.current_dir(setup::root()).args(["-c", "safe.directory=*"]).args(arguments);
    for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
        git.env_remove(name);
    }
    Some(setup::run(&mut git).ok()?.trim().to_owned())
}
