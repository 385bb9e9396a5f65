//! One simulated machine.
#![expect(unsafe_code, reason = "an export borrows the kernel its thread stays in")]

mod run;

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use super::clock::Clock;
use super::cpu::{self, Irql, Processor, Stay};
use super::failing::{FailCalls, Failure};
use super::guest::{Guest, Stop};
use super::journal::Journal;
use super::load::Loaded;
use super::locks::LockOrder;
use super::objects::{Notice, Objects};
use super::options::Options;
use super::pool::Pool;
use super::registry::{Registry, RegistryValue, Watch};
use super::stack::StackMarks;
use super::stepwise::BeforeInstruction;
use super::work::WorkQueue;
use crate::etw::Tracing;
use crate::exports;
use crate::schedule::{Bell, Session, find_machines_by};
use crate::verifier::Verifier;
use crate::wfp::Engine;
pub(crate) use run::SYSTEM_THREAD;

/// Lines that a machine's log keeps.
const LOG_LINES: usize = 1 << 16;

/// One simulated machine. Many can live in one process; a thread is in at most
/// one at a time.
pub struct Kernel {
    me: Weak<Kernel>,
    options: Options,
    guest: Arc<dyn Guest>,
    engine: OnceLock<Arc<Engine>>,
    processors: Vec<Processor>,
    pool: Pool,
    registry: Registry<Notice>,
    verifier: Verifier,
    locks: LockOrder,
    stack_marks: StackMarks,
    clock: Clock,
    tracing: Tracing,
    fail_calls: OnceLock<Arc<dyn FailCalls>>,
    calls: Box<[AtomicU64]>,
    journal: Journal,
    stopped: OnceLock<Stop>,
    work: WorkQueue,
    objects: Mutex<Objects>,
    log: Mutex<VecDeque<String>>,
    /// Simulated threads that run together now.
    session: Mutex<Option<Arc<Session>>>,
    thread_stepper: Mutex<Option<BeforeInstruction>>,
    pub(super) loaded: Mutex<Option<Loaded>>,
    pub(super) bell: Bell,
}

impl Kernel {
    /// A machine with nothing loaded, whose driver code `guest` runs.
    pub fn new(guest: Arc<dyn Guest>, options: Options) -> Arc<Self> {
        assert!(matches!(options.processors, 1..=64), "1 to 64 processors");
        assert!(matches!(options.group_size, 1..=64), "1 to 64 processors in a group");
        find_machines_by(super::threads::of_thread);
        let calls = (0..exports::count()).map(|_| AtomicU64::new(0)).collect();
        Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            processors: (0..options.processors).map(|_| Processor::default()).collect(),
            options,
            guest,
            engine: OnceLock::new(),
            pool: Pool::default(),
            registry: Registry::default(),
            verifier: Verifier::default(),
            locks: LockOrder::default(),
            stack_marks: StackMarks::default(),
            clock: Clock::default(),
            tracing: Tracing::default(),
            fail_calls: OnceLock::new(),
            calls,
            journal: Journal::default(),
            stopped: OnceLock::new(),
            work: WorkQueue::new(Weak::clone(me)),
            objects: Mutex::default(),
            log: Mutex::default(),
            session: Mutex::default(),
            thread_stepper: Mutex::default(),
            loaded: Mutex::default(),
            bell: Bell::default(),
        })
    }

    /// The machine this thread is in.
    ///
    /// # Panics
    /// If it is in none: an export was called without a kernel.
    pub(crate) fn current() -> Current {
        let kernel = NonNull::new(cpu::kernel().cast_mut());
        Current { kernel: kernel.expect("this thread is in no simulated machine"), thread: PhantomData }
    }

    /// Runs `f` with this thread on processor `n` at the given level.
    pub fn on_processor<R>(&self, n: u32, irql: Irql, f: impl FnOnce(&Self) -> R) -> R {
        assert!(n < self.options.processors, "no processor {n}");
        let stay = Stay::begin(self, n, irql);
        let result = f(self);
        drop(stay);
        result
    }

    /// Why the machine stopped, if it did. Nothing of the driver runs any
    /// more then.
    pub fn stopped(&self) -> Option<&Stop> {
        self.stopped.get()
    }

    /// Stops the machine; the first stop is the one that counts.
    pub(super) fn halt(&self, stop: Stop) {
        let _ = self.stopped.set(stop);
        self.bell.ring();
    }

    /// Stops the machine because something does not come that must. For those
    /// who drive a machine from outside the driver.
    pub fn abandon(&self, waits: impl Into<String>) {
        self.halt(Stop::Deadlock { waits: waits.into() });
    }

    /// Tells registry watchers; how many there were.
    pub(super) fn tell(&self, watches: Vec<Watch<Notice>>, status: crate::status::Status) -> usize {
        for watch in &watches {
            super::zw::complete_watch(self, &watch.notice, status);
        }
        watches.len()
    }

    /// Sets a registry value and tells the driver if it watches; how many of
    /// its watches fired.
    pub fn set_value(&self, key: &str, name: &str, value: RegistryValue) -> usize {
        let watches = self.registry.set_value(key, name, value);
        self.tell(watches, crate::status::Status::SUCCESS)
    }

    /// Deletes a registry value and tells the driver if it watches; how many of
    /// its watches fired.
    pub fn delete_value(&self, key: &str, name: &str) -> usize {
        let watches = self.registry.delete_value(key, name);
        self.tell(watches, crate::status::Status::SUCCESS)
    }

    /// Deletes a registry key with those below it, and tells the driver if it
    /// watches any of them.
    pub fn delete_key(&self, path: &str) {
        let watches = self.registry.delete_key(path);
        self.tell(watches, super::status::NOTIFY_CLEANUP);
    }

    /// How often the driver called each export it called at all.
    pub fn calls(&self) -> Vec<(&'static str, u64)> {
        let counted = self.calls.iter().enumerate().filter_map(|(index, calls)| {
            let calls = calls.load(Ordering::Relaxed);
            (calls > 0).then(|| (exports::name(index), calls))
        });
        counted.collect()
    }

    /// How often the driver has waited for an object by its handle.
    pub fn waits(&self) -> u64 {
        self.call_count("ZwWaitForSingleObject")
    }

    /// How often the driver called one export.
    pub fn call_count(&self, name: &str) -> u64 {
        let calls = self.calls();
        let found = calls.iter().find(|(export, _)| *export == name);
        found.map_or(0, |(_, calls)| *calls)
    }

    /// Counts a call of the export at `index` of the table.
    pub(crate) fn count_call(&self, index: usize) {
        self.calls[index].fetch_add(1, Ordering::Relaxed);
    }

    /// The calls of exports with their arguments, once it is told to record.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Adds a line to the machine's log, which keeps the last ones.
    pub fn log(&self, line: impl Into<String>) {
        let mut log = lock(&self.log);
        if log.len() == LOG_LINES {
            log.pop_front();
        }
        log.push_back(line.into());
    }

    /// The machine's log.
    pub fn log_lines(&self) -> Vec<String> {
        lock(&self.log).iter().cloned().collect()
    }

    pub(super) fn session(&self) -> MutexGuard<'_, Option<Arc<Session>>> {
        lock(&self.session)
    }

    /// What the driver's own threads call before each instruction.
    pub(super) fn thread_stepper(&self) -> MutexGuard<'_, Option<BeforeInstruction>> {
        lock(&self.thread_stepper)
    }

    /// The filter engine, made when it is first asked for.
    pub fn engine(&self) -> &Arc<Engine> {
        self.engine.get_or_init(|| {
            let engine = Engine::new();
            self.watch_engine(&engine);
            engine
        })
    }

    /// Puts an engine of the caller's own making into the machine.
    ///
    /// # Panics
    /// If it has one already.
    pub fn set_engine(&self, engine: Arc<Engine>) {
        self.watch_engine(&engine);
        assert!(self.engine.set(engine).is_ok(), "the machine has an engine");
    }

    /// The engine, if anybody has asked for it yet.
    pub(super) fn engine_if_used(&self) -> Option<&Arc<Engine>> {
        self.engine.get()
    }

    pub(super) fn processor(&self, n: u32) -> &Processor {
        &self.processors[n as usize]
    }

    pub(super) fn objects(&self) -> MutexGuard<'_, Objects> {
        lock(&self.objects)
    }

    /// A reference that does not keep the machine alive, for callbacks.
    pub(super) fn weak(&self) -> Weak<Self> {
        Weak::clone(&self.me)
    }

    /// How the machine was made.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// What runs driver code.
    pub fn guest(&self) -> &dyn Guest {
        &*self.guest
    }

    /// Pool.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The registry. Changes go through [`Kernel::set_value`], which tells.
    pub fn registry(&self) -> &Registry<Notice> {
        &self.registry
    }

    /// What the verifier found.
    pub fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    /// The order in which drivers took locks.
    pub(super) fn locks(&self) -> &LockOrder {
        &self.locks
    }

    /// The most kernel stack, in bytes, that each kind of entry point has used
    /// in the calls that were measured: the first 64, then one in as many.
    pub fn stack_marks(&self) -> Vec<(&'static str, usize)> {
        self.stack_marks.all()
    }

    /// Time.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Providers of events, and who listens.
    pub fn tracing(&self) -> &Tracing {
        &self.tracing
    }

    /// Has somebody decide which calls of the driver fail.
    ///
    /// # Panics
    /// If somebody does already.
    pub fn set_fail_calls(&self, fail_calls: Arc<dyn FailCalls>) {
        assert!(self.fail_calls.set(fail_calls).is_ok(), "somebody decides which calls fail");
    }

    /// How a call of the export at `index` fails, if it does.
    pub(super) fn failure_of(&self, index: usize) -> Option<Failure> {
        self.fail_calls.get()?.failure(index)
    }

    /// The work queue.
    pub fn work(&self) -> &WorkQueue {
        &self.work
    }
}

/// The machine an export was called in. Valid while the driver's call lasts,
/// and owns nothing, so that the call may be abandoned.
#[derive(Clone, Copy)]
pub(crate) struct Current {
    kernel: NonNull<Kernel>,
    /// Belongs to its thread.
    thread: PhantomData<*const ()>,
}

impl Deref for Current {
    type Target = Kernel;

    fn deref(&self) -> &Kernel {
        // SAFETY: made from the thread's place, which a `Stay` set for as
        // long as it borrows the kernel; exports run within that stay and
        // keep no `Current`.
        unsafe { self.kernel.as_ref() }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
