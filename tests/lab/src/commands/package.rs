//! `cargo lab package`: builds the test-signed driver package.

use std::path::PathBuf;

use anyhow::Result;
use sha2::{Digest, Sha256};

use crate::package::signing::Certificate;
use crate::package::{FILES, Plan};
use crate::provenance::source;
use crate::setup::{self, Need, Target};

/// What to build.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The time in the package is that of the commit, or SOURCE_DATE_EPOCH if that is set. With one time and one certificate, every build gives the same bytes. \
docs/INSTALL.md describes the installation, docs/BUILD.md how others make the same files.")]
pub struct Arguments {
    /// Write the files to this folder [default: target/lab/package/ARCH]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The processor to build for
    #[arg(long, default_value = "x64", value_parser = target)]
    arch: Target,
    /// The Windows versions that the catalog names, spelled as for Inf2Cat
    #[arg(long, value_name = "STRING")]
    os: Option<String>,
    /// The fourth number of the package's version; a higher number is an update
    #[arg(long, default_value_t = 0, value_name = "N")]
    revision: u16,
    /// Add the driver that measures, and the table of its probes
    #[arg(long)]
    conformance: bool,
}

fn target(name: &str) -> Result<Target, String> {
    Target::ALL
        .into_iter()
        .find(|target| target.name() == name)
        .ok_or_else(|| format!("{name:?}: expected x64 or arm64"))
}

/// Builds the package, checks it and lists its files.
pub fn run(arguments: &Arguments) -> Result<bool> {
    setup::ensure(&[Need::Libclang, Need::OPENSSL, Need::OSSLSIGNCODE])?;
    let out = match &arguments.out {
        Some(out) => out.clone(),
        None => setup::state().join("package").join(arguments.arch.name()),
    };
    let mut plan = Plan::new(arguments.arch, out, source::time()?);
    if let Some(os) = &arguments.os {
        plan.os.clone_from(os);
    }
    plan.revision = arguments.revision;
    plan.conformance = arguments.conformance;
    let package = plan.make(&Certificate::of_checkout()?)?;
    println!("{}", package.folder.display());
    let measuring = ["hushport-conformance.sys", "hushport-conformance.json"];
    for name in FILES.iter().chain(measuring.iter().filter(|_| arguments.conformance)) {
        let contents = std::fs::read(package.folder.join(name))?;
        let digest: String = Sha256::digest(&contents).iter().map(|byte| format!("{byte:02x}")).collect();
        println!("  {name:<26}{:>9} bytes  sha256 {digest}", contents.len());
    }
    println!("Both signatures verify, and the catalog's hashes match the .sys and the .inf.");
    println!("They are test signatures: a machine accepts them in test mode, if it trusts the .cer.");
    Ok(true)
}
