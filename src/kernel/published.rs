//! A value that callbacks without a context of their own can find.

use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use super::irql::{Dispatch, Passive};
use super::pool::PoolArc;
use super::processors;

/// A place for a value; empty until one is published.
pub struct Published<T>(AtomicPtr<T>);

/// Keeps a value published until dropped. Dropping it waits until no callback uses the
/// value any more, even if the callback's registration was undone without waiting for
/// it. To be dropped at PASSIVE_LEVEL.
pub struct Publication<T: 'static> {
    place: &'static Published<T>,
    value: PoolArc<T>,
}

impl<T: Sync> Published<T> {
    /// An empty place.
    pub const fn empty() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    /// Publishes a value for all callbacks.
    pub fn publish(&'static self, value: PoolArc<T>, _: &Passive) -> Publication<T> {
        self.0.store(ptr::from_ref(&*value).cast_mut(), Ordering::Release);
        Publication { place: self, value }
    }

    /// The published value.
    #[inline(always)]
    pub fn get<'a>(&'a self, _: &'a Dispatch<'_>) -> Option<&'a T> {
        let value = self.0.load(Ordering::Acquire);
        // SAFETY: not null means published. The publication ends only after every
        // processor has been below DISPATCH_LEVEL, and the token proves that this one
        // stays at that level for `'a`.
        unsafe { value.as_ref() }
    }
}

impl<T: Sync> Published<T> {
    /// The published value, below DISPATCH_LEVEL.
    ///
    /// # Safety
    /// The publication outlives `'a`: the caller is a callback whose registration is
    /// dropped, and drained, before the publication.
    pub(super) unsafe fn of_registered<'a>(&self) -> Option<&'a T> {
        let value = self.0.load(Ordering::Acquire);
        // SAFETY: not null means published, and by this function's contract it stays
        // so for `'a`.
        unsafe { value.as_ref() }
    }
}

impl<T> Publication<T> {
    /// Another owner of the value, for code that is not a callback.
    pub fn share(&self) -> PoolArc<T> {
        self.value.clone()
    }
}

impl<T> core::ops::Deref for Publication<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: 'static> Drop for Publication<T> {
    fn drop(&mut self) {
        self.place.0.store(ptr::null_mut(), Ordering::Release);
        // SAFETY: publications are made at PASSIVE_LEVEL, and dropped there.
        let irql = unsafe { Passive::assume() };
        processors::wait_for_all(&irql);
    }
}
