//! Every allocation and every kernel call failing in turn.
//!
//! A driver's life is lived once undisturbed, which counts the calls that
//! Windows lets fail; then once more for each of them and each of its
//! documented failures, with that call failing alone or with all that follow.
//! After each life the driver must have crashed nowhere, left nothing, named
//! the cause where it refused to start, blocked nothing while it was not whole,
//! and recovered when the failure went away.
//!
//! | module | holds |
//! |---|---|
//! | [`expectations`] | what is known of a driver, from which its promises follow |
//! | [`life`] | one life of a driver, and what is demanded of it |
#![forbid(unsafe_code)]

pub mod expectations;
pub mod life;

pub use expectations::{AnyDriver, Expectations};
pub use life::{Baseline, Bfe, Life, live};

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use comfy_table::{ContentArrangement, Table, presets};

use crate::faults::{FALLIBLE, Mode, Plan};
use crate::image::PeFile;
use crate::nt::{Effect, Failure};

/// One life: which call fails, and how.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Where BFE stands at the start.
    pub bfe: Bfe,
    /// Which call, and how.
    pub plan: Plan,
}

/// A life in which something was wrong.
#[derive(Clone, Debug)]
pub struct Failed {
    /// Which.
    pub case: Case,
    /// The function that failed first.
    pub function: &'static str,
    /// How it went.
    pub life: Life,
}

/// How often a function failed, and what came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Calls in the undisturbed lives.
    pub calls: usize,
    /// How often it failed in all lives, first or later.
    pub failures: usize,
    /// Lives in which one of them was the first to fail.
    pub lives: usize,
    /// Those after which the driver refused to start.
    pub refused: usize,
    /// Those in which something was wrong.
    pub wrong: usize,
}

/// What came of all lives.
#[derive(Clone, Debug, Default)]
pub struct Sweep {
    /// What chose how later calls fail.
    pub seed: u64,
    /// Number of lives with failures.
    pub lives: usize,
    /// By function.
    pub tallies: BTreeMap<&'static str, Tally>,
    /// The lives that went wrong.
    pub failed: Vec<Failed>,
    /// What was wrong with the undisturbed lives.
    pub undisturbed: Vec<String>,
    /// Whether the driver did its work in them.
    pub works: bool,
}

impl Sweep {
    /// Lives every life, `jobs` at a time. The result does not depend on
    /// `jobs`.
    pub fn of(expected: &dyn Expectations, file: &Arc<PeFile>, seed: u64, jobs: usize) -> Self {
        let baselines = Bfe::ALL.map(|(_, bfe)| Baseline::of(expected, file, bfe));
        let mut sweep = Self { seed, works: baselines.iter().all(|it| it.works), ..Self::default() };
        for baseline in &baselines {
            sweep.undisturbed.extend(baseline.problems.iter().cloned());
            for row in &baseline.calls {
                sweep.tallies.entry(FALLIBLE[*row].name).or_default().calls += 1;
            }
        }
        let cases: Vec<Case> = Bfe::ALL
            .iter()
            .zip(&baselines)
            .flat_map(|((_, bfe), baseline)| cases(*bfe, baseline, seed))
            .collect();
        let lives = Mutex::new(vec![None; cases.len()]);
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..jobs.max(1) {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        let Some(case) = cases.get(number) else { return };
                        let life = live(expected, file, case.bfe, &baselines[case.bfe as usize], case.plan);
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

    /// Lives one life, as [`Case`] prints it.
    pub fn only(expected: &dyn Expectations, file: &Arc<PeFile>, case: Case) -> Life {
        live(expected, file, case.bfe, &Baseline::of(expected, file, case.bfe), case.plan)
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

    /// Whether nothing was wrong anywhere.
    pub fn passed(&self) -> bool {
        self.failed.is_empty() && self.undisturbed.is_empty()
    }
}

/// Every call in turn, in every way in which it can fail.
fn cases(bfe: Bfe, baseline: &Baseline, seed: u64) -> Vec<Case> {
    let mut cases = Vec::new();
    for (before, row) in baseline.calls.iter().enumerate() {
        for failure in FALLIBLE[*row].failures {
            for (_, mode) in Mode::ALL {
                let plan = Plan { nth: before + 1, mode, failure: *failure, seed };
                cases.push(Case { bfe, plan });
            }
        }
    }
    cases
}

/// The arguments of `cargo lab faults` that live this life again.
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan { nth, mode, failure: Failure { status, effect }, seed } = self.plan;
        write!(f, "--only {nth} --mode {mode} --status {status}")?;
        if effect == Effect::Done {
            write!(f, " --done")?;
        }
        write!(f, " --bfe {} --seed {seed}", self.bfe)
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

/// A table of the functions, and the sum.
impl fmt::Display for Sweep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(["call", "calls", "fails with", "failed", "lives", "refused to start", "wrong"]);
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
        write!(f, "{} lives, {right} as demanded, {wrong} not; seed {}", self.lives, self.seed)
    }
}

/// A failure in a word; `*` where the call has done its work all the same.
fn way(failure: &Failure) -> String {
    let name = failure.status.to_string();
    let name = name.strip_prefix("STATUS_").unwrap_or(&name);
    let mark = if failure.effect == Effect::Done { "*" } else { "" };
    format!("{name}{mark}")
}
