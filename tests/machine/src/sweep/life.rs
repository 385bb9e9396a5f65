//! One run of a driver, from load to unload, and the checks of it.
//!
//! A run without failures shows what the driver promises. If the driver does its
//! work there, it must do it in every other run as soon as nothing fails any more.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Expectations;
use crate::assembly::{Machine, StartError};
use crate::faults::{FALLIBLE, Injection, Plan};
use crate::image::PeFile;
use crate::nt::{Options, Trace};
use crate::status::Status;
use crate::wfp::{BfeState, Objects};

/// The state of BFE when the driver is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bfe {
    /// It runs.
    Running,
    /// It starts after the driver.
    Late,
}

impl Bfe {
    /// Both states, by their names on a command line.
    pub const ALL: [(&'static str, Self); 2] = [("running", Self::Running), ("late", Self::Late)];
}

impl fmt::Display for Bfe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Running => "running",
            Self::Late => "late",
        })
    }
}

/// The result of the run without failures.
#[derive(Clone, Debug)]
pub struct Baseline {
    /// The rows in [`FALLIBLE`] of its calls, in order.
    pub calls: Vec<usize>,
    /// Whether the driver did its work while BFE was running.
    pub works: bool,
    /// The problems in it.
    pub problems: Vec<String>,
}

/// The result of a run.
#[derive(Clone, Debug, Default)]
pub struct Life {
    /// The failures that were injected.
    pub injected: Vec<Injection>,
    /// The status with which the driver refused to start, if it did.
    pub refused: Option<Status>,
    /// The problems.
    pub problems: Vec<String>,
}

impl Baseline {
    /// Runs without failures.
    pub fn of(expected: &dyn Expectations, file: &Arc<PeFile>, bfe: Bfe) -> Self {
        let mut living = Living::new(expected, bfe, None, None);
        living.pass(file);
        let calls = living.machine.faults().calls();
        Self { calls, works: living.promise.unwrap_or(false), problems: living.life.problems }
    }
}

/// Runs with failing calls.
pub fn live(
    expected: &dyn Expectations,
    file: &Arc<PeFile>,
    bfe: Bfe,
    baseline: &Baseline,
    plan: Plan,
) -> Life {
    let mut living = Living::new(expected, bfe, Some(baseline.works), Some(plan));
    living.pass(file);
    living.life.injected = living.machine.faults().injected();
    if living.life.injected.is_empty() {
        living.problem("no call failed: the driver made fewer calls than without failures");
    }
    living.life
}

struct Living<'a> {
    expected: &'a dyn Expectations,
    machine: Machine,
    /// Objects that an earlier run has left in the engine.
    left: Objects,
    bfe: Bfe,
    /// Whether the driver has to do its work; unknown in the first run.
    promise: Option<bool>,
    life: Life,
    _sessions: Vec<Trace>,
}

/// The time limit for deferred work, on the host's clock.
const PATIENCE: Duration = Duration::from_secs(10);

/// How soon a driver must do its work again after its calls work again, on the
/// machine's clock.
const RECOVERY: Duration = Duration::from_secs(10);

/// How often the driver is looked at meanwhile.
const POLL: Duration = Duration::from_millis(1);

/// How long a driver may take to try again, on the host's clock.
const TRY: Duration = Duration::from_secs(2);

impl<'a> Living<'a> {
    fn new(expected: &'a dyn Expectations, bfe: Bfe, promise: Option<bool>, plan: Option<Plan>) -> Self {
        let machine = Machine::new(expected.service(), Options::default());
        if bfe == Bfe::Late {
            machine.engine().set_bfe_state(BfeState::Stopped);
        }
        let sessions = expected.prepare(&machine);
        let left = machine.engine().objects();
        machine.faults().arm(plan);
        Self { expected, machine, left, bfe, promise, life: Life::default(), _sessions: sessions }
    }

    fn problem(&mut self, text: impl Into<String>) {
        self.life.problems.push(text.into());
    }

    fn pass(&mut self, file: &Arc<PeFile>) {
        if self.start(file) {
            self.run();
            self.expected.before_stop(self.machine.engine());
            // The machine has stopped, or this stops the driver.
            match self.machine.stop() {
                Ok(left) if left.is_empty() => {}
                Ok(left) => self.problem(format!("left behind: {left}")),
                Err(stop) => self.problem(format!("the unload stopped the machine: {stop}")),
            }
        }
        let (kernel, engine) = (self.machine.kernel(), self.machine.engine());
        let findings = kernel.verifier().findings();
        let violations = engine.take_violations();
        let stopped = kernel.stopped().is_some();
        for finding in findings {
            self.problem(finding.violation.to_string());
        }
        for violation in violations {
            self.problem(format!("{violation:?}"));
        }
        if !stopped {
            self.expect_empty("at the end");
        }
    }

    /// Loads the driver; if it refuses, a second time without failures. Returns
    /// whether it runs.
    fn start(&mut self, file: &Arc<PeFile>) -> bool {
        let waits = self.machine.kernel().waits();
        match self.machine.start_file(Arc::clone(file)) {
            Ok(()) => {
                // Otherwise the thread might do what a change of BFE's state asks for, and
                // the calls of the run would be others than without failures.
                self.machine.kernel().let_thread_wait(waits, TRY);
                // A driver that starts must keep its promises, whatever failed.
                self.look("after DriverEntry", self.bfe == Bfe::Running, false);
                return true;
            }
            Err(StartError::Refused(status)) => self.refused(status),
            Err(other) => {
                self.problem(other.to_string());
                return false;
            }
        }
        self.machine.faults().pause(true);
        let waits = self.machine.kernel().waits();
        match self.machine.start_file(Arc::clone(file)) {
            Ok(()) => {
                self.machine.kernel().let_thread_wait(waits, TRY);
                self.look("after a second start, without failures", self.bfe == Bfe::Running, false);
                true
            }
            Err(error) => {
                self.problem(format!("a second start, without failures: {error}"));
                false
            }
        }
    }

    /// Checks the status of a refusal. Its cause is the last call that failed
    /// before the driver began to release resources.
    fn refused(&mut self, status: Status) {
        self.life.refused = Some(status);
        let injected = self.machine.faults().injected();
        let cause = injected.iter().rev().find(|injection| !FALLIBLE[injection.row].releases);
        match cause {
            Some(_) if !self.expected.names_the_cause() => {}
            Some(cause) if cause.failure.status == status => {}
            Some(cause) => self.problem(format!(
                "DriverEntry returned {status}, expected {}, the status of {}",
                cause.failure.status, FALLIBLE[cause.row].name
            )),
            None => self.problem(format!("DriverEntry returned {status}, although nothing has failed")),
        }
        self.expect_empty("after the refusal");
        self.look("after the refusal", false, false);
    }

    /// Stops and starts BFE. If the driver does not do its work afterwards, it must do
    /// it soon after its calls work again.
    fn run(&mut self) {
        if self.bfe == Bfe::Late {
            self.change("when BFE starts", &[BfeState::StartPending, BfeState::Running], true);
        }
        self.change("when BFE stops", &[BfeState::StopPending, BfeState::Stopped], false);
        self.change("when BFE starts again", &[BfeState::StartPending, BfeState::Running], true);
        let works = self.expected.works(self.machine.engine());
        if self.promise == Some(true) && works != Ok(true) && self.machine.kernel().stopped().is_none() {
            self.machine.faults().pause(true);
            self.machine.kernel().pass(RECOVERY);
            let end = Instant::now() + TRY;
            while self.expected.works(self.machine.engine()) != Ok(true) && Instant::now() < end {
                std::thread::sleep(POLL);
            }
            self.look("10 s after the calls work again", true, false);
            self.machine.faults().pause(self.life.refused.is_some());
        }
    }

    /// Changes the state of BFE and lets the driver follow. A failure meanwhile may
    /// leave the machine unprotected, but must not block traffic.
    fn change(&mut self, when: &str, states: &[BfeState], running: bool) {
        let kernel = Arc::clone(self.machine.kernel());
        let before = self.machine.faults().injected().len();
        for state in states {
            self.machine.engine().set_bfe_state(*state);
            if !kernel.work().drain(PATIENCE) {
                self.problem(format!("{when}: deferred work does not end"));
            }
        }
        self.look(when, running, self.machine.faults().injected().len() > before);
    }

    /// Checks what the driver does to traffic. `running`: BFE runs, so the driver
    /// can work. `may_fail`: a call has just failed, so it need not.
    fn look(&mut self, when: &str, running: bool, may_fail: bool) {
        if self.machine.kernel().stopped().is_some() {
            return;
        }
        let works = self.expected.works(self.machine.engine()).unwrap_or_else(|wrong| {
            self.problem(format!("{when}: {wrong}"));
            false
        });
        if running && self.promise.is_none() {
            self.promise = Some(works);
        }
        let promised = running && self.promise == Some(true);
        let work = self.expected.work();
        match (promised, works) {
            (true, false) if !may_fail => self.problem(format!("{when}: expected the driver to {work}")),
            (false, true) => self.problem(format!("{when}: expected the driver not to {work}")),
            _ => {}
        }
        for problem in self.lasting_problems(works) {
            self.problem(format!("{when}: {problem}"));
        }
    }

    /// The other problems. A thread of the driver may be about to try again, so only
    /// problems that last count.
    fn lasting_problems(&self, works: bool) -> Vec<String> {
        let engine = self.machine.engine();
        let mut problems = self.expected.problems(engine, works);
        let end = Instant::now() + TRY;
        while !problems.is_empty() && Instant::now() < end {
            std::thread::sleep(POLL);
            let works = self.expected.works(engine).unwrap_or(false);
            let now = self.expected.problems(engine, works);
            problems.retain(|problem| now.contains(problem));
        }
        problems
    }

    fn expect_empty(&mut self, when: &str) {
        let objects = self.machine.engine().objects().without(&self.left);
        if objects != Objects::default() {
            self.problem(format!("{when} the engine holds {objects:?}"));
        }
    }
}
