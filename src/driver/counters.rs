//! How often each callout came to each verdict, counted per processor.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::kernel::per_cpu::Part;
use crate::logic::callouts::{COUNT, Index};
use crate::logic::stealth::Verdict;

/// One processor's counters at DISPATCH_LEVEL, or below, on cache lines of
/// their own.
///
/// In a debugger: `hushport::driver::callouts::SHARED` leads to `Shared`, whose
/// first word leads to an array with two of these for each processor and whose
/// third is their number: what was counted is the sum of all. Rows are in the
/// order of registration.
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

    /// Counts a verdict of a callout. At DISPATCH_LEVEL nobody else counts here,
    /// so that no line has to be locked.
    pub fn count(part: Part<'_, Self>, callout: Index, verdict: Verdict) {
        match part {
            Part::Alone(counters) => {
                let Some(counter) = counters.of(callout, verdict) else { return };
                counter.store(counter.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
            }
            Part::Common(counters) => {
                let Some(counter) = counters.of(callout, verdict) else { return };
                counter.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn of(&self, callout: Index, verdict: Verdict) -> Option<&AtomicU64> {
        self.0.get(callout.number())?.get(verdict as usize)
    }
}
