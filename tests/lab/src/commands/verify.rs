//! `cargo lab verify`: compares a driver or a package with one's own build.

use std::path::PathBuf;

use anyhow::Result;

use crate::provenance::source;
use crate::provenance::verify::{self, Finding};
use crate::setup::{self, Need};

/// What to compare.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The signature, the certificate table and the checksum of a .sys are set aside, everything else is compared byte by byte. \
Whether a signature is valid is not checked. The exit status is 0 only if all is the same. docs/BUILD.md says more.")]
pub struct Arguments {
    /// A hushport.sys, or the folder of a package
    #[arg(value_name = "FILE.sys|FOLDER")]
    given: PathBuf,
    /// The fourth number of the package's version
    #[arg(long, default_value_t = 0, value_name = "N")]
    revision: u16,
}

/// Builds, compares and prints. Returns whether all is the same.
pub fn run(arguments: &Arguments) -> Result<bool> {
    setup::ensure(&[Need::Libclang])?;
    let report = verify::verify(&arguments.given, arguments.revision, source::time()?)?;
    for (name, finding) in &report.files {
        match finding {
            Finding::Same(remark) if remark.is_empty() => println!("{name}: the same"),
            Finding::Same(remark) => println!("{name}: the same ({remark})"),
            Finding::Aside(remark) => println!("{name}: not compared ({remark})"),
            Finding::Different(lines) => {
                println!("{name}: DIFFERENT");
                lines.iter().for_each(|line| println!("  {line}"));
            }
        }
    }
    report.explanation.iter().for_each(|line| println!("{line}"));
    println!("{}", if report.is_same() { "the same" } else { "not the same" });
    Ok(report.is_same())
}
