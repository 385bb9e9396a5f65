//! The command line of `cargo lab`.

mod bench;
mod conformance;
mod coverage;
mod demo;
mod divert;
mod driver;
mod explain;
mod faults;
mod fuzz;
mod mutate;
mod order;
mod package;
mod pester;
mod reg;
mod run;
mod sanitize;
mod scan;
mod test;
mod trace;
mod up;
mod verify;
mod vm;
mod wdk;

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::Result;
use clap::{CommandFactory, Parser};

use crate::sandbox::inner::{self, Began};
use crate::sandbox::{self, Job, Nothing, Wish};
use crate::variants::{self, Variant};

/// Runs hushport.sys on Linux, between real scanners and a TCP host.
#[derive(Debug, Parser)]
#[command(name = "cargo lab", version)]
enum Lab {
    /// Measure what a packet costs
    Bench(bench::Arguments),
    /// Measure what the filter engine does where Microsoft's documents are open
    Conformance(conformance::Arguments),
    /// Scan a host without and with the driver, and print the layers of each
    /// connection beside the documented order
    Demo(demo::Arguments),
    /// Open a handle of WinDivert: print packets, send them back, drop some
    Divert(divert::Arguments),
    /// Say who decides on a machine, from what `netsh wfp show state` wrote there
    Explain(explain::Arguments),
    /// Make every allocation and every kernel call of the driver fail in turn
    Faults(faults::Arguments),
    /// Run every test and lint
    Test(test::Arguments),
    /// Scan with every nmap technique and compare the results with what is expected
    Scan(scan::Arguments),
    /// Read and change the driver's registry values while `up` runs
    Reg(reg::Arguments),
    /// Run any WFP driver: load it, put it under traffic, check it, unload it
    Run(run::Arguments),
    /// Fuzz the driver's source, built natively with AddressSanitizer
    Fuzz(fuzz::Arguments),
    /// Run the native tests with AddressSanitizer and with ThreadSanitizer
    Sanitize(sanitize::Arguments),
    /// Measure which lines of the driver its native tests run
    Coverage,
    /// Change the driver, one change at a time, and check that a test notices
    Mutate(mutate::Arguments),
    /// Change the documented flows, one step at a time, and print what `CheckOrder`
    /// tells
    Order(order::Arguments),
    /// Build the driver package: .sys, .inf, .cat, .pdb and a test certificate
    Package(package::Arguments),
    /// Play a capture through the driver; print text, JSON lines or a page
    Trace(trace::Arguments),
    /// Keep the host running until interrupted, for tools of your own
    Up(up::Arguments),
    /// Compare a driver or a package from elsewhere with one's own build of this source
    Verify(verify::Arguments),
    /// Install Windows in a virtual machine, test the driver there, and print a verdict
    Vm(Box<vm::Arguments>),
    /// Build the driver against the headers of a WDK, as on Windows, and test it
    Wdk(wdk::Arguments),
}

/// Runs the command that the arguments name.
pub fn run() -> ExitCode {
    let began = match inner::begin() {
        Ok(Began::Between(code)) => return code,
        Ok(began) => began,
        Err(error) => {
            eprintln!("lab: the sandbox: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let lab = Lab::parse();
    let well = match began {
        Began::Outer => crate::setup::checkout().and_then(|_| command(&lab)),
        _ => command(&lab),
    };
    let well = well.unwrap_or_else(|error| {
        eprintln!("lab: {error:#}");
        false
    });
    match (began, well) {
        (Began::Inner, _) => inner::finish(well),
        (_, true) => ExitCode::SUCCESS,
        (_, false) => ExitCode::FAILURE,
    }
}

/// Runs a command. Returns whether all was well.
fn command(lab: &Lab) -> Result<bool> {
    match lab {
        Lab::Bench(arguments) => bench::run(arguments),
        Lab::Conformance(arguments) => apart(|| arguments.job(), || Nothing, || conformance::run(arguments)),
        Lab::Demo(arguments) => demo::run(arguments),
        Lab::Divert(arguments) => divert::run(arguments),
        Lab::Explain(arguments) => explain::run(arguments),
        Lab::Faults(arguments) => apart(|| arguments.job(), || Nothing, || faults::run(arguments)),
        Lab::Test(arguments) => test::run(arguments),
        Lab::Scan(arguments) => scan::run(arguments),
        Lab::Reg(arguments) => reg::run(arguments),
        Lab::Run(arguments) => run::run(arguments),
        Lab::Fuzz(arguments) => fuzz::run(arguments),
        Lab::Sanitize(arguments) => sanitize::run(arguments),
        Lab::Coverage => coverage::run(),
        Lab::Mutate(arguments) => mutate::run(arguments),
        Lab::Order(arguments) => apart(|| arguments.job(), || Nothing, || order::run(arguments)),
        Lab::Package(arguments) => package::run(arguments),
        Lab::Trace(arguments) => apart(|| arguments.job(), || arguments.wish(), || trace::run(arguments)),
        Lab::Up(arguments) if inner::is_inner() => up::run(arguments),
        Lab::Up(arguments) => up::start(arguments),
        Lab::Verify(arguments) => verify::run(arguments),
        Lab::Vm(arguments) => vm::run(arguments),
        Lab::Wdk(arguments) => wdk::run(arguments),
    }
}

/// Runs a command that runs a driver: the outer process makes the driver's process,
/// and that one runs the command.
fn apart<W: Wish>(
    job: impl FnOnce() -> Result<Job>,
    wish: impl FnOnce() -> W,
    command: impl FnOnce() -> Result<bool>,
) -> Result<bool> {
    if inner::is_inner() { command() } else { sandbox::run(job()?, &mut wish()) }
}

/// Whether these words after `cargo lab` are a valid command line; the error says
/// why not.
pub fn accepts(words: &[&str]) -> Result<(), clap::Error> {
    Lab::try_parse_from(["cargo lab"].iter().chain(words)).map(drop)
}

/// The names of the commands.
pub fn names() -> Vec<String> {
    Lab::command().get_subcommands().map(|command| command.get_name().to_owned()).collect()
}

/// Continues as root. If this process is not root, it is replaced by the same
/// command in a user namespace that maps root. There, network namespaces and TUN
/// devices can be created.
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

/// Parses the name of a variant, for the command line.
fn variant(name: &str) -> Result<&'static Variant, String> {
    Variant::named(name).ok_or_else(|| {
        let names: Vec<_> = variants::ALL.iter().map(|variant| variant.name).collect();
        format!("{name:?}: expected one of {}", names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Two arguments with one id would share their values: clap notices that only
    /// where it is built with debug assertions.
    #[test]
    fn arguments_of_a_command_have_ids_of_their_own() {
        for command in Lab::command().get_subcommands() {
            let mut ids = BTreeSet::new();
            for argument in command.get_arguments() {
                assert!(ids.insert(argument.get_id()), "{}: {}", command.get_name(), argument.get_id());
            }
        }
    }
}
