//! `cargo lab trace`: plays a capture through the driver.

use std::io::{BufWriter, IsTerminal, Write, stdout};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use machine::Machine;

use super::driver;
use crate::counters::Counters;
use crate::policy::{Assignment, state};
use crate::printable::printable;
use crate::report::{Page, trace_text};
use crate::sandbox::{Job, Mode, Wish, inner};
use crate::trace::{self, Entry, Limits, Lines, Played, Prefix, Progress};
use crate::variants::Variant;
use crate::world::{Plan, Service};

/// What to play, and what to print.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// A capture: pcap or pcapng, optionally gzipped; Ethernet, raw IP, Linux
    /// cooked, PPP or 802.11
    file: PathBuf,
    /// An address or a prefix of the host; may be repeated [default: inferred from
    /// the capture]
    #[arg(long, value_name = "PREFIX")]
    local: Vec<Prefix>,
    #[command(flatten)]
    driver: driver::Arguments,
    /// A value of the driver's policy, as in its registry key: a number, or strings
    /// separated by commas
    #[arg(long, value_name = "NAME=VALUE", value_parser = str::parse::<Assignment>)]
    set: Vec<Assignment>,
    /// Change a point that the documents leave open; may be repeated
    #[arg(long, value_name = "NAME", value_parser = super::variant)]
    variant: Vec<&'static Variant>,
    /// Discard segments with a wrong checksum, as a stack does. With checksum
    /// offload, a capture on the sending machine holds checksums that are not
    /// filled in yet
    #[arg(long)]
    checksums: bool,
    /// Print JSON lines: one object for each event, then a summary
    #[arg(long, conflicts_with = "events")]
    json: bool,
    /// Print each event and its layers as it is played
    #[arg(long)]
    events: bool,
    /// Write a page for a browser to this file
    #[arg(long, value_name = "FILE.html")]
    html: Option<PathBuf>,
    /// Number of connections that the page shows in detail
    #[arg(long, value_name = "COUNT", default_value_t = Limits::default().connections)]
    connections: usize,
}

impl Arguments {
    /// What the driver's process gets.
    ///
    /// # Errors
    /// If a value is refused, or the driver cannot be built.
    pub fn job(&self) -> Result<Job> {
        self.driver.values(&self.set)?;
        let job = self.driver.job()?;
        Ok(Job {
            inputs: [&self.file].into_iter().chain(&job.inputs).cloned().collect(),
            outputs: self.html.iter().map(|path| (path.clone(), Mode::Whole)).collect(),
            ..job
        })
    }

    /// Shows how far the capture is played, on a terminal.
    pub fn wish(&self) -> impl Wish + use<> {
        let size = std::fs::metadata(&self.file).map_or(0, |file| file.len());
        let shows = (self.json || self.events) && stdout().is_terminal();
        Shown(if shows { ProgressBar::hidden() } else { bar(size.saturating_mul(2)) })
    }
}

/// A progress bar over both passes.
struct Shown(ProgressBar);

impl Wish for Shown {
    fn progress(&mut self, done: u64) {
        self.0.set_position(done);
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Plays the capture. Returns whether the file was complete and every flow as
/// documented.
pub fn run(arguments: &Arguments) -> Result<bool> {
    let service = arguments.driver.service();
    let mut world = Plan {
        driver: Some(arguments.driver.sys()?),
        service: Service(&service),
        values: arguments.driver.values(&arguments.set)?,
        registry: arguments.driver.registry()?,
        ..Plan::default()
    };
    for variant in &arguments.variant {
        variant.turn(&mut world);
    }
    let plan = trace::Plan {
        local: arguments.local.clone(),
        checksums: arguments.checksums,
        limits: Limits { connections: arguments.connections, ..Limits::default() },
        open_points: world.open_points.clone(),
        // With `Observe` 0 no observing filters exist, so no observations are
        // expected.
        everywhere: arguments.driver.is_hushport() && !world.values.iter().any(|(name, _)| name == "Observe"),
    };
    // The driver's time is the capture's.
    world.machine.own_time = true;
    let mut machine = world.machine()?;
    if let Some(sys) = world.driver.filter(|_| arguments.driver.is_hushport()) {
        state::check(machine.kernel(), sys, &world.values)?;
    }
    let played = play(arguments, &plan, &machine)?;
    let mut notes = Vec::new();
    agree(&played, &machine, arguments.driver.is_hushport(), &mut notes)?;
    unload(&mut machine, &mut notes);
    if let Some(damage) = &played.tally.damage {
        notes.push(format!("the capture is damaged {damage}; everything before that was played"));
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
        let page = Page::of_capture(&title, &played, &notes).of_driver(format!("{service}.sys"));
        page.write_to(path).with_context(|| format!("--html {}", path.display()))?;
        eprintln!("lab: the page is {}", printable(&path.display().to_string()));
    }
    Ok(notes.is_empty() && played.account.deviations == 0)
}

fn play(arguments: &Arguments, plan: &trace::Plan, machine: &Machine) -> Result<Played> {
    let mut out = BufWriter::new(stdout().lock());
    let mut lines = Lines::new(&mut out);
    let (json, events) = (arguments.json, arguments.events);
    let kernel = Arc::clone(machine.kernel());
    let mut plain = BufWriter::new(stdout());
    let listener = Box::new(|entry: &Entry<'_>| {
        match entry {
            _ if json => lines.write(entry)?,
            Entry::Record(record, ..) if events => writeln!(plain, "{record}")?,
            Entry::Suppressed(at, ends) if events => {
                writeln!(plain, "{:10.6} {ends} answer suppressed", at.as_secs_f64())?;
            }
            Entry::Scan(scan) if events => writeln!(plain, "{:10.6} {scan}", scan.at.as_secs_f64())?,
            _ => {}
        }
        Ok(kernel.stopped().is_none())
    });
    let progress: Progress = Arc::new(inner::progress);
    let played = trace::play(&arguments.file, plan, machine.kernel(), progress, listener)?;
    plain.flush()?;
    if json {
        lines.finish(&played)?;
    }
    Ok(played)
}

/// A progress bar over both passes, on a terminal only.
fn bar(length: u64) -> ProgressBar {
    /// A bar for a shorter file would only flash.
    const LONG: u64 = 8 << 20;
    if length < LONG || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Compares the driver's counters with the engine's log, if the driver `counts`.
fn agree(played: &Played, machine: &Machine, counts: bool, notes: &mut Vec<String>) -> Result<()> {
    if let Some(stop) = machine.kernel().stopped() {
        notes.push(format!("the driver stopped the machine: {stop}"));
        return Ok(());
    }
    if machine.kernel().has_run_ahead() {
        notes.push("a thread of the driver did not come to a wait, so its time is not exact".to_owned());
    }
    if counts {
        let counters = Counters::read(machine.kernel(), machine.engine())?;
        for (layer, answers) in &played.account.answers {
            let counted: u64 = counters.at(layer, machine.engine()).values().sum();
            if counted != answers.asked {
                notes.push(format!("at {layer} the driver counted {counted}, the engine {}", answers.asked));
            }
        }
    }
    for finding in machine.kernel().verifier().findings() {
        notes.push(finding.violation.to_string());
    }
    for advised in machine.kernel().verifier().advice() {
        notes.push(format!("against advice: {}", advised.violation));
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
