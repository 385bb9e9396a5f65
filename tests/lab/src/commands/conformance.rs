//! `cargo lab conformance`: what the filter engine does where documents are open.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::conformance::{Difference, Report, Worlds, compare, play};
use crate::sandbox::{Job, Mode, inner};
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
    /// name the variants that play each difference; may be repeated
    #[arg(long, value_name = "FILE.json")]
    compare: Vec<PathBuf>,
    /// Print the report as JSON, in the form that --compare reads
    #[arg(long, conflicts_with = "compare")]
    json: bool,
    /// Append the differences to this file, as Markdown
    #[arg(long, value_name = "FILE.md", requires = "compare")]
    markdown: Option<PathBuf>,
    /// Use this driver instead of the hushport-conformance.sys of this checkout
    #[arg(long, value_name = "FILE.sys")]
    driver: Option<PathBuf>,
    /// Run such a driver even where this machine lacks walls of the sandbox
    #[arg(long, requires = "driver")]
    without_box: bool,
}

impl Arguments {
    /// What the driver's process gets.
    ///
    /// # Errors
    /// If a file is no report of a complete run, or the driver cannot be built.
    pub fn job(&self) -> Result<Job> {
        // Files are checked before anything is built.
        for path in &self.compare {
            Report::read(path)?;
        }
        let sys = match &self.driver {
            Some(file) => file.clone(),
            None => {
                setup::ensure(&[Need::Libclang])?;
                setup::build_conformance(Target::X64)?.sys.clone()
            }
        };
        Ok(Job {
            is_foreign: self.driver.is_some(),
            without_box: self.without_box,
            inputs: self.compare.clone(),
            outputs: self.markdown.iter().map(|path| (path.clone(), Mode::Append)).collect(),
            ..Job::of(sys)
        })
    }
}

/// Reports, or compares. A difference is no failure: it is what the command is for.
///
/// # Errors
/// If a file is no report of a complete run.
pub fn run(arguments: &Arguments) -> Result<bool> {
    let compared = arguments.compare.iter().map(|path| Ok((path, Report::read(path)?)));
    let compared = compared.collect::<Result<Vec<_>>>()?;
    let sys = inner::driver().context("this is not the driver's process")?;
    if !compared.is_empty() {
        let worlds = Worlds::play(sys)?;
        let mut file = arguments.markdown.as_deref().map(inner::create).transpose()?;
        for (path, report) in &compared {
            let differences = compare(report, &worlds);
            println!("{}:", path.display());
            differences.iter().for_each(|difference| println!("{difference}"));
            println!("{}", summary(report, &differences));
            if let Some(file) = &mut file {
                file.write_all(markdown(path, report, &differences).as_bytes())?;
            }
        }
        return Ok(true);
    }
    let mut plan = Plan::default();
    arguments.variant.iter().for_each(|variant| variant.turn(&mut plan));
    let report = play(sys, &plan)?;
    match arguments.json {
        true => println!("{}", serde_json::to_string_pretty(&report)?),
        false => print!("{report}"),
    }
    Ok(true)
}

fn summary(report: &Report, differences: &[Difference]) -> String {
    let unplayed = differences.iter().filter(|difference| difference.variants.is_empty()).count();
    let unsent: Vec<_> = report.unsent().collect();
    let unsent = match unsent.is_empty() {
        true => String::new(),
        false => format!("; not sent: {}", unsent.join(", ")),
    };
    match differences.len() {
        0 => format!("no answer differs from the lab's default world{unsent}"),
        count => format!(
            "{count} answers differ from the lab's default world; {unplayed} of them are in no variant{unsent}"
        ),
    }
}

fn markdown(path: &Path, report: &Report, differences: &[Difference]) -> String {
    let mut text = format!("\n## Conformance: {}\n\n{}.\n", path.display(), summary(report, differences));
    if !differences.is_empty() {
        text += "\n| question | lab | report | played by |\n|---|---|---|---|\n";
    }
    for Difference { question, lab, other, variants } in differences {
        let answer = |answer: &Option<String>| match answer {
            Some(answer) => format!("`{}`", answer.replace('|', "\\|")),
            None => "no answer".to_owned(),
        };
        let played = if variants.is_empty() { "no variant".to_owned() } else { variants.join(", ") };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "| `{question}` | {} | {} | {played} |", answer(lab), answer(other));
    }
    text
}
