//! The machine's threads in a schedule.
#![expect(unsafe_code, reason = "a thread that waits looks for the machine it is in")]

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::cpu::{self, Irql};
use super::guest::Stop;
use super::kernel::{Kernel, SYSTEM_THREAD};
use super::work;
use crate::schedule::{self, Log, Machine, Scheduling, Session, Thread, Waited};

/// System threads that serve the work queue in a deterministic schedule.
const SERVANTS: usize = 2;

impl Kernel {
    /// Runs simulated threads to their ends. They call the filter engine, load
    /// and unload, change the registry; driver code in them is interleaved as
    /// the schedule says.
    ///
    /// In a deterministic schedule nobody else may enter the machine meanwhile,
    /// and its work queue is served by threads of the schedule.
    ///
    /// # Panics
    /// If a thread does, after all have ended; or if a schedule runs already.
    pub fn run_threads(&self, scheduling: Scheduling, threads: Vec<Thread<'_>>) -> Log {
        let session = Session::new(scheduling, Arc::new(Watched(self.weak())));
        {
            let mut current = self.session();
            assert!(current.is_none(), "a schedule runs");
            let unscheduled = session.is_deterministic() && !self.objects().threads.is_empty();
            assert!(!unscheduled, "a driver's thread runs that the schedule did not see begin");
            *current = Some(Arc::clone(&session));
        }
        let ended = Ended { kernel: self, session: &session };
        let mut servants = Vec::new();
        if session.is_deterministic() {
            self.work().keep_for_servants(true);
            let serve =
                |number| Thread::new(format!("worker {number}"), || self.work().serve_scheduled(self));
            servants.extend((0..SERVANTS).map(serve));
        }
        let log = session.run(threads, servants);
        drop(ended);
        log
    }

    /// Waits, without a limit of its own, until `holds`; `false` if the machine
    /// stopped. For threads that drive a machine from outside the driver.
    pub fn wait_until(&self, what: &str, holds: impl FnMut() -> bool) -> bool {
        self.on_processor(0, Irql::PASSIVE, |kernel| {
            kernel.bell.wait(&|| what.to_owned(), None, holds) == Waited::Ready
        })
    }

    /// The session that a job of the work queue joins for its time.
    pub(super) fn parallel_session(&self) -> Option<Arc<Session>> {
        self.session().clone().filter(|session| !session.is_deterministic())
    }
}

/// Ends the session when threads panic, too.
struct Ended<'a> {
    kernel: &'a Kernel,
    session: &'a Session,
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        *self.kernel.session() = None;
        self.kernel.clock().advance(self.session.elapsed());
        self.kernel.work().keep_for_servants(false);
    }
}

/// A machine as its schedule sees it.
struct Watched(Weak<Kernel>);

impl Machine for Watched {
    fn id(&self) -> usize {
        self.0.as_ptr() as usize
    }

    fn processors(&self) -> u32 {
        self.0.upgrade().map_or(1, |kernel| kernel.options().processors)
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
        // A driver's thread may wait for something to do for good. Who waits for
        // such a thread may not.
        match std::thread::current().name() {
            Some(SYSTEM_THREAD) => Duration::MAX,
            _ => self.0.upgrade().map_or(Duration::ZERO, |kernel| kernel.options().hang_limit),
        }
    }
}

/// The machine the calling thread is in, for its waits.
pub(super) fn of_thread() -> Option<Arc<dyn Machine>> {
    // SAFETY: null, or the machine of a `Stay` on this thread, which borrows it
    // for longer than this call.
    let kernel = unsafe { cpu::kernel().as_ref() }?;
    Some(Arc::new(Watched(kernel.weak())))
}

/// An import is called. Perhaps other threads run first, perhaps this one goes
/// on elsewhere; it does not run while its processor is at DISPATCH_LEVEL for
/// another.
pub(crate) fn at_import(kernel: &Kernel, name: &'static str) {
    let raised = cpu::irql() >= Irql::DISPATCH;
    if let Some(processor) = schedule::at_import(name, raised) {
        cpu::migrate(processor);
    }
    if !raised {
        cpu::wait_while_preempted(kernel);
    }
}

/// For the worker threads that are part of no deterministic schedule.
pub(super) fn run_job(kernel: &Kernel, job: work::Job, number: usize) {
    match kernel.parallel_session() {
        Some(session) => {
            let seated = session.sit(number);
            kernel.run_job(job, number);
            drop(seated);
        }
        None => kernel.run_job(job, number),
    }
}
