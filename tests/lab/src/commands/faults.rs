//! `cargo lab faults`: makes every allocation and kernel call fail in turn.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use machine::faults::{FALLIBLE, Mode, Plan};
use machine::image::PeFile;
use machine::nt::{Effect, Failure};
use machine::status::Status;
use machine::sweep::{Bfe, Case, Extent, Sweep, Variant};

use super::driver;
use crate::policy::Assignment;
use crate::sandbox::Job;

/// Which calls fail, and how.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Seed of the failures after the first one
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Number of runs at a time [default: the number of processors]
    #[arg(long)]
    jobs: Option<NonZeroUsize>,
    /// What happens beside the failures: `suspended` suspends a thread of a user's process
    /// in the driver, `open-flow` has a flow open when callouts are registered
    #[arg(long, default_value = "plain", value_parser = one_of(Variant::ALL))]
    variant: Variant,
    #[command(flatten)]
    driver: driver::Arguments,
    /// A value in the `Parameters` key of a driver that is not hushport, as for
    /// `cargo lab run`
    #[arg(long, value_name = "NAME=VALUE", value_parser = str::parse::<Assignment>)]
    set: Vec<Assignment>,
    /// Make a single run, in which the call with this number fails
    #[arg(long, value_name = "N", requires = "status")]
    only: Option<NonZeroUsize>,
    /// Whether later calls fail, too
    #[arg(long, requires = "only", default_value = "once", value_parser = one_of(Mode::ALL))]
    mode: Mode,
    /// The status that the call returns
    #[arg(long, value_name = "NAME", requires = "only", value_parser = status)]
    status: Option<Status>,
    /// The call does its work and returns the failure status
    #[arg(long, requires = "only")]
    done: bool,
    /// The state of BFE at the start
    #[arg(long, requires = "only", default_value = "running", value_parser = one_of(Bfe::ALL))]
    bfe: Bfe,
}

/// Parses one of these choices by its name.
fn one_of<T: Copy + Send + Sync + 'static, const N: usize>(
    all: [(&'static str, T); N],
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(all.map(|(name, _)| name)).try_map(move |given| {
        let named = all.into_iter().find(|(name, _)| *name == given);
        named.map(|(_, choice)| choice).ok_or("no such choice")
    })
}

fn status(name: &str) -> Result<Status, String> {
    let found = Status::ALL.iter().find(|(known, status)| *known == name && !status.is_success());
    found.map(|(_, status)| *status).ok_or_else(|| {
        format!("{name}: expected a failure status that the lab knows, such as STATUS_INSUFFICIENT_RESOURCES")
    })
}

impl Arguments {
    /// What the driver's process gets.
    ///
    /// # Errors
    /// If the driver cannot be built.
    pub fn job(&self) -> Result<Job> {
        self.driver.job()
    }
}

/// Makes the runs. Returns whether the driver kept its promises in each of them.
pub fn run(arguments: &Arguments) -> Result<bool> {
    let sys = arguments.driver.sys()?;
    let file = Arc::new(PeFile::read(sys).with_context(|| format!("cannot read {}", sys.display()))?);
    match (arguments.only, arguments.status) {
        (Some(nth), Some(status)) => one(&file, arguments, nth.get(), status),
        _ => all(&file, arguments),
    }
}

/// The number of processors that this process may use. The standard library would read
/// files for it.
fn processors() -> Option<NonZeroUsize> {
    let mine = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).ok()?;
    let count = (0..nix::sched::CpuSet::count()).filter(|&number| mine.is_set(number).unwrap_or(false));
    NonZeroUsize::new(count.count())
}

fn all(file: &Arc<PeFile>, arguments: &Arguments) -> Result<bool> {
    let Arguments { driver, set, variant, seed, jobs, .. } = arguments;
    sweep(file, driver, set, *variant, *seed, *jobs)
}

/// Makes every run, prints what is wrong, and the counts. Returns whether the driver
/// kept its promises. `set`: its values in the registry.
///
/// # Errors
/// If a file that belongs to the driver cannot be read.
pub fn sweep(
    file: &Arc<PeFile>,
    driver: &driver::Arguments,
    set: &[Assignment],
    variant: Variant,
    seed: u64,
    jobs: Option<NonZeroUsize>,
) -> Result<bool> {
    let jobs = jobs.or_else(processors);
    let begin = Instant::now();
    let (expected, jobs) = (driver.expectations(set)?, jobs.map_or(1, NonZeroUsize::get));
    let sweep = Sweep::of(&*expected, file, variant, Extent::All, seed, jobs);
    for problem in &sweep.undisturbed {
        println!("WRONG without any failure: {problem}");
    }
    for failed in &sweep.failed {
        print!("WRONG: {failed}");
        let values: String = set.iter().map(|value| format!(" --set {value}")).collect();
        println!("    to reproduce: cargo lab faults {}{}{values}", failed.case, driver.again());
    }
    println!("{sweep}, in {:.1} s", begin.elapsed().as_secs_f64());
    println!("* the call did its work and returned the failure status");
    Ok(sweep.passed())
}

fn one(file: &Arc<PeFile>, arguments: &Arguments, nth: usize, status: Status) -> Result<bool> {
    let effect = if arguments.done { Effect::Done } else { Effect::Refused };
    let plan = Plan { nth, mode: arguments.mode, failure: Failure { status, effect }, seed: arguments.seed };
    let case = Case { variant: arguments.variant, bfe: arguments.bfe, plan };
    let life = Sweep::only(&*arguments.driver.expectations(&arguments.set)?, file, case);
    if life.injected.is_empty() {
        bail!("the driver makes fewer than {nth} calls that can fail");
    }
    for injection in &life.injected {
        println!(
            "call {}: {} fails with {}",
            injection.number, FALLIBLE[injection.row].name, injection.failure.status
        );
    }
    match life.refused {
        Some(status) => println!("DriverEntry returned {status}"),
        None => println!("the driver started"),
    }
    for problem in &life.problems {
        println!("WRONG: {problem}");
    }
    Ok(life.problems.is_empty())
}
