//! Parts of the code in which the thread cannot be suspended.

use core::marker::PhantomData;

use super::irql::Passive;
use crate::ffi;

/// A critical region of this thread, left when it is dropped. Normal kernel APCs wait
/// until then, and the suspension of a thread is one.
#[must_use]
pub struct CriticalRegion(PhantomData<*mut ()>);

impl CriticalRegion {
    /// Enters a critical region.
    pub fn enter(_: &Passive) -> Self {
        // SAFETY: takes nothing; at PASSIVE_LEVEL. It is left by this thread, because
        // the value cannot leave it.
        unsafe { ffi::KeEnterCriticalRegion() };
        Self(PhantomData)
    }
}

impl Drop for CriticalRegion {
    fn drop(&mut self) {
        // SAFETY: this thread entered the region, at PASSIVE_LEVEL.
        unsafe { ffi::KeLeaveCriticalRegion() };
    }
}
