//! Tokens that prove the interrupt request level (IRQL).
//!
//! The driver works for the filter engine at DISPATCH_LEVEL only, because a thread
//! below that level can be suspended by any thread of its process, for as long as it
//! likes. Who waited for it would wait as long.

use core::marker::PhantomData;
use core::ops::Deref;

use crate::ffi;

/// Proves that IRQL <= DISPATCH_LEVEL, as long as it is borrowed.
pub struct MaxDispatch(PhantomData<*mut ()>);

/// Proves PASSIVE_LEVEL.
pub struct Passive(MaxDispatch);

/// Proves that the IRQL is DISPATCH_LEVEL and stays so while the token is borrowed. No
/// other thread runs on this processor meanwhile, this thread stays on it, and nobody
/// can suspend it.
pub struct Dispatch<'a> {
    max: MaxDispatch,
    processor: u32,
    of_level: PhantomData<&'a ()>,
}

impl Dispatch<'_> {
    /// Makes the token without a check.
    ///
    /// # Safety
    /// The IRQL is DISPATCH_LEVEL until the token is dropped.
    #[inline(always)]
    pub(super) unsafe fn assume() -> Self {
        // SAFETY: the argument may be NULL (its documentation); callable at any
        // IRQL.
        let processor = unsafe { ffi::KeGetCurrentProcessorNumberEx(core::ptr::null_mut()) };
        Self { max: MaxDispatch(PhantomData), processor, of_level: PhantomData }
    }

    /// A copy that lives no longer, so that the original can stay in registers.
    #[inline(always)]
    pub(super) fn cold_copy(&self) -> Dispatch<'_> {
        Dispatch { max: MaxDispatch(PhantomData), processor: self.processor, of_level: PhantomData }
    }

    /// The processor's number.
    #[inline(always)]
    pub fn processor(&self) -> usize {
        self.processor as usize
    }
}

impl Deref for Dispatch<'_> {
    type Target = MaxDispatch;

    fn deref(&self) -> &MaxDispatch {
        &self.max
    }
}

/// Whether the IRQL is DISPATCH_LEVEL, where it is at most that.
#[inline(always)]
pub(super) fn is_dispatch() -> bool {
    // SAFETY: takes nothing; callable at any IRQL.
    let level = unsafe { ffi::KeGetCurrentIrql() };
    u32::from(level) >= ffi::DISPATCH_LEVEL
}

/// Calls `work` at DISPATCH_LEVEL. If the level is lower, raises it meanwhile.
///
/// # Safety
/// The IRQL is at most DISPATCH_LEVEL. If it is lower, `work` uses no token of that
/// level.
pub(super) unsafe fn at_dispatch<R>(work: impl FnOnce(&Dispatch<'_>) -> R) -> R {
    let before = if is_dispatch() { None } else { Some(raise()) };
    // SAFETY: the level is DISPATCH_LEVEL until it is restored below.
    let result = work(&unsafe { Dispatch::assume() });
    if let Some(before) = before {
        lower(before);
    }
    result
}

/// Raises the level to DISPATCH_LEVEL. Returns the level from before.
#[cold]
#[inline(never)]
fn raise() -> ffi::KIRQL {
    // SAFETY: callable at any IRQL up to the new one; the callers are below it.
    unsafe { ffi::KfRaiseIrql(ffi::DISPATCH_LEVEL as ffi::KIRQL) }
}

/// Restores the level from before [`raise`].
#[cold]
#[inline(never)]
fn lower(before: ffi::KIRQL) {
    // SAFETY: the level is what the last call of KfRaiseIrql on this thread returned.
    unsafe { ffi::KeLowerIrql(before) };
}

impl Passive {
    /// Makes the token without a check.
    ///
    /// # Safety
    /// The code runs at PASSIVE_LEVEL until the token is dropped.
    pub(crate) unsafe fn assume() -> Self {
        Self(MaxDispatch(PhantomData))
    }

    /// Calls `read` at DISPATCH_LEVEL, for as short a time as it takes to copy a few
    /// values. It is `Send`, so it cannot use a token of the level from before.
    pub fn at_dispatch<R>(&self, read: impl FnOnce(&Dispatch<'_>) -> R + Send) -> R {
        // SAFETY: the level is PASSIVE_LEVEL, and tokens are not `Send`.
        unsafe { at_dispatch(read) }
    }
}

impl Deref for Passive {
    type Target = MaxDispatch;

    fn deref(&self) -> &MaxDispatch {
        &self.0
    }
}
