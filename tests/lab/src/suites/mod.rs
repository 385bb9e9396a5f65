//! Runs every test of the workspace, each under a time limit.
//!
//! Cargo builds the test programs, and this module runs them. While the last tests of
//! a program run, the next program starts, so that no processor is idle. A program
//! reports the start and the end of each test. A test that reaches its limit fails, and
//! the report shows what its threads wait for. Its program is killed, and the tests that
//! have not finished run in a new process.

mod limit;
mod places;
mod play;
mod programs;
mod summary;
mod threads;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;

use crate::mutex::lock;
use places::Places;

pub use limit::Children;
pub use programs::{Program, build};
pub use summary::{Ended, Summary, Verdict};

/// The time limits.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The limit of one test.
    pub test: Duration,
    /// The limit of the whole run, including builds.
    pub whole: Duration,
}

impl Default for Limits {
    /// A test gets many times the duration of the slowest one on two idle
    /// processors.
    fn default() -> Self {
        Self { test: Duration::from_secs(400), whole: Duration::from_secs(45 * 60) }
    }
}

/// The tests of `programs` whose names contain one of `names`; all tests without
/// names. A test's name is `package/program::module::test`.
pub fn chosen(programs: Vec<Program>, names: &[String]) -> Vec<Program> {
    let holds = |name: &str| names.is_empty() || names.iter().any(|part| name.contains(part.as_str()));
    let mut chosen = programs;
    for program in &mut chosen {
        let prefix = program.name.clone();
        program.tests.retain(|test| holds(&full_name(&prefix, test)));
    }
    chosen.retain(|program| !program.tests.is_empty());
    chosen
}

fn full_name(program: &str, test: &str) -> String {
    format!("{program}::{test}")
}

/// The programs with the longest tests. They start first, so that a long test does not run
/// alone at the end.
const LONGEST: [&str; 6] = [
    "hushport-lab/fault_sweep",
    "hushport-lab/processors",
    "hushport-native/native",
    "hushport-lab/foreign",
    "hushport-lab/vm",
    "hushport-lab/order",
];

/// The programs in the order in which they start.
fn ordered(programs: &[Program]) -> Vec<&Program> {
    let mut ordered: Vec<_> = programs.iter().collect();
    let place = |program: &&Program| LONGEST.iter().position(|name| *name == program.name);
    ordered.sort_by_key(|program| place(program).unwrap_or(LONGEST.len()));
    ordered
}

/// Runs every test of the programs.
///
/// # Errors
/// If a program cannot be started or its output is not that of a test program.
pub fn run(programs: &[Program], limits: &Limits, children: &Children) -> Result<Summary> {
    let (places, summary) = (Places::default(), Mutex::new(Summary::default()));
    std::thread::scope(|scope| {
        let mut players = Vec::new();
        for program in ordered(programs) {
            let place = places.enter(program.tests.len());
            if lock(&summary).is_over() {
                break;
            }
            let summary = &summary;
            players.push(scope.spawn(move || play::play(program, limits, children, summary, &place)));
        }
        let outcomes = players.into_iter().map(|player| player.join().expect("a player does not panic"));
        outcomes.collect::<Result<Vec<()>>>()
    })?;
    Ok(summary.into_inner().unwrap_or_else(PoisonError::into_inner))
}
