//! A value for each active processor, so that no cache line is written by two.

use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use super::irql::{Dispatch, Passive};
use super::mutex::Mutex;
use super::pool::{PoolBox, PoolVec, tag};
use super::status::{Result, Status};
use crate::ffi;

/// One `T` for each processor that is active or has been. A processor that may be
/// added takes 32 bytes until then.
///
/// A value never moves, and is freed with the whole. `T` should be aligned to cache
/// lines. Another processor may read the values of all, so `T` is shared.
#[repr(C)]
pub struct PerCpu<T> {
    /// The values in the order in which they were added: the first `count` places. The
    /// others are NULL.
    added: PoolVec<AtomicPtr<T>>,
    count: AtomicUsize,
    /// The values by the processor's number; NULL if the processor has none.
    by_number: PoolVec<AtomicPtr<T>>,
    owners: Mutex<PoolVec<PoolBox<T>>>,
}

impl<T: Sync> PerCpu<T> {
    /// Starts without values.
    // Not inlined: one copy for all types, which the linker finds equal.
    #[inline(never)]
    pub fn new(irql: &Passive) -> Result<Self> {
        // SAFETY: takes a group number, no pointers; callable at any IRQL.
        let most = unsafe { ffi::KeQueryMaximumProcessorCountEx(ffi::ALL_PROCESSOR_GROUPS as ffi::USHORT) };
        let most = most as usize;
        Ok(Self {
            added: PoolVec::filled(tag::PER_CPU, most)?,
            count: AtomicUsize::new(0),
            by_number: PoolVec::filled(tag::PER_CPU, most)?,
            owners: Mutex::new(PoolVec::with_capacity(tag::PER_CPU, most)?, irql)?,
        })
    }

    /// Gives the processor with this number a value, unless it has one from an earlier
    /// time.
    pub fn add(&self, processor: usize, make: impl FnOnce() -> Result<PoolBox<T>>, irql: &Passive) -> Result {
        let mut owners = self.owners.lock(irql);
        let number = owners.len();
        let (Some(place), Some(next)) = (self.by_number.get(processor), self.added.get(number)) else {
            return Err(Status::INSUFFICIENT_RESOURCES);
        };
        if !place.load(Ordering::Relaxed).is_null() {
            return Ok(());
        }
        let value = make()?;
        let pointer = value.as_ptr();
        owners.push(value)?;
        next.store(pointer, Ordering::Release);
        self.count.store(number + 1, Ordering::Release);
        place.store(pointer, Ordering::Release);
        Ok(())
    }

    /// The values of all processors that have one.
    pub fn all(&self) -> &[&T] {
        let count = self.count.load(Ordering::Acquire).min(self.added.len());
        let first = self.added.as_ptr().cast::<&T>();
        // SAFETY: the first `count` places hold pointers to values that live as long as
        // `self`, and are never written again. An AtomicPtr has the layout of a
        // pointer, and so has a reference.
        unsafe { core::slice::from_raw_parts(first, count) }
    }

    /// This processor's value; `None` if the system did not say that the processor
    /// would become active. No other thread of this processor can use it until the
    /// IRQL is lowered.
    #[inline(always)]
    pub fn current(&self, irql: &Dispatch<'_>) -> Option<&T> {
        let value = self.by_number.get(irql.processor())?.load(Ordering::Acquire);
        // SAFETY: NULL, or a value that lives as long as `self`.
        unsafe { value.as_ref() }
    }
}
