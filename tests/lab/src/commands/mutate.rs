//! `cargo lab mutate`: changes the driver and checks that a test notices.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use machine::schedule::Random;
use serde::{Deserialize, Serialize};

use super::as_root;
use crate::mutate::record::{Entry, Record, Report};
use crate::mutate::suites::{self, Outcome, Runner, Suite, Times};
use crate::mutate::tree::Tree;
use crate::mutate::watched::INTERRUPTED;
use crate::mutate::written::LeftOut;
use crate::mutate::{Mutation, listed, written};
use crate::setup::{self, Need};

/// Which changes to try.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Try this number of mutations that compile, chosen by the seed [default: all]
    #[arg(long, value_name = "N")]
    sample: Option<usize>,
    /// Seed of the sample and of the order
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only mutations in this file or folder of src
    #[arg(long, value_name = "PATH", default_value = "src", value_parser = in_src)]
    only: String,
    /// Only mutations of the written list
    #[arg(long)]
    written: bool,
    /// Only mutations whose name contains this text
    #[arg(long, value_name = "TEXT")]
    named: Option<String>,
    /// Only these suites: unit, driver, native, ... [default: all]
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = suites::named)]
    suites: Vec<Suite>,
    /// Print the mutations without trying them
    #[arg(long)]
    list: bool,
    /// Continue the last run, which was interrupted; its results are kept
    #[arg(long, conflicts_with = "list")]
    resume: bool,
    /// Seconds that a suite may take beyond three times its duration without
    /// changes; after that it counts as hanging
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    limit: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn in_src(path: &str) -> Result<String, String> {
    let path = path.trim_start_matches("./").trim_end_matches('/');
    match Path::new(path).starts_with("src") && setup::root().join(path).exists() {
        true => Ok(path.to_owned()),
        false => Err(format!("{path}: expected a file or folder of the driver's source, such as src/logic")),
    }
}

/// Tries the mutations. Returns whether a test noticed each of them.
pub fn run(arguments: &Arguments) -> Result<bool> {
    let mutations = chosen(arguments)?;
    ensure!(!mutations.is_empty(), "no mutation matches the arguments; --list prints all");
    if arguments.list {
        return list(arguments, &mutations).map(|()| true);
    }
    setup::ensure(&[Need::Libclang, Need::NMAP, Need::IP, Need::CURL, Need::CHROMIUM])?;
    setup::ensure(&[Need::OPENSSL, Need::OSSLSIGNCODE, Need::PYTHON, Need::VALGRIND])?;
    as_root()?;
    ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::SeqCst)).context("cannot wait for Ctrl-C")?;
    let tree = Tree::bring_up_to_date()?;
    let patience = Duration::from_secs(arguments.limit);
    let runner = Runner::new(tree.root(), &arguments.suites, known_times(&tree), patience)?;
    keep_times(&tree, runner.times())?;
    let path = setup::state().join("mutate/record.jsonl");
    let record = match arguments.resume {
        true => Record::resume(&path, tree.hash())?,
        false => Record::begin(&path, tree.hash())?,
    };
    let report = change_all(arguments, &mutations, &tree, &runner, record)?;
    match arguments.json {
        true => println!("{}", serde_json::to_string_pretty(&report)?),
        false => println!("{report}"),
    }
    if INTERRUPTED.load(Ordering::SeqCst) {
        bail!("interrupted; add --resume to the command to continue");
    }
    Ok(report.survived == 0)
}

/// The mutations that the arguments select, in the order in which they are tried.
fn chosen(arguments: &Arguments) -> Result<Vec<Mutation>> {
    let mut mutations =
        if arguments.written { Vec::new() } else { LeftOut::read()?.remove_from(listed::list()?)? };
    mutations.extend(written::list()?);
    mutations.retain(|mutation| Path::new(&mutation.file).starts_with(&arguments.only));
    if let Some(text) = &arguments.named {
        mutations.retain(|mutation| mutation.name.contains(text));
    }
    if arguments.sample.is_some() {
        // Fisher-Yates shuffle.
        let mut random = Random::new(arguments.seed);
        for last in (1..mutations.len()).rev() {
            mutations.swap(last, random.below(last + 1));
        }
    }
    Ok(mutations)
}

fn list(arguments: &Arguments, mutations: &[Mutation]) -> Result<()> {
    let most = arguments.sample.unwrap_or(usize::MAX);
    let mut listed = Vec::new();
    for mutation in mutations.iter().take(most) {
        let source = std::fs::read_to_string(setup::root().join(&mutation.file))?;
        listed.push(serde_json::json!({ "name": mutation.name, "diff": mutation.diff(&source)? }));
    }
    match arguments.json {
        true => println!("{}", serde_json::to_string_pretty(&listed)?),
        false => mutations.iter().take(most).for_each(|mutation| println!("{}", mutation.name)),
    }
    Ok(())
}

/// The durations of the last measurement, and the state of the checkout that was
/// measured.
#[derive(Debug, Serialize, Deserialize)]
struct Measured {
    tree: String,
    times: Times,
}

/// The durations of the suites without changes, if they were measured for this
/// state of the checkout.
fn known_times(tree: &Tree) -> Times {
    let known = std::fs::read(times_file()).ok();
    let known = known.and_then(|text| serde_json::from_slice::<Measured>(&text).ok());
    known.filter(|known| known.tree == tree.hash()).map(|known| known.times).unwrap_or_default()
}

fn keep_times(tree: &Tree, times: &Times) -> Result<()> {
    let measured = Measured { tree: tree.hash().to_owned(), times: times.clone() };
    Ok(std::fs::write(times_file(), serde_json::to_vec_pretty(&measured)?)?)
}

fn times_file() -> PathBuf {
    setup::state().join("mutate/times.json")
}

fn change_all(
    arguments: &Arguments,
    mutations: &[Mutation],
    tree: &Tree,
    runner: &Runner<'_>,
    mut record: Record,
) -> Result<Report> {
    let most = arguments.sample.unwrap_or(mutations.len());
    let mut report = Report::default();
    for mutation in mutations {
        if report.viable() == most || INTERRUPTED.load(Ordering::SeqCst) {
            break;
        }
        if let Some(known) = record.of(&mutation.name) {
            report.add(known.clone());
            continue;
        }
        let began = Instant::now();
        let source = std::fs::read_to_string(tree.root().join(&mutation.file))?;
        let outcome = tree.with(mutation, || runner.outcome())?;
        let seconds = began.elapsed().as_secs_f64();
        let entry = Entry { name: mutation.name.clone(), outcome, seconds, diff: mutation.diff(&source)? };
        if entry.outcome == Outcome::Interrupted {
            break;
        }
        eprintln!("[{}/{most}] {}\n    {entry}", report.viable() + 1, mutation.name);
        record.add(entry.clone())?;
        report.add(entry);
    }
    Ok(report)
}
