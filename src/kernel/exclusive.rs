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

// SAFETY: a processor's value is only shown on it at DISPATCH_LEVEL, for as long
// as a token of that is borrowed, which stays in its thread as a reference to a
// `T` of cells does: so one thread after another uses it, never two at once.
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
