//! `cargo lab trace`: a capture, played through the driver.

use std::io::{BufWriter, IsTerminal, Write, stdout};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use machine::Machine;
use machine::wfp::Engine;

use crate::counters::Counters;
use crate::hushport::SERVICE;
use crate::policy::{Assignment, assignment, state};
use crate::report::{Page, Watched, printable, trace_text};
use crate::setup::{self, Need, Target};
use crate::trace::{self, Limits, Lines, Played, Prefix, Progress, Told};
use crate::variants::{Variant, add_stronger};
use crate::world::Plan;

/// What to play, and how to tell of it.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// A capture: pcap or pcapng, also in gzip; Ethernet, raw IP, Linux cooked,
    /// PPP or 802.11
    file: PathBuf,
    /// An address or a prefix that is the host's; may be given again
    /// [default: inferred from the capture]
    #[arg(long, value_name = "PREFIX")]
    local: Vec<Prefix>,
    /// A value of the driver's policy, as in its registry key: a number, or
    /// strings with commas between them
    #[arg(long, value_name = "NAME=VALUE", value_parser = str::parse::<Assignment>)]
    set: Vec<Assignment>,
    /// Turn a point that the documents leave open; may be given again
    #[arg(long, value_name = "NAME", value_parser = super::variant)]
    variant: Vec<&'static Variant>,
    /// Discard segments whose checksum is wrong, as a stack would. Captures on
    /// the sending machine hold checksums that are yet to be filled in
    #[arg(long)]
    checksums: bool,
    /// Write JSON lines: one object for each event, then a summary
    #[arg(long, conflicts_with = "events")]
    json: bool,
    /// Write each event and its layers as it is played
    #[arg(long)]
    events: bool,
    /// Write a page to look at in a browser
    #[arg(long, value_name = "FILE.html")]
    html: Option<PathBuf>,
    /// How many connections the page shows in detail
    #[arg(long, value_name = "COUNT", default_value_t = Limits::default().connections)]
    connections: usize,
}

/// Plays it; whether the file was whole, and everything as documented.
pub fn run(arguments: &Arguments) -> Result<bool> {
    setup::ensure(&[Need::Libclang])?;
    let driver = setup::build(Target::X64)?;
    let mut world = Plan { values: assignment::resolve(&arguments.set)?, ..Plan::default() };
    for variant in &arguments.variant {
        variant.turn(&mut world);
    }
    let plan = trace::Plan {
        local: arguments.local.clone(),
        checksums: arguments.checksums,
        limits: Limits { connections: arguments.connections, ..Limits::default() },
        variants: world.variants.clone(),
        // Who asks for no observing filters expects no observations.
        everywhere: !world.values.iter().any(|(name, _)| name == "Observe"),
    };
    let mut machine = start(&driver.sys, &world)?;
    let played = play(arguments, &plan, &machine)?;
    let mut notes = Vec::new();
    agree(&played, &machine, &mut notes)?;
    unload(&mut machine, &mut notes);
    if let Some(damage) = &played.tally.damage {
        notes.push(format!("the capture stops making sense {damage}; what came before it was played"));
    }
    notes.extend(played.tally.warnings.iter().cloned());
    if !arguments.json {
        let mut out = stdout().lock();
        trace_text(&mut out, &played, &notes)?;
    } else {
        notes.iter().for_each(|note| eprintln!("lab: {note}"));
    }
    if let Some(path) = &arguments.html {
        let title = arguments.file.file_name().unwrap_or_default().to_string_lossy();
        let page = Page::of_capture(&title, &played, &notes);
        page.write_to(path).with_context(|| format!("--html {}", path.display()))?;
        eprintln!("lab: the page is {}", printable(&path.display().to_string()));
    }
    Ok(notes.is_empty() && played.account.deviations == 0)
}

fn start(driver: &Path, world: &Plan<'_>) -> Result<Machine> {
    let mut machine = Machine::with(SERVICE, world.machine.clone(), world.engine.clone());
    for (name, value) in &world.values {
        machine.set_value(name, value.clone());
    }
    if world.stronger {
        add_stronger(machine.engine())?;
    }
    machine.start(driver).with_context(|| format!("{} does not start", driver.display()))?;
    state::check(machine.kernel(), driver, &world.values)?;
    Ok(machine)
}

fn play(arguments: &Arguments, plan: &trace::Plan, machine: &Machine) -> Result<Played> {
    let size = std::fs::metadata(&arguments.file).map_or(0, |file| file.len());
    let shows = (arguments.json || arguments.events) && stdout().is_terminal();
    let bar = if shows { ProgressBar::hidden() } else { bar(size.saturating_mul(2)) };
    let mut out = BufWriter::new(stdout().lock());
    let mut lines = Lines::new(&mut out);
    let (json, events) = (arguments.json, arguments.events);
    let kernel = Arc::clone(machine.kernel());
    let mut plain = BufWriter::new(stdout());
    let listener = Box::new(|told: &Told<'_>| {
        match told {
            _ if json => lines.tell(told)?,
            Told::Record(record, ..) if events => writeln!(plain, "{record}")?,
            Told::KeptBack(at, ends) if events => {
                writeln!(plain, "{:10.6} {ends} answer kept back", at.as_secs_f64())?;
            }
            _ => {}
        }
        Ok(kernel.stopped().is_none())
    });
    let moves = bar.clone();
    let progress: Progress = Arc::new(move |bytes| moves.set_position(bytes));
    let (engine, watched) = (machine.engine(), Watched::of(machine.engine()));
    let filter = Arc::<Engine>::clone(engine);
    let played = trace::play(&arguments.file, plan, filter, watched, progress, listener);
    bar.finish_and_clear();
    let played = played?;
    plain.flush()?;
    if json {
        lines.finish(&played)?;
    }
    Ok(played)
}

/// A bar over both passes, for people who look.
fn bar(length: u64) -> ProgressBar {
    /// Below this it would only flash.
    const LONG: u64 = 8 << 20;
    if length < LONG || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Holds what the driver counted against what the engine saw.
fn agree(played: &Played, machine: &Machine, notes: &mut Vec<String>) -> Result<()> {
    if let Some(stop) = machine.kernel().stopped() {
        notes.push(format!("the driver stopped the machine: {stop}"));
        return Ok(());
    }
    let counters = Counters::read(machine.kernel(), machine.engine())?;
    for (layer, answers) in &played.account.answers {
        let counted: u64 = counters.at(layer, machine.engine()).values().sum();
        if counted != answers.asked {
            notes.push(format!("at {layer} the driver counted {counted}, the engine {}", answers.asked));
        }
    }
    for finding in machine.kernel().verifier().findings() {
        notes.push(finding.violation.to_string());
    }
    Ok(())
}

fn unload(machine: &mut Machine, notes: &mut Vec<String>) {
    if machine.kernel().stopped().is_some() {
        return;
    }
    match machine.stop() {
        Ok(left) if left.is_empty() => {}
        Ok(left) => notes.push(format!("left behind by the driver: {left}")),
        Err(stop) => notes.push(format!("unload stopped the machine: {stop}")),
    }
}
