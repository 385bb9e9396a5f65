//! The system's work queue: one worker thread at PASSIVE_LEVEL.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::Kernel;
use super::types::Address;

/// Something to run on the worker thread.
#[derive(Clone, Copy, Debug)]
pub enum Job {
    /// A work item made by `IoAllocateWorkItem`.
    IoWorkItem {
        /// The work item.
        item: Address,
        /// Its routine.
        routine: Address,
        /// First argument: the device object.
        object: Address,
        /// Second argument.
        context: Address,
        /// The routine takes the work item as its third argument.
        extended: bool,
    },
    /// A `WORK_QUEUE_ITEM`.
    WorkQueueItem {
        /// `WorkerRoutine`.
        routine: Address,
        /// `Parameter`.
        parameter: Address,
    },
}

/// `WORK_QUEUE_ITEM`s queued or running, which no device object waits for.
type Bare = Arc<AtomicUsize>;

/// Jobs queued or running, and who waits for there to be none.
type Pending = Arc<(Mutex<usize>, Condvar)>;

/// The queue. Its thread ends with the machine.
#[derive(Debug)]
pub struct WorkQueue {
    sender: Mutex<Sender<Job>>,
    pending: Pending,
    bare: Bare,
}

impl WorkQueue {
    /// A queue whose worker serves the given machine.
    pub(super) fn new(kernel: Weak<Kernel>) -> Self {
        let (sender, jobs) = channel();
        let pending = Pending::default();
        let bare = Bare::default();
        let counters = (Arc::clone(&pending), Arc::clone(&bare));
        let serve = move || serve(&kernel, &jobs, &counters.0, &counters.1);
        std::thread::Builder::new()
            .name("lab-worker".into())
            .spawn(serve)
            .expect("the host has threads left");
        Self { sender: Mutex::new(sender), pending, bare }
    }

    /// Queues a job.
    pub(super) fn push(&self, job: Job) {
        *lock(&self.pending.0) += 1;
        if matches!(job, Job::WorkQueueItem { .. }) {
            self.bare.fetch_add(1, Ordering::SeqCst);
        }
        // The receiver lives as long as the sender.
        let _ = lock(&self.sender).send(job);
    }

    /// Jobs queued or running.
    pub fn pending(&self) -> usize {
        *lock(&self.pending.0)
    }

    /// `WORK_QUEUE_ITEM`s queued or running.
    pub fn bare(&self) -> usize {
        self.bare.load(Ordering::SeqCst)
    }

    /// Waits until nothing is queued or running; `false` if `limit` was over
    /// first.
    pub fn drain(&self, limit: Duration) -> bool {
        let (count, idle) = &*self.pending;
        let deadline = Instant::now() + limit;
        let mut count = lock(count);
        while *count > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            count = idle.wait_timeout(count, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

fn serve(kernel: &Weak<Kernel>, jobs: &Receiver<Job>, pending: &Pending, bare: &Bare) {
    while let Ok(job) = jobs.recv() {
        if let Some(kernel) = kernel.upgrade() {
            kernel.run_job(job);
        }
        if matches!(job, Job::WorkQueueItem { .. }) {
            bare.fetch_sub(1, Ordering::SeqCst);
        }
        *lock(&pending.0) -= 1;
        pending.1.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
