//! What one processor has counted and not yet added to the flows' records.
//!
//! Who may touch a slot, and when, is told in [`super`].

use super::allocator::{EndedFlow, FlowAllocator, FlowKey};
use super::atomic::{AtomicU64, Ordering};
use super::counts::{FlowPackets, PackedCounts};
use super::record::{FIRST, Flow, Visit};

/// Flows that a processor counts for at once, at the most: 64 KB. Of a thousand
/// that are spread over many more, one packet in nine finds another flow there.
const MOST: usize = 4096;

/// Tag of a slot that counts for none.
const EMPTY: u64 = 0;

/// What a processor has counted for one flow; four of them lie on a cache line.
#[derive(Debug, Default)]
#[cfg_attr(not(loom), repr(C, align(16)))]
pub struct Slot {
    /// [`EMPTY`], or the flow's context.
    tag: AtomicU64,
    /// A [`PackedCounts`].
    counted: AtomicU64,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Slot>() == 16);

/// One processor's slots, a power of two of them.
#[derive(Clone, Copy, Debug)]
pub struct Slots<'a>(pub &'a [Slot]);

/// What is to be done after a packet was counted: usually nothing.
#[derive(Debug)]
pub enum Counted<'a, 'l> {
    /// In the flow's slot.
    InSlot,
    /// The slot counts for this flow from now on, and its record will be needed
    /// when it does not any more.
    TakenOver(Option<&'a Flow>),
    /// The same, and the flow that it counted for before was over but for this.
    Ended(EndedFlow<'a, 'l>),
}

impl<'s> Slots<'s> {
    /// How many a processor has for so many flows.
    pub const fn number(limit: u32) -> usize {
        let places = FlowAllocator::places(limit);
        if places < MOST { places.next_power_of_two() } else { MOST }
    }

    /// Counts a packet of the flow with a context, which is not 0. To be called
    /// on the slots' own processor, by one at a time.
    #[inline(always)]
    pub fn count<'a, 'l>(
        self,
        allocator: &'l FlowAllocator,
        places: &'a [Flow],
        context: u64,
        passed: FlowPackets,
    ) -> Counted<'a, 'l> {
        let key = FlowKey::from_context(context);
        let (Some(slot), Some(few)) = (self.slot(key), PackedCounts::of(passed)) else {
            FlowAllocator::count(places, key, passed);
            return Counted::InSlot;
        };
        if slot.tag.load(Ordering::Acquire) == context && slot.add(few) {
            return Counted::InSlot;
        }
        match take_over(slot, allocator, places, key, few) {
            Some(counted) => counted,
            None => {
                FlowAllocator::count(places, key, passed);
                Counted::InSlot
            }
        }
    }

    /// Takes what was counted for a flow that nobody leads to any more; to be
    /// called by whoever winds it up.
    pub(super) fn take(self, key: FlowKey) -> PackedCounts {
        let slot = self.slot(key).filter(|slot| slot.tag.load(Ordering::Acquire) == key.context());
        let Some(slot) = slot else { return PackedCounts::default() };
        let counted = slot.counted();
        // The processor writes the counts again only when it sees this.
        slot.tag.store(EMPTY, Ordering::Release);
        counted
    }

    fn slot(self, key: FlowKey) -> Option<&'s Slot> {
        self.0.get(key.index() & self.0.len().wrapping_sub(1))
    }
}

/// Has the slot count for another flow, or for the same from nothing; `None`
/// where it cannot now.
#[cold]
#[inline(never)]
fn take_over<'a, 'l>(
    slot: &Slot,
    allocator: &'l FlowAllocator,
    places: &'a [Flow],
    key: FlowKey,
    few: PackedCounts,
) -> Option<Counted<'a, 'l>> {
    if key.generation() < FIRST {
        return None;
    }
    let before = FlowKey::from_context(slot.tag.load(Ordering::Acquire));
    let flow = places.get(before.index()).filter(|_| before.context() != EMPTY);
    let visit = flow.map_or(Visit::Gone, |flow| flow.visit(before.generation()));
    let visited = match visit {
        Visit::Inside => flow,
        Visit::Gone => None,
        Visit::Refused => return None,
    };
    if let Some(flow) = visited {
        flow.sums().add(slot.counted());
    }
    slot.begin(key, few);
    Some(match visited {
        Some(flow) if flow.leave() => Counted::Ended(EndedFlow::new(flow, allocator, before)),
        _ => Counted::TakenOver(places.get(key.index())),
    })
}

impl Slot {
    /// Counts, if there is room for the sum.
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
