//! Every test of the workspace, each under a time limit.
//!
//! Cargo builds the programs of tests, and this runs them one after the other, as
//! `cargo test` does. A program tells what begins and ends in it. What runs for longer
//! than its limit fails with what its threads do and wait for; its program is ended,
//! and the tests that it had not finished run in a new one.

mod limit;
mod play;
mod programs;
mod summary;
mod threads;

use std::time::Duration;

use anyhow::Result;

pub use limit::Children;
pub use programs::{Program, build};
pub use summary::{Ended, Summary, Verdict};

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// One test.
    pub test: Duration,
    /// The whole run, with all that is built for it.
    pub whole: Duration,
}

impl Default for Limits {
    /// A test's is many times what the slowest takes on two quiet processors.
    fn default() -> Self {
        Self { test: Duration::from_secs(400), whole: Duration::from_secs(45 * 60) }
    }
}

/// The tests of `programs` whose names hold one of `names`, or all if there are none.
/// A test's name is `package/program::module::test`.
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

/// Runs every test of the programs.
///
/// # Errors
/// If a program cannot be started or does not speak as programs of tests do.
pub fn run(programs: &[Program], limits: &Limits, children: &Children) -> Result<Summary> {
    let mut summary = Summary::default();
    for program in programs {
        play::play(program, limits, children, &mut summary)?;
        if summary.is_over() {
            break;
        }
    }
    Ok(summary)
}
