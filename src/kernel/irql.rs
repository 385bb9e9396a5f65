//! Proof of the interrupt request level, as tokens.

use core::marker::PhantomData;
use core::ops::Deref;

use crate::ffi;

/// Proof that IRQL <= DISPATCH_LEVEL, on this processor, for as long as it is
/// borrowed.
pub struct MaxDispatch {
    /// Not below it: nothing else runs on this processor.
    at_dispatch: bool,
    stays_here: PhantomData<*mut ()>,
}

/// Proof of PASSIVE_LEVEL.
pub struct Passive(MaxDispatch);

impl MaxDispatch {
    /// Takes the caller's word, and asks whether it is DISPATCH_LEVEL.
    ///
    /// # Safety
    /// The code runs at IRQL <= DISPATCH_LEVEL, and at the level of now, until
    /// the token is dropped.
    pub(super) unsafe fn assume() -> Self {
        // SAFETY: takes nothing; callable at any IRQL.
        let level = unsafe { ffi::KeGetCurrentIrql() };
        Self { at_dispatch: u32::from(level) >= ffi::DISPATCH_LEVEL, stays_here: PhantomData }
    }

    /// Whether it is DISPATCH_LEVEL: no other thread runs on this processor
    /// until the token is dropped, and this one on no other.
    pub fn is_dispatch(&self) -> bool {
        self.at_dispatch
    }
}

impl Passive {
    /// Takes the caller's word.
    ///
    /// # Safety
    /// The code runs at PASSIVE_LEVEL until the token is dropped.
    pub(super) unsafe fn assume() -> Self {
        Self(MaxDispatch { at_dispatch: false, stays_here: PhantomData })
    }
}

impl Deref for Passive {
    type Target = MaxDispatch;

    fn deref(&self) -> &MaxDispatch {
        &self.0
    }
}
