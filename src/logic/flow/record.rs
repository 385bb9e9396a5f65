//! The record of a flow, on one cache line.

use super::counts::Sums;
use crate::logic::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::logic::order::Order;

/// A flow's record. Several processors may update it at once.
#[derive(Debug, Default)]
#[cfg_attr(not(loom), repr(C, align(64)))]
pub struct Flow {
    word: AtomicU64,
    /// What processors have handed over so far.
    sums: Sums,
    order: Order,
    id: AtomicU64,
    /// The lower half of the start time; more of it is in the word.
    started: AtomicU32,
    /// The id of the process. In a free record: the index of the next free one.
    process: AtomicU32,
}

/// One cache line: a packet fetches at most this line, and a flow takes no more
/// memory.
#[cfg(not(loom))]
const _: () = assert!(size_of::<Flow>() == 64);

/// The state of a record, in 64 bits. From the lowest: contexts, visitors, cut, taken,
/// upper bits of the start time, generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word(u64);

/// One context, or the caller that begins the flow.
const CONTEXT: u64 = 1;
const CONTEXTS: u64 = 0xff;
/// One visitor, which hands over what a processor has counted. There is at most one
/// for each processor, and Windows has at most 2048 processors.
const VISITOR: u64 = 1 << 8;
const VISITORS: u64 = 0x3fff << 8;
/// Some NET_BUFFERs of the flow were not counted.
const CUT: u64 = 1 << 22;
/// The record is in use, or is being allocated or finished.
const TAKEN: u64 = 1 << 23;
const TIME_SHIFT: u32 = 24;
const TIME_BITS: u32 = 40;
const GENERATION_SHIFT: u32 = 32;

/// The first generation. It is not 0, so that no context is 0.
pub(super) const FIRST: u32 = 1;

impl Word {
    pub(super) fn generation(self) -> u32 {
        (self.0 >> GENERATION_SHIFT) as u32
    }

    /// Whether the flow has contexts.
    fn has_contexts(self) -> bool {
        self.0 & CONTEXTS != 0
    }

    fn is_taken(self) -> bool {
        self.0 & TAKEN != 0
    }

    /// Whether the flow must be finished: the record is taken, without contexts or
    /// visitors.
    fn must_finish(self) -> bool {
        self.0 & (TAKEN | CONTEXTS | VISITORS) == TAKEN
    }

    /// Whether this is the live flow of a generation.
    #[inline(always)]
    pub(super) fn is_live(self, generation: u32) -> bool {
        self.generation() == generation && generation >= FIRST && self.is_taken() && self.has_contexts()
    }
}

/// What is known of a flow when it is established.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Begin {
    /// The engine's handle.
    pub id: u64,
    /// The start time, in any unit. 40 bits of it are kept.
    pub started: u64,
    /// The id of the process.
    pub process: u32,
    /// The number of the order check, 0 if the order is not checked
    /// ([`Order::check_number`]).
    pub check: u16,
}

/// The result of becoming a visitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Visit {
    /// The visitor is counted, and must [leave](Flow::leave).
    Inside,
    /// Not now: the flow is being finished, or other processors were faster.
    Refused,
    /// The flow is over, and no thread uses its counts any more.
    Over,
}

/// How often becoming a visitor is tried while others come and go.
const TRIES: usize = 8;

impl Flow {
    /// Adds a context. To be called before the context is associated, because the
    /// engine may delete it before that call returns.
    pub fn hold(&self) {
        self.word.fetch_add(CONTEXT, Ordering::Relaxed);
    }

    /// The engine's handle.
    pub fn id(&self) -> u64 {
        self.id.load(Ordering::Relaxed)
    }

    /// The id of the process.
    pub fn process(&self) -> u32 {
        self.process.load(Ordering::Relaxed)
    }

    /// The order that the flow keeps.
    pub fn order(&self) -> &Order {
        &self.order
    }

    /// Notes that some NET_BUFFERs of the flow with this generation are not counted.
    pub(super) fn cut(&self, generation: u32) {
        let cut = |word| Word(word).is_live(generation).then_some(word | CUT);
        let _before = self.word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, cut);
    }

    /// Whether some NET_BUFFERs were not counted.
    pub fn is_cut(&self) -> bool {
        self.word().0 & CUT != 0
    }

    /// How long the flow lasted until `now`, in the unit of [`Begin::started`]. The
    /// result has 40 bits, which is 34 years in milliseconds.
    pub fn duration(&self, now: u64) -> u64 {
        let upper = self.word().0 >> TIME_SHIFT << 32;
        let started = upper | u64::from(self.started.load(Ordering::Relaxed));
        now.wrapping_sub(started) & ((1 << TIME_BITS) - 1)
    }

    /// What has been handed over so far.
    pub(super) fn sums(&self) -> &Sums {
        &self.sums
    }

    pub(super) fn word(&self) -> Word {
        Word(self.word.load(Ordering::Acquire))
    }

    /// Takes the record for a new flow, if it is free. Returns the generation.
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
        self.order.restart(begin.check);
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
                return Visit::Over;
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

    /// A visitor leaves. Returns whether the caller must finish the flow.
    pub(super) fn leave(&self) -> bool {
        // The last one sees what was added, and the slot that it came from.
        let before = self.word.fetch_sub(VISITOR, Ordering::AcqRel);
        Word(before.wrapping_sub(VISITOR)).must_finish()
    }

    /// Releases a context of the flow with this generation. Returns whether the
    /// caller must finish the flow.
    pub(super) fn release(&self, generation: u32) -> bool {
        let less = |word| Word(word).is_live(generation).then(|| word.wrapping_sub(CONTEXT));
        let before = self.word.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
        before.is_ok_and(|before| Word(before.wrapping_sub(CONTEXT)).must_finish())
    }

    /// The index of the next free record, if this one is free.
    pub(super) fn next_free(&self) -> u32 {
        self.process.load(Ordering::Relaxed)
    }

    pub(super) fn set_next_free(&self, next: u32) {
        self.process.store(next, Ordering::Relaxed);
    }

    /// Frees the record of a finished flow.
    pub(super) fn free_record(&self) {
        let word = u64::from(self.word().generation()) << GENERATION_SHIFT;
        self.word.store(word, Ordering::Release);
    }

    /// Sets the generation, as if that many flows had used the record.
    #[cfg(all(test, not(loom)))]
    pub(super) fn age(&self, generation: u32) {
        self.word.store(u64::from(generation) << GENERATION_SHIFT, Ordering::Relaxed);
    }
}
