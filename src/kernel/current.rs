//! A value that can be replaced while callbacks read it.

use core::sync::atomic::{AtomicPtr, Ordering};

use super::irql::{Dispatch, Passive};
use super::mutex::Mutex;
use super::pool::PoolBox;
use super::processors;
use super::status::Result;

/// The current value. It is read at DISPATCH_LEVEL, where no thread can be suspended. A
/// reader writes nothing. A thread that replaces the value waits until every processor
/// has left that level. Then the old value has no reader and is freed.
pub struct Current<T> {
    value: AtomicPtr<T>,
    /// Owns the value that `value` points to. `replace` locks it.
    owner: Mutex<PoolBox<T>>,
}

impl<T: Send + Sync> Current<T> {
    /// Starts with a first value.
    pub fn new(value: PoolBox<T>, irql: &Passive) -> Result<Self> {
        let pointer = AtomicPtr::new(value.as_ptr());
        Ok(Self { value: pointer, owner: Mutex::new(value, irql)? })
    }

    /// The current value.
    #[inline(always)]
    pub fn read<'a>(&'a self, _: &'a Dispatch<'_>) -> &'a T {
        let value = self.value.load(Ordering::Acquire);
        // SAFETY: the pointer is never NULL. The value is dropped only after every
        // processor has been below DISPATCH_LEVEL, and the token proves that this one
        // stays at that level for `'a`.
        unsafe { &*value }
    }

    /// Replaces the value in one step, waits until the old value has no reader, and
    /// drops it. Only the driver's thread calls this.
    pub fn replace(&self, value: PoolBox<T>, irql: &Passive) {
        let mut owner = self.owner.lock(irql);
        self.value.store(value.as_ptr(), Ordering::Release);
        processors::wait_for_all(irql);
        *owner = value;
    }
}
