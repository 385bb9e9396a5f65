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
    /// `KSPIN_LOCK`, acquired by an ordinary function.
    Spin,
    /// `EX_SPIN_LOCK`, shared.
    SharedSpin,
    /// `EX_SPIN_LOCK`, exclusively.
    ExclusiveSpin,
    /// `KSPIN_LOCK`, acquired by a function for in-stack queued spin locks.
    Queued,
    /// `FAST_MUTEX`.
    FastMutex,
    /// `EX_PUSH_LOCK`, shared.
    SharedPush,
    /// `EX_PUSH_LOCK`, exclusively.
    ExclusivePush,
}

impl Kind {
    /// Whether both are ways to hold one kind of lock.
    fn is_same_lock(self, other: Self) -> bool {
        use Kind::{ExclusivePush, ExclusiveSpin, SharedPush, SharedSpin};
        self == other
            || matches!((self, other), (SharedSpin, ExclusiveSpin) | (ExclusiveSpin, SharedSpin))
            || matches!((self, other), (SharedPush, ExclusivePush) | (ExclusivePush, SharedPush))
    }
}

thread_local! {
    /// Locks that driver code holds on this thread, in the order of acquisition.
    static HELD: RefCell<Vec<(Address, Kind)>> = const { RefCell::new(Vec::new()) };
}

/// The kinds of the locks held on this thread after the first `count`.
pub(super) fn held_since(count: usize) -> Vec<Kind> {
    HELD.with_borrow(|held| held.iter().skip(count).map(|(_, kind)| *kind).collect())
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

/// A lock that a thread holds.
#[derive(Clone, Copy, Debug)]
struct Owned {
    kind: Kind,
    /// The thread's object.
    thread: Address,
}

/// The lock orders seen on a machine, and who holds which lock.
#[derive(Debug, Default)]
pub(super) struct LockOrder {
    /// Whether locks must be released in the reverse order.
    in_order: bool,
    taken_under: Mutex<BTreeMap<Address, BTreeSet<Address>>>,
    /// Several threads can share a lock.
    owned: Mutex<BTreeMap<Address, Vec<Owned>>>,
    /// The kind of function that first acquired each lock.
    kinds: Mutex<BTreeMap<Address, Kind>>,
}

impl LockOrder {
    /// No order yet. `in_order` says whether locks must be released in the reverse order
    /// of their acquisition.
    pub fn new(in_order: bool) -> Self {
        Self { in_order, ..Self::default() }
    }

    /// Records that a lock is initialized: what was seen of it before does not count.
    pub fn initializing(&self, lock: Address) -> Result<(), Violation> {
        let range = lock..lock + 1;
        let held = self.held_in(&range);
        self.forget(range);
        match held {
            Some(_) => {
                let text = format!("lock {lock:#x} is held");
                Err(Violation::new(&rules::LOCK_INITIALIZED_HELD, [lock as u64, 0, 0], text))
            }
            None => Ok(()),
        }
    }

    /// A lock in a range of memory that a thread holds, and the thread.
    pub fn held_in(&self, memory: &Range<Address>) -> Option<(Address, Address)> {
        let owned = lock_table(&self.owned);
        let found = owned.range(memory.clone()).next();
        found.and_then(|(lock, owned)| Some((*lock, owned.first()?.thread)))
    }

    /// Whether this thread holds the lock.
    pub fn is_held_here(&self, lock: Address) -> bool {
        HELD.with_borrow(|held| held.iter().any(|(address, _)| *address == lock))
    }

    /// Checks whether this thread may take a lock. Called before it waits for the
    /// lock.
    pub fn acquiring(&self, lock: Address, kind: Kind) -> Result<(), Violation> {
        let held = HELD.with_borrow(Vec::clone);
        if held.iter().any(|(address, _)| *address == lock) {
            return Err(Violation::new(
                &rules::SELF_DEADLOCK,
                [lock as u64, 0, 0],
                format!("lock {lock:#x}"),
            ));
        }
        let first = *lock_table(&self.kinds).entry(lock).or_insert(kind);
        if !first.is_same_lock(kind) {
            let text = format!("lock {lock:#x}, acquired as {first:?} before, as {kind:?}");
            return Err(Violation::new(&rules::LOCK_WRONG_ACQUIRE, [lock as u64, 0, 0], text));
        }
        if held.is_empty() {
            return Ok(());
        }
        let mut graph = lock_table(&self.taken_under);
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
    pub fn acquired(&self, lock: Address, kind: Kind, thread: Address) {
        HELD.with_borrow_mut(|held| held.push((lock, kind)));
        lock_table(&self.owned).entry(lock).or_default().push(Owned { kind, thread });
    }

    /// Records that this thread releases the lock.
    pub fn releasing(&self, lock: Address, kind: Kind, thread: Address) -> Result<(), Violation> {
        let owned = self.give_up(lock, thread);
        let later = HELD.with_borrow_mut(|held| {
            let at = held.iter().rposition(|(address, _)| *address == lock)?;
            let later = held.split_off(at + 1);
            held.pop();
            held.extend_from_slice(&later);
            Some(later)
        });
        let text = format!("lock {lock:#x}");
        let Some(later) = later else {
            return Err(match owned {
                Some(owned) => {
                    let parameters = [lock as u64, owned.thread as u64, thread as u64];
                    Violation::new(&rules::LOCK_RELEASED_ELSEWHERE, parameters, text)
                }
                None => Violation::new(&rules::LOCK_NOT_ACQUIRED, [lock as u64, 0, 0], text),
            });
        };
        if let Some(owned) = owned.filter(|owned| owned.kind != kind) {
            let text = format!("{text}, acquired as {:?}, released as {kind:?}", owned.kind);
            return Err(Violation::new(&rules::LOCK_WRONG_RELEASE, [lock as u64, 0, 0], text));
        }
        match later.last().filter(|_| self.in_order) {
            None => Ok(()),
            Some((first, _)) => {
                let text = format!("lock {lock:#x} released before {first:#x}, which was taken later");
                Err(Violation::new(&rules::LOCK_RELEASE_ORDER, [lock as u64, *first as u64, 0], text))
            }
        }
    }

    /// Removes this thread's hold of a lock, or another's if this thread has none.
    fn give_up(&self, lock: Address, thread: Address) -> Option<Owned> {
        let mut owned = lock_table(&self.owned);
        let all = owned.get_mut(&lock)?;
        let at = all.iter().rposition(|one| one.thread == thread).unwrap_or(0);
        let given = all.remove(at);
        if all.is_empty() {
            owned.remove(&lock);
        }
        Some(given)
    }

    /// Forgets locks in memory that was freed.
    pub fn forget(&self, memory: Range<Address>) {
        let mut graph = lock_table(&self.taken_under);
        graph.retain(|lock, _| !memory.contains(lock));
        for under in graph.values_mut() {
            under.retain(|lock| !memory.contains(lock));
        }
        drop(graph);
        lock_table(&self.owned).retain(|lock, _| !memory.contains(lock));
        lock_table(&self.kinds).retain(|lock, _| !memory.contains(lock));
    }
}

fn lock_table<T>(table: &Mutex<T>) -> MutexGuard<'_, T> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
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
            order.acquiring(lock, Kind::Spin).map_err(|violation| violation.rule.id)?;
            order.acquired(lock, Kind::Spin, 7);
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

    fn rule(outcome: Result<(), Violation>) -> Option<&'static str> {
        outcome.err().map(|violation| violation.rule.id)
    }

    #[test]
    fn a_lock_that_is_initialized_again_has_no_order() {
        let order = LockOrder::default();
        assert_eq!(take(&order, &[1, 2]), Ok(()));
        assert_eq!(rule(order.initializing(2)), Some("LOCK_INITIALIZED_HELD"));
        assert_eq!(rule(order.initializing(2)), None);
        assert_eq!(take(&order, &[2, 1]), Ok(()));
    }

    #[test]
    fn a_release_is_checked_against_the_locks_held() {
        let order = LockOrder::new(true);
        order.acquired(1, Kind::Spin, 7);
        order.acquired(2, Kind::FastMutex, 7);
        order.acquired(3, Kind::Spin, 7);
        assert_eq!(rule(order.releasing(2, Kind::FastMutex, 7)), Some("LOCK_RELEASE_ORDER"));
        assert_eq!(rule(order.releasing(1, Kind::Spin, 7)), Some("LOCK_RELEASE_ORDER"));
        assert_eq!(rule(order.releasing(3, Kind::Spin, 7)), None);
        assert_eq!(rule(order.releasing(3, Kind::Spin, 7)), Some("LOCK_NOT_ACQUIRED"));
        order.acquired(3, Kind::Spin, 7);
        forget_since(0);
        let elsewhere = order.releasing(3, Kind::Spin, 8).unwrap_err();
        assert_eq!(elsewhere.bugcheck_parameters(), [0x1004, 3, 7, 8]);
        order.acquired(3, Kind::Queued, 7);
        assert_eq!(rule(order.releasing(3, Kind::Spin, 7)), Some("LOCK_WRONG_RELEASE"));
        order.acquired(3, Kind::SharedSpin, 7);
        assert_eq!(rule(order.releasing(3, Kind::ExclusiveSpin, 7)), Some("LOCK_WRONG_RELEASE"));
        assert_eq!(held(), 0);
    }

    #[test]
    fn threads_share_a_lock() {
        let order = LockOrder::default();
        order.acquired(1, Kind::SharedPush, 7);
        order.acquired(1, Kind::SharedPush, 8);
        assert_eq!(order.held_in(&(0..2)), Some((1, 7)));
        assert_eq!(rule(order.releasing(1, Kind::SharedPush, 7)), None);
        assert_eq!(order.held_in(&(0..2)), Some((1, 8)));
        assert_eq!(rule(order.releasing(1, Kind::SharedPush, 8)), None);
        assert_eq!(order.held_in(&(0..2)), None);
        assert_eq!(rule(order.acquiring(1, Kind::ExclusivePush)), None);
        assert_eq!(rule(order.acquiring(1, Kind::SharedPush)), None);
        assert_eq!(rule(order.acquiring(1, Kind::Spin)), Some("LOCK_WRONG_ACQUIRE"));
    }

    #[test]
    fn a_release_in_another_order_is_right_unless_the_order_is_checked() {
        let order = LockOrder::default();
        order.acquired(1, Kind::Spin, 7);
        order.acquired(2, Kind::Spin, 7);
        assert_eq!(rule(order.releasing(1, Kind::Spin, 7)), None);
        assert_eq!(rule(order.releasing(2, Kind::Spin, 7)), None);
    }
}
