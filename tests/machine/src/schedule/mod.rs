//! Simulated threads, and who of them runs.
//!
//! Driver code runs on host threads. In a deterministic schedule they hand a
//! turn over, so that one runs at a time; at every import, at every wait and at
//! every change of threads a seed says who is next, and the machine's time is
//! the schedule's own. In a parallel one they all run, delayed at imports by
//! what the seed says, as Driver Verifier's option "Systematic low resources
//! simulation" has a sibling that delays ("Kernel synchronization delay
//! fuzzing", Driver Verifier options). Threads outside any schedule run as the
//! host lets them.
//!
//! Whatever waits in the lab waits on a [`Bell`]: that is how a schedule knows
//! who can go on, and how a deadlock is told with who waits for what.
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

/// How simulated threads share the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheduling {
    /// One at a time; the seed fixes the order.
    Deterministic {
        /// The seed.
        seed: u64,
    },
    /// All at once, with delays.
    Parallel {
        /// Seeds the delays; the host decides the rest.
        seed: u64,
    },
}

/// What a schedule has to know of the machine whose threads it runs.
pub trait Machine: Send + Sync {
    /// Tells machines apart.
    fn id(&self) -> usize;
    /// Simulated processors.
    fn processors(&self) -> u32;
    /// The calling thread's processor, and whether it is at DISPATCH_LEVEL or
    /// above; `None` outside the machine.
    fn place(&self) -> Option<(u32, bool)>;
    /// Nothing of the driver runs any more.
    fn is_stopped(&self) -> bool;
    /// Nobody can go on, for the reasons given. Stops the machine.
    fn hang(&self, waits: String);
    /// How long the calling thread may wait without a timeout, where nobody
    /// schedules it.
    fn hang_limit(&self) -> Duration;
}

/// A simulated thread.
pub struct Thread<'a> {
    /// Its name in logs.
    pub name: String,
    /// What it does.
    pub body: Box<dyn FnOnce() + Send + 'a>,
}

impl<'a> Thread<'a> {
    /// A thread that does `body`.
    pub fn new(name: impl Into<String>, body: impl FnOnce() + Send + 'a) -> Self {
        Self { name: name.into(), body: Box::new(body) }
    }
}
