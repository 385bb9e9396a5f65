//! A simulated machine.
#![expect(unsafe_code, reason = "an export borrows the kernel its thread stays in")]

mod run;

use std::collections::{BTreeMap, VecDeque};
use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use super::clock::Clock;
use super::cpu::{self, Irql, Processor, Stay};
use super::dpc::Deferred;
use super::drivers::Drivers;
use super::enter::Export;
use super::guest::{Guest, Stop};
use super::initialized::SpinLocks;
use super::irp::{Irps, MadeIrps};
use super::journal::Journal;
use super::locks::LockOrder;
use super::memory::{Guarded, PAGE};
use super::objects::{Notice, Objects};
use super::options::Options;
use super::packets::Packets;
use super::pool::Pool;
use super::registry::{Registry, RegistryValue, Watch};
use super::sleepers::Sleepers;
use super::types::Address;
use super::wdf::Framework;
use super::work::WorkQueue;
use crate::etw::Tracing;
use crate::schedule::{Bell, Session, find_machines_by};
use crate::verifier::Verifier;
use crate::wfp::Engine;
pub use run::SYSTEM_THREAD;

/// Most lines that a machine's log keeps.
const LOG_LINES: usize = 1 << 16;

/// A simulated machine. A process can have many; a thread is in at most one at a
/// time.
pub struct Kernel {
    me: Weak<Kernel>,
    options: Options,
    guest: Arc<dyn Guest>,
    engine: OnceLock<Arc<Engine>>,
    processors: Vec<Processor>,
    /// How many of them are active.
    pub(super) active: AtomicU32,
    /// The priority of a busy thread, by processor.
    busy: Mutex<BTreeMap<u32, i32>>,
    /// Whether there is one, to be looked at without the lock.
    pub(super) any_busy: AtomicBool,
    /// How many numbers the seed has given.
    pub(super) drawn: AtomicU64,
    pool: Pool,
    packets: Packets,
    registry: Registry<Notice>,
    verifier: Verifier,
    /// Locked and mapped MDLs, by address.
    pub(super) mdls: Mutex<super::mm::Mdls>,
    pub(super) remove_locks: Mutex<super::remove_lock::RemoveLocks>,
    locks: LockOrder,
    pub(super) spin_locks: SpinLocks,
    clock: Clock,
    pub(super) sleepers: Sleepers,
    tracing: Tracing,
    journal: Journal,
    stopped: OnceLock<Stop>,
    work: WorkQueue,
    objects: Mutex<Objects>,
    log: Mutex<VecDeque<String>>,
    /// The simulated threads that now run together.
    session: Mutex<Option<Arc<Session>>>,
    pub(super) drivers: Drivers,
    pub(super) bell: Bell,
    irps: Mutex<Irps>,
    pub(super) made_irps: Mutex<MadeIrps>,
    deferred: Mutex<Deferred>,
    /// A page with the lock of cancel routines.
    cancel_lock: Guarded,
    framework: Mutex<Framework>,
    linker: OnceLock<Linker>,
}

/// Gives the address that a driver calls for a function: module, name, and the
/// function, if there is one. A call of a missing function is reported by its name.
pub type Linker = Box<dyn Fn(&str, &str, Option<Export>) -> Address + Send + Sync>;

impl Kernel {
    /// Makes a machine without a driver. `guest` runs driver code.
    pub fn new(guest: Arc<dyn Guest>, options: Options) -> Arc<Self> {
        assert!(options.processors >= 1 && options.possible() <= 64, "1 to 64 processors");
        assert!(matches!(options.group_size, 1..=64), "1 to 64 processors in a group");
        find_machines_by(super::threads::of_thread);
        Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            active: AtomicU32::new(options.processors),
            busy: Mutex::default(),
            any_busy: AtomicBool::new(false),
            drawn: AtomicU64::new(0),
            processors: (0..options.possible()).map(|_| Processor::default()).collect(),
            clock: Clock::new(options.own_time),
            guest,
            engine: OnceLock::new(),
            pool: Pool::default(),
            packets: Packets::default(),
            registry: {
                let machine = Weak::clone(me);
                let time =
                    move || machine.upgrade().map_or(0, |kernel: Arc<Self>| kernel.clock.system_time());
                Registry::with_time(Box::new(time))
            },
            verifier: Verifier::new(options.verifier),
            mdls: Mutex::default(),
            remove_locks: Mutex::default(),
            locks: LockOrder::new(options.release_order),
            spin_locks: SpinLocks::default(),
            sleepers: Sleepers::default(),
            tracing: Tracing::default(),
            journal: Journal::default(),
            stopped: OnceLock::new(),
            work: WorkQueue::new(Weak::clone(me)),
            objects: Mutex::default(),
            log: Mutex::default(),
            session: Mutex::default(),
            drivers: Drivers::default(),
            bell: Bell::default(),
            irps: Mutex::default(),
            made_irps: Mutex::default(),
            deferred: Mutex::default(),
            cancel_lock: Guarded::new(PAGE),
            framework: Mutex::default(),
            linker: OnceLock::new(),
            options,
        })
    }

    /// The machine this thread is in.
    ///
    /// # Panics
    /// If the thread is in no machine, because an export was called without a
    /// kernel.
    pub(crate) fn current() -> Current {
        let kernel = NonNull::new(cpu::kernel().cast_mut());
        Current { kernel: kernel.expect("this thread is in no simulated machine"), thread: PhantomData }
    }

    /// Runs `f` with this thread on processor `n` at the given level.
    pub fn on_processor<R>(&self, n: u32, irql: Irql, f: impl FnOnce(&Self) -> R) -> R {
        assert!(n < self.active_count(), "processor {n} is not active");
        let stay = Stay::begin(self, n, irql);
        let result = f(self);
        drop(stay);
        result
    }

    /// Why the machine stopped, if it did. After that, no driver code runs.
    pub fn stopped(&self) -> Option<&Stop> {
        self.stopped.get()
    }

    /// Stops the machine. Only the first stop is kept.
    pub(super) fn halt(&self, stop: Stop) {
        let _ = self.stopped.set(stop);
        self.bell.ring();
    }

    /// Stops the machine because an expected event does not happen. For callers
    /// that drive a machine from outside the driver.
    pub fn abandon(&self, waits: impl Into<String>) {
        self.halt(Stop::Deadlock { waits: waits.into() });
    }

    /// Completes registry watches. Returns their number.
    pub(super) fn complete_watches(
        &self,
        watches: Vec<Watch<Notice>>,
        status: crate::status::Status,
    ) -> usize {
        for watch in &watches {
            super::zw::complete_watch(self, &watch.notice, status);
        }
        watches.len()
    }

    /// Sets a registry value and completes the driver's watches. Returns how many
    /// completed.
    pub fn set_value(&self, key: &str, name: &str, value: RegistryValue) -> usize {
        let watches = self.registry.set_value(key, name, value);
        self.complete_watches(watches, crate::status::Status::SUCCESS)
    }

    /// Deletes a registry value and completes the driver's watches. Returns how
    /// many completed.
    pub fn delete_value(&self, key: &str, name: &str) -> usize {
        let watches = self.registry.delete_value(key, name);
        self.complete_watches(watches, crate::status::Status::SUCCESS)
    }

    /// Creates a registry key and its parents, and completes the driver's watches.
    pub fn create_key(&self, path: &str) {
        let watches = self.registry.create_key(path);
        self.complete_watches(watches, crate::status::Status::SUCCESS);
    }

    /// Deletes a registry key with its subkeys, and completes the driver's watches
    /// of them.
    pub fn delete_key(&self, path: &str) {
        let watches = self.registry.delete_key(path);
        self.complete_watches(watches, super::status::NOTIFY_CLEANUP);
    }

    /// How often the drivers called ZwWaitForSingleObject.
    pub fn waits(&self) -> u64 {
        self.call_count("ZwWaitForSingleObject")
    }

    /// How often the drivers called an export.
    pub fn call_count(&self, name: &str) -> u64 {
        let calls = self.calls();
        let found = calls.iter().find(|(export, _)| *export == name);
        found.map_or(0, |(_, calls)| *calls)
    }

    /// The journal of calls with their arguments. Off until [`Journal::start`].
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Adds a line to the machine's log, which keeps the last lines.
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

    pub(super) fn busy(&self) -> MutexGuard<'_, BTreeMap<u32, i32>> {
        lock(&self.busy)
    }

    pub(super) fn session(&self) -> MutexGuard<'_, Option<Arc<Session>>> {
        lock(&self.session)
    }

    /// The filter engine, created at the first call.
    pub fn engine(&self) -> &Arc<Engine> {
        self.engine.get_or_init(|| {
            let engine = Engine::new();
            self.watch_engine(&engine);
            engine
        })
    }

    /// Uses this engine in the machine.
    ///
    /// # Panics
    /// If the machine already has an engine.
    pub fn set_engine(&self, engine: Arc<Engine>) {
        self.watch_engine(&engine);
        assert!(self.engine.set(engine).is_ok(), "the machine already has an engine");
    }

    /// The filter engine, if it was created.
    pub(super) fn engine_if_used(&self) -> Option<&Arc<Engine>> {
        self.engine.get()
    }

    pub(super) fn processor(&self, n: u32) -> &Processor {
        &self.processors[n as usize]
    }

    /// The requests that are not over.
    pub(super) fn irps(&self) -> MutexGuard<'_, Irps> {
        lock(&self.irps)
    }

    /// As [`Self::irps`], for a fault handler, which must not wait.
    pub(super) fn try_irps(&self) -> Option<MutexGuard<'_, Irps>> {
        self.irps.try_lock().ok()
    }

    /// DPCs and timers.
    pub(super) fn deferred(&self) -> MutexGuard<'_, Deferred> {
        lock(&self.deferred)
    }

    /// The address of the lock of cancel routines.
    pub(super) fn cancel_lock(&self) -> Address {
        self.cancel_lock.start()
    }

    /// The state of the Kernel-Mode Driver Framework.
    pub(super) fn framework(&self) -> MutexGuard<'_, Framework> {
        lock(&self.framework)
    }

    /// Sets what gives addresses for functions that a driver finds at run time.
    ///
    /// # Panics
    /// If it is already set.
    pub fn set_linker(&self, linker: Linker) {
        assert!(self.linker.set(linker).is_ok(), "set_linker was called twice");
    }

    /// The address that a driver calls for an export of a module, or for one that
    /// the module lacks.
    pub(super) fn link(&self, module: &str, name: &str) -> Address {
        self.bind(module, name, super::resolve(module, name))
    }

    /// The address that a driver calls for a function.
    pub(super) fn bind(&self, module: &str, name: &str, export: Option<Export>) -> Address {
        match self.linker.get() {
            Some(linker) => linker(module, name, export),
            None => export.map_or(0, |export| export.address as Address),
        }
    }

    pub(super) fn objects(&self) -> MutexGuard<'_, Objects> {
        lock(&self.objects)
    }

    /// A reference that does not keep the machine alive, for callbacks.
    pub(super) fn weak(&self) -> Weak<Self> {
        Weak::clone(&self.me)
    }

    /// The options of the machine.
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

    /// Drivers' lists of packets.
    pub(super) fn packets(&self) -> &Packets {
        &self.packets
    }

    /// The registry. Change values with [`Kernel::set_value`], which completes
    /// watches.
    pub fn registry(&self) -> &Registry<Notice> {
        &self.registry
    }

    /// The findings of the verifier.
    pub fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    /// The order in which the driver took locks.
    pub(super) fn locks(&self) -> &LockOrder {
        &self.locks
    }

    /// Time.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Lets this much time pass at once: the clock moves forward, and waits with a
    /// timeout that is over end.
    pub fn pass(&self, by: Duration) {
        self.clock.pass(by);
        self.bell.ring();
    }

    /// The machine sleeps for this long: nothing runs, and the clocks go on as documented
    /// (`Clock::sleep`). Waits for an absolute time that is over end; those for a
    /// relative time go on, unless [`Options::sleep_ends_waits`].
    pub fn sleep(&self, time: Duration) {
        self.clock.sleep(time);
        self.sleepers.slept(time, self.options.sleep_ends_waits);
        self.bell.ring();
    }

    /// The event providers and sessions.
    pub fn tracing(&self) -> &Tracing {
        &self.tracing
    }

    /// Whether another thread could suspend this one now: its IRQL is below
    /// DISPATCH_LEVEL, and no critical region disables normal kernel APCs. That holds at
    /// APC_LEVEL too, where Windows delays the APC.
    pub fn can_suspend_thread(&self) -> bool {
        cpu::irql() < Irql::DISPATCH && cpu::thread_state().critical_regions == 0
    }

    /// The work queue.
    pub fn work(&self) -> &WorkQueue {
        &self.work
    }
}

/// The machine in which an export was called. Valid during the driver's call. Owns
/// nothing, so that the call may be abandoned.
#[derive(Clone, Copy)]
pub(crate) struct Current {
    kernel: NonNull<Kernel>,
    /// Not `Send`: it belongs to its thread.
    thread: PhantomData<*const ()>,
}

impl Deref for Current {
    type Target = Kernel;

    fn deref(&self) -> &Kernel {
        // SAFETY: made from the thread's state, which a `Stay` set while it borrows
        // the kernel. Exports run during that stay and keep no `Current`.
        unsafe { self.kernel.as_ref() }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
