//! A value that callbacks without a context of their own can find.

use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use super::pool::PoolArc;

/// A place for a value; empty until one is published.
pub struct Published<T>(AtomicPtr<T>);

/// Keeps a value published until dropped.
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
    pub fn publish(&'static self, value: PoolArc<T>) -> Publication<T> {
        self.0.store(ptr::from_ref(&*value).cast_mut(), Ordering::Release);
        Publication { place: self, value }
    }

    /// The published value.
    ///
    /// # Safety
    /// The publication outlives `'a`: the caller is a callback whose
    /// registration is dropped, and drained, before the publication.
    pub(super) unsafe fn get<'a>(&self) -> Option<&'a T> {
        let value = self.0.load(Ordering::Acquire);
        // SAFETY: not null means published, and by this function's contract it
        // stays so for `'a`.
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
    }
}
