//! Who holds which lock, and in which order locks were ever taken.
//!
//! The order is a graph: an edge leads from a lock to each that was taken
//! while it was held. A path back means that two threads taking the locks both
//! ways could wait for each other forever, even if they never have yet
//! (Driver Verifier's deadlock detection).
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::types::Address;
use crate::verifier::{Violation, rules};

/// What kind of lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `KSPIN_LOCK`.
    Spin,
    /// `FAST_MUTEX`.
    FastMutex,
}

thread_local! {
    /// Locks that driver code holds on this thread, in the order taken.
    static HELD: RefCell<Vec<(Address, Kind)>> = const { RefCell::new(Vec::new()) };
}

/// Locks held on this thread.
pub(super) fn held() -> usize {
    HELD.with_borrow(Vec::len)
}

/// Forgets what was taken since `held` gave this number: the call that took
/// it is over.
pub(super) fn forget_since(count: usize) {
    HELD.with_borrow_mut(|held| held.truncate(count));
}

/// The orders seen on one machine.
#[derive(Debug, Default)]
pub(super) struct LockOrder {
    taken_under: Mutex<BTreeMap<Address, BTreeSet<Address>>>,
}

impl LockOrder {
    /// Before a lock is waited for: may this thread take it now?
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
            if leads(&graph, lock, outer) {
                let text = format!("lock {lock:#x} under {outer:#x}, which was taken under it before");
                return Err(Violation::new(&rules::LOCK_ORDER, [lock as u64, 0, 0], text));
            }
            graph.entry(outer).or_default().insert(lock);
        }
        Ok(())
    }

    /// This thread has it now.
    pub fn acquired(&self, lock: Address, kind: Kind) {
        HELD.with_borrow_mut(|held| held.push((lock, kind)));
    }

    /// This thread gives it back. `taken` says whether anybody has it.
    pub fn releasing(&self, lock: Address, kind: Kind, taken: bool) -> Result<(), Violation> {
        let mut later = HELD.with_borrow_mut(|held| {
            let at = held.iter().rposition(|(address, _)| *address == lock)?;
            let later = held.split_off(at + 1);
            held.pop();
            held.extend_from_slice(&later);
            Some(later)
        });
        let Some(later) = &mut later else {
            let rule = if taken { &rules::LOCK_RELEASED_ELSEWHERE } else { &rules::LOCK_NOT_ACQUIRED };
            return Err(Violation::new(rule, [lock as u64, 0, 0], format!("lock {lock:#x}")));
        };
        // A fast mutex is bound to no order.
        match later.iter().rfind(|(_, other)| (kind, *other) == (Kind::Spin, Kind::Spin)) {
            None => Ok(()),
            Some((first, _)) => {
                let text = format!("lock {lock:#x} before {first:#x}, which was taken after it");
                Err(Violation::new(&rules::LOCK_RELEASE_ORDER, [lock as u64, *first as u64, 0], text))
            }
        }
    }

    /// The memory has another use now.
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

/// Whether `to` was taken under `from`, if by steps.
fn leads(graph: &BTreeMap<Address, BTreeSet<Address>>, from: Address, to: Address) -> bool {
    let mut seen = BTreeSet::new();
    let mut ahead = vec![from];
    while let Some(lock) = ahead.pop() {
        if lock == to {
            return true;
        }
        if seen.insert(lock) {
            ahead.extend(graph.get(&lock).into_iter().flatten());
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
    fn an_order_is_found_to_be_broken_even_by_steps() {
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
    fn a_release_is_held_against_what_was_taken() {
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
