//! A value that can be replaced while callbacks read it.

use core::marker::PhantomData;
use core::ops::Deref;
use core::sync::atomic::{AtomicPtr, Ordering};

use super::irql::{Dispatch, MaxDispatch, Passive};
use super::mutex::Mutex;
use super::per_cpu::PerCpu;
use super::pool::PoolBox;
use super::processors;
use super::status::Result;
use super::work_item::pause;
use crate::logic::epoch::{Inside, Phase, Readers};

/// The current value. A reader never waits, and writes no cache line that another
/// processor writes. A replaced value is freed when its last reader has left.
///
/// At DISPATCH_LEVEL a reader writes nothing at all: a thread that replaces the value
/// waits until every processor has left that level. Below that level readers are
/// counted.
pub struct Current<T> {
    value: AtomicPtr<T>,
    phase: Phase,
    readers: PerCpu<Readers>,
    /// Owns the value that `value` points to. `replace` locks it.
    owner: Mutex<PoolBox<T>>,
}

/// The value that was current when reading began.
#[must_use]
pub struct Reading<'a, T> {
    value: &'a T,
    _inside: Option<Inside<'a>>,
    stays_here: PhantomData<*mut ()>,
}

impl<T: Send + Sync> Current<T> {
    /// Starts with a first value.
    pub fn new(value: PoolBox<T>, irql: &Passive) -> Result<Self> {
        let readers = PerCpu::new(Readers::new, irql)?;
        let pointer = AtomicPtr::new(value.as_ptr());
        Ok(Self { value: pointer, phase: Phase::new(), readers, owner: Mutex::new(value, irql)? })
    }

    /// The current value. `None` only on a processor that the system did not count
    /// at the start.
    pub fn read<'a>(&'a self, irql: &'a MaxDispatch) -> Option<Reading<'a, T>> {
        let inside = match irql.is_dispatch() {
            true => None,
            false => Some(self.phase.enter(self.readers.current(irql)?)),
        };
        let value = self.value.load(Ordering::SeqCst);
        // SAFETY: the pointer is never NULL. The value is dropped only after the
        // readers that were counted have left and every processor has been below
        // DISPATCH_LEVEL. Either this reader is counted for `'a`, or `irql` proves
        // that this processor stays at DISPATCH_LEVEL for `'a`.
        let value = unsafe { &*value };
        Some(Reading { value, _inside: inside, stays_here: PhantomData })
    }

    /// The current value, at DISPATCH_LEVEL. The reader writes nothing.
    #[inline(always)]
    pub fn read_at_dispatch<'a>(&'a self, _: &'a Dispatch<'_>) -> &'a T {
        let value = self.value.load(Ordering::SeqCst);
        // SAFETY: as in `read`: the token proves that this processor stays at
        // DISPATCH_LEVEL for `'a`.
        unsafe { &*value }
    }

    /// Replaces the value in one step, waits until the old value has no reader, and
    /// drops it.
    pub fn replace(&self, value: PoolBox<T>, irql: &Passive) {
        let mut owner = self.owner.lock(irql);
        self.value.store(value.as_ptr(), Ordering::SeqCst);
        processors::wait_for_all(irql);
        self.phase.wait(self.readers.all().iter(), pause);
        *owner = value;
    }
}

impl<T> Deref for Reading<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value
    }
}
