//! Model checking with loom: processors use, evict and make ties at once.
//!
//! Each model is also run without a part of what it shows to be needed. Then it must
//! fail.

use loom::sync::Arc;
use loom::thread;

use super::table::{AGED_MS, Found, SETTLED_MS};
use super::tie::*;
use super::*;
use crate::logic::atomic::planted::without_fences;

/// The number of the check.
const CHECK: u16 = 1;

/// When the oldest tie may be evicted, in milliseconds.
const LATER: u64 = SETTLED_MS as u64 + AGED_MS as u64;

/// The keys of two connections or endpoints.
const OLD: u64 = 3;
const NEW: u64 = 5;

struct Table {
    sets: [TieSet; 1],
    common: Common,
}

impl Table {
    /// A table whose check has been on for long.
    fn new() -> Arc<Self> {
        let table = Arc::new(Self { sets: [TieSet::default()], common: Common::default() });
        let _begun = table.ties();
        table
    }

    /// A table without a free place. The tie of [`OLD`] is the oldest.
    fn full(prepare: impl FnOnce(&Tie)) -> Arc<Self> {
        let table = Self::new();
        if let Some(found) = table.ties().enter(OLD, &|| SETTLED_MS.into()) {
            prepare(found.tie);
            let _evicted = found.leave();
        }
        for key in [100, 101, 102] {
            let _left = table.ties().enter(key, &|| LATER).map(|found| found.leave());
        }
        table
    }

    /// Makes the tie of [`NEW`] in the place of that of [`OLD`].
    fn evict(&self) {
        let evicted = self.ties().enter(NEW, &|| LATER).expect("the oldest tie is evicted");
        assert!(evicted.is_new);
        let _evicted_again = evicted.leave();
    }

    fn ties(&self) -> Ties<'_> {
        Ties::new(&self.sets, &self.common, CHECK, || 0)
    }

    /// The places of this tie.
    fn places(&self, key: u64) -> usize {
        let [set] = &self.sets;
        let wanted = self.ties().wanted(key);
        set.keys.iter().filter(|place| place.load(Ordering::Acquire) == wanted).count()
    }
}

/// Runs a model with every thread preempted at most twice.
fn check(model: impl Fn() + Send + Sync + 'static) {
    let mut bounded = loom::model::Builder::new();
    bounded.preemption_bound = Some(2);
    bounded.check(model);
}

/// Adds something to a tie. Returns whether the tie had been cleared before.
type Add = fn(&Tie) -> bool;

/// What the old tie has, so that one that has been cleared is recognized.
const HELD: u32 = 100;

const ADDITIONS: [Add; 3] = [
    |tie| tie.ends_at(1) == 0,
    |tie| tie.inbound.stream.fetch_add(1, Ordering::AcqRel) == 0,
    |tie| tie.mark(FLOWING) & SYN_OUT == 0,
];

/// A processor adds something to the tie of a connection, while another one evicts this
/// tie for a new connection. If the new tie got it, it must be unclear. `leave`: what is
/// done at the end of the use.
fn evicted_while_used(add: Add, leave: fn(Found<'_>) -> bool) {
    check(move || {
        let table = Table::full(|tie| {
            tie.mark_only(SYN_OUT);
            tie.ends_at(HELD);
            tie.inbound.stream.fetch_add(HELD, Ordering::AcqRel);
        });
        let there = table.clone();
        let user = thread::spawn(move || {
            let found = there.ties().find(OLD);
            found.is_some_and(|found| {
                let was_cleared = add(found.tie);
                let _evicted = leave(found);
                was_cleared
            })
        });
        table.evict();
        let was_cleared = user.join().unwrap();
        let found = table.ties().find(NEW).expect("the new tie");
        let marks = found.tie.marks.load(Ordering::Acquire);
        assert!(!was_cleared || marks & UNCLEAR != 0, "the new tie has something of another: {marks:#x}");
    });
}

#[test]
fn what_is_added_to_an_evicted_tie_makes_the_next_one_unclear() {
    ADDITIONS.into_iter().for_each(|add| evicted_while_used(add, |found| found.leave()));
}

#[test]
#[should_panic]
fn without_a_look_at_the_key_the_next_tie_has_numbers_of_another() {
    evicted_while_used(ADDITIONS[0], |_| false);
}

#[test]
#[should_panic]
fn without_release_the_look_at_the_key_comes_too_early() {
    without_fences(Ordering::Release, || evicted_while_used(ADDITIONS[0], |found| found.leave()));
}

/// A SYN for a listening endpoint.
const TO_LISTENER: Passing = Passing {
    layer: ACCEPT,
    direction: Direction::Inbound,
    kinds: Kinds::SYN,
    protocol: TCP,
    pair: 0,
    endpoints: [0, OLD],
    numbers: None,
    reauthorizes: false,
    is_unclear: false,
    is_unauthorized: false,
    is_for_one: true,
    stream: (0, false),
    processor: 1,
};

/// A SYN comes to an endpoint that was bound and listens, while another processor evicts
/// the endpoint's tie. `tells`: whether something is missing.
fn evicted_while_read(tells: fn(&Table) -> bool) {
    check(move || {
        let table = Table::full(|tie| tie.mark_only(BOUND | LISTENING));
        let there = table.clone();
        let reader = thread::spawn(move || tells(&there));
        table.evict();
        assert!(!reader.join().unwrap(), "the endpoint was bound, and listens");
    });
}

#[test]
fn an_evicted_tie_tells_nothing() {
    evicted_while_read(|table| table.ties().see(&TO_LISTENER, || LATER).deviation.is_some());
}

#[test]
#[should_panic]
fn without_a_look_at_the_key_an_evicted_tie_tells_what_another_lacks() {
    evicted_while_read(|table| {
        let found = table.ties().find(OLD);
        found.is_some_and(|found| found.tie.of_endpoint(&TO_LISTENER, false).is_some())
    });
}

/// Two processors make a tie of one key. If both have a place, all ties of the set are
/// unclear, because each knows a part.
fn made_twice() {
    check(|| {
        let table = Table::new();
        let make = |table: &Table| {
            let _evicted = table.ties().enter(NEW, &|| SETTLED_MS.into()).map(|found| found.leave());
        };
        let there = table.clone();
        let other = thread::spawn(move || make(&there));
        make(&table);
        other.join().unwrap();
        let [set] = &table.sets;
        let clear = |tie: &Tie| tie.marks.load(Ordering::Acquire) & (BEGUN | UNCLEAR) == BEGUN;
        assert!(table.places(NEW) == 1 || !set.ties.iter().any(clear), "two ties of one key");
    });
}

#[test]
fn a_tie_that_is_made_twice_is_unclear() {
    made_twice();
}

#[test]
#[should_panic]
fn without_one_order_of_both_keys_nobody_sees_that_a_tie_was_made_twice() {
    without_fences(Ordering::SeqCst, made_twice);
}
