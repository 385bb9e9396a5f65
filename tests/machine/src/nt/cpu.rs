//! Simulated processors: each thread's processor and IRQL.
//!
//! Below DISPATCH_LEVEL, any number of threads may be on a processor, as if they
//! preempted each other. At DISPATCH_LEVEL and above there is one thread; the
//! others wait at their next import. A thread holds its processor's dispatch lock
//! exactly while its IRQL is DISPATCH_LEVEL or higher.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::Kernel;
use crate::driver::DriverId;
use crate::image;
pub use crate::irql::Irql;
use crate::notes::{self, Note};
use crate::schedule;

/// A processor's lock for DISPATCH_LEVEL.
#[derive(Debug, Default)]
pub(super) struct Processor {
    dispatch: AtomicBool,
}

impl Processor {
    fn lock(&self) {
        let mut backoff = Backoff::default();
        while self.dispatch.swap(true, Ordering::Acquire) {
            backoff.wait(&|| format!("processor {} to drop below DISPATCH_LEVEL", processor()));
        }
    }

    fn unlock(&self) {
        self.dispatch.store(false, Ordering::Release);
    }

    /// Whether a thread on the processor is at DISPATCH_LEVEL or above.
    pub(super) fn is_raised(&self) -> bool {
        self.dispatch.load(Ordering::Acquire)
    }
}

/// Waits with growing delays; the host may have fewer processors than the machine.
#[derive(Default)]
pub(super) struct Backoff {
    rounds: u32,
    began: Option<Instant>,
    /// Notes what the thread waits for, once the wait is long.
    note: Option<Note>,
}

/// A longer wait is noted.
const LONG: Duration = Duration::from_millis(500);

impl Backoff {
    /// Waits a little longer each time. Under a schedule, it runs other threads
    /// instead.
    pub(super) fn wait(&mut self, what: &dyn Fn() -> String) {
        if schedule::pause(what) {
            return;
        }
        self.rounds = self.rounds.saturating_add(1);
        match self.rounds {
            ..32 => std::hint::spin_loop(),
            32..256 => std::thread::yield_now(),
            _ => {
                let began = *self.began.get_or_insert_with(Instant::now);
                if self.note.is_none() && began.elapsed() > LONG {
                    let thread = std::thread::current();
                    let name = thread.name().unwrap_or("a thread");
                    self.note = Some(notes::note(|| format!("wait {name} waits for {}", what())));
                }
                std::thread::sleep(Duration::from_micros(50));
            }
        }
    }
}

/// A thread's state in a simulated machine.
struct Place {
    kernel: Cell<*const Kernel>,
    processor: Cell<u32>,
    irql: Cell<Irql>,
    /// Nested BFE state callbacks on this thread.
    callbacks: Cell<u32>,
    /// One bit for each processor that a driver has bound the thread to; 0 if it
    /// has not.
    affinity: Cell<u64>,
    /// Number of critical regions that the thread is in. Normal kernel APCs are
    /// disabled in them.
    critical_regions: Cell<u32>,
    /// Number of guarded regions that the thread is in. All kernel APCs are disabled in
    /// them.
    guarded_regions: Cell<u32>,
    /// Whether the routine of a driver that it runs began at DISPATCH_LEVEL or above.
    began_raised: Cell<bool>,
    /// How often it may go on although a busy thread has its processor: it was boosted.
    boosts: Cell<u32>,
    /// Whether the thread runs code of the driver as one of the system's own threads.
    system: Cell<bool>,
    /// The thread's priority. The lab does not model boosts, so it is also the base.
    priority: Cell<i32>,
    /// The address of the thread's object; 0 until it is asked for.
    object: Cell<usize>,
    /// The driver that the thread runs, and whether the kernel acts for it.
    acting: Cell<(DriverId, bool)>,
}

/// The priority of the system process, and of its threads.
pub(super) const NORMAL_PRIORITY: i32 = 8;

/// After this time, Windows boosts a thread that a busy one keeps from running.
const STARVED: Duration = Duration::from_secs(4);

/// The priority of a boosted thread: the highest below those of real time.
const BOOSTED: i32 = 15;

thread_local! {
    static PLACE: Place = const { Place {
        kernel: Cell::new(std::ptr::null()),
        processor: Cell::new(0),
        irql: Cell::new(Irql::PASSIVE),
        callbacks: Cell::new(0),
        affinity: Cell::new(0),
        critical_regions: Cell::new(0),
        guarded_regions: Cell::new(0),
        began_raised: Cell::new(false),
        boosts: Cell::new(0),
        system: Cell::new(false),
        priority: Cell::new(NORMAL_PRIORITY),
        object: Cell::new(0),
        acting: Cell::new((DriverId::SYSTEM, false)),
    } };
}

/// The machine this thread is in, or null.
pub(super) fn kernel() -> *const Kernel {
    PLACE.with(|place| place.kernel.get())
}

/// The processor this thread is on.
pub fn processor() -> u32 {
    PLACE.with(|place| place.processor.get())
}

/// This thread's IRQL.
pub fn irql() -> Irql {
    PLACE.with(|place| place.irql.get())
}

/// Thread state that a driver routine must restore before it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ThreadState {
    /// One bit for each processor that the thread is bound to; 0 if it is not
    /// bound.
    pub(super) affinity: u64,
    /// Number of critical regions that the thread is in.
    pub(super) critical_regions: u32,
    /// Number of guarded regions that the thread is in.
    pub(super) guarded_regions: u32,
    /// The thread's priority.
    pub(super) priority: i32,
}

/// This thread's current state.
pub(super) fn thread_state() -> ThreadState {
    PLACE.with(|place| ThreadState {
        affinity: place.affinity.get(),
        critical_regions: place.critical_regions.get(),
        guarded_regions: place.guarded_regions.get(),
        priority: place.priority.get(),
    })
}

/// Restores this thread's state.
pub(super) fn restore(thread_state: ThreadState) {
    PLACE.with(|place| {
        place.affinity.set(thread_state.affinity);
        place.critical_regions.set(thread_state.critical_regions);
        place.guarded_regions.set(thread_state.guarded_regions);
        place.priority.set(thread_state.priority);
    });
}

/// This thread's object, which `make` makes the first time.
pub(super) fn thread_object(make: impl FnOnce() -> usize) -> usize {
    PLACE.with(|place| {
        if place.object.get() == 0 {
            place.object.set(make());
        }
        place.object.get()
    })
}

/// Sets this thread's priority. Returns the old one.
pub(super) fn set_priority(priority: i32) -> i32 {
    PLACE.with(|place| place.priority.replace(priority))
}

/// Enters a critical region.
pub(super) fn enter_critical_region() {
    PLACE.with(|place| place.critical_regions.set(place.critical_regions.get() + 1));
}

/// Leaves a critical region. `false` if the thread is in none.
pub(super) fn leave_critical_region() -> bool {
    PLACE.with(|place| {
        let left = place.critical_regions.get().checked_sub(1);
        place.critical_regions.set(left.unwrap_or(0));
        left.is_some()
    })
}

/// The driver that this thread runs, and whether the kernel acts for it there.
pub(super) fn acting() -> (DriverId, bool) {
    PLACE.with(|place| place.acting.get())
}

/// The stay of a thread in a driver. Dropping it returns to the driver before.
#[must_use]
pub(super) struct Acting {
    outer: (DriverId, bool),
    /// Not `Send`: it belongs to its thread.
    here: PhantomData<*const ()>,
}

impl Acting {
    /// This thread runs the driver. `for_it`: the kernel acts for the driver.
    pub(super) fn begin(driver: DriverId, for_it: bool) -> Self {
        let outer = PLACE.with(|place| place.acting.replace((driver, for_it)));
        Self { outer, here: PhantomData }
    }
}

impl Drop for Acting {
    fn drop(&mut self) {
        PLACE.with(|place| place.acting.set(self.outer));
    }
}

/// Whether an unhandled exception of this thread reaches the start routine of a system
/// thread.
pub(super) fn is_system_thread() -> bool {
    PLACE.with(|place| place.system.get())
}

/// Sets whether this thread is one of the system's. Returns whether it was.
pub(super) fn set_system_thread(system: bool) -> bool {
    PLACE.with(|place| place.system.replace(system))
}

/// Whether the routine that this thread runs began at DISPATCH_LEVEL or above.
pub(super) fn began_raised() -> bool {
    PLACE.with(|place| place.began_raised.get())
}

/// Sets whether the routine that this thread runs began there. Returns what was set.
pub(super) fn set_began_raised(raised: bool) -> bool {
    PLACE.with(|place| place.began_raised.replace(raised))
}

/// Enters a guarded region.
pub(super) fn enter_guarded_region() {
    PLACE.with(|place| place.guarded_regions.set(place.guarded_regions.get() + 1));
}

/// Leaves a guarded region. `false` if the thread is in none.
pub(super) fn leave_guarded_region() -> bool {
    PLACE.with(|place| {
        let left = place.guarded_regions.get().checked_sub(1);
        place.guarded_regions.set(left.unwrap_or(0));
        left.is_some()
    })
}

/// Whether normal kernel APCs are disabled on this thread.
pub(super) fn apcs_disabled() -> bool {
    let state = thread_state();
    state.critical_regions > 0 || state.guarded_regions > 0 || irql() >= Irql::APC
}

/// The thread's APC disable counts (`KTHREAD.KernelApcDisable`, `SpecialApcDisable`),
/// which each region decrements.
pub(super) fn apc_disable_count() -> (u16, u16) {
    let state = thread_state();
    let count = |regions: u32| 0u16.wrapping_sub(regions as u16);
    (count(state.critical_regions), count(state.guarded_regions))
}

/// Whether this thread is in a BFE state callback.
pub(super) fn in_callback() -> bool {
    PLACE.with(|place| place.callbacks.get() > 0)
}

/// Marks a BFE state callback for as long as the value lives.
pub(super) struct InCallback(());

impl InCallback {
    pub(super) fn begin() -> Self {
        PLACE.with(|place| place.callbacks.set(place.callbacks.get() + 1));
        Self(())
    }
}

impl Drop for InCallback {
    fn drop(&mut self) {
        PLACE.with(|place| place.callbacks.set(place.callbacks.get() - 1));
    }
}

/// Changes this thread's IRQL. Locks or unlocks the processor if necessary.
pub(super) fn set_irql(kernel: &Kernel, irql: Irql) {
    PLACE.with(|place| {
        let old = place.irql.get();
        let processor = kernel.processor(place.processor.get());
        if old < Irql::DISPATCH && irql >= Irql::DISPATCH {
            processor.lock();
            kernel.pool().take_out_pageable();
            image::crossed(true);
        } else if old >= Irql::DISPATCH && irql < Irql::DISPATCH {
            processor.unlock();
            image::crossed(false);
        }
        place.irql.set(irql);
    });
}

/// Moves this thread to another processor, as the system may do below
/// DISPATCH_LEVEL.
pub(super) fn migrate(processor: u32) {
    PLACE.with(|place| {
        assert!(place.irql.get() < Irql::DISPATCH, "a thread at DISPATCH_LEVEL cannot move");
        let affinity = place.affinity.get();
        if affinity == 0 || affinity >> processor & 1 != 0 {
            place.processor.set(processor);
        }
    });
}

/// Binds this thread to some processors, or to none if `affinity` is 0. Returns the
/// previous affinity. Below DISPATCH_LEVEL, the thread runs on one of them at once;
/// it waits until no thread is at DISPATCH_LEVEL there.
pub(super) fn set_affinity(kernel: &Kernel, affinity: u64) -> u64 {
    let (here, raised) = PLACE.with(|place| (place.processor.get(), place.irql.get() >= Irql::DISPATCH));
    let before = PLACE.with(|place| place.affinity.replace(affinity));
    let is_late = kernel.options().affinity_is_late && affinity >> here & 1 == 0 && before != affinity;
    if affinity != 0 && !raised && !is_late {
        let there = if affinity >> here & 1 != 0 { here } else { affinity.trailing_zeros() };
        PLACE.with(|place| place.processor.set(there));
        wait_behind_busy(kernel, there);
        // The lock orders memory as a context switch does: what ran at
        // DISPATCH_LEVEL on this processor is visible here, and the reverse.
        kernel.processor(there).lock();
        kernel.processor(there).unlock();
    }
    before
}

/// Called at every import below DISPATCH_LEVEL. Windows runs a thread on another processor
/// if a busy one of a higher priority has its own. If that is not possible, the thread
/// waits. After some seconds it is boosted: it goes on for a while ("Priority Boosts").
pub(super) fn yield_to_busy(kernel: &Kernel) {
    /// How many imports a boosted thread passes: about two quanta.
    const BOOST: u32 = 4096;
    if !kernel.any_busy.load(Ordering::Relaxed) {
        return;
    }
    let (here, priority) = PLACE.with(|place| (place.processor.get(), place.priority.get()));
    if !kernel.is_kept_busy(here, priority) {
        return;
    }
    let boosts = PLACE.with(|place| place.boosts.get());
    if boosts > 0 {
        PLACE.with(|place| place.boosts.set(boosts - 1));
        return;
    }
    let affinity = PLACE.with(|place| place.affinity.get());
    let may = |processor: &u32| affinity == 0 || affinity >> processor & 1 != 0;
    let free = (0..kernel.active_count()).filter(may).find(|at| !kernel.is_kept_busy(*at, priority));
    match free {
        Some(free) => migrate(free),
        None => {
            wait_behind_busy(kernel, here);
            PLACE.with(|place| place.boosts.set(BOOST));
        }
    }
}

/// Waits while a busy thread of a higher priority keeps this one from its processor.
fn wait_behind_busy(kernel: &Kernel, processor: u32) {
    let priority = PLACE.with(|place| place.priority.get());
    if kernel.is_kept_busy(processor, priority) {
        let what = || format!("processor {processor}, which a busy thread has");
        // A thread of real time is not interrupted by a boosted one.
        let boosted = Some(STARVED).filter(|_| !kernel.is_kept_busy(processor, BOOSTED));
        let _ = kernel.bell.wait(&what, boosted, || !kernel.is_kept_busy(processor, priority));
    }
}

/// Waits while another thread is at DISPATCH_LEVEL on this thread's processor.
pub(super) fn wait_while_preempted(kernel: &Kernel) {
    let processor = kernel.processor(processor());
    let mut backoff = Backoff::default();
    while processor.is_raised() && kernel.stopped().is_none() {
        backoff.wait(&|| format!("processor {} to drop below DISPATCH_LEVEL", self::processor()));
    }
}

/// A thread's stay on a processor at an IRQL. Dropping it restores the thread's
/// previous processor and IRQL, whatever IRQL the driver left.
pub(super) struct Stay<'a> {
    kernel: &'a Kernel,
    outer_kernel: *const Kernel,
    outer_processor: u32,
    outer_irql: Irql,
    /// Not `Send`: a stay belongs to its thread.
    here: PhantomData<*const ()>,
}

impl<'a> Stay<'a> {
    /// Moves this thread to `processor` at `irql`.
    ///
    /// # Panics
    /// If the thread is at DISPATCH_LEVEL on another processor or in another
    /// machine. This is a bug in the lab.
    pub(super) fn begin(kernel: &'a Kernel, processor: u32, irql: Irql) -> Self {
        let stay = PLACE.with(|place| Self {
            kernel,
            outer_kernel: place.kernel.get(),
            outer_processor: place.processor.get(),
            outer_irql: place.irql.get(),
            here: PhantomData,
        });
        if stay.outer_irql >= Irql::DISPATCH {
            let same = std::ptr::eq(stay.outer_kernel, kernel);
            assert!(
                same && processor == stay.outer_processor && irql >= Irql::DISPATCH,
                "a thread at DISPATCH_LEVEL cannot leave its processor"
            );
        }
        PLACE.with(|place| {
            place.kernel.set(kernel);
            place.processor.set(processor);
        });
        set_irql(kernel, irql);
        stay
    }
}

impl Drop for Stay<'_> {
    fn drop(&mut self) {
        set_irql(self.kernel, self.outer_irql);
        PLACE.with(|place| {
            place.kernel.set(self.outer_kernel);
            place.processor.set(self.outer_processor);
        });
    }
}
