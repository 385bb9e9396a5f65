//! Scheduled threads, which can be stopped before any driver instruction.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lab::hushport;
use machine::Machine;
use machine::image::{Next, Step};
use machine::nt::{Irql, Kernel, Options};
use machine::schedule::{Bell, Scheduling, Thread, Waited};
use machine::wfp::{self, Engine};

/// The longest wait, in the schedule's time. A longer wait is a failure.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a thread may wait for its processor before others go on.
const PREEMPTED: Duration = Duration::from_millis(100);

/// A machine, and threads that the leader controls.
pub struct Play {
    pub kernel: Arc<Kernel>,
    pub engine: Arc<Engine>,
    pub actors: Vec<Arc<Actor>>,
    bell: Arc<Bell>,
}

/// Runs `lead` on a thread of a deterministic schedule, beside `actors` other threads.
/// Afterwards the verifier must have no findings.
pub fn play(options: Options, seed: u64, actors: usize, lead: impl FnOnce(Machine, &Play) + Send) {
    play_with(options, wfp::Options::default(), seed, actors, lead);
}

/// [`play`], with options of the filter engine.
pub fn play_with(
    options: Options,
    engine: wfp::Options,
    seed: u64,
    actors: usize,
    lead: impl FnOnce(Machine, &Play) + Send,
) {
    let machine = Machine::with(hushport::SERVICE, options, engine);
    let (kernel, engine) = (machine.kernel().clone(), machine.engine().clone());
    let bell = Arc::<Bell>::default();
    let actors = (0..actors).map(|_| Arc::new(Actor::new(Arc::clone(&bell)))).collect();
    let play = Play { kernel, engine, actors, bell };
    let leader = || {
        let ends = Ends(&play.actors);
        lead(machine, &play);
        drop(ends);
    };
    let mut threads = vec![Thread::new("leader", leader)];
    let named = play.actors.iter().enumerate();
    threads.extend(named.map(|(number, actor)| Thread::new(format!("actor {number}"), move || actor.run())));
    play.kernel.run_threads(Scheduling::Deterministic { seed }, threads);
    lab::storm::clean(&play.kernel, &play.engine, seed);
}

/// Ends the actors when the leader ends, also by a panic.
struct Ends<'a>(&'a [Arc<Actor>]);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|actor| actor.end());
    }
}

impl Play {
    /// Waits until `ready`. If that takes too long, it stops the machine with `what`.
    pub fn wait(&self, what: &str, ready: impl FnMut() -> bool) {
        self.wait_for(PATIENCE, what, ready);
    }

    /// Waits until `ready`, at most for `patience`.
    pub fn wait_for(&self, patience: Duration, what: &str, ready: impl FnMut() -> bool) {
        if self.bell.wait(&|| what.to_owned(), Some(patience), ready) == Waited::TimedOut {
            self.kernel.abandon(format!("{what} does not come"));
        }
    }

    /// Lets all other threads run until each waits, at most for `milliseconds`.
    pub fn let_others_run(&self, milliseconds: u64) {
        let time = Duration::from_millis(milliseconds);
        let _over = self.bell.wait(&|| "the others".to_owned(), Some(time), || false);
    }

    /// The bell at which all threads wait.
    pub fn bell(&self) -> Arc<Bell> {
        Arc::clone(&self.bell)
    }

    /// Whether the machine has stopped.
    pub fn is_stopped(&self) -> bool {
        self.kernel.stopped().is_some()
    }

    /// Waits until an actor has finished its job.
    pub fn join(&self, actor: &Actor) {
        self.wait("the end of a job", || !actor.is_busy());
    }

    /// Lets an actor call the driver on a processor at an IRQL. Waits until it has
    /// reached the stop or has returned, or until it waits for a processor that a
    /// stopped thread holds at DISPATCH_LEVEL.
    pub fn stop_in(
        &self,
        actor: &Actor,
        stop: &Arc<Stop>,
        at: u64,
        place: (u32, Irql),
        call: impl FnOnce() + Send + 'static,
    ) {
        stop.set(at);
        let (kernel, bell, there) = (Arc::clone(&self.kernel), Arc::clone(&self.bell), Arc::clone(stop));
        actor.start(move || there.call(&kernel, place, &bell, call));
        // Time passes in the schedule only while no thread can run.
        let ready = || stop.is_reached() || !actor.is_busy();
        let _ready_or_preempted =
            self.bell.wait(&|| "a thread to stop in the driver".to_owned(), Some(PREEMPTED), ready);
    }

    /// Lets a stopped thread go on.
    pub fn release(&self, stop: &Stop) {
        stop.released.store(true, Ordering::SeqCst);
        self.bell.ring();
    }
}

/// Waits until `ready`. False if that took too long.
fn wait(bell: &Bell, what: &str, ready: impl FnMut() -> bool) -> bool {
    bell.wait(&|| what.to_owned(), Some(PATIENCE), ready) == Waited::Ready
}

type Job = Box<dyn FnOnce() + Send>;

/// A thread that does one job after another.
pub struct Actor {
    bell: Arc<Bell>,
    job: Mutex<Option<Job>>,
    busy: AtomicBool,
    over: AtomicBool,
}

impl Actor {
    fn new(bell: Arc<Bell>) -> Self {
        let [busy, over] = [false; 2].map(AtomicBool::new);
        Self { bell, job: Mutex::new(None), busy, over }
    }

    fn run(&self) {
        loop {
            // Waits without a limit for the next job.
            let told = || self.is_busy() || self.over.load(Ordering::SeqCst);
            while !wait(&self.bell, "a job", told) && !told() {}
            let job = self.job.lock().unwrap_or_else(PoisonError::into_inner).take();
            let Some(job) = job else { return };
            job();
            self.busy.store(false, Ordering::SeqCst);
            self.bell.ring();
        }
    }

    /// Begins a job. The previous job must be finished.
    pub fn start(&self, job: impl FnOnce() + Send + 'static) {
        assert!(!self.is_busy(), "one job at a time");
        *self.job.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(job));
        self.busy.store(true, Ordering::SeqCst);
        self.bell.ring();
    }

    /// Whether a job is not finished.
    pub fn is_busy(&self) -> bool {
        self.busy.load(Ordering::SeqCst)
    }

    fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
        self.bell.ring();
    }
}

/// The way of a call through the driver: how many instructions it has executed, of those that
/// count, whenever it enters the driver, at its start and after each call of the kernel.
///
/// A thread that goes it again runs at full speed up to the last entry before its stop,
/// because a step takes thousands of times as long as an instruction.
#[derive(Debug, Default)]
pub struct Way(Vec<u64>);

impl Way {
    /// An entry from which a thread comes to an instruction, and how many instructions that
    /// count there are between. `None` if the way is not known.
    fn to(&self, number: u64) -> Option<(usize, u64)> {
        let last = *self.0.iter().rev().find(|entry| **entry <= number)?;
        // Of several without an instruction between that counts it is the first.
        let entries = self.0.partition_point(|entry| *entry < last) + 1;
        Some((entries, number - last))
    }
}

/// The place at which a thread stops in the driver.
#[derive(Default)]
pub struct Stop {
    /// The number of the instruction, counted from the entry.
    at: AtomicU64,
    executed: AtomicU64,
    /// Numbers of the instructions that called the kernel, if no stop was set.
    calls: Mutex<Vec<u64>>,
    /// The way of the last call without a stop.
    way: Mutex<Arc<Way>>,
    /// Whether only instructions count before which another thread can suspend this one.
    suspends: AtomicBool,
    /// How many of these the last call has come to.
    suspendable: AtomicU64,
    stopped: AtomicBool,
    released: AtomicBool,
}

/// No instruction has this number.
pub const NOWHERE: u64 = u64::MAX;

impl Stop {
    /// A stop of a thread that goes a way again. If the way is not known, all instructions
    /// up to the stop are steps.
    pub fn along(way: &Arc<Way>) -> Arc<Self> {
        Arc::new(Self { way: Mutex::new(Arc::clone(way)), ..Self::default() })
    }

    /// A stop only where another thread can suspend the one that comes there; only such
    /// instructions count.
    pub fn suspension(way: &Arc<Way>) -> Arc<Self> {
        let stop = Self::along(way);
        stop.suspends.store(true, Ordering::SeqCst);
        stop
    }

    /// The way of the last call without a stop.
    pub fn way(&self) -> Arc<Way> {
        Arc::clone(&self.way.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn set(&self, at: u64) {
        self.at.store(at, Ordering::SeqCst);
        self.executed.store(0, Ordering::SeqCst);
        self.suspendable.store(0, Ordering::SeqCst);
        self.stopped.store(false, Ordering::SeqCst);
        self.released.store(false, Ordering::SeqCst);
    }

    /// Driver instructions that the last call has executed so far.
    pub fn executed(&self) -> u64 {
        self.executed.load(Ordering::SeqCst)
    }

    /// Instructions at which to stop a repetition of the last call: those that called the
    /// kernel, and `others` spread over all.
    pub fn places(&self, others: u64) -> BTreeSet<u64> {
        let executed = self.executed();
        let stride = (executed / others.max(1)).max(1);
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        (0..executed).step_by(stride as usize).chain(calls.iter().copied()).collect()
    }

    /// How many instructions the last call has come to before which another thread could
    /// have suspended it.
    pub fn suspendable(&self) -> u64 {
        self.suspendable.load(Ordering::SeqCst)
    }

    /// Whether the thread has reached the place.
    pub fn is_reached(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    fn call(&self, kernel: &Kernel, (processor, irql): (u32, Irql), bell: &Bell, call: impl FnOnce()) {
        // Copies are not visible to other threads.
        let counts = |name: &str| !name.starts_with("mem");
        let calls_so_far =
            || kernel.calls().iter().filter(|(name, _)| counts(name)).map(|(_, count)| count).sum::<u64>();
        let mut calls = calls_so_far();
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let (at, suspends) = (self.at.load(Ordering::SeqCst), self.suspends.load(Ordering::SeqCst));
        let place = if at == NOWHERE { None } else { self.way().to(at) };
        let (mut way, mut counted, mut entries) = (Vec::new(), 0, 0);
        let before = |step: Step| {
            if step.enters {
                way.push(counted);
                entries += 1;
            }
            if place.is_some_and(|(passed, _)| entries < passed) {
                return Next::Return;
            }
            if at == NOWHERE {
                let before = std::mem::replace(&mut calls, calls_so_far());
                let last = self.executed().checked_sub(1).filter(|_| before != calls);
                self.calls.lock().unwrap_or_else(PoisonError::into_inner).extend(last);
            }
            self.executed.fetch_add(1, Ordering::SeqCst);
            if suspends && !kernel.can_suspend_thread() {
                return Next::Instruction;
            }
            let is_there = counted == place.map_or(at, |(_, between)| between);
            counted += 1;
            self.suspendable.store(counted, Ordering::SeqCst);
            if !is_there {
                return Next::Instruction;
            }
            self.stopped.store(true, Ordering::SeqCst);
            bell.ring();
            let _gone_on = wait(bell, "to go on", || self.released.load(Ordering::SeqCst));
            Next::Nowhere
        };
        kernel.on_processor(processor, irql, |kernel| kernel.stepwise(before, call));
        if at == NOWHERE {
            *self.way.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(Way(way));
        }
    }
}
