//! A value for each processor, which no other processor uses.

use super::irql::{Dispatch, Passive};
use super::per_cpu::PerCpu;
use super::status::Result;

/// One `T` for each processor, used at DISPATCH_LEVEL only. At that level nothing
/// else runs on the processor, and the code cannot move to another. So a `T` made of
/// cells needs no lock, and may be entered again while it is in use.
#[repr(transparent)]
pub struct Exclusive<T>(PerCpu<Own<T>>);

#[repr(C, align(64))]
struct Own<T>(T);

// SAFETY: a value is only accessible on its own processor at DISPATCH_LEVEL, as long
// as the token is borrowed. Neither the token nor a reference to a `T` of cells can
// leave the thread. So one thread after another uses the value, never two at once.
unsafe impl<T: Send> Sync for Own<T> {}

impl<T: Send> Exclusive<T> {
    /// Makes one `T` for each processor.
    pub fn new(mut make: impl FnMut() -> T, irql: &Passive) -> Result<Self> {
        Ok(Self(PerCpu::new(|| Own(make()), irql)?))
    }

    /// This processor's value; `None` on a processor that the system did not count
    /// at the start.
    #[inline(always)]
    pub fn here<'a>(&'a self, irql: &'a Dispatch<'_>) -> Option<&'a T> {
        match self.0.all().get(irql.processor()) {
            Some(Own(value)) => Some(value),
            None => None,
        }
    }
}
