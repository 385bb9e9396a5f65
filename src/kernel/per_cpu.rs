//! A value for every processor, so that none writes another's cache line.

use super::irql::{MaxDispatch, Passive};
use super::pool::{PoolVec, Zeroed};
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
        Self::with_room(1, |values| values.push(make()), irql)
    }

    /// Makes all of them, where making one can fail: `push` adds one.
    pub fn try_new(push: impl FnMut(&mut PoolVec<T>) -> Result, irql: &Passive) -> Result<Self> {
        Self::with_room(1, push, irql)
    }

    /// The same where `push` adds as many as `each`.
    fn with_room(
        each: usize,
        mut push: impl FnMut(&mut PoolVec<T>) -> Result,
        irql: &Passive,
    ) -> Result<Self> {
        let count = count(irql);
        let mut values = PoolVec::with_capacity(count.saturating_mul(each))?;
        for _ in 0..count {
            push(&mut values)?;
        }
        Ok(Self(values))
    }

    /// All of them of zeros, made in their place.
    pub fn zeroed(irql: &Passive) -> Result<Self>
    where
        T: Zeroed,
    {
        Ok(Self(PoolVec::zeroed(count(irql))?))
    }

    /// Every processor's.
    pub fn all(&self) -> &[T] {
        &self.0
    }

    /// This processor's.
    pub fn current(&self, irql: &MaxDispatch) -> Option<&T> {
        self.0.get(irql.processor())
    }

    /// This processor's at DISPATCH_LEVEL, where no other thread runs on it and
    /// uses it, until the IRQL is lowered; none below.
    pub fn alone(&self, irql: &MaxDispatch) -> Option<&T> {
        irql.is_dispatch().then(|| self.current(irql)).flatten()
    }
}

fn count(_: &Passive) -> usize {
    // SAFETY: takes a group number, no pointers; callable at any IRQL.
    let count = unsafe { ffi::KeQueryMaximumProcessorCountEx(ffi::ALL_PROCESSOR_GROUPS as ffi::USHORT) };
    count as usize
}

/// Two values for every processor: one for DISPATCH_LEVEL, which nobody else
/// uses while it is used, and one for the threads below, which share it.
#[repr(transparent)]
pub struct Split<T>(PerCpu<T>);

/// One of them.
#[derive(Clone, Copy)]
pub enum Part<'a, T> {
    /// Used here and nowhere else, until the IRQL is lowered: what is loaded is
    /// what is there when it is stored.
    Alone(&'a T),
    /// Used by others, too.
    Common(&'a T),
}

impl<T: Sync> Split<T> {
    /// Makes all of them.
    pub fn new(mut make: impl FnMut() -> T, irql: &Passive) -> Result<Self> {
        let both = |values: &mut PoolVec<T>| {
            values.push(make())?;
            values.push(make())
        };
        Ok(Self(PerCpu::with_room(2, both, irql)?))
    }

    /// Every processor's, of both levels.
    pub fn all(&self) -> &[T] {
        self.0.all()
    }

    /// This processor's at this level.
    pub fn current(&self, irql: &MaxDispatch) -> Option<Part<'_, T>> {
        let value = self.0.0.get(irql.place())?;
        Some(if irql.is_dispatch() { Part::Alone(value) } else { Part::Common(value) })
    }
}
