//! Runs one thread at a time, in an order that a seed decides.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::bell::Waited;
use super::log::{Event, Log};
use super::{Machine, Random};
use crate::notes;

/// The duration of a step in the machine's time.
const STEP: Duration = Duration::from_micros(1);
/// A wait without a timeout counts as endless after this number of steps of other
/// threads. Each instruction may be a step, and a thread that waits for a busy processor
/// gets it only by chance between two stays of another.
const PATIENCE: u64 = 2_000_000;
/// A turn that takes longer than this in the host's time is stuck outside the lab's
/// own waits.
const STUCK: Duration = Duration::from_secs(120);

pub(super) struct Turns {
    machine: Arc<dyn Machine>,
    state: Mutex<State>,
    /// Signaled when all threads have left that must leave.
    empty: Condvar,
    /// Set at the same time. The threads that are left then run without turns.
    over: AtomicBool,
}

struct State {
    random: Random,
    /// The turn is passed on after one of this number of steps, on average.
    switch: usize,
    threads: Vec<Turn>,
    running: Option<usize>,
    /// The number of rings so far.
    rings: u64,
    /// The number of steps that may have changed a condition.
    progress: u64,
    now: Duration,
    log: Log,
}

/// The state of a thread, valid while another one runs.
struct Turn {
    role: Role,
    status: Status,
    wake: Arc<Condvar>,
    /// The total number of steps at its own last one.
    since: u64,
    place: Option<(u32, bool)>,
}

/// The role of a thread in the schedule.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The schedule runs for it. It may not wait forever.
    Acts,
    /// It waits for work while threads with that role exist.
    Serves,
    /// It has joined and may wait forever. The schedule ends without it.
    Joined,
}

enum Status {
    Ready,
    Waiting { what: String, rings: u64, progress: u64, deadline: Option<Duration> },
    Done,
}

impl Turns {
    pub(super) fn new(seed: u64, machine: Arc<dyn Machine>) -> Self {
        let mut random = Random::new(seed);
        // Some seeds switch often, others rarely.
        let switch = [2, 4, 16, 64][random.below(4)];
        let state = State {
            random,
            switch,
            threads: Vec::new(),
            running: None,
            rings: 0,
            progress: 0,
            now: Duration::ZERO,
            log: Log::default(),
        };
        Self { machine, state: Mutex::new(state), empty: Condvar::new(), over: AtomicBool::new(false) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a thread, which may take its first turn, and returns its number. While
    /// the schedule runs, only its own threads may call this.
    pub(super) fn seat(&self, name: String, role: Role) -> usize {
        let mut state = self.state();
        state.log.threads.push(name);
        let (status, since) = (Status::Ready, state.progress);
        state.threads.push(Turn { role, status, wake: Arc::default(), since, place: None });
        state.threads.len() - 1
    }

    /// Removes a thread that has never started.
    pub(super) fn withdraw(&self, number: usize) {
        self.state().threads[number].status = Status::Done;
    }

    /// Whether the remaining threads run without turns.
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Passes the first turn and waits until all threads have left. If a thread
    /// never passes its turn on, this ends the process, or writes a note for the
    /// parent that will end it, so that no test hangs.
    pub(super) fn begin_and_watch(&self) {
        let mut state = self.state();
        self.hand_over(&mut state);
        let (mut seen, mut since) = (state.log.switches, Instant::now());
        let mut stuck = None;
        while state.running.is_some() {
            let waited = self.empty.wait_timeout(state, Duration::from_secs(1));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            let now = (state.log.switches, state.progress);
            if seen != now.0 + now.1 {
                (seen, since) = (now.0 + now.1, Instant::now());
                stuck = None;
            } else if since.elapsed() > STUCK && stuck.is_none() {
                let running = state.running.and_then(|number| state.log.threads.get(number));
                let text = format!("stuck outside the lab's waits: {running:?}; {}", state.waits());
                if !notes::are_read() {
                    eprintln!("{text}");
                    std::process::abort();
                }
                // The reader of the notes shows the threads' stacks and ends this
                // process.
                stuck = Some(notes::note(|| format!("wait {text}")));
            }
        }
    }

    pub(super) fn wait_for_first_turn(&self, number: usize) {
        let state = self.state();
        drop(self.wait_for_turn(state, number));
    }

    pub(super) fn take_log(&self) -> Log {
        std::mem::take(&mut self.state().log)
    }

    pub(super) fn now(&self) -> Duration {
        self.state().now
    }

    pub(super) fn rang(&self) {
        self.state().rings += 1;
    }

    pub(super) fn progressed(&self, number: usize) {
        let mut state = self.state();
        state.progress += 1;
        state.threads[number].since = state.progress;
    }

    pub(super) fn closing(&self) -> bool {
        let state = self.state();
        state.all_done(|role| role == Role::Acts)
    }

    /// A step, at which other threads may run. Returns the processor to which the
    /// thread is moved, if any; the caller must refuse that at DISPATCH_LEVEL.
    pub(super) fn step(&self, number: usize, what: &'static str, argument: u64) -> Option<u32> {
        let place = self.machine.place();
        let mut state = self.state();
        let event = Event { thread: number as u16, place, what, number: argument };
        state.log.push(event);
        state.threads[number].place = place;
        state.progress += 1;
        state.threads[number].since = state.progress;
        state.now += STEP;
        let switch = state.switch;
        if state.random.once_in(switch) {
            self.hand_over(&mut state);
            state = self.wait_for_turn(state, number);
        }
        let moves = place.is_some_and(|(_, raised)| !raised) && state.random.once_in(16);
        let processors = self.machine.processors() as usize;
        let moved = moves.then(|| state.random.below(processors) as u32);
        // A processor at DISPATCH_LEVEL runs no other thread.
        moved.filter(|&to| !state.raised_by_other(number, to))
    }

    /// See [`super::seat::park`].
    pub(super) fn park(&self, number: usize, what: String, deadline: Option<Duration>) -> Option<Waited> {
        let place = self.machine.place();
        let mut state = self.state();
        let (rings, progress) = (state.rings, state.progress);
        state.threads[number].place = place;
        state.threads[number].status = Status::Waiting { what, rings, progress, deadline };
        let patient = deadline.is_some() || state.threads[number].role != Role::Acts;
        let lost = !patient && progress - state.threads[number].since > PATIENCE;
        if lost || !self.hand_over(&mut state) {
            // Stopping the machine rings its bell, which locks the state.
            let waits = state.waits();
            drop(state);
            self.machine.hang(waits);
            state = self.state();
            self.hand_over(&mut state);
        }
        state = self.wait_for_turn(state, number);
        state.threads[number].status = Status::Ready;
        if self.machine.is_stopped() {
            return Some(Waited::GaveUp);
        }
        deadline.filter(|&deadline| state.now >= deadline).map(|_| Waited::TimedOut)
    }

    /// Called when the thread has ended.
    pub(super) fn leave(&self, number: usize) {
        let mut state = self.state();
        state.threads[number].status = Status::Done;
        state.threads[number].place = None;
        state.rings += 1;
        if !self.hand_over(&mut state) && state.running.is_some() {
            let waits = state.waits();
            drop(state);
            self.machine.hang(waits);
            self.hand_over(&mut self.state());
        }
    }

    /// Passes the turn on. Returns `false` if no thread can take it and some thread
    /// waits.
    fn hand_over(&self, state: &mut State) -> bool {
        if state.all_done(|role| role != Role::Joined) {
            self.over.store(true, Ordering::Release);
            state.running = None;
            state.threads.iter().for_each(|turn| turn.wake.notify_one());
            self.empty.notify_all();
            return true;
        }
        match state.choose(self.machine.is_stopped()) {
            Some(next) => {
                if state.running != Some(next) {
                    state.log.switches += 1;
                }
                state.running = Some(next);
                state.threads[next].wake.notify_one();
                true
            }
            None => false,
        }
    }

    fn wait_for_turn<'a>(&'a self, mut state: MutexGuard<'a, State>, number: usize) -> MutexGuard<'a, State> {
        let wake = Arc::clone(&state.threads[number].wake);
        while state.running != Some(number) && !self.is_over() {
            state = wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state
    }
}

impl State {
    /// Chooses the next thread: one that can proceed, else one that has not checked
    /// its condition since the last change, else the one with the earliest
    /// deadline.
    fn choose(&mut self, stopped: bool) -> Option<usize> {
        let candidates = |may: &dyn Fn(&Self, &Status) -> bool| -> Vec<usize> {
            let numbered = self.threads.iter().enumerate();
            numbered
                .filter(|(number, turn)| may(self, &turn.status) && (stopped || !self.preempted(*number)))
                .map(|(number, _)| number)
                .collect()
        };
        let can_go_on = |state: &Self, status: &Status| match status {
            Status::Ready => true,
            Status::Waiting { rings, deadline, .. } => {
                stopped || *rings < state.rings || deadline.is_some_and(|deadline| deadline <= state.now)
            }
            Status::Done => false,
        };
        let may_look = |state: &Self, status: &Status| matches!(status, Status::Waiting { progress, .. } if *progress < state.progress);
        for may in [&can_go_on as &dyn Fn(&Self, &Status) -> bool, &may_look] {
            let list = candidates(may);
            if !list.is_empty() {
                return self.random.pick(&list).copied();
            }
        }
        let timed = candidates(&|_, status| matches!(status, Status::Waiting { deadline: Some(_), .. }));
        let due = |number: &usize| match self.threads[*number].status {
            Status::Waiting { deadline, .. } => deadline,
            _ => None,
        };
        let next = timed.into_iter().min_by_key(due)?;
        self.now = self.now.max(due(&next)?);
        Some(next)
    }

    /// Whether another thread holds this thread's processor at DISPATCH_LEVEL. A
    /// thread that is itself at that level continues.
    fn preempted(&self, number: usize) -> bool {
        match self.threads[number].place {
            Some((processor, false)) => self.raised_by_other(number, processor),
            _ => false,
        }
    }

    fn raised_by_other(&self, number: usize, processor: u32) -> bool {
        let mut others = self.threads.iter().enumerate().filter(|(other, _)| *other != number);
        others.any(|(_, turn)| turn.place == Some((processor, true)))
    }

    /// Whether all threads with these roles have ended.
    fn all_done(&self, of: impl Fn(Role) -> bool) -> bool {
        let mut concerned = self.threads.iter().filter(|turn| of(turn.role));
        concerned.all(|turn| matches!(turn.status, Status::Done))
    }

    fn waits(&self) -> String {
        let named = self.threads.iter().zip(&self.log.threads);
        let waits = named.enumerate().filter_map(|(number, (turn, name))| match (&turn.status, turn.place) {
            (Status::Waiting { what, .. }, _) => Some(format!("{name} waits for {what}")),
            (Status::Ready, Some((processor, _))) if self.preempted(number) => {
                Some(format!("{name} was preempted on processor {processor}"))
            }
            _ => None,
        });
        waits.collect::<Vec<_>>().join("; ")
    }
}
