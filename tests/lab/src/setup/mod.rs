//! Installs what the lab needs, and builds the driver.
//!
//! All files are under `target/lab`. The machine itself is changed only by `apt-get
//! install` of the packages in `packages`, and only as root.

mod checkout;
mod driver;
mod index;
pub mod kit;
pub mod native;
mod packages;
pub mod profile;
mod single;
mod source;
mod toolchain;
mod wrapper;

pub use checkout::{checkout, profile_directory, root, state, state_of, target_directory};
pub use driver::{
    Crate, DRIVERS, Driver, Lock, Target, build, build_conformance, exclusive, lint, toolchain,
};
pub use index::windivert;
pub use packages::{DEBIAN_PYTHON, Need, ensure, is_present};
pub use single::{compile, compile_c};
pub use toolchain::{Toolchain, sysroot_of};

use std::process::Command;

use anyhow::{Context, Result, bail};

/// The cargo that runs this program, for this checkout's workspace. It has the
/// options of the alias `lab`, so nothing is built again.
///
/// The user's environment is kept, because the alias was built with it.
pub fn workspace_cargo(verb: &str) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // It builds for this machine, whatever CARGO_BUILD_TARGET or a configuration
    // file says.
    cargo.args([verb, "--locked", "--profile", "lab", "--target", "host-tuple"]).current_dir(root());
    cargo
}

/// A command without the environment that cargo gives its children. Another
/// toolchain must not inherit these settings.
pub(crate) fn clean_command(program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        let of_cargo = name.starts_with("CARGO")
            && !["CARGO_HOME", "CARGO_NET_OFFLINE"].contains(&&*name)
            && !name.starts_with("CARGO_HTTP_")
            && !name.starts_with("CARGO_REGISTRIES_");
        let of_rustc = name.starts_with("RUSTC") || name == "RUSTFLAGS" || name == "RUSTDOCFLAGS";
        if of_cargo || of_rustc || name == "LD_LIBRARY_PATH" {
            command.env_remove(&*name);
        }
    }
    // Empty means none, whatever cargo's configuration files say.
    command.env("RUSTC_WRAPPER", "");
    command
}

/// Runs a command to its end and returns its output. An error names the command and
/// shows the end of its errors.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let tail: Vec<_> = stderr.lines().rev().take(12).collect();
        let tail: Vec<_> = tail.into_iter().rev().collect();
        bail!("{command:?}: {}\n{}", output.status, tail.join("\n"));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
