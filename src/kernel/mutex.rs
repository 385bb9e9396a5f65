//! A lock for threads at PASSIVE_LEVEL, held across calls that block.

use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::ptr;

use super::irql::Passive;
use super::pool::{PoolBox, tag};
use super::status::Result;
use crate::ffi;

/// A value behind a synchronization event. The event lets one waiter through at a
/// time and, unlike a fast mutex, leaves the IRQL as it is.
pub struct Mutex<T>(PoolBox<MutexState<T>>);

struct MutexState<T> {
    free: UnsafeCell<ffi::KEVENT>,
    value: UnsafeCell<T>,
}

// SAFETY: the event lets one thread at a time to the value.
unsafe impl<T: Send> Send for MutexState<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for MutexState<T> {}

/// The locked mutex.
#[must_use]
pub struct Guard<'a, T> {
    inner: &'a MutexState<T>,
    stays_here: PhantomData<*mut ()>,
}

impl<T> Mutex<T> {
    /// Starts unlocked. The event is in nonpaged pool and never moves, because
    /// waiters are linked to it.
    pub fn new(value: T, _: &Passive) -> Result<Self> {
        let free = UnsafeCell::new(ffi::KEVENT::default());
        let inner = PoolBox::new(tag::MUTEX, MutexState { free, value: UnsafeCell::new(value) })?;
        // SAFETY: the event is in nonpaged pool, and no thread waits on it yet.
        unsafe {
            ffi::KeInitializeEvent(inner.free.get(), ffi::_EVENT_TYPE::SynchronizationEvent, 1);
        }
        Ok(Self(inner))
    }

    /// Waits until no other thread holds the lock, and takes it.
    pub fn lock<'a>(&'a self, _: &'a Passive) -> Guard<'a, T> {
        // SAFETY: the event was initialized in `new`, and a token proves PASSIVE_LEVEL.
        unsafe { wait(self.0.free.get()) };
        Guard { inner: &self.0, stays_here: PhantomData }
    }
}

/// Waits for an event. Not inlined: one copy for all types.
///
/// # Safety
/// The event is initialized and stays so, and the IRQL is PASSIVE_LEVEL.
#[inline(never)]
unsafe fn wait(event: *mut ffi::KEVENT) {
    // SAFETY: as the caller promises; waiting without a timeout is allowed at
    // PASSIVE_LEVEL, and not alertable it ends in success.
    let waited = unsafe {
        ffi::KeWaitForSingleObject(
            event.cast(),
            ffi::_KWAIT_REASON::Executive,
            ffi::_MODE::KernelMode as ffi::KPROCESSOR_MODE,
            0,
            ptr::null_mut(),
        )
    };
    debug_assert!(waited == ffi::STATUS_SUCCESS, "only the event ends this wait");
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: this guard holds the lock.
        unsafe { &*self.inner.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: this guard holds the lock and is borrowed alone.
        unsafe { &mut *self.inner.value.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: the event was initialized; without Wait the call is allowed
        // at the PASSIVE_LEVEL at which the lock was taken.
        let _previous = unsafe { ffi::KeSetEvent(self.inner.free.get(), 0, 0) };
    }
}
