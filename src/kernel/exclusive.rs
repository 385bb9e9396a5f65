//! A value for each processor, which no other processor uses.

use super::irql::{Dispatch, Passive};
use super::per_cpu::PerCpu;
use super::pool::{PoolBox, Tag};
use super::status::Result;

/// One `T` for each active processor, used at DISPATCH_LEVEL only. At that level
/// nothing else runs on the processor, and the code cannot move to another. So a `T`
/// made of cells needs no lock, and may be entered again while it is in use.
#[repr(transparent)]
pub struct Exclusive<T>(PerCpu<Own<T>>);

#[repr(C, align(64))]
struct Own<T>(T);

// SAFETY: a value is only accessible on its own processor at DISPATCH_LEVEL, as long
// as the token is borrowed. Neither the token nor a reference to a `T` of cells can
// leave the thread. So one thread after another uses the value, never two at once.
unsafe impl<T: Send> Sync for Own<T> {}

impl<T: Send> Exclusive<T> {
    /// Starts without values.
    pub fn new(irql: &Passive) -> Result<Self> {
        Ok(Self(PerCpu::new(irql)?))
    }

    /// Gives the processor with this number a value, unless it has one.
    pub fn add(&self, tag: Tag, processor: usize, make: impl FnOnce() -> T, irql: &Passive) -> Result {
        self.0.add(processor, || PoolBox::new(tag, Own(make())), irql)
    }

    /// This processor's value; `None` if it has none.
    #[inline(always)]
    pub fn here<'a>(&'a self, irql: &'a Dispatch<'_>) -> Option<&'a T> {
        match self.0.current(irql) {
            Some(Own(value)) => Some(value),
            None => None,
        }
    }
}
