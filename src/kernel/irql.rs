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
/// can suspend it. If the IRQL was raised for the token, dropping it restores the level
/// from before.
#[must_use]
pub struct Dispatch<'a> {
    max: MaxDispatch,
    processor: u32,
    raised: Option<(&'a mut LevelLock, ffi::KIRQL)>,
}

impl<'a> Dispatch<'a> {
    /// The token, if the level is DISPATCH_LEVEL.
    ///
    /// # Safety
    /// The IRQL is at most DISPATCH_LEVEL, and does not change until the token is
    /// dropped.
    #[inline(always)]
    pub(super) unsafe fn current() -> Option<Self> {
        match u32::from(level()) >= ffi::DISPATCH_LEVEL {
            true => Some(Self::here(None)),
            false => None,
        }
    }

    /// The token, for which the level is raised if it is lower.
    ///
    /// # Safety
    /// The IRQL is at most DISPATCH_LEVEL. No code uses another token until this one
    /// is dropped, except to prove at most DISPATCH_LEVEL.
    #[inline(always)]
    pub(super) unsafe fn raise(lock: &'a mut LevelLock) -> Self {
        match u32::from(level()) >= ffi::DISPATCH_LEVEL {
            true => Self::here(None),
            false => {
                let before = lock.take();
                Self::here(Some((lock, before)))
            }
        }
    }

    #[inline(always)]
    fn here(raised: Option<(&'a mut LevelLock, ffi::KIRQL)>) -> Self {
        // SAFETY: the argument may be NULL (its documentation); callable at any
        // IRQL.
        let processor = unsafe { ffi::KeGetCurrentProcessorNumberEx(core::ptr::null_mut()) };
        Self { max: MaxDispatch(PhantomData), processor, raised }
    }

    /// The processor's number.
    #[inline(always)]
    pub fn processor(&self) -> usize {
        self.processor as usize
    }
}

impl Drop for Dispatch<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        if let Some((lock, before)) = &mut self.raised {
            lock.release(*before);
        }
    }
}

impl Deref for Dispatch<'_> {
    type Target = MaxDispatch;

    fn deref(&self) -> &MaxDispatch {
        &self.max
    }
}

#[inline(always)]
fn level() -> ffi::KIRQL {
    // SAFETY: takes nothing; callable at any IRQL.
    unsafe { ffi::KeGetCurrentIrql() }
}

/// A spin lock that nothing else uses, so it is always free. It only serves to raise
/// the IRQL: x64 and arm64 have no function in common for that (wdm.h: KfRaiseIrql
/// is exported on one and inline on the other).
#[derive(Default)]
pub struct LevelLock(ffi::ULONG_PTR);

impl LevelLock {
    #[cold]
    #[inline(never)]
    fn take(&mut self) -> ffi::KIRQL {
        // SAFETY: the lock is alive and initialized: 0 is free
        // (KeInitializeSpinLock); the IRQL is at most DISPATCH_LEVEL.
        unsafe { ffi::KeAcquireSpinLockRaiseToDpc(&mut self.0) }
    }

    #[cold]
    #[inline(never)]
    fn release(&mut self, before: ffi::KIRQL) {
        // SAFETY: this thread took the lock, and was at that level before.
        unsafe { ffi::KeReleaseSpinLock(&mut self.0, before) };
    }
}

impl Passive {
    /// Makes the token without a check.
    ///
    /// # Safety
    /// The code runs at PASSIVE_LEVEL until the token is dropped.
    pub(super) unsafe fn assume() -> Self {
        Self(MaxDispatch(PhantomData))
    }

    /// Calls `read` at DISPATCH_LEVEL, for as short a time as it takes to copy a few
    /// values. It is `Send`, so it cannot use a token of the level from before.
    pub fn at_dispatch<R>(&self, read: impl FnOnce(&Dispatch<'_>) -> R + Send) -> R {
        let mut lock = LevelLock::default();
        // SAFETY: the level is PASSIVE_LEVEL, and tokens are not `Send`.
        let irql = unsafe { Dispatch::raise(&mut lock) };
        read(&irql)
    }
}

impl Deref for Passive {
    type Target = MaxDispatch;

    fn deref(&self) -> &MaxDispatch {
        &self.0
    }
}
