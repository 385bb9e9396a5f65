//! A value for every processor, changed by one at a time without a lock.

use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicBool, Ordering};

use super::irql::{Dispatch, Passive};
use super::per_cpu::PerCpu;
use super::status::Result;

/// One `T` for each processor, used at DISPATCH_LEVEL alone: there nothing else
/// runs on the processor, and nothing moves to another.
#[repr(transparent)]
pub struct Exclusive<T>(PerCpu<Slot<T>>);

#[repr(C, align(64))]
struct Slot<T> {
    value: UnsafeCell<T>,
    /// Whether it is being changed, which only its own processor asks.
    taken: AtomicBool,
}

// SAFETY: a slot's value is only touched on its processor at DISPATCH_LEVEL,
// there by one at a time, as `taken` says.
unsafe impl<T: Send> Sync for Slot<T> {}

impl<T: Send> Exclusive<T> {
    /// Makes all of them.
    pub fn new(mut make: impl FnMut() -> T, irql: &Passive) -> Result<Self> {
        let slot = || Slot { value: UnsafeCell::new(make()), taken: AtomicBool::new(false) };
        Ok(Self(PerCpu::new(slot, irql)?))
    }

    /// This processor's value. `None` while it is taken, which is only where who
    /// has it comes here again; and on a processor that the machine did not
    /// announce.
    #[inline(always)]
    pub fn take<'a>(&'a self, irql: &'a Dispatch<'_>) -> Option<Taken<'a, T>> {
        let slot = self.0.all().get(irql.processor())?;
        // A load and a store, for nobody comes between them.
        if slot.taken.load(Ordering::Relaxed) {
            return None;
        }
        slot.taken.store(true, Ordering::Relaxed);
        Some(Taken { slot, stays_here: PhantomData })
    }
}

/// A processor's value, to be changed by this call alone.
#[must_use]
pub struct Taken<'a, T> {
    slot: &'a Slot<T>,
    stays_here: PhantomData<*mut ()>,
}

impl<T> Deref for Taken<'_, T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: at DISPATCH_LEVEL nobody but this call runs on the processor
        // whose slot it is, and it found the value not taken.
        unsafe { &*self.slot.value.get() }
    }
}

impl<T> DerefMut for Taken<'_, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above.
        unsafe { &mut *self.slot.value.get() }
    }
}

impl<T> Drop for Taken<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        self.slot.taken.store(false, Ordering::Relaxed);
    }
}
