//! Threads of a schedule that do what a leader tells them, and a place where a
//! thread stops before an instruction of the driver.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lab::hushport;
use machine::Machine;
use machine::nt::{Irql, Kernel, Options};
use machine::schedule::{Bell, Scheduling, Thread, Waited};
use machine::wfp::Engine;

/// Longest wait of anybody, in the schedule's own time. Whoever waits longer
/// waits for something that does not come.
const PATIENCE: Duration = Duration::from_secs(20);

/// A machine, and threads for its leader to command.
pub struct Play {
    pub kernel: Arc<Kernel>,
    pub engine: Arc<Engine>,
    pub actors: Vec<Arc<Actor>>,
    bell: Arc<Bell>,
}

/// Runs `lead` on a thread of a deterministic schedule, with so many actors
/// beside it. The machine must be clean afterwards.
pub fn play(options: Options, seed: u64, actors: usize, lead: impl FnOnce(Machine, &Play) + Send) {
    let machine = hushport::machine(options);
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

/// Lets the actors end when the leader does, by a panic too.
struct Ends<'a>(&'a [Arc<Actor>]);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|actor| actor.end());
    }
}

impl Play {
    /// Waits for something. Where it does not come the machine is stopped, and
    /// that says what did not come.
    pub fn wait(&self, what: &str, ready: impl FnMut() -> bool) {
        self.wait_for(PATIENCE, what, ready);
    }

    /// Waits for so long.
    pub fn wait_for(&self, patience: Duration, what: &str, ready: impl FnMut() -> bool) {
        if self.bell.wait(&|| what.to_owned(), Some(patience), ready) == Waited::TimedOut {
            self.kernel.abandon(format!("{what} does not come"));
        }
    }

    /// Lets all others run until each of them waits for something, or for so
    /// many milliseconds.
    pub fn let_others_run(&self, milliseconds: u64) {
        let time = Duration::from_millis(milliseconds);
        let _over = self.bell.wait(&|| "the others".to_owned(), Some(time), || false);
    }

    /// What all of them wait at.
    pub fn bell(&self) -> Arc<Bell> {
        Arc::clone(&self.bell)
    }

    /// Whether the machine has stopped.
    pub fn is_stopped(&self) -> bool {
        self.kernel.stopped().is_some()
    }

    /// Waits until an actor has done its job.
    pub fn join(&self, actor: &Actor) {
        self.wait("the end of a job", || !actor.is_busy());
    }

    /// Has an actor make a call into the driver, on a processor at a level, and
    /// waits until it stands at the place where it is to stop or has returned.
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
        self.wait("a thread to stop in the driver", || stop.is_reached() || !actor.is_busy());
    }

    /// Lets a thread go on that stands in the driver.
    pub fn release(&self, stop: &Stop) {
        stop.released.store(true, Ordering::SeqCst);
        self.bell.ring();
    }
}

/// Waits for something; says whether it came.
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
            // For as long as the leader likes.
            let told = || self.is_busy() || self.over.load(Ordering::SeqCst);
            while !wait(&self.bell, "a job", told) && !told() {}
            let job = self.job.lock().unwrap_or_else(PoisonError::into_inner).take();
            let Some(job) = job else { return };
            job();
            self.busy.store(false, Ordering::SeqCst);
            self.bell.ring();
        }
    }

    /// Begins a job; the last one is done.
    pub fn start(&self, job: impl FnOnce() + Send + 'static) {
        assert!(!self.is_busy(), "one job at a time");
        *self.job.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(job));
        self.busy.store(true, Ordering::SeqCst);
        self.bell.ring();
    }

    /// Whether a job is not done yet.
    pub fn is_busy(&self) -> bool {
        self.busy.load(Ordering::SeqCst)
    }

    fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
        self.bell.ring();
    }
}

/// Where a thread stops in the driver.
#[derive(Default)]
pub struct Stop {
    /// The number of the instruction, from the entry on.
    at: AtomicU64,
    executed: AtomicU64,
    /// Numbers of the instructions that called the kernel, where none was chosen
    /// to stop at.
    calls: Mutex<Vec<u64>>,
    stopped: AtomicBool,
    released: AtomicBool,
}

/// No instruction has this number.
pub const NOWHERE: u64 = u64::MAX;

impl Stop {
    fn set(&self, at: u64) {
        self.at.store(at, Ordering::SeqCst);
        self.executed.store(0, Ordering::SeqCst);
        self.stopped.store(false, Ordering::SeqCst);
        self.released.store(false, Ordering::SeqCst);
    }

    /// Instructions of the driver that the last call has executed, or that it had when
    /// it stopped.
    pub fn executed(&self) -> u64 {
        self.executed.load(Ordering::SeqCst)
    }

    /// Instructions of the last call, which stopped at none, to stop at: those that
    /// called the kernel, when what they pass has been read already, and `others`
    /// between all of them.
    pub fn places(&self, others: u64) -> BTreeSet<u64> {
        let executed = self.executed();
        let stride = (executed / others.max(1)).max(1);
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        (0..executed).step_by(stride as usize).chain(calls.iter().copied()).collect()
    }

    /// Whether the thread has come to the place.
    pub fn is_reached(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    fn call(&self, kernel: &Kernel, (processor, irql): (u32, Irql), bell: &Bell, call: impl FnOnce()) {
        // Copying concerns nobody else.
        let counts = |name: &str| !name.starts_with("mem");
        let calls_so_far =
            || kernel.calls().iter().filter(|(name, _)| counts(name)).map(|(_, count)| count).sum::<u64>();
        let mut calls = calls_so_far();
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let before = |_| {
            let mut flow = ControlFlow::Continue(());
            if self.at.load(Ordering::SeqCst) == NOWHERE {
                let before = std::mem::replace(&mut calls, calls_so_far());
                let last = self.executed().checked_sub(1).filter(|_| before != calls);
                self.calls.lock().unwrap_or_else(PoisonError::into_inner).extend(last);
            }
            if self.executed.fetch_add(1, Ordering::SeqCst) == self.at.load(Ordering::SeqCst) {
                self.stopped.store(true, Ordering::SeqCst);
                bell.ring();
                let _gone_on = wait(bell, "to go on", || self.released.load(Ordering::SeqCst));
                flow = ControlFlow::Break(());
            }
            flow
        };
        kernel.on_processor(processor, irql, |kernel| kernel.stepwise(before, call));
    }
}
