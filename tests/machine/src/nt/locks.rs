//! Tracks which thread holds which lock, and in which order locks were taken.
//!
//! The order is a graph. An edge leads from a lock to each lock that was taken
//! under it. If there is a path back, two threads that take the locks in different
//! orders can wait for each other forever, even if that has not happened (Driver
//! Verifier's deadlock detection).
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::types::Address;
use crate::verifier::{Violation, rules};

/// Kind of a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `KSPIN_LOCK`.
    Spin,
    /// `EX_SPIN_LOCK`, shared.
    SharedSpin,
    /// `EX_SPIN_LOCK`, exclusively.
    ExclusiveSpin,
    /// `FAST_MUTEX`.
    FastMutex,
    /// `EX_PUSH_LOCK`, shared.
    SharedPush,
    /// `EX_PUSH_LOCK`, exclusively.
    ExclusivePush,
}

impl Kind {
    /// Whether it is a spin lock, which is released in the reverse order.
    fn spins(self) -> bool {
        matches!(self, Self::Spin | Self::SharedSpin | Self::ExclusiveSpin)
    }
}

thread_local! {
    /// Locks that driver code holds on this thread, in the order of acquisition.
    static HELD: RefCell<Vec<(Address, Kind)>> = const { RefCell::new(Vec::new()) };
}

/// Number of locks held on this thread.
pub(super) fn held() -> usize {
    HELD.with_borrow(Vec::len)
}

/// Forgets the locks after the first `count`. Called when the call that took them
/// is over.
pub(super) fn forget_since(count: usize) {
    HELD.with_borrow_mut(|held| held.truncate(count));
}

/// The lock orders seen on a machine.
#[derive(Debug, Default)]
pub(super) struct LockOrder {
    taken_under: Mutex<BTreeMap<Address, BTreeSet<Address>>>,
}

impl LockOrder {
    /// Checks whether this thread may take a lock. Called before it waits for the
    /// lock.
    pub fn acquiring(&self, lock: Address) -> Result<(), Violation> {
        let held = HELD.with_borrow(Vec::clone);
        if held.iter().any(|(address, _)| *address == lock) {
            return Err(Violation::new(
                &rules::SELF_DEADLOCK,
                [lock as u64, 0, 0],
                format!("lock {lock:#x}"),
            ));
        }
        if held.is_empty() {
            return Ok(());
        }
        let mut graph = self.graph();
        for (outer, _) in held {
            if has_path(&graph, lock, outer) {
                let text =
                    format!("lock {lock:#x} under {outer:#x}; they were taken in the reverse order before");
                return Err(Violation::new(&rules::LOCK_ORDER, [lock as u64, 0, 0], text));
            }
            graph.entry(outer).or_default().insert(lock);
        }
        Ok(())
    }

    /// Records that this thread has taken the lock.
    pub fn acquired(&self, lock: Address, kind: Kind) {
        HELD.with_borrow_mut(|held| held.push((lock, kind)));
    }

    /// Records that this thread releases the lock. `taken` says whether any thread
    /// holds it.
    pub fn releasing(&self, lock: Address, kind: Kind, taken: bool) -> Result<(), Violation> {
        let mut later = HELD.with_borrow_mut(|held| {
            let at = held.iter().rposition(|(address, _)| *address == lock)?;
            let later = held.split_off(at + 1);
            let own = held.pop();
            held.extend_from_slice(&later);
            Some((own, later))
        });
        let Some((own, later)) = &mut later else {
            let rule = if taken { &rules::LOCK_RELEASED_ELSEWHERE } else { &rules::LOCK_NOT_ACQUIRED };
            return Err(Violation::new(rule, [lock as u64, 0, 0], format!("lock {lock:#x}")));
        };
        if own.is_some_and(|(_, held)| held != kind) {
            let text = format!("lock {lock:#x}, which was acquired in another way");
            return Err(Violation::new(&rules::LOCK_MISMATCHED, [lock as u64, 0, 0], text));
        }
        // Mutexes and push locks may be released in any order.
        match later.iter().rfind(|(_, other)| kind.spins() && other.spins()) {
            None => Ok(()),
            Some((first, _)) => {
                let text = format!("lock {lock:#x} released before {first:#x}, which was taken later");
                Err(Violation::new(&rules::LOCK_RELEASE_ORDER, [lock as u64, *first as u64, 0], text))
            }
        }
    }

    /// Forgets locks in memory that was freed.
    pub fn forget(&self, memory: Range<Address>) {
        let mut graph = self.graph();
        graph.retain(|lock, _| !memory.contains(lock));
        for under in graph.values_mut() {
            under.retain(|lock| !memory.contains(lock));
        }
    }

    fn graph(&self) -> MutexGuard<'_, BTreeMap<Address, BTreeSet<Address>>> {
        self.taken_under.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a path in the graph leads from `from` to `to`.
fn has_path(graph: &BTreeMap<Address, BTreeSet<Address>>, from: Address, to: Address) -> bool {
    let mut seen = BTreeSet::new();
    let mut pending = vec![from];
    while let Some(lock) = pending.pop() {
        if lock == to {
            return true;
        }
        if seen.insert(lock) {
            pending.extend(graph.get(&lock).into_iter().flatten());
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(order: &LockOrder, locks: &[Address]) -> Result<(), &'static str> {
        let outcome = locks.iter().try_for_each(|&lock| {
            order.acquiring(lock).map_err(|violation| violation.rule.id)?;
            order.acquired(lock, Kind::Spin);
            Ok(())
        });
        forget_since(0);
        outcome
    }

    #[test]
    fn an_indirect_breach_of_the_lock_order_is_detected() {
        let order = LockOrder::default();
        assert_eq!(take(&order, &[1, 2]), Ok(()));
        assert_eq!(take(&order, &[2, 3]), Ok(()));
        assert_eq!(take(&order, &[1, 3]), Ok(()));
        assert_eq!(take(&order, &[3, 1]), Err("LOCK_ORDER"));
        assert_eq!(take(&order, &[4, 4]), Err("SELF_DEADLOCK"));
        order.forget(2..3);
        assert_eq!(take(&order, &[3, 2]), Ok(()));
    }

    #[test]
    fn a_release_is_checked_against_the_locks_held() {
        let order = LockOrder::default();
        order.acquired(1, Kind::Spin);
        order.acquired(2, Kind::FastMutex);
        order.acquired(3, Kind::Spin);
        let rule = |outcome: Result<(), Violation>| outcome.err().map(|violation| violation.rule.id);
        assert_eq!(rule(order.releasing(2, Kind::FastMutex, true)), None);
        assert_eq!(rule(order.releasing(1, Kind::Spin, true)), Some("LOCK_RELEASE_ORDER"));
        assert_eq!(rule(order.releasing(3, Kind::Spin, true)), None);
        assert_eq!(rule(order.releasing(3, Kind::Spin, false)), Some("LOCK_NOT_ACQUIRED"));
        assert_eq!(rule(order.releasing(3, Kind::Spin, true)), Some("LOCK_RELEASED_ELSEWHERE"));
        assert_eq!(held(), 0);
    }
}
