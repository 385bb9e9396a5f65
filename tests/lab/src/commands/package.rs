//! `cargo lab package`: the files that a person installs, test-signed.

use std::path::PathBuf;

use anyhow::Result;
use sha2::{Digest, Sha256};

use crate::package::Plan;
use crate::package::signing::Certificate;
use crate::setup::{self, Need, Target};

/// What to make.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
SOURCE_DATE_EPOCH, where it is set, is the time that is written; one time and one certificate give one package. \
docs/INSTALL.md says what to do with it.")]
pub struct Arguments {
    /// Where the files go [default: target/lab/package/ARCH]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// For which processor
    #[arg(long, default_value = "x64", value_parser = target)]
    arch: Target,
    /// The systems that the catalog names, as Inf2Cat spells them
    #[arg(long, value_name = "STRING")]
    os: Option<String>,
    /// The fourth number of the package's version: a higher one is an update
    #[arg(long, default_value_t = 0, value_name = "N")]
    revision: u16,
}

fn target(name: &str) -> Result<Target, String> {
    Target::ALL.into_iter().find(|target| target.name() == name).ok_or("x64 or arm64 is wanted".to_owned())
}

/// Makes it, checks it, lists it.
pub fn run(arguments: &Arguments) -> Result<bool> {
    setup::ensure(&[Need::Libclang, Need::OPENSSL, Need::OSSLSIGNCODE])?;
    let out = match &arguments.out {
        Some(out) => out.clone(),
        None => setup::state().join("package").join(arguments.arch.name()),
    };
    let mut plan = Plan::new(arguments.arch, out)?;
    if let Some(os) = &arguments.os {
        plan.os.clone_from(os);
    }
    plan.revision = arguments.revision;
    let package = plan.make(&Certificate::of_checkout()?)?;
    println!("{}", package.folder.display());
    for name in ["hushport.sys", "hushport.inf", "hushport.cat", "hushport.pdb", "hushport-test.cer"] {
        let contents = std::fs::read(package.folder.join(name))?;
        let digest: String = Sha256::digest(&contents).iter().map(|byte| format!("{byte:02x}")).collect();
        println!("  {name:<18}{:>9} bytes  sha256 {digest}", contents.len());
    }
    println!("Both signatures verify, and the catalog lists the .sys and the .inf as they are.");
    println!("They are test signatures: a machine takes them that is in test mode and trusts the .cer.");
    Ok(true)
}
