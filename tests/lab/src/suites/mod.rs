//! Runs every test of the workspace, each under a time limit.
//!
//! Cargo builds the test programs, and this module runs them one after the other,
//! as `cargo test` does. A program reports the start and the end of each test. A
//! test that reaches its limit fails, and the report shows what its threads wait
//! for. Its program is killed, and the tests that have not finished run in a new
//! process.

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

/// Runs every test of the programs.
///
/// # Errors
/// If a program cannot be started or its output is not that of a test program.
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
