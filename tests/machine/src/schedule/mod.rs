//! Simulated threads, and the schedule that decides which of them runs.
//!
//! Driver code runs on host threads. In a deterministic schedule they pass a turn,
//! so only one runs at a time. A seed decides at every import and every wait which
//! thread is next, and the schedule has its own time. In a parallel schedule all
//! threads run, with delays at imports that a seed decides, like Driver Verifier's
//! "Kernel synchronization delay fuzzing". Threads without a schedule run as the
//! host decides.
//!
//! All waits in the lab use a [`Bell`]. So a schedule knows which threads can
//! proceed, and a deadlock is reported with all waits.
#![forbid(unsafe_code)]

mod bell;
mod log;
mod random;
mod seat;
mod turns;

use std::time::Duration;

pub use bell::{Bell, Waited, find_machines_by};
pub use log::{Event, Log};
pub use random::Random;
pub use seat::{Joined, Seated, Session, at_import, closing, note, now, pause, progressed};

/// How simulated threads are scheduled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheduling {
    /// One at a time, in an order that the seed decides.
    Deterministic {
        /// The seed.
        seed: u64,
    },
    /// All at the same time, with delays.
    Parallel {
        /// The seed of the delays; the host decides everything else.
        seed: u64,
    },
}

/// The functions of a machine that a schedule needs.
pub trait Machine: Send + Sync {
    /// A unique id.
    fn id(&self) -> usize;
    /// The number of simulated processors.
    fn processors(&self) -> u32;
    /// The processor of the calling thread, and whether it is at DISPATCH_LEVEL or
    /// above; `None` outside the machine.
    fn place(&self) -> Option<(u32, bool)>;
    /// Whether the machine has stopped, so that no driver code runs.
    fn is_stopped(&self) -> bool;
    /// Stops the machine, because no thread can proceed for these reasons.
    fn hang(&self, waits: String);
    /// How long the calling thread may wait without a timeout, if it has no
    /// schedule.
    fn hang_limit(&self) -> Duration;
}

/// A simulated thread.
pub struct Thread<'a> {
    /// Its name in logs.
    pub name: String,
    /// The function that it runs.
    pub body: Box<dyn FnOnce() + Send + 'a>,
}

impl<'a> Thread<'a> {
    /// A thread that runs `body`.
    pub fn new(name: impl Into<String>, body: impl FnOnce() + Send + 'a) -> Self {
        Self { name: name.into(), body: Box::new(body) }
    }
}
