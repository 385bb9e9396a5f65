//! What one processor has counted and not yet added to the flows' records.
//!
//! Who may touch a slot, and when, is told in [`super`].

use super::atomic::{AtomicU32, AtomicU64, Ordering};
use super::limit::{Ended, Handle, Limit};
use super::record::{FIRST, Flow, Totals, Visit, place};
use crate::logic::order::Direction;

/// Flows that a processor counts for at once, at the most: 32 KB.
const MOST: usize = 1024;

/// Tag of a slot that counts for none.
const EMPTY: u64 = 0;

/// What a processor has counted for one flow; two of them lie on a cache line.
#[derive(Debug, Default)]
#[cfg_attr(not(loom), repr(C, align(32)))]
pub struct Slot {
    /// [`EMPTY`], or the flow's context.
    tag: AtomicU64,
    /// By [`Direction`].
    packets: [AtomicU32; 2],
    bytes: [AtomicU64; 2],
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Slot>() == 32);

/// What is counted: packets that pass at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed {
    /// Which way.
    pub direction: Direction,
    /// How many.
    pub packets: u32,
    /// And their bytes.
    pub bytes: u64,
}

/// One processor's slots, a power of two of them.
#[derive(Clone, Copy, Debug)]
pub struct Slots<'a>(pub &'a [Slot]);

/// What is to be done after a packet was counted: usually nothing.
#[derive(Debug)]
pub enum Counted<'a, 'l> {
    /// In the flow's slot.
    Usual,
    /// The slot counts for this flow from now on, and its record will be needed
    /// when it does not any more.
    TakenOver(Option<&'a Flow>),
    /// The same, and the flow that it counted for before was over but for this.
    Ended(Ended<'a, 'l>),
}

impl Passed {
    /// As what is added to a record.
    pub fn totals(&self) -> Totals {
        let (mut totals, at) = (Totals::default(), place(self.direction));
        // The arrays have a place for each direction.
        for (sum, count) in [(&mut totals.packets, self.packets.into()), (&mut totals.bytes, self.bytes)] {
            if let Some(sum) = sum.get_mut(at) {
                *sum = count;
            }
        }
        totals
    }
}

impl<'s> Slots<'s> {
    /// How many a processor has for so many flows.
    pub const fn number(limit: u32) -> usize {
        let places = Limit::places(limit);
        if places < MOST { places.next_power_of_two() } else { MOST }
    }

    /// Counts a packet of the flow with a context, which is not 0. To be called
    /// on the slots' own processor, by one at a time.
    #[inline(always)]
    pub fn count<'a, 'l>(
        self,
        limit: &'l Limit,
        places: &'a [Flow],
        context: u64,
        passed: Passed,
    ) -> Counted<'a, 'l> {
        let slot = self.slot(Handle::from_context(context));
        if let Some(slot) = slot
            && slot.tag.load(Ordering::Acquire) == context
            && slot.add(passed)
        {
            return Counted::Usual;
        }
        take_over(slot, limit, places, context, passed)
    }

    /// Takes what was counted for a flow that nobody leads to any more; to be
    /// called by whoever winds it up.
    pub(super) fn take(self, handle: Handle) -> Totals {
        let slot = self.slot(handle).filter(|slot| slot.tag.load(Ordering::Acquire) == handle.context());
        let Some(slot) = slot else { return Totals::default() };
        let counted = slot.counted();
        // The processor writes the counts again only when it sees this.
        slot.tag.store(EMPTY, Ordering::Release);
        counted
    }

    fn slot(self, handle: Handle) -> Option<&'s Slot> {
        self.0.get(handle.index() & self.0.len().wrapping_sub(1))
    }
}

/// Has the slot count for another flow, or for the same from nothing.
#[cold]
#[inline(never)]
fn take_over<'a, 'l>(
    slot: Option<&Slot>,
    limit: &'l Limit,
    places: &'a [Flow],
    context: u64,
    passed: Passed,
) -> Counted<'a, 'l> {
    let handle = Handle::from_context(context);
    let Some(slot) = slot.filter(|_| handle.generation() >= FIRST) else {
        Limit::count(places, handle, passed);
        return Counted::Usual;
    };
    let before = Handle::from_context(slot.tag.load(Ordering::Acquire));
    let flow = places.get(before.index()).filter(|_| before.context() != EMPTY);
    let visit = flow.map_or(Visit::Gone, |flow| flow.visit(before.generation()));
    if let (Some(flow), Visit::Inside) = (flow, visit) {
        flow.add(&slot.counted());
    } else if visit == Visit::Refused {
        Limit::count(places, handle, passed);
        return Counted::Usual;
    }
    slot.begin(context, passed);
    match flow {
        Some(flow) if visit == Visit::Inside && flow.leave() => {
            Counted::Ended(Ended::new(flow, limit, before))
        }
        _ => Counted::TakenOver(places.get(handle.index())),
    }
}

impl Slot {
    /// Counts, if there is room for the sum.
    #[inline(always)]
    fn add(&self, passed: Passed) -> bool {
        let (packets, bytes) = match passed.direction {
            Direction::Outbound => (&self.packets[0], &self.bytes[0]),
            Direction::Inbound => (&self.packets[1], &self.bytes[1]),
        };
        let Some(sum) = packets.load(Ordering::Relaxed).checked_add(passed.packets) else { return false };
        packets.store(sum, Ordering::Relaxed);
        bytes.store(bytes.load(Ordering::Relaxed).wrapping_add(passed.bytes), Ordering::Relaxed);
        true
    }

    /// Counts for another flow from now on.
    fn begin(&self, context: u64, passed: Passed) {
        let Totals { packets, bytes } = passed.totals();
        for (sum, count) in self.packets.iter().zip(packets) {
            sum.store(count as u32, Ordering::Relaxed);
        }
        for (sum, count) in self.bytes.iter().zip(bytes) {
            sum.store(count, Ordering::Relaxed);
        }
        self.tag.store(context, Ordering::Release);
    }

    fn counted(&self) -> Totals {
        let packets = self.packets.each_ref().map(|sum| sum.load(Ordering::Relaxed).into());
        let bytes = self.bytes.each_ref().map(|sum| sum.load(Ordering::Relaxed));
        Totals { packets, bytes }
    }
}
