//! How often each callout came to each verdict, counted per processor.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::logic::callouts::{COUNT, Index};
use crate::logic::stealth::Verdict;

/// One processor's counters, on cache lines of their own.
///
/// In a debugger: `hushport::driver::callouts::SHARED` leads to `Shared`, whose
/// first word leads to an array with one of these for each processor and whose
/// third is their number. Rows are in the order of registration.
#[repr(C, align(64))]
pub struct Counters([[AtomicU64; Verdict::COUNT]; COUNT]);

impl Counters {
    /// Nothing counted.
    pub fn zero() -> Self {
        Self([const { [const { AtomicU64::new(0) }; Verdict::COUNT] }; COUNT])
    }

    /// Adds what a callout has counted.
    pub fn add_to(&self, callout: usize, sums: &mut [u64; Verdict::COUNT]) {
        for (sum, count) in sums.iter_mut().zip(self.0.get(callout).into_iter().flatten()) {
            *sum = sum.wrapping_add(count.load(Ordering::Relaxed));
        }
    }

    /// Counts a verdict of a callout.
    pub fn count(&self, callout: Index, verdict: Verdict) {
        let counter = self.0.get(callout.number()).and_then(|row| row.get(verdict as usize));
        if let Some(counter) = counter {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}
