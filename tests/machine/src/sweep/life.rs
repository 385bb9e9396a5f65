//! One run of a driver, from load to unload, and the checks of it.
//!
//! A run without failures shows what the driver promises. If the driver does its
//! work there, it must do it in every other run as soon as nothing fails any more.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::Scope;
use std::time::{Duration, Instant};

use super::foreign_filters::{leave_behind, objects_of, open_flow};
use super::{Case, Expectations};
use crate::assembly::{Machine, StartError};
use crate::faults::{FALLIBLE, Injection, Plan};
use crate::image::{Next, PeFile};
use crate::nt::{Irql, Options, RunningCallbacks, Trace};
use crate::status::Status;
use crate::wfp::{self, BfeState, Change, DisplayData, Objects, RunningCalls, Session};

/// What happens beside the failures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Variant {
    /// Nothing.
    #[default]
    Plain,
    /// A thread of a user's process is suspended in the driver while it shows traffic,
    /// from the start of the driver to its end. Where the system would wait for it, it
    /// does not.
    Suspended,
    /// Others have added objects with the driver's keys, and filters that name its
    /// callouts. A flow is open from the moment on at which the first callout is
    /// registered. The driver cannot add its objects then, and refuses to start.
    OpenFlow,
}

impl Variant {
    /// All of them, by their names on a command line.
    pub const ALL: [(&'static str, Self); 3] =
        [("plain", Self::Plain), ("suspended", Self::Suspended), ("open-flow", Self::OpenFlow)];

    fn machine(self, expected: &dyn Expectations) -> Machine {
        let service = expected.service();
        match self {
            Self::Plain | Self::OpenFlow => {
                Machine::new(service, Options { own_time: expected.has_own_time(), ..Options::default() })
            }
            Self::Suspended => {
                let kernel = Options {
                    classify_irql: Irql::PASSIVE,
                    enable_callbacks: RunningCallbacks::Ignored,
                    processor_callbacks: RunningCallbacks::Ignored,
                    ..Options::default()
                };
                let engine = wfp::Options { running_calls: RunningCalls::Ignored, ..wfp::Options::default() };
                Machine::with(service, kernel, engine)
            }
        }
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "plain",
            Self::Suspended => "suspended",
            Self::OpenFlow => "open-flow",
        })
    }
}

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
    /// What others have added to the engine before the driver starts.
    foreign: Vec<Change>,
    /// Whether the driver refused to start because BFE did not run, as it may.
    pub needs_bfe: bool,
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
    pub fn of(expected: &dyn Expectations, file: &Arc<PeFile>, variant: Variant, bfe: Bfe) -> Self {
        let foreign = match (variant, bfe) {
            (Variant::OpenFlow, Bfe::Running) => objects_of(expected, file),
            _ => Vec::new(),
        };
        let mut living = Living::new(expected, variant, bfe, &foreign, None, None);
        living.pass(file);
        if !foreign.is_empty() && !living.was_open.load(Ordering::Relaxed) {
            living.problem("no flow had a context of the driver's while it started");
        }
        let calls = living.machine.faults().calls();
        let needs_bfe = bfe == Bfe::Late && living.life.refused.is_some() && expected.may_need_bfe();
        Self {
            calls,
            needs_bfe,
            works: living.promise.unwrap_or(false),
            foreign,
            problems: living.life.problems,
        }
    }
}

/// Runs with failing calls.
pub fn live(expected: &dyn Expectations, file: &Arc<PeFile>, baseline: &Baseline, case: Case) -> Life {
    let Case { variant, bfe, plan } = case;
    let mut living = Living::new(expected, variant, bfe, &baseline.foreign, Some(baseline.works), Some(plan));
    let before = baseline.calls.get(..plan.nth).unwrap_or_default();
    if let Some(row) = before.last() {
        let nth = before.iter().filter(|other| *other == row).count();
        living.machine.faults().plan_by_function(*row, nth);
    }
    living.pass(file);
    living.life.injected = living.machine.faults().injected();
    // How often a thread of the driver looks at something depends on when it is woken.
    if living.life.injected.is_empty() && !expected.has_own_time() {
        living.problem("no call failed: the driver made fewer calls than without failures");
    }
    living.life
}

struct Living<'a> {
    expected: &'a dyn Expectations,
    machine: Machine,
    /// Objects that an earlier run has left in the engine.
    left: Objects,
    variant: Variant,
    bfe: Bfe,
    /// The number of the call that fails; 0 if none does.
    failing: usize,
    /// Whether the driver has to do its work; unknown in the first run.
    promise: Option<bool>,
    life: Life,
    /// Whether a flow had a context of the driver's while it started.
    was_open: Arc<AtomicBool>,
    _sessions: Vec<Trace>,
}

/// The time limit for deferred work, on the host's clock.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a driver may take for what it does in pauses of milliseconds, and for a second
/// try, on a machine with a time of its own.
const SHORT_WAITS: Duration = Duration::from_millis(500);

/// How soon a driver must do its work again after its calls work again, on the
/// machine's clock.
const RECOVERY: Duration = Duration::from_secs(10);

/// How long a thread is suspended at most, on the host's clock. Then the driver waits
/// for it.
const SUSPENDED: Duration = Duration::from_secs(30);

/// The number of instructions at which a thread is suspended, one in each run.
const PLACES: usize = 64;

/// How often the driver is looked at meanwhile.
const POLL: Duration = Duration::from_millis(1);

/// How long a driver may take to try again, on the host's clock.
const TRY: Duration = Duration::from_secs(2);

impl<'a> Living<'a> {
    fn new(
        expected: &'a dyn Expectations,
        variant: Variant,
        bfe: Bfe,
        foreign: &[Change],
        promise: Option<bool>,
        plan: Option<Plan>,
    ) -> Self {
        let mut machine = variant.machine(expected);
        if expected.may_lack_imports() {
            machine.report_missing_at_call();
        }
        if bfe == Bfe::Late {
            machine.engine().set_bfe_state(BfeState::Stopped);
        }
        for rule in expected.may_leave() {
            machine.kernel().verifier().tolerate(rule);
        }
        let sessions = expected.prepare(&machine);
        if !foreign.is_empty() {
            leave_behind(machine.engine(), foreign);
        }
        let left = machine.engine().objects();
        if machine.kernel().options().own_time {
            machine.faults().count_threads();
        }
        machine.faults().arm(plan);
        let failing = plan.map_or(0, |plan| plan.nth);
        let life = Life::default();
        let was_open = Arc::default();
        Self { expected, machine, left, variant, bfe, failing, promise, life, was_open, _sessions: sessions }
    }

    fn problem(&mut self, text: impl Into<String>) {
        self.life.problems.push(text.into());
    }

    fn pass(&mut self, file: &Arc<PeFile>) {
        if self.start(file) {
            let held_up = AtomicBool::new(false);
            std::thread::scope(|scope| {
                if self.variant == Variant::Suspended {
                    self.suspend(scope, &held_up);
                }
                self.run();
                self.expected.before_stop(self.machine.engine());
                // The machine has stopped, or this stops the driver.
                match self.machine.stop() {
                    Ok(left) if left.is_empty() || self.may_leave() => {}
                    Ok(left) => self.problem(format!("left behind: {left}")),
                    Err(stop) => self.problem(format!("the unload stopped the machine: {stop}")),
                }
            });
            if held_up.load(Ordering::Relaxed) {
                self.problem("a suspended thread of a user's process held up the driver");
            }
        }
        let (kernel, engine) = (self.machine.kernel(), self.machine.engine());
        let findings = kernel.verifier().findings();
        let violations = engine.take_violations();
        let stopped = kernel.stopped().is_some();
        let may_leave = self.may_leave();
        for finding in findings {
            let rule = finding.violation.rule;
            if !(may_leave && self.expected.may_leave().contains(&rule)) {
                self.problem(finding.violation.to_string());
            }
        }
        for violation in violations {
            self.problem(format!("{violation:?}"));
        }
        if !stopped && !may_leave {
            self.expect_empty("at the end");
        }
    }

    /// Whether the driver may leave what it could not remove.
    fn may_leave(&self) -> bool {
        !self.expected.may_leave().is_empty() && !self.machine.faults().injected().is_empty()
    }

    /// Loads the driver; if it refuses, a second time without failures. Returns
    /// whether it runs.
    fn start(&mut self, file: &Arc<PeFile>) -> bool {
        match self.load(file) {
            Ok(()) => {
                // Otherwise the thread might do what a change of BFE's state asks for, and
                // the calls of the run would be others than without failures.
                self.let_threads_wait();
                // A driver that starts must keep its promises, whatever failed.
                self.expected.use_it(&self.machine);
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
        if self.variant == Variant::OpenFlow {
            // The objects of others go with the engine.
            self.machine.engine().set_bfe_state(BfeState::Stopped);
            self.machine.engine().set_bfe_state(BfeState::Running);
            self.left = Objects::default();
        }
        match self.load(file) {
            Ok(()) => {
                self.let_threads_wait();
                self.expected.use_it(&self.machine);
                self.look("after a second start, without failures", self.bfe == Bfe::Running, false);
                true
            }
            // What it has left is in its way.
            Err(StartError::Refused(_)) if self.may_leave() => false,
            Err(error) => {
                self.problem(format!("a second start, without failures: {error}"));
                false
            }
        }
    }

    /// Loads the driver. In the variant [`Variant::OpenFlow`] a flow begins as soon as it
    /// gets a context.
    fn load(&mut self, file: &Arc<PeFile>) -> Result<(), StartError> {
        if self.variant == Variant::OpenFlow {
            let (engine, was_open) = (Arc::clone(self.machine.engine()), Arc::clone(&self.was_open));
            let begin = move || {
                if engine.objects().flow_contexts.is_empty() {
                    open_flow(&engine);
                    was_open.fetch_or(!engine.objects().flow_contexts.is_empty(), Ordering::Relaxed);
                }
            };
            self.machine.faults().before_each(Some(Arc::new(begin)));
        }
        let loaded = self.machine.start_file(Arc::clone(file));
        self.machine.faults().before_each(None);
        loaded
    }

    /// Checks the status of a refusal. Its cause is the last call that failed
    /// before the driver began to release resources.
    fn refused(&mut self, status: Status) {
        self.life.refused = Some(status);
        let injected = self.machine.faults().injected();
        let cause = injected.iter().rev().find(|injection| !FALLIBLE[injection.row].releases);
        match cause {
            Some(_) if !self.expected.names_the_cause() => {}
            _ if self.variant == Variant::OpenFlow && status == Status::FWP_ALREADY_EXISTS => {}
            Some(cause) if cause.failure.status == status => {}
            Some(cause) => self.problem(format!(
                "DriverEntry returned {status}, expected {}, the status of {}",
                cause.failure.status, FALLIBLE[cause.row].name
            )),
            None => self.problem(format!("DriverEntry returned {status}, although nothing has failed")),
        }
        if !self.may_leave() {
            self.expect_empty("after the refusal");
        }
        self.look("after the refusal", false, false);
    }

    /// Suspends a thread in the driver until the driver has freed its memory. Each run
    /// suspends it at another instruction.
    fn suspend<'scope>(&self, scope: &'scope Scope<'scope, '_>, held_up: &'scope AtomicBool)
    where
        'a: 'scope,
    {
        let (kernel, engine) = (Arc::clone(self.machine.kernel()), Arc::clone(self.machine.engine()));
        let (expected, at) = (self.expected, self.failing % PLACES);
        let (reached, waiting) = mpsc::channel();
        scope.spawn(move || {
            let mut passed = 0;
            let before = |_| {
                if !kernel.can_suspend_thread() || passed < at {
                    passed += usize::from(kernel.can_suspend_thread());
                    return Next::Instruction;
                }
                let _told = reached.send(());
                let end = Instant::now() + SUSPENDED;
                while kernel.pool().bytes().0 != 0 && kernel.stopped().is_none() {
                    if Instant::now() > end {
                        held_up.store(true, Ordering::Relaxed);
                        break;
                    }
                    std::thread::sleep(POLL);
                }
                Next::Nowhere
            };
            let _whatever = kernel.stepwise(before, || expected.works(&engine));
            let _told = reached.send(());
        });
        let _told = waiting.recv();
    }

    /// Stops and starts BFE. If the driver does not do its work afterwards, it must do
    /// it soon after its calls work again.
    fn run(&mut self) {
        if !self.expected.follows_bfe() {
            return;
        }
        if self.bfe == Bfe::Late {
            self.change("when BFE starts", &[BfeState::StartPending, BfeState::Running], true);
        }
        self.change("when BFE stops", &[BfeState::StopPending, BfeState::Stopped], false);
        self.change("when BFE starts again", &[BfeState::StartPending, BfeState::Running], true);
        if self.variant == Variant::Plain {
            self.reconfigure();
        }
        let works = self.expected.works(self.machine.engine());
        if self.promise == Some(true) && works != Ok(true) && self.machine.kernel().stopped().is_none() {
            self.recover(|expected, machine| expected.works(machine.engine()) == Ok(true));
            self.machine.faults().pause(true);
            self.look("10 s after the calls work again", true, false);
            self.machine.faults().pause(self.life.refused.is_some());
        }
        if self.variant == Variant::Suspended && self.machine.kernel().stopped().is_none() {
            self.machine.faults().pause(true);
            if let Err(problem) = self.expected.follows(&self.machine) {
                self.problem(problem);
            }
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
            self.let_threads_wait();
        }
        self.look(when, running, self.machine.faults().injected().len() > before);
    }

    /// Changes the driver's configuration and back. A failure meanwhile may leave the
    /// machine unprotected.
    fn reconfigure(&mut self) {
        let mut step = 0;
        loop {
            let before = self.machine.faults().injected().len();
            if self.machine.kernel().stopped().is_some() || !self.expected.configure(&self.machine, step) {
                return;
            }
            self.let_threads_wait();
            let failed = self.machine.faults().injected().len() > before;
            self.look("when the configuration changes", true, failed);
            self.expect_followed(step, before);
            step += 1;
        }
    }

    /// Checks that the driver follows a step of its configuration, at the latest soon after
    /// its calls work again. `before`: the number of failures before the step.
    fn expect_followed(&mut self, step: usize, before: usize) {
        let (expected, faults) = (self.expected, self.machine.faults());
        let stopped = self.machine.kernel().stopped().is_some();
        if self.promise != Some(true) || stopped || expected.has_followed(&self.machine, step) {
            return;
        }
        if faults.injected()[before..].iter().any(Injection::is_answer) {
            return;
        }
        if !self.recover(|expected, machine| expected.has_followed(machine, step)) {
            let text = format!("10 s after the calls work again: step {step} of the configuration is lost");
            self.problem(text);
        }
    }

    /// Lets the calls work again, and 10 s pass. Returns whether the driver has recovered.
    fn recover(&self, has: impl Fn(&dyn Expectations, &Machine) -> bool) -> bool {
        let (kernel, faults) = (self.machine.kernel(), self.machine.faults());
        faults.pause(true);
        match kernel.options().own_time {
            true => kernel.run_until(kernel.clock().since_start() + RECOVERY, Duration::MAX),
            false => kernel.pass(RECOVERY),
        }
        let end = Instant::now() + TRY;
        while !has(self.expected, &self.machine) && kernel.stopped().is_none() && Instant::now() < end {
            std::thread::sleep(POLL);
        }
        faults.pause(self.life.refused.is_some());
        has(self.expected, &self.machine)
    }

    /// Lets the driver's threads do what there is to do. Some of it takes time.
    fn let_threads_wait(&self) {
        let kernel = self.machine.kernel();
        kernel.run_until(kernel.clock().since_start() + SHORT_WAITS, Duration::MAX);
        kernel.let_threads_wait(PATIENCE);
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
        if running && !self.can_begin_transaction() {
            self.problem(format!("{when}: the driver keeps the engine's lock"));
        }
        for problem in self.lasting_problems(works) {
            self.problem(format!("{when}: {problem}"));
        }
    }

    /// Whether others can change the engine's objects, or soon can.
    fn can_begin_transaction(&self) -> bool {
        let engine = self.machine.engine();
        let display = DisplayData { name: Some("another program".into()), description: None };
        let txn_wait_timeout_ms = TRY.as_millis() as u32;
        let Ok(session) = engine.open(Session { display, txn_wait_timeout_ms, ..Session::default() }) else {
            return true;
        };
        let begun = engine.transaction_begin(session, 0);
        let _closed_or_engine_stopped = engine.close(session);
        begun.is_success()
    }

    /// The other problems. A thread of the driver may be about to try again, so only
    /// problems that last count.
    fn lasting_problems(&self, works: bool) -> Vec<String> {
        let engine = self.machine.engine();
        let found = |works| self.expected.problems(engine, &engine.objects().without(&self.left), works);
        let mut problems = found(works);
        let end = Instant::now() + TRY;
        while !problems.is_empty() && Instant::now() < end {
            std::thread::sleep(POLL);
            let works = self.expected.works(engine).unwrap_or(false);
            let now = found(works);
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
