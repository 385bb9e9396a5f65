//! `cargo lab wdk`: builds the driver as on Windows, and tests that build.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use super::as_root;
use crate::setup::kit::{self, Kit};
use crate::setup::{self, Need, Target};

/// The WDK to use, and what to build.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Content root of a WDK, with the folders Include/VERSION/km and shared
    /// [default: the value of WDKContentRoot]
    #[arg(long, value_name = "DIR")]
    content_root: Option<PathBuf>,
    /// Version of the headers, such as 10.0.22621.0 [default: the newest]
    #[arg(long)]
    version: Option<String>,
    /// x64 or arm64 [default: both]
    #[arg(long, value_parser = target)]
    target: Option<Target>,
    /// Build without testing
    #[arg(long)]
    no_test: bool,
}

/// The tests that accept another driver.
const TESTS: [&str; 5] = ["declarations", "imports", "driver", "faults", "matrix"];

/// Builds and tests. Returns whether every test passed.
pub fn run(arguments: &Arguments) -> Result<bool> {
    let named = arguments.content_root.clone();
    let Some(content_root) = named.or_else(|| std::env::var_os("WDKContentRoot").map(PathBuf::from)) else {
        bail!(
            "the headers of a WDK are missing: expected --content-root DIR, where DIR/Include/VERSION has km and shared \
             (`Windows Kits/10`, or the folders c of NuGet's Microsoft.Windows.WDK.x64 and \
             Microsoft.Windows.SDK.CPP, merged)"
        );
    };
    let kit = Kit::find(&content_root, arguments.version.as_deref())?;
    setup::ensure(&[Need::Libclang, Need::NMAP, Need::IP])?;
    let targets = arguments.target.map_or(Target::ALL.to_vec(), |target| vec![target]);
    for target in &targets {
        println!("== build the driver for {} with the WDK {}", target.triple(), kit.version);
        let driver = kit.build(*target)?;
        let size = std::fs::metadata(&driver.sys)?.len();
        println!("{}: {size} bytes", driver.sys.display());
        println!("== clippy over it");
        kit.lint(*target)?;
    }
    if arguments.no_test {
        return Ok(true);
    }
    // As root only after the set-up, which may have to download.
    as_root()?;
    test(&targets)
}

fn test(targets: &[Target]) -> Result<bool> {
    let mut cargo = setup::workspace_cargo("test");
    cargo.args(["--package", "hushport-lab"]);
    for test in TESTS {
        cargo.args(["--test", test]);
    }
    // Tests for one processor have its name in theirs.
    match targets {
        [Target::X64] => cargo.args(["--", "--skip", "arm64"]),
        [Target::Arm64] => cargo.args(["--", "arm64"]),
        _ => &mut cargo,
    };
    println!("== cargo test with it: {}", TESTS.join(", "));
    let status = cargo.env(setup::DRIVERS, kit::place()).status();
    Ok(status.context("cannot start cargo")?.success())
}

fn target(name: &str) -> Result<Target, String> {
    let named = Target::ALL.into_iter().find(|target| [target.name(), target.triple()].contains(&name));
    named.ok_or_else(|| format!("{name:?}: expected one of {}", Target::ALL.map(Target::name).join(", ")))
}
