//! The system's work queue and its worker threads, at PASSIVE_LEVEL.
//!
//! Several threads serve it, as on Windows ("System Worker Threads", Microsoft
//! Learn). A job may wait for another job. If a routine queues its own job again,
//! both may run at the same time.

use std::cell::Cell;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::types::{Address, HANDLE};
use super::{Kernel, threads};
use crate::driver::DriverId;
use crate::schedule::{Bell, Waited, closing};
use crate::status::Status;

thread_local! {
    /// The work item whose routine runs on this thread.
    static CURRENT: Cell<Address> = const { Cell::new(0) };
}

/// The work item whose routine runs on this thread; 0 for none.
pub(super) fn current_item() -> Address {
    CURRENT.get()
}

/// Sets the work item whose routine runs on this thread.
pub(super) fn set_current_item(item: Address) {
    CURRENT.set(item);
}

/// Begin of the names of the host threads that serve it.
pub(super) const WORKER: &str = "worker ";
/// Most worker threads. They are started as needed.
pub(super) const MOST_WORKERS: usize = 4;

/// A job for a worker thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// A work item of `IoAllocateWorkItem` or `IoInitializeWorkItem`.
    IoWorkItem {
        /// The work item.
        item: Address,
        /// Its routine.
        routine: Address,
        /// First argument: the device object.
        object: Address,
        /// Second argument.
        context: Address,
        /// Whether the routine gets the work item as its third argument.
        extended: bool,
    },
    /// A `WORK_QUEUE_ITEM`.
    WorkQueueItem {
        /// Its address.
        item: Address,
        /// `WorkerRoutine`.
        routine: Address,
        /// `Parameter`.
        parameter: Address,
    },
    /// A WDFWORKITEM of the framework.
    FrameworkWorkItem {
        /// Its handle.
        handle: Address,
    },
    /// The deletion of an object of the framework.
    DeleteObject {
        /// Its handle.
        handle: Address,
    },
    /// The completion of an injection.
    Injected {
        /// The injection handle.
        handle: HANDLE,
        /// The list that was injected.
        list: Address,
        /// The driver's completion function.
        function: Address,
        /// Its context.
        context: Address,
        /// The result.
        status: Status,
    },
}

impl Job {
    /// Whether it references no device object.
    fn is_bare(self) -> bool {
        matches!(self, Self::WorkQueueItem { .. })
    }
}

/// The queue. Its threads end with the machine.
#[derive(Debug)]
pub struct WorkQueue {
    queue: Arc<Queue>,
}

#[derive(Debug)]
struct Queue {
    kernel: Weak<Kernel>,
    state: Mutex<State>,
    /// Wakes workers.
    more: Condvar,
    /// Rung when a job is queued and when one ends.
    bell: Bell,
}

#[derive(Debug, Default)]
struct State {
    /// Queued jobs, and those that run, with their drivers.
    jobs: VecDeque<(Job, DriverId)>,
    running: Vec<(Job, DriverId)>,
    workers: usize,
    idle: usize,
    /// Whether only threads of a schedule take jobs.
    reserved: bool,
    closed: bool,
}

impl WorkQueue {
    /// Makes the queue of a machine.
    pub(super) fn new(kernel: Weak<Kernel>) -> Self {
        let (state, more, bell) = (Mutex::default(), Condvar::new(), Bell::default());
        Self { queue: Arc::new(Queue { kernel, state, more, bell }) }
    }

    /// Queues a job of a driver.
    pub(super) fn push(&self, job: Job, driver: DriverId) {
        let mut state = self.queue.state();
        state.jobs.push_back((job, driver));
        self.queue.wake_worker(&mut state);
        drop(state);
        self.queue.bell.ring();
    }

    /// Number of jobs queued or running.
    pub fn pending(&self) -> usize {
        let state = self.queue.state();
        state.jobs.len() + state.running.len()
    }

    /// Number of a driver's jobs queued or running.
    fn pending_of(&self, driver: DriverId) -> usize {
        self.queue.state().all().filter(|(_, of)| *of == driver).count()
    }

    /// Number of a driver's `WORK_QUEUE_ITEM`s queued or running.
    pub fn bare(&self, driver: DriverId) -> usize {
        self.queue.state().all().filter(|(job, of)| *of == driver && job.is_bare()).count()
    }

    /// A work item in a range of memory that no worker has taken yet.
    pub(super) fn queued_item_in(&self, memory: &Range<Address>) -> Option<Address> {
        self.queue.state().jobs.iter().find_map(|(job, _)| match job {
            Job::WorkQueueItem { item, .. } | Job::IoWorkItem { item, .. } if memory.contains(item) => {
                Some(*item)
            }
            _ => None,
        })
    }

    /// The routine of a driver's last `WORK_QUEUE_ITEM` that is queued or runs; 0 if there
    /// is none.
    pub(super) fn bare_routine(&self, driver: DriverId) -> Address {
        let state = self.queue.state();
        let routines = state.all().filter_map(|(job, of)| match job {
            Job::WorkQueueItem { routine, .. } if *of == driver => Some(*routine),
            _ => None,
        });
        routines.last().unwrap_or(0)
    }

    /// Waits until no job is queued or running. `false` if `limit` expires first,
    /// or the machine hangs.
    pub fn drain(&self, limit: Duration) -> bool {
        let what = || "work items to end".to_owned();
        self.queue.bell.wait(&what, Some(limit), || self.pending() == 0) == Waited::Ready
    }

    /// Waits until no job of a driver is queued or running. `false` as for
    /// [`Self::drain`].
    pub fn drain_of(&self, driver: DriverId, limit: Duration) -> bool {
        let what = || "work items to end".to_owned();
        self.queue.bell.wait(&what, Some(limit), || self.pending_of(driver) == 0) == Waited::Ready
    }

    /// Sets whether only [`Self::serve_scheduled`] takes jobs.
    pub(super) fn reserve_for_schedule(&self, reserve: bool) {
        let mut state = self.queue.state();
        state.reserved = reserve;
        self.queue.wake_worker(&mut state);
    }

    /// Serves the queue as a thread of a deterministic schedule, until only such
    /// threads are left.
    pub(super) fn serve_scheduled(&self, kernel: &Kernel) {
        loop {
            let mut taken = None;
            let what = || "work".to_owned();
            let waited = self.queue.bell.wait(&what, None, || {
                taken = self.queue.state().take();
                taken.is_some() || closing()
            });
            match taken {
                Some((job, driver)) => {
                    kernel.run_job(job, driver, 0);
                    self.queue.done((job, driver));
                }
                None if waited == Waited::Ready => return,
                // The machine has stopped, and the other threads leave one by one.
                None if closing() => return,
                None => {}
            }
        }
    }
}

impl Drop for WorkQueue {
    fn drop(&mut self) {
        self.queue.state().closed = true;
        self.queue.more.notify_all();
    }
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts or wakes a worker for the queued jobs.
    fn wake_worker(self: &Arc<Self>, state: &mut State) {
        if state.reserved || state.jobs.is_empty() {
            return;
        }
        if state.idle < state.jobs.len() && state.workers < MOST_WORKERS {
            state.workers += 1;
            let (queue, number) = (Arc::clone(self), state.workers);
            std::thread::Builder::new()
                .name(format!("{WORKER}{number}"))
                .spawn(move || queue.serve(number))
                .expect("the host has threads left");
        }
        self.more.notify_all();
    }

    fn serve(&self, number: usize) {
        loop {
            let mut state = self.state();
            let job = loop {
                if state.closed {
                    return;
                }
                if let Some(job) =
                    Some(&mut state).filter(|state| !state.reserved).and_then(|state| state.take())
                {
                    break job;
                }
                state.idle += 1;
                state = self.more.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
            };
            drop(state);
            let kernel = self.kernel.upgrade();
            if let Some(kernel) = &kernel {
                threads::run_job(kernel, job, number);
            }
            self.done(job);
            if let Some(kernel) = kernel {
                kernel.sleepers.ended();
            }
        }
    }

    fn done(&self, job: (Job, DriverId)) {
        let mut state = self.state();
        if let Some(at) = state.running.iter().position(|running| *running == job) {
            state.running.swap_remove(at);
        }
        drop(state);
        self.bell.ring();
    }
}

impl State {
    fn take(&mut self) -> Option<(Job, DriverId)> {
        let job = self.jobs.pop_front()?;
        self.running.push(job);
        Some(job)
    }

    /// The jobs that are queued or run.
    fn all(&self) -> impl Iterator<Item = &(Job, DriverId)> {
        self.jobs.iter().chain(&self.running)
    }
}
