//! What a driver has initialized, and the levels at which it has taken spin locks.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::cpu::Irql;
use super::types::Address;
use crate::driver::DriverId;
use crate::verifier::{Violation, rules};

/// The spin locks that drivers have initialized by `KeInitializeSpinLock`.
///
/// A driver for Windows 7 has that function inline, so the machine does not see it. Only if
/// a driver has called it once, a lock without a call is not initialized.
#[derive(Debug, Default)]
pub(super) struct SpinLocks(Mutex<BTreeSet<(DriverId, Address)>>);

impl SpinLocks {
    fn all(&self) -> MutexGuard<'_, BTreeSet<(DriverId, Address)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a driver has initialized a lock.
    pub fn initialize(&self, driver: DriverId, lock: Address) {
        self.all().insert((driver, lock));
    }

    /// Forgets locks in memory that was freed.
    pub fn forget(&self, memory: Range<Address>) {
        self.all().retain(|(_, lock)| !memory.contains(lock));
    }

    /// Forgets all locks of a driver: it is gone.
    pub fn clear(&self, driver: DriverId) {
        self.all().retain(|(of, _)| *of != driver);
    }

    /// Checks that a lock which a driver takes is initialized, by this driver or by
    /// another.
    pub fn check(&self, driver: DriverId, lock: Address) -> Result<(), Violation> {
        let all = self.all();
        let calls_it = all.iter().any(|(of, _)| *of == driver);
        match !calls_it || all.iter().any(|(_, address)| *address == lock) {
            true => Ok(()),
            false => {
                // Bugcheck 0xC4/0x1002: address of the lock.
                Err(Violation::new(
                    &rules::LOCK_NOT_INITIALIZED,
                    [lock as u64, 0, 0],
                    format!("lock {lock:#x}"),
                ))
            }
        }
    }
}

thread_local! {
    /// Locks that raised the level on this thread, with the level from before.
    static RAISED: RefCell<Vec<(Address, Irql)>> = const { RefCell::new(Vec::new()) };
}

/// Notes that taking a lock has raised the level.
pub(super) fn raised(lock: Address, before: Irql) {
    RAISED.with_borrow_mut(|raised| raised.push((lock, before)));
}

/// Checks the level to which a lock is released: it must be the one that the acquisition
/// returned (`KeAcquireSpinLock`, remarks).
pub(super) fn released(lock: Address, to: Irql) -> Result<(), Violation> {
    let before = RAISED.with_borrow_mut(|raised| {
        let at = raised.iter().rposition(|(address, _)| *address == lock)?;
        Some(raised.remove(at).1)
    });
    match before.filter(|before| *before != to) {
        None => Ok(()),
        Some(before) => {
            let parameters = [lock as u64, before.0.into(), to.0.into()];
            let text = format!("lock {lock:#x} was taken at {before} and is released to {to}");
            Err(Violation::new(&rules::SPIN_LOCK_LEVEL, parameters, text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_released_to_the_level_at_which_it_was_taken() {
        raised(8, Irql::PASSIVE);
        raised(16, Irql::DISPATCH);
        assert!(released(8, Irql::PASSIVE).is_ok());
        assert!(released(16, Irql::PASSIVE).is_err());
        assert!(released(16, Irql::PASSIVE).is_ok(), "it is not known any more");
    }

    #[test]
    fn a_lock_is_uninitialized_only_beside_one_that_was_initialized() {
        let locks = SpinLocks::default();
        let (one, other) = (DriverId::SYSTEM, DriverId::new(1, 1));
        assert!(locks.check(one, 8).is_ok());
        locks.initialize(one, 16);
        assert!(locks.check(one, 8).is_err() && locks.check(one, 16).is_ok());
        assert!(locks.check(other, 8).is_ok(), "it does not call the function");
        locks.forget(0..32);
        assert!(locks.check(one, 8).is_ok());
    }
}
