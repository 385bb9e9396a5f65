//! What the lab needs on the machine, and the build of the driver.
//!
//! Everything lands under `target/lab`; the machine itself is changed only by
//! `apt-get install` of the packages in [`packages`], and only as root.

mod driver;
pub mod kit;
pub mod native;
mod packages;
mod single;
mod source;
mod toolchain;

pub use driver::{DRIVERS, Driver, Target, build, lint};
pub use packages::{Need, ensure};
pub use single::compile;
pub use toolchain::Toolchain;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use anyhow::{Context, Result, bail};

/// The top of the checkout.
pub fn root() -> &'static Path {
    static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
        let written = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
        written.canonicalize().unwrap_or_else(|_| written.to_path_buf())
    });
    &ROOT
}

/// Where the lab keeps what it made: `target/lab`.
pub fn state() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    target.join("lab")
}

/// A command without the environment that a surrounding cargo gives its
/// children: another toolchain must not inherit this one's settings.
pub(crate) fn clean_command(program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        let of_cargo = name.starts_with("CARGO")
            && !["CARGO_HOME", "CARGO_NET_OFFLINE"].contains(&&*name)
            && !name.starts_with("CARGO_HTTP_")
            && !name.starts_with("CARGO_REGISTRIES_");
        if of_cargo || name.starts_with("RUSTC") || name == "RUSTFLAGS" || name == "LD_LIBRARY_PATH" {
            command.env_remove(&*name);
        }
    }
    command
}

/// Runs a command to its end and gives its output; an error names the command
/// and carries the end of what it said.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let tail: Vec<_> = said.lines().rev().take(12).collect();
        let tail: Vec<_> = tail.into_iter().rev().collect();
        bail!("{command:?}: {}\n{}", output.status, tail.join("\n"));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
