//! Counts the verdicts of each callout.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::callouts::{COUNT, CalloutIndex};
use super::stealth::Verdict;

/// The counts of one processor, on cache lines of their own. A row is a
/// verdict; a column is a callout, in the order of registration. Nearly always the
/// verdict is a constant where it is counted, so the row costs nothing. The type
/// contains only integers, so that it can be made in zeroed memory.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Counters([[AtomicU64; COUNT]; Verdict::COUNT]);

impl Counters {
    /// Counts without a locked instruction. Nobody else may count meanwhile.
    #[inline(always)]
    pub fn count(&self, callout: CalloutIndex, verdict: Verdict) {
        if let Some(count) = self.of(callout, verdict) {
            count.store(count.load(Relaxed).wrapping_add(1), Relaxed);
        }
    }

    /// Counts where several processors may count.
    #[cold]
    #[inline(never)]
    pub fn count_shared(&self, callout: CalloutIndex, verdict: Verdict) {
        if let Some(count) = self.of(callout, verdict) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// Adds the counts of a callout to `sums`.
    pub fn add_to(&self, callout: CalloutIndex, sums: &mut [u64; Verdict::COUNT]) {
        for (sum, row) in sums.iter_mut().zip(&self.0) {
            if let Some(count) = row.get(callout.number()) {
                *sum = sum.wrapping_add(count.load(Relaxed));
            }
        }
    }

    #[inline(always)]
    fn of(&self, callout: CalloutIndex, verdict: Verdict) -> Option<&AtomicU64> {
        self.0.get(verdict as usize)?.get(callout.number())
    }
}
