//! A value that one at a time may have, and nobody waits for.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering};

/// Meant for one processor's value: at DISPATCH_LEVEL it is free, and a thread
/// below, which may be interrupted while it has the value, or moved, makes
/// others go without.
#[repr(C, align(64))]
pub struct Exclusive<T> {
    value: UnsafeCell<T>,
    taken: AtomicBool,
}

// SAFETY: `taken` gives the value to one at a time.
unsafe impl<T: Send> Sync for Exclusive<T> {}

impl<T> Exclusive<T> {
    /// Nobody has it.
    pub const fn new(value: T) -> Self {
        Self { value: UnsafeCell::new(value), taken: AtomicBool::new(false) }
    }

    /// Has the value changed, or nothing done where it is taken.
    pub fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> Option<R> {
        if self.taken.swap(true, Ordering::Acquire) {
            return None;
        }
        // SAFETY: whoever finds it not taken is alone with it until the store
        // below; nothing unwinds here.
        let result = change(unsafe { &mut *self.value.get() });
        self.taken.store(false, Ordering::Release);
        Some(result)
    }
}
