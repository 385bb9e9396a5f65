//! A value that callbacks without a context of their own can find.

use core::ops::Deref;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use super::critical_region::CriticalRegion;
use super::irql::{Dispatch, Passive};
use super::pool::PoolArc;
use super::processors;
use super::work_item::wait_until;
use crate::logic::waiting::Awaited;

/// A place for a value; empty until one is published.
pub struct Published<T> {
    pub(crate) value: AtomicPtr<T>,
    /// The users below DISPATCH_LEVEL.
    users: AtomicU32,
}

/// A type whose value callbacks find: they have no context of their own.
pub trait Findable: Sync + Sized + 'static {
    /// Where the value is published.
    fn published() -> &'static Published<Self>;
}

/// Keeps a value published until dropped. Dropping it waits until no callback uses the
/// value any more, even if the callback's registration was undone without waiting for
/// it. To be dropped at PASSIVE_LEVEL.
pub struct Publication<T: Sync + 'static> {
    place: &'static Published<T>,
    value: PoolArc<T>,
}

/// A use of the published value below DISPATCH_LEVEL.
#[must_use]
pub struct User<'a, T> {
    value: &'a T,
    users: &'a AtomicU32,
}

impl<T: Sync> Published<T> {
    /// An empty place.
    pub const fn empty() -> Self {
        Self { value: AtomicPtr::new(ptr::null_mut()), users: AtomicU32::new(0) }
    }

    /// Publishes a value for all callbacks.
    pub fn publish(&'static self, value: PoolArc<T>, _: &Passive) -> Publication<T> {
        self.value.store(ptr::from_ref(&*value).cast_mut(), Ordering::SeqCst);
        Publication { place: self, value }
    }

    /// The published value.
    #[inline(always)]
    pub fn get<'a>(&'a self, _: &'a Dispatch<'_>) -> Option<&'a T> {
        let value = self.value.load(Ordering::Acquire);
        // SAFETY: not null means published. The publication ends only after every
        // processor has been below DISPATCH_LEVEL, and the token proves that this one
        // stays at that level for `'a`.
        unsafe { value.as_ref() }
    }

    /// The published value below DISPATCH_LEVEL, for rare callbacks. Who ends the
    /// publication waits for them, so their thread must be in a critical region.
    pub fn enter<'a>(&'a self, _: &'a CriticalRegion) -> Option<User<'a, T>> {
        // Counted first, in sequentially consistent order: who ends the publication
        // sees the count, or this sees that it has ended.
        self.users.fetch_add(1, Ordering::SeqCst);
        // SAFETY: not null means published. The publication ends only when there are no
        // users, and this is one for `'a` or until it is dropped.
        let value = unsafe { self.value.load(Ordering::SeqCst).as_ref() };
        if value.is_none() {
            self.users.fetch_sub(1, Ordering::Release);
        }
        Some(User { value: value?, users: &self.users })
    }

    /// Waits until all callbacks have ended that use the value now.
    pub fn wait_for_users(&self, irql: &Passive) {
        processors::wait_for_all(irql);
        wait_until(Awaited::Callbacks, || self.users.load(Ordering::SeqCst) == 0);
    }
}

impl<T> Deref for User<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value
    }
}

impl<T> Drop for User<'_, T> {
    fn drop(&mut self) {
        self.users.fetch_sub(1, Ordering::Release);
    }
}

impl<T: Sync> Publication<T> {
    /// Another owner of the value, for code that is not a callback.
    pub fn share(&self) -> PoolArc<T> {
        self.value.clone()
    }
}

impl<T: Sync> Deref for Publication<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Sync + 'static> Drop for Publication<T> {
    fn drop(&mut self) {
        self.place.value.store(ptr::null_mut(), Ordering::SeqCst);
        // SAFETY: publications are made at PASSIVE_LEVEL, and dropped there.
        let irql = unsafe { Passive::assume() };
        self.place.wait_for_users(&irql);
    }
}
