//! A value for each processor, so that no cache line is written by two.

use super::irql::{Dispatch, Passive};
use super::pool::{PoolVec, Zeroed};
use super::status::Result;
use crate::ffi;

/// One `T` for each processor the machine can ever have.
///
/// `T` should be aligned to cache lines. Another processor may read the values of all,
/// so `T` is shared.
#[repr(transparent)]
pub struct PerCpu<T>(PoolVec<T>);

impl<T: Sync> PerCpu<T> {
    /// Makes one `T` for each processor.
    pub fn new(mut make: impl FnMut() -> T, irql: &Passive) -> Result<Self> {
        Self::try_new(|values| values.push(make()), irql)
    }

    /// Makes one `T` for each processor, where that can fail: `push` adds one.
    pub fn try_new(mut push: impl FnMut(&mut PoolVec<T>) -> Result, irql: &Passive) -> Result<Self> {
        let count = count(irql);
        let mut values = PoolVec::with_capacity(count)?;
        for _ in 0..count {
            push(&mut values)?;
        }
        Ok(Self(values))
    }

    /// One zeroed `T` for each processor, made in place.
    pub fn zeroed(irql: &Passive) -> Result<Self>
    where
        T: Zeroed,
    {
        Ok(Self(PoolVec::zeroed(count(irql))?))
    }

    /// The values of all processors.
    pub fn all(&self) -> &[T] {
        &self.0
    }

    /// This processor's value. No other thread of this processor can use it until the
    /// IRQL is lowered.
    pub fn current(&self, irql: &Dispatch<'_>) -> Option<&T> {
        self.0.get(irql.processor())
    }
}

fn count(_: &Passive) -> usize {
    // SAFETY: takes a group number, no pointers; callable at any IRQL.
    let count = unsafe { ffi::KeQueryMaximumProcessorCountEx(ffi::ALL_PROCESSOR_GROUPS as ffi::USHORT) };
    count as usize
}
