//! `cargo lab …`.

mod coverage;
mod demo;
mod fuzz;
mod test;
mod up;

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::Result;
use clap::Parser;

/// Runs hushport.sys on Linux, between real scanners and a TCP host.
#[derive(Debug, Parser)]
#[command(name = "cargo lab", version)]
enum Lab {
    /// Scan a host without and with the driver, show the layers that its
    /// connections pass beside the documented order
    Demo,
    /// Run every test and lint
    Test(test::Arguments),
    /// Fuzz the driver's source, built natively with AddressSanitizer
    Fuzz(fuzz::Arguments),
    /// Count the driver's lines that its native tests run
    Coverage,
    /// Keep the host running until interrupted, for tools of your own
    Up(up::Arguments),
}

/// Runs the command that the arguments ask for.
pub fn run() -> ExitCode {
    let lab = Lab::parse();
    let outcome = match &lab {
        Lab::Demo => demo::run(),
        Lab::Test(arguments) => test::run(arguments),
        Lab::Fuzz(arguments) => fuzz::run(arguments),
        Lab::Coverage => coverage::run(),
        Lab::Up(arguments) => up::run(arguments),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Goes on as root: where this process is not, it is replaced by the same
/// command in a user namespace that maps root, in which network namespaces and
/// TUN devices can be made.
fn as_root() -> Result<()> {
    const ONCE: &str = "HUSHPORT_LAB_UNSHARED";
    if nix::unistd::geteuid().is_root() || std::env::var_os(ONCE).is_some() {
        return Ok(());
    }
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--"]).arg(std::env::current_exe()?);
    let error = command.args(std::env::args_os().skip(1)).env(ONCE, "1").exec();
    anyhow::bail!("cannot make a user namespace (unshare, util-linux): {error}; run as root instead")
}
