//! Proof of the interrupt request level, as tokens.

use core::marker::PhantomData;
use core::ops::Deref;

/// Proof that IRQL <= DISPATCH_LEVEL, on this processor, for as long as it is
/// borrowed.
pub struct MaxDispatch(PhantomData<*mut ()>);

/// Proof of PASSIVE_LEVEL.
pub struct Passive(MaxDispatch);

impl MaxDispatch {
    /// Takes the caller's word.
    ///
    /// # Safety
    /// The code runs at IRQL <= DISPATCH_LEVEL until the token is dropped.
    pub(super) unsafe fn assume() -> Self {
        Self(PhantomData)
    }
}

impl Passive {
    /// Takes the caller's word.
    ///
    /// # Safety
    /// The code runs at PASSIVE_LEVEL until the token is dropped.
    pub(super) unsafe fn assume() -> Self {
        Self(MaxDispatch(PhantomData))
    }
}

impl Deref for Passive {
    type Target = MaxDispatch;

    fn deref(&self) -> &MaxDispatch {
        &self.0
    }
}
