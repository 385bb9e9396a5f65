//! `cargo lab conformance`: what the filter engine does where documents are open.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::conformance::{Report, Worlds, compare, play};
use crate::setup::{self, Need, Target};
use crate::variants::Variant;
use crate::world::Plan;

/// What to report [default: the lab's default world].
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Report on a world with these variants; may be repeated
    #[arg(long, value_name = "NAME", value_parser = super::variant, conflicts_with = "compare")]
    variant: Vec<&'static Variant>,
    /// Compare this report, from a run on Windows, with the lab's default world, and
    /// name the variant that plays each difference
    #[arg(long, value_name = "FILE.json")]
    compare: Option<PathBuf>,
    /// Print the report as JSON, in the form that --compare reads
    #[arg(long, conflicts_with = "compare")]
    json: bool,
    /// Use this driver instead of the hushport-conformance.sys of this checkout
    #[arg(long, value_name = "FILE.sys")]
    driver: Option<PathBuf>,
}

/// Reports, or compares. Returns whether a compared report agrees with the lab.
pub fn run(arguments: &Arguments) -> Result<bool> {
    // A bad file is told before anything is built.
    let compared = arguments.compare.as_deref().map(Report::read).transpose()?;
    let sys = match &arguments.driver {
        Some(file) => file,
        None => {
            setup::ensure(&[Need::Libclang])?;
            &setup::build_conformance(Target::X64)?.sys
        }
    };
    match compared {
        Some(report) => differences(&report, sys),
        None => {
            let mut plan = Plan::default();
            arguments.variant.iter().for_each(|variant| variant.turn(&mut plan));
            let report = play(sys, &mut plan)?;
            match arguments.json {
                true => println!("{}", serde_json::to_string_pretty(&report)?),
                false => print!("{report}"),
            }
            Ok(true)
        }
    }
}

fn differences(report: &Report, sys: &Path) -> Result<bool> {
    let worlds = Worlds::play(sys)?;
    let differences = compare(report, &worlds);
    for difference in &differences {
        println!("{difference}");
    }
    let unplayed = differences.iter().filter(|difference| difference.variants.is_empty()).count();
    match differences.len() {
        0 => println!("the report agrees with the lab's default world"),
        count => println!("{count} answers differ from the lab's default world, {unplayed} of them in no variant"),
    }
    Ok(differences.is_empty())
}
