//! What the sandbox costs: one classify in this process and in the driver's own.

use anyhow::{Context, Result};

use super::figures::{Figures, timed};
use super::indication::Subject;
use super::time::{Effort, nanoseconds};
use crate::sandbox::{self, Job, Wish, inner};
use crate::setup::{self, Target};
use crate::traffic::Family;

/// Both are measured so often, in turns; the fastest counts.
const TURNS: usize = 3;

/// Only these figures.
///
/// # Errors
/// If the driver cannot be built, or stops.
pub fn figures(effort: Effort) -> Result<Figures> {
    let mut figures = Figures::default();
    take(&mut figures, effort)?;
    Ok(figures)
}

/// Measures in both processes, and adds the figures.
pub(super) fn take(figures: &mut Figures, effort: Effort) -> Result<()> {
    let (mut here, mut there) = (f64::MAX, f64::MAX);
    for _ in 0..TURNS {
        here = here.min(silenced(effort)?);
        there = there.min(in_sandbox()?);
    }
    let group = "a silenced SYN, without and with the sandbox";
    figures.add(group, "in this process", "ns", here);
    figures.add(group, "in the process of a driver", "ns", there);
    figures.add(group, "with the sandbox, to without", "x", there / here);
    Ok(())
}

fn silenced(effort: Effort) -> Result<f64> {
    let stage = timed(&[])?;
    let call = stage.call("INBOUND_TRANSPORT_V4_DISCARD", &Subject::syn(Family::V4))?;
    nanoseconds(&stage, effort, &[&call])
}

fn in_sandbox() -> Result<f64> {
    /// Takes the answer.
    struct Answer(Option<String>);

    impl Wish for Answer {
        fn answered(&mut self, reply: String) {
            self.0 = Some(reply);
        }
    }

    let mut answer = Answer(None);
    let sys = setup::build(Target::X64)?.sys.clone();
    anyhow::ensure!(
        sandbox::run(Job { is_last: false, ..Job::of(sys) }, &mut answer)?,
        "the driver's process has failed"
    );
    let text = answer.0.context("the driver's process did not answer")?;
    serde_json::from_str(&text).context("the driver's process answers no number")
}

/// Measures in the driver's process, and answers.
///
/// # Errors
/// If the driver does not start.
pub fn answer(effort: Effort) -> Result<bool> {
    inner::answer(serde_json::to_string(&silenced(effort)?)?)?;
    Ok(true)
}
