//! What one processor has counted and not handed over to the records.
//!
//! [`super`] describes who may use a slot, and when.

use super::allocator::{EndedFlow, FlowAllocator, FlowKey};
use super::counts::{FlowPackets, PackedCounts};
use super::record::{FIRST, Flow, Visit};
use crate::logic::atomic::{AtomicU64, Ordering};

/// The most flows that a processor counts for at once: 64 KB. Of a thousand flows,
/// spread over many more records, one packet in nine finds another flow in its slot.
const MAX: usize = 4096;

/// The tag of an unused slot.
const EMPTY: u64 = 0;

/// What a processor has counted for one flow. A cache line holds four slots.
#[derive(Debug, Default)]
#[cfg_attr(not(loom), repr(C, align(16)))]
pub struct Slot {
    /// [`EMPTY`], or the flow's context.
    tag: AtomicU64,
    /// [`PackedCounts`] as a number.
    counted: AtomicU64,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Slot>() == 16);

/// The slots of one processor. Their number is a power of two.
#[derive(Clone, Copy, Debug)]
pub struct Slots<'a>(pub &'a [Slot]);

/// The result of counting a packet, which is usually [`Done`](Counted::Done).
#[derive(Debug)]
pub enum Counted<'a, 'l> {
    /// The packet was counted; there is nothing to do.
    Done,
    /// The slot was taken over. It counts for this flow from now on, whose record
    /// will be needed when the slot is taken over again.
    TakenOver(Option<&'a Flow>),
    /// The slot was taken over from a flow that must be finished now.
    Ended(EndedFlow<'a, 'l>),
}

impl<'s> Slots<'s> {
    /// How many slots a processor has, for a limit of flows.
    pub const fn number(limit: u32) -> usize {
        let records = FlowAllocator::records(limit);
        if records < MAX { records.next_power_of_two() } else { MAX }
    }

    /// Counts packets of the flow with a context, which is not 0. To be called on
    /// the slots' own processor, by one caller at a time.
    #[inline(always)]
    pub fn count<'a, 'l>(
        self,
        allocator: &'l FlowAllocator,
        records: &'a [Flow],
        context: u64,
        passed: FlowPackets,
    ) -> Counted<'a, 'l> {
        let key = FlowKey::from_context(context);
        let (Some(slot), Some(few)) = (self.slot(key), PackedCounts::of(passed)) else {
            FlowAllocator::count(records, key, passed);
            return Counted::Done;
        };
        if slot.tag.load(Ordering::Acquire) == context && slot.add(few) {
            return Counted::Done;
        }
        match take_over(slot, allocator, records, key, few) {
            Some(counted) => counted,
            None => {
                FlowAllocator::count(records, key, passed);
                Counted::Done
            }
        }
    }

    /// Takes the counts of a flow without contexts. Only the thread that finishes the
    /// flow calls this.
    pub(super) fn take(self, key: FlowKey) -> PackedCounts {
        let slot = self.slot(key).filter(|slot| slot.tag.load(Ordering::Acquire) == key.context());
        let Some(slot) = slot else { return PackedCounts::default() };
        let counted = slot.counted();
        // The processor writes the counts again only after it has seen this.
        slot.tag.store(EMPTY, Ordering::Release);
        counted
    }

    fn slot(self, key: FlowKey) -> Option<&'s Slot> {
        self.0.get(key.index() & self.0.len().wrapping_sub(1))
    }
}

/// Makes the slot count for another flow, or for the same flow from 0. `None` if
/// that is not possible now.
#[cold]
#[inline(never)]
fn take_over<'a, 'l>(
    slot: &Slot,
    allocator: &'l FlowAllocator,
    records: &'a [Flow],
    key: FlowKey,
    few: PackedCounts,
) -> Option<Counted<'a, 'l>> {
    if key.generation() < FIRST {
        return None;
    }
    let before = FlowKey::from_context(slot.tag.load(Ordering::Acquire));
    let flow = records.get(before.index()).filter(|_| before.context() != EMPTY);
    let visit = flow.map_or(Visit::Over, |flow| flow.visit(before.generation()));
    let visited = match visit {
        Visit::Inside => flow,
        Visit::Over => None,
        Visit::Refused => return None,
    };
    if let Some(flow) = visited {
        flow.sums().add(slot.counted());
    }
    slot.begin(key, few);
    Some(match visited {
        Some(flow) if flow.leave() => Counted::Ended(EndedFlow::new(flow, allocator, before)),
        _ => Counted::TakenOver(records.get(key.index())),
    })
}

impl Slot {
    /// Adds the counts, if the sum fits.
    #[inline(always)]
    fn add(&self, few: PackedCounts) -> bool {
        let Some(sum) = self.counted().with(few) else { return false };
        self.counted.store(sum.0, Ordering::Relaxed);
        true
    }

    /// Counts for another flow from now on.
    fn begin(&self, key: FlowKey, few: PackedCounts) {
        self.counted.store(few.0, Ordering::Relaxed);
        self.tag.store(key.context(), Ordering::Release);
    }

    fn counted(&self) -> PackedCounts {
        PackedCounts(self.counted.load(Ordering::Relaxed))
    }
}
