//! A value for every processor, so that none writes another's cache line.

use core::ptr;

use super::irql::{MaxDispatch, Passive};
use super::pool::PoolVec;
use super::status::Result;
use crate::ffi;

/// One `T` for each processor the machine can ever have.
///
/// `T` is to be aligned to cache lines. A thread below DISPATCH_LEVEL may move
/// to another processor while it holds the reference, so `T` is shared.
#[repr(transparent)]
pub struct PerCpu<T>(PoolVec<T>);

impl<T: Sync> PerCpu<T> {
    /// Makes all of them.
    pub fn new(mut make: impl FnMut() -> T, irql: &Passive) -> Result<Self> {
        Self::try_new(|values| values.push(make()), irql)
    }

    /// Makes all of them, where making one can fail: `push` adds one.
    pub fn try_new(mut push: impl FnMut(&mut PoolVec<T>) -> Result, _: &Passive) -> Result<Self> {
        // SAFETY: takes a group number, no pointers; callable at any IRQL.
        let count = unsafe { ffi::KeQueryMaximumProcessorCountEx(ffi::ALL_PROCESSOR_GROUPS as ffi::USHORT) };
        let mut values = PoolVec::with_capacity(count as usize)?;
        for _ in 0..count {
            push(&mut values)?;
        }
        Ok(Self(values))
    }

    /// Every processor's.
    pub fn all(&self) -> &[T] {
        &self.0
    }

    /// This processor's.
    pub fn current(&self, _: &MaxDispatch) -> Option<&T> {
        // SAFETY: the argument may be NULL (its documentation); callable at any
        // IRQL.
        let number = unsafe { ffi::KeGetCurrentProcessorNumberEx(ptr::null_mut()) };
        self.0.get(number as usize)
    }
}
