//! Makes every allocation and every kernel call fail in turn.
//!
//! The driver runs once without failures, which counts the calls that can fail on
//! Windows. Then it runs once for each of these calls and each of their documented
//! failures; either that call fails alone, or all later ones fail, too. After each
//! run the driver must have caused no stop and left nothing behind. If it refused
//! to start, it must have returned the cause. It must have blocked nothing while
//! incomplete, and it must have recovered 10 s after the failures ended.
//!
//! | module | holds |
//! |---|---|
//! | [`expectations`] | what is known about a driver, and what it must do |
//! | [`foreign_filters`] | filters of others that name the driver's callouts, and a flow that they show it |
//! | [`life`] | one run of a driver, and the checks of it |
#![forbid(unsafe_code)]

pub mod expectations;
pub mod foreign_filters;
pub mod life;

pub use expectations::{AnyDriver, Expectations};
pub use foreign_filters::{leave_behind, open_flow};
pub use life::{Baseline, Bfe, Life, Variant, live};

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use comfy_table::{ContentArrangement, Table, presets};

use crate::faults::{FALLIBLE, Mode, Plan};
use crate::image::PeFile;
use crate::nt::{Effect, Failure};

/// A run: which call fails, and how.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// What happens beside the failures.
    pub variant: Variant,
    /// The state of BFE at the start.
    pub bfe: Bfe,
    /// The call, and its failure.
    pub plan: Plan,
}

/// Which of the calls fail that a driver makes in loops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Every call.
    All,
    /// Of the calls of one function the first and last four, and every eighth: the calls
    /// between them are the same step of the same loop. Which eighth the seed decides.
    Loops,
}

impl Extent {
    const ENDS: usize = 4;
    const STRIDE: usize = 8;

    /// The positions of the calls that fail, of the calls of a run: the rows of their
    /// functions.
    pub fn of(self, calls: &[usize], seed: u64) -> Vec<usize> {
        let (mut all, mut passed) = (BTreeMap::<usize, usize>::new(), BTreeMap::<usize, usize>::new());
        for row in calls {
            *all.entry(*row).or_default() += 1;
        }
        let fails = |(_, row): &(usize, &usize)| {
            let passed = passed.entry(**row).or_default();
            let number = std::mem::replace(passed, *passed + 1);
            self.has(number, all[*row], seed)
        };
        calls.iter().enumerate().filter(fails).map(|(at, _)| at).collect()
    }

    /// Whether the call with this number fails, of so many calls of its function.
    fn has(self, number: usize, calls: usize, seed: u64) -> bool {
        let from_end = number.min(calls - 1 - number);
        let eighth = (seed % Self::STRIDE as u64) as usize;
        self == Self::All || from_end < Self::ENDS || number % Self::STRIDE == eighth
    }
}

/// A run with problems.
#[derive(Clone, Debug)]
pub struct Failed {
    /// The run.
    pub case: Case,
    /// The function that failed first.
    pub function: &'static str,
    /// The result.
    pub life: Life,
}

/// The counts of a function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// The number of calls in the runs without failures.
    pub calls: usize,
    /// The number of failures in all runs.
    pub failures: usize,
    /// The number of runs in which it failed first.
    pub lives: usize,
    /// The number of those in which the driver refused to start.
    pub refused: usize,
    /// The number of those with problems.
    pub wrong: usize,
}

/// The results of all runs.
#[derive(Clone, Debug, Default)]
pub struct Sweep {
    /// The seed that decides how later calls fail.
    pub seed: u64,
    /// The number of runs with failures.
    pub lives: usize,
    /// The counts by function.
    pub tallies: BTreeMap<&'static str, Tally>,
    /// The runs with problems.
    pub failed: Vec<Failed>,
    /// The problems in the runs without failures.
    pub undisturbed: Vec<String>,
    /// Whether the driver did its work in them.
    pub works: bool,
}

impl Sweep {
    /// Makes all runs, `jobs` at a time. The results do not depend on `jobs`.
    pub fn of(
        expected: &dyn Expectations,
        file: &Arc<PeFile>,
        variant: Variant,
        extent: Extent,
        seed: u64,
        jobs: usize,
    ) -> Self {
        let states = Bfe::ALL.map(|(_, bfe)| bfe);
        let states = &states[..if expected.follows_bfe() { states.len() } else { 1 }];
        let baselines = states.iter().map(|bfe| Baseline::of(expected, file, variant, *bfe));
        let baselines: Vec<_> = baselines.filter(|baseline| !baseline.needs_bfe).collect();
        let mut sweep = Self { seed, works: baselines.iter().all(|it| it.works), ..Self::default() };
        for baseline in &baselines {
            sweep.undisturbed.extend(baseline.problems.iter().cloned());
            for row in &baseline.calls {
                sweep.tallies.entry(FALLIBLE[*row].name).or_default().calls += 1;
            }
        }
        let cases: Vec<Case> = states
            .iter()
            .zip(&baselines)
            .flat_map(|(bfe, baseline)| cases(variant, *bfe, baseline, extent, seed))
            .collect();
        let lives = Mutex::new(vec![None; cases.len()]);
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..jobs.max(1) {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        let Some(case) = cases.get(number) else { return };
                        let life = live(expected, file, &baselines[case.bfe as usize], *case);
                        lives.lock().unwrap_or_else(PoisonError::into_inner)[number] = Some(life);
                    }
                });
            }
        });
        let lives = lives.into_inner().unwrap_or_else(PoisonError::into_inner);
        for (case, life) in cases.into_iter().zip(lives.into_iter().flatten()) {
            sweep.note(case, life);
        }
        sweep
    }

    /// Makes one run, as [`Case`] prints it.
    pub fn only(expected: &dyn Expectations, file: &Arc<PeFile>, case: Case) -> Life {
        live(expected, file, &Baseline::of(expected, file, case.variant, case.bfe), case)
    }

    fn note(&mut self, case: Case, life: Life) {
        self.lives += 1;
        for injection in &life.injected {
            self.tallies.entry(FALLIBLE[injection.row].name).or_default().failures += 1;
        }
        let function = life.injected.first().map_or("(no call)", |first| FALLIBLE[first.row].name);
        let tally = self.tallies.entry(function).or_default();
        tally.lives += 1;
        tally.refused += usize::from(life.refused.is_some());
        if !life.problems.is_empty() {
            tally.wrong += 1;
            self.failed.push(Failed { case, function, life });
        }
    }

    /// Whether no run had a problem.
    pub fn passed(&self) -> bool {
        self.failed.is_empty() && self.undisturbed.is_empty()
    }
}

/// A run for every call of this extent and every way in which it can fail.
fn cases(variant: Variant, bfe: Bfe, baseline: &Baseline, extent: Extent, seed: u64) -> Vec<Case> {
    let mut cases = Vec::new();
    for before in extent.of(&baseline.calls, seed) {
        let row = baseline.calls[before];
        for failure in FALLIBLE[row].failures {
            for (_, mode) in Mode::ALL {
                let plan = Plan { nth: before + 1, mode, failure: *failure, seed };
                cases.push(Case { variant, bfe, plan });
            }
        }
    }
    cases
}

/// The arguments of `cargo lab faults` that repeat this run.
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan { nth, mode, failure: Failure { status, effect }, seed } = self.plan;
        write!(f, "--only {nth} --mode {mode} --status {status}")?;
        if effect == Effect::Done {
            write!(f, " --done")?;
        }
        write!(f, " --bfe {} --seed {seed}", self.bfe)?;
        match self.variant {
            Variant::Plain => Ok(()),
            other => write!(f, " --variant {other}"),
        }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} failing: {}", self.function, self.case)?;
        for problem in &self.life.problems {
            writeln!(f, "    {problem}")?;
        }
        Ok(())
    }
}

/// A table of the functions, and the totals.
impl fmt::Display for Sweep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(["call", "calls", "fails with", "failed", "runs", "refused to start", "wrong"]);
        for (name, tally) in &self.tallies {
            let row = FALLIBLE.iter().find(|call| call.name == *name);
            let ways: Vec<String> = row.into_iter().flat_map(|call| call.failures).map(way).collect();
            let Tally { calls, failures, lives, refused, wrong } = *tally;
            let numbers = [failures, lives, refused, wrong].map(|number| number.to_string());
            let mut cells = vec![(*name).to_owned(), calls.to_string(), ways.join(" ")];
            cells.extend(numbers);
            table.add_row(cells);
        }
        for line in table.to_string().lines() {
            writeln!(f, "{}", line.trim_end())?;
        }
        let wrong = self.failed.len();
        let right = self.lives - wrong;
        write!(f, "{} runs, {right} as expected, {wrong} not; seed {}", self.lives, self.seed)
    }
}

/// The name of a failure, with `*` if the call did its work.
fn way(failure: &Failure) -> String {
    let name = failure.status.to_string();
    let name = name.strip_prefix("STATUS_").unwrap_or(&name);
    let mark = if failure.effect == Effect::Done { "*" } else { "" };
    format!("{name}{mark}")
}
