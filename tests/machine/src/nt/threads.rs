//! Runs the machine's threads under a schedule.
#![expect(unsafe_code, reason = "a waiting thread reads the machine it is in")]

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::cpu::{self, Irql};
use super::guest::Stop;
use super::kernel::{Kernel, SYSTEM_THREAD};
use super::work;
use crate::driver::DriverId;
use crate::schedule::{self, Log, Machine, Scheduling, Session, Thread, Waited};

/// Number of threads that serve the work queue in a deterministic schedule.
const SCHEDULED_WORKERS: usize = 2;

impl Kernel {
    /// Runs simulated threads until they end. They may call the filter engine, load
    /// and unload the driver, and change the registry. The schedule interleaves the
    /// driver code that they run.
    ///
    /// During a deterministic schedule no other thread may enter the machine.
    /// Threads of the schedule serve its work queue.
    ///
    /// # Panics
    /// If one of the threads panics, after all have ended, or if a schedule is
    /// already running.
    pub fn run_threads(&self, scheduling: Scheduling, threads: Vec<Thread<'_>>) -> Log {
        let session = Session::new(scheduling, Arc::new(Watched(self.weak())));
        {
            let mut current = self.session();
            assert!(current.is_none(), "a schedule is already running");
            let unscheduled = session.is_deterministic() && !self.objects().threads.is_empty();
            assert!(!unscheduled, "a thread of the driver started before the schedule");
            *current = Some(Arc::clone(&session));
        }
        let ended = Ended { kernel: self, session: &session };
        let mut workers = Vec::new();
        if session.is_deterministic() {
            self.work().reserve_for_schedule(true);
            let serve =
                |number| Thread::new(format!("worker {number}"), || self.work().serve_scheduled(self));
            workers.extend((0..SCHEDULED_WORKERS).map(serve));
        }
        let log = session.run(threads, workers);
        drop(ended);
        log
    }

    /// Waits until `holds` returns true, without a time limit of its own. `false`
    /// if the machine stopped. For threads that drive a machine from outside the
    /// driver.
    pub fn wait_until(&self, what: &str, holds: impl FnMut() -> bool) -> bool {
        self.on_processor(0, Irql::PASSIVE, |kernel| {
            kernel.bell.wait(&|| what.to_owned(), None, holds) == Waited::Ready
        })
    }

    /// The session that a job of the work queue joins while it runs.
    pub(super) fn parallel_session(&self) -> Option<Arc<Session>> {
        self.session().clone().filter(|session| !session.is_deterministic())
    }
}

/// Ends the session, also when threads panic.
struct Ended<'a> {
    kernel: &'a Kernel,
    session: &'a Session,
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        *self.kernel.session() = None;
        self.kernel.clock().advance(self.session.elapsed());
        self.kernel.work().reserve_for_schedule(false);
    }
}

/// A machine as its schedule sees it.
struct Watched(Weak<Kernel>);

impl Machine for Watched {
    fn id(&self) -> usize {
        self.0.as_ptr() as usize
    }

    fn processors(&self) -> u32 {
        self.0.upgrade().map_or(1, |kernel| kernel.active_count())
    }

    fn place(&self) -> Option<(u32, bool)> {
        let inside = std::ptr::eq(cpu::kernel(), self.0.as_ptr());
        inside.then(|| (cpu::processor(), cpu::irql() >= Irql::DISPATCH))
    }

    fn is_stopped(&self) -> bool {
        self.0.upgrade().is_none_or(|kernel| kernel.stopped().is_some())
    }

    fn hang(&self, waits: String) {
        if let Some(kernel) = self.0.upgrade() {
            kernel.halt(Stop::Deadlock { waits });
        }
    }

    fn hang_limit(&self) -> Duration {
        // A driver's thread may wait for work forever. A thread that waits for such
        // a thread may not.
        match std::thread::current().name() {
            Some(SYSTEM_THREAD) => Duration::MAX,
            _ => self.0.upgrade().map_or(Duration::ZERO, |kernel| kernel.options().hang_limit),
        }
    }
}

/// The machine of the calling thread, for its waits.
pub(super) fn of_thread() -> Option<Arc<dyn Machine>> {
    // SAFETY: null, or the machine of a `Stay` on this thread, which borrows the
    // machine longer than this call.
    let kernel = unsafe { cpu::kernel().as_ref() }?;
    Some(Arc::new(Watched(kernel.weak())))
}

/// Called at every import. The schedule may run other threads first, or move this
/// one to another processor. The thread waits while another thread is at
/// DISPATCH_LEVEL on its processor.
pub(crate) fn at_import(kernel: &Kernel, name: &'static str) {
    let raised = cpu::irql() >= Irql::DISPATCH;
    if let Some(processor) = schedule::at_import(name, raised) {
        cpu::migrate(processor);
    }
    if !raised {
        cpu::yield_to_busy(kernel);
        cpu::wait_while_preempted(kernel);
    }
}

/// Runs a job on a worker thread outside of deterministic schedules.
pub(super) fn run_job(kernel: &Kernel, (job, driver): (work::Job, DriverId), number: usize) {
    match kernel.parallel_session() {
        Some(session) => {
            let seated = session.sit(number);
            kernel.run_job(job, driver, number);
            drop(seated);
        }
        None => kernel.run_job(job, driver, number),
    }
}
