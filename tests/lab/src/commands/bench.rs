//! `cargo lab bench`: measures what a packet costs.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::bench::figures::Figures;
use crate::bench::time::Effort;
use crate::bench::{beside, report, sandboxed};
use crate::sandbox::inner;

/// How to measure, and where to write the figures.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Make shorter runs, with at most 131,072 flows
    #[arg(long)]
    quick: bool,
    /// Measure only what the sandbox costs
    #[arg(long)]
    sandbox: bool,
    /// Measure only the callouts of another WFP driver, in turn with this one's
    #[arg(long, value_name = "FILE.sys", conflicts_with = "sandbox")]
    beside: Option<PathBuf>,
    /// Write the figures to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Write a page with a plot for each group to this file
    #[arg(long)]
    html: Option<PathBuf>,
    /// Compare with the figures in this file, from an earlier --json
    #[arg(long)]
    compare: Option<PathBuf>,
}

/// Measures and prints the figures.
pub fn run(arguments: &Arguments) -> Result<bool> {
    let (effort, most_flows) = match arguments.quick {
        true => (Effort { runs: 3, length: Duration::from_millis(1) }, 1 << 17),
        false => (Effort { runs: 9, length: Duration::from_millis(5) }, 1 << 20),
    };
    if inner::is_inner() {
        return sandboxed::answer(effort);
    }
    let earlier = match &arguments.compare {
        Some(path) => {
            let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            Some(
                serde_json::from_slice::<Figures>(&text)
                    .with_context(|| format!("{}: expected figures of an earlier --json", path.display()))?,
            )
        }
        None => None,
    };
    let figures = match &arguments.beside {
        Some(sys) => beside::figures(effort, sys)?,
        None if arguments.sandbox => sandboxed::figures(effort)?,
        None => Figures::take(effort, most_flows, |what| eprintln!("lab: {what}"))?,
    };
    print!("{}", report::text(&figures, earlier.as_ref()));
    let write = |path: &PathBuf, text: String| {
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    if let Some(path) = &arguments.json {
        write(path, serde_json::to_string_pretty(&figures)?)?;
    }
    if let Some(path) = &arguments.html {
        write(path, report::html(&figures, earlier.as_ref()))?;
    }
    Ok(true)
}
