//! Tokens that prove the interrupt request level (IRQL).

use core::marker::PhantomData;
use core::ops::Deref;

use crate::ffi;

/// PASSIVE_LEVEL (wdm.h).
const PASSIVE_LEVEL: ffi::KIRQL = 0;

/// Proves that IRQL <= DISPATCH_LEVEL on this processor, as long as it is borrowed.
pub struct MaxDispatch {
    /// The processor's number when the token was made.
    processor: u32,
    /// The level when the token was made.
    level: ffi::KIRQL,
    stays_here: PhantomData<*mut ()>,
}

/// Proves PASSIVE_LEVEL.
pub struct Passive(MaxDispatch);

/// Proves that the code runs inside a callout function that the filter engine
/// called, at IRQL <= DISPATCH_LEVEL. Making it reads nothing.
pub struct InCallout(PhantomData<*mut ()>);

impl InCallout {
    /// Makes the token without a check, at no cost.
    ///
    /// # Safety
    /// The code runs inside a classifyFn or a flowDeleteFn until the token is
    /// dropped, and does not change the IRQL while a token of
    /// [`irql`](Self::irql) is alive.
    #[inline(always)]
    pub(super) unsafe fn assume() -> Self {
        Self(PhantomData)
    }

    /// Reads the IRQL and the processor's number.
    #[inline(always)]
    pub fn irql(&self) -> MaxDispatch {
        MaxDispatch::at(level())
    }
}

impl MaxDispatch {
    /// The processor's number. Below DISPATCH_LEVEL the thread may have moved since.
    pub fn processor(&self) -> usize {
        self.processor as usize
    }

    /// Whether the level is DISPATCH_LEVEL. Then no other thread runs on this
    /// processor, and this thread stays on it, until the token is dropped.
    pub fn is_dispatch(&self) -> bool {
        u32::from(self.level) >= ffi::DISPATCH_LEVEL
    }

    /// The proof of DISPATCH_LEVEL, if that is the level.
    #[inline(always)]
    pub fn dispatch(&self) -> Option<Dispatch<'_>> {
        match self.is_dispatch() {
            true => Some(Dispatch { processor: self.processor(), raised: None, stays_here: PhantomData }),
            false => None,
        }
    }

    /// Raises the IRQL to DISPATCH_LEVEL. The processor is the one that the thread
    /// is on then.
    pub fn raise<'a>(&'a self, lock: &'a mut LevelLock) -> Dispatch<'a> {
        let before = lock.take();
        let processor = Self::at(ffi::DISPATCH_LEVEL as ffi::KIRQL).processor();
        Dispatch { processor, raised: Some((lock, before)), stays_here: PhantomData }
    }

    fn at(level: ffi::KIRQL) -> Self {
        // SAFETY: the argument may be NULL (its documentation); callable at any
        // IRQL.
        let processor = unsafe { ffi::KeGetCurrentProcessorNumberEx(core::ptr::null_mut()) };
        Self { processor, level, stays_here: PhantomData }
    }
}

#[inline(always)]
fn level() -> ffi::KIRQL {
    // SAFETY: takes nothing; callable at any IRQL.
    unsafe { ffi::KeGetCurrentIrql() }
}

/// Proves DISPATCH_LEVEL. If the IRQL was raised for it, dropping it restores the
/// level from before.
#[must_use]
pub struct Dispatch<'a> {
    processor: usize,
    raised: Option<(&'a mut LevelLock, ffi::KIRQL)>,
    stays_here: PhantomData<*mut ()>,
}

impl Dispatch<'_> {
    /// The processor's number.
    pub fn processor(&self) -> usize {
        self.processor
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
        Self(MaxDispatch::at(PASSIVE_LEVEL))
    }
}

impl Deref for Passive {
    type Target = MaxDispatch;

    fn deref(&self) -> &MaxDispatch {
        &self.0
    }
}
