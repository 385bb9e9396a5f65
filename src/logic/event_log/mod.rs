//! The entries of the System event log, and how many are written.

pub mod messages;
mod strings;
#[cfg(test)]
mod tests;

pub use messages::MessageCode;
pub use strings::{ROOM, Strings};

use core::sync::atomic::{AtomicU64, Ordering};

/// The most entries in a minute. One more sums up what was left out.
pub const PER_MINUTE: u32 = 20;

/// Milliseconds of a span of the limit.
pub const MINUTE_MS: u64 = 60_000;

/// Milliseconds between two entries about one growing count.
const HOUR_MS: u64 = 3_600_000;

/// Reports at most once an hour that a count has grown. One thread at a time asks.
#[derive(Debug, Default)]
pub struct Growth {
    /// The count when it was last reported.
    reported: AtomicU64,
    /// When it may be reported again, in milliseconds.
    next: AtomicU64,
}

impl Growth {
    /// Whether the count may be reported now. If not, it need not be read.
    pub fn is_due(&self, now: u64) -> bool {
        now >= self.next.load(Ordering::Relaxed)
    }

    /// How much the count has grown since the last report; `None` if it has not, or if a
    /// report is not due.
    pub fn report(&self, count: u64, now: u64) -> Option<u64> {
        let grown = count.saturating_sub(self.reported.load(Ordering::Relaxed));
        if grown == 0 || !self.is_due(now) {
            return None;
        }
        self.reported.store(count, Ordering::Relaxed);
        self.next.store(now.saturating_add(HOUR_MS), Ordering::Relaxed);
        Some(grown)
    }
}
