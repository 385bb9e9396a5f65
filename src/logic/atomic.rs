//! The atomics of `core`, or those of the model checker loom.

#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering, fence};

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
#[cfg(loom)]
pub use planted::fence;

/// Faults that the models must find.
#[cfg(loom)]
pub mod planted {
    use std::cell::Cell;

    use super::Ordering;

    std::thread_local! {
        /// All threads of a model are one thread of the system.
        static LEFT_OUT: Cell<Option<Ordering>> = const { Cell::new(None) };
    }

    /// Runs `model` without the fences of this kind.
    pub fn without_fences(kind: Ordering, model: impl FnOnce()) {
        /// Plants nothing any more, also after a panic.
        struct Restored;
        impl Drop for Restored {
            fn drop(&mut self) {
                LEFT_OUT.set(None);
            }
        }
        let restored = Restored;
        LEFT_OUT.set(Some(kind));
        model();
        drop(restored);
    }

    /// [`loom::sync::atomic::fence`], unless it is left out.
    pub fn fence(kind: Ordering) {
        if LEFT_OUT.get() != Some(kind) {
            loom::sync::atomic::fence(kind);
        }
    }
}
