//! One flow's record, on one cache line.

use super::atomic::{AtomicU32, AtomicU64, Ordering};
use super::counts::Sums;
use crate::logic::order::Order;

/// A flow's record. Several processors may update it at once.
#[derive(Debug, Default)]
#[cfg_attr(not(loom), repr(C, align(64)))]
pub struct Flow {
    word: AtomicU64,
    /// What processors have added so far.
    sums: Sums,
    order: Order,
    id: AtomicU64,
    /// The lower half of when it began; more is in the word.
    started: AtomicU32,
    /// Whose it is; of a place that is free, which was freed before it.
    process: AtomicU32,
}

/// One line, for that is what a packet fetches at the most, and all that a flow
/// takes.
#[cfg(not(loom))]
const _: () = assert!(size_of::<Flow>() == 64);

/// Whose record it is, and who is at it; [`Flow`] keeps it in 64 bits, from the
/// lowest: contexts, visitors, taken, upper bits of the time, generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word(u64);

/// One that leads here: a context, or whoever begins the flow.
const CONTEXT: u64 = 1;
const CONTEXTS: u64 = 0xff;
/// One who adds what a processor has counted. At the most one for each
/// processor, of which Windows has 2048 at the most.
const VISITOR: u64 = 1 << 8;
const VISITORS: u64 = 0x7fff << 8;
/// In use, or about to be, or not any more.
const TAKEN: u64 = 1 << 23;
const TIME_SHIFT: u32 = 24;
const TIME_BITS: u32 = 40;
const GENERATION_SHIFT: u32 = 32;

/// The first generation; 0 is none, so that no context is 0.
pub(super) const FIRST: u32 = 1;

impl Word {
    pub(super) fn generation(self) -> u32 {
        (self.0 >> GENERATION_SHIFT) as u32
    }

    /// Whether anybody leads there.
    fn has_contexts(self) -> bool {
        self.0 & CONTEXTS != 0
    }

    fn is_taken(self) -> bool {
        self.0 & TAKEN != 0
    }

    /// Whether it is for one alone to wind up: taken, and nobody leads there or
    /// visits.
    fn is_left(self) -> bool {
        self.0 & (TAKEN | CONTEXTS | VISITORS) == TAKEN
    }

    /// Whether it is this flow, which lasts.
    pub(super) fn lasts(self, generation: u32) -> bool {
        self.generation() == generation && generation >= FIRST && self.is_taken() && self.has_contexts()
    }
}

/// What is known of a flow when it is established.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Begin {
    /// The engine's handle.
    pub id: u64,
    /// The time, in the caller's unit; of it 40 bits are kept.
    pub started: u64,
    /// Whose it is.
    pub process: u32,
    /// The watch over its order, 0 for none ([`Order::watch`]).
    pub watch: u16,
}

/// What comes of wanting to visit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Visit {
    /// The visitor is counted, and is to [leave](Flow::leave).
    Inside,
    /// Not now: the flow is being wound up, or others are faster.
    Refused,
    /// The flow is over, and nobody is at its counts any more.
    Gone,
}

/// How often it is tried to become a visitor while others come and go.
const TRIES: usize = 8;

impl Flow {
    /// One more leads here. Asked for before a context is associated, since the
    /// engine may delete it before that call returns.
    pub fn hold(&self) {
        self.word.fetch_add(CONTEXT, Ordering::Relaxed);
    }

    /// The engine's handle.
    pub fn id(&self) -> u64 {
        self.id.load(Ordering::Relaxed)
    }

    /// Whose it is.
    pub fn process(&self) -> u32 {
        self.process.load(Ordering::Relaxed)
    }

    /// The order it keeps.
    pub fn order(&self) -> &Order {
        &self.order
    }

    /// How long it lasted, if it is `now` in the unit of [`Begin::started`]: of
    /// 40 bits, which in milliseconds is 34 years.
    pub fn lasted(&self, now: u64) -> u64 {
        let upper = self.word().0 >> TIME_SHIFT << 32;
        let started = upper | u64::from(self.started.load(Ordering::Relaxed));
        now.wrapping_sub(started) & ((1 << TIME_BITS) - 1)
    }

    /// What has been added so far.
    pub(super) fn sums(&self) -> &Sums {
        &self.sums
    }

    pub(super) fn word(&self) -> Word {
        Word(self.word.load(Ordering::Acquire))
    }

    /// Takes the place for a new flow, if it is free.
    pub(super) fn take(&self, begin: &Begin) -> Option<u32> {
        let before = self.word();
        if before.is_taken() {
            return None;
        }
        let take =
            self.word.compare_exchange(before.0, before.0 | TAKEN, Ordering::Acquire, Ordering::Relaxed);
        take.ok()?;
        self.sums.clear();
        self.started.store(begin.started as u32, Ordering::Relaxed);
        self.process.store(begin.process, Ordering::Relaxed);
        self.id.store(begin.id, Ordering::Relaxed);
        self.order.restart(begin.watch);
        let generation = before.generation().wrapping_add(1).max(FIRST);
        let time = (begin.started >> 32 & 0xff) << TIME_SHIFT;
        let word = u64::from(generation) << GENERATION_SHIFT | time | TAKEN | CONTEXT;
        self.word.store(word, Ordering::Release);
        Some(generation)
    }

    /// Becomes a visitor of the flow with this generation.
    pub(super) fn visit(&self, generation: u32) -> Visit {
        for _ in 0..TRIES {
            let word = self.word();
            if word.generation() != generation || !word.is_taken() {
                return Visit::Gone;
            }
            if !word.has_contexts() {
                return Visit::Refused;
            }
            let visit = self.word.compare_exchange(
                word.0,
                word.0.wrapping_add(VISITOR),
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            if visit.is_ok() {
                return Visit::Inside;
            }
        }
        Visit::Refused
    }

    /// A visitor leaves; says whether the flow is now his to wind up.
    pub(super) fn leave(&self) -> bool {
        // What was added and where it came from is seen by who comes last.
        let before = self.word.fetch_sub(VISITOR, Ordering::AcqRel);
        Word(before.wrapping_sub(VISITOR)).is_left()
    }

    /// One of those who led to the flow with this generation is gone; says
    /// whether it is now the caller's to wind up.
    pub(super) fn release(&self, generation: u32) -> bool {
        let less = |word| Word(word).lasts(generation).then(|| word.wrapping_sub(CONTEXT));
        let before = self.word.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
        before.is_ok_and(|before| Word(before.wrapping_sub(CONTEXT)).is_left())
    }

    /// Where the list of free places goes on, if this is one of them.
    pub(super) fn next_free(&self) -> u32 {
        self.process.load(Ordering::Relaxed)
    }

    pub(super) fn lead_to_free(&self, next: u32) {
        self.process.store(next, Ordering::Relaxed);
    }

    /// It has been wound up: the place is free.
    pub(super) fn give_free(&self) {
        let word = u64::from(self.word().generation()) << GENERATION_SHIFT;
        self.word.store(word, Ordering::Release);
    }

    /// As if so many flows had been here.
    #[cfg(all(test, not(loom)))]
    pub(super) fn age(&self, generation: u32) {
        self.word.store(u64::from(generation) << GENERATION_SHIFT, Ordering::Relaxed);
    }
}
