//! What is kept of a flow, and of how many at the most.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use super::order::{Direction, Order};

/// A flow's record. Two processors may update it at once.
///
/// Laid out in order: what a packet needs lies together, so that among many
/// flows it mostly fetches one line and not two.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Flow {
    /// By [`Direction`].
    counts: [Counts; 2],
    /// [`FREE`], [`CHANGING`], or in use: a flow's own number, so that a handle to
    /// an earlier flow in the same place is told from one to this.
    generation: AtomicU32,
    /// The last number given out here.
    last: AtomicU32,
    /// Who leads here: its contexts, and whoever begins it.
    holders: AtomicU32,
    order: Order,
    started: AtomicU64,
    process: AtomicU64,
    id: AtomicU64,
}

/// What went one way.
#[derive(Debug, Default)]
#[repr(C)]
struct Counts {
    packets: AtomicU64,
    bytes: AtomicU64,
}

/// What flows are to be kept below: the record, and what the driver adds.
const RECORD_LIMIT: usize = 96;
const _: () = assert!(size_of::<Flow>() <= RECORD_LIMIT);

const FREE: u32 = 0;
const CHANGING: u32 = 1;
const FIRST: u32 = 2;

/// A flow's totals when it is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Packets, by [`Direction`].
    pub packets: [u64; 2],
    /// Bytes, by [`Direction`].
    pub bytes: [u64; 2],
    /// When it was established, in the caller's unit.
    pub started: u64,
    /// Whose it is.
    pub process: u64,
}

/// What is known of a flow when it is established.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Begin {
    /// The engine's handle.
    pub id: u64,
    /// The time, in the caller's unit.
    pub started: u64,
    /// Whose it is.
    pub process: u64,
    /// The watch over its order, 0 for none ([`Order::watch`]).
    pub watch: u16,
}

impl Flow {
    /// Counts packets and their bytes.
    pub fn count(&self, direction: Direction, count: u32, bytes: u64) {
        // The array has a place for each direction.
        let counts = match direction {
            Direction::Outbound => &self.counts[0],
            Direction::Inbound => &self.counts[1],
        };
        counts.packets.fetch_add(count.into(), Ordering::Relaxed);
        counts.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// One more leads here. Asked for before a context is associated, since the
    /// engine may delete it before that call returns.
    pub fn hold(&self) {
        self.holders.fetch_add(1, Ordering::Relaxed);
    }

    /// The engine's handle.
    pub fn id(&self) -> u64 {
        self.id.load(Ordering::Relaxed)
    }

    /// The order it keeps.
    pub fn order(&self) -> &Order {
        &self.order
    }

    /// Its totals. While packets pass, each number is right by itself.
    pub fn totals(&self) -> Totals {
        let both = |of: fn(&Counts) -> &AtomicU64| {
            self.counts.each_ref().map(|counts| of(counts).load(Ordering::Relaxed))
        };
        Totals {
            packets: both(|counts| &counts.packets),
            bytes: both(|counts| &counts.bytes),
            started: self.started.load(Ordering::Relaxed),
            process: self.process.load(Ordering::Relaxed),
        }
    }

    /// Takes the place for a new flow, if it is free.
    fn take(&self, begin: &Begin) -> Option<u32> {
        let take = self.generation.compare_exchange(FREE, CHANGING, Ordering::Acquire, Ordering::Relaxed);
        take.ok()?;
        for Counts { packets, bytes } in &self.counts {
            packets.store(0, Ordering::Relaxed);
            bytes.store(0, Ordering::Relaxed);
        }
        self.started.store(begin.started, Ordering::Relaxed);
        self.process.store(begin.process, Ordering::Relaxed);
        self.id.store(begin.id, Ordering::Relaxed);
        self.order.restart(begin.watch);
        self.holders.store(1, Ordering::Relaxed);
        let generation = self.last.load(Ordering::Relaxed).wrapping_add(1).max(FIRST);
        self.last.store(generation, Ordering::Relaxed);
        self.generation.store(generation, Ordering::Release);
        Some(generation)
    }
}

/// Leads to a flow for as long as it lasts; never 0, so that it can be a flow
/// context (`FwpsFlowAssociateContext0` takes none that is 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handle(u64);

impl Handle {
    /// As the context that is associated.
    pub const fn context(self) -> u64 {
        self.0
    }

    /// From a context; any number may come.
    pub const fn from_context(context: u64) -> Self {
        Self(context)
    }

    const fn new(index: usize, generation: u32) -> Self {
        Self((generation as u64) << 32 | index as u64 & 0xffff_ffff)
    }

    const fn index(self) -> usize {
        (self.0 & 0xffff_ffff) as usize
    }

    const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// How many flows there are, and where the next one finds a place.
///
/// The places are the caller's, allocated at start: [`Limit::places`] of them.
#[derive(Debug)]
pub struct Limit {
    limit: u32,
    flows: AtomicU32,
    /// Where a place was free last, or the next to try.
    hint: AtomicU32,
    refused: AtomicU64,
    closed: AtomicBool,
}

/// Places tried before a flow is refused.
const PROBES: usize = 64;

impl Limit {
    /// At most `limit` flows (`FlowLimit`).
    pub const fn new(limit: u32) -> Self {
        Self {
            limit,
            flows: AtomicU32::new(0),
            hint: AtomicU32::new(0),
            refused: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        }
    }

    /// The places for a limit: an eighth more, so that a few tries find a free
    /// one when the limit is nearly reached.
    pub const fn places(limit: u32) -> usize {
        limit as usize + limit as usize / 8 + 1
    }

    /// A place for a new flow. `None` where the limit is reached; or where 64
    /// places in a row are taken, which is as good as never below it: with
    /// places freed at random one in 1900, else fewer, for the place freed
    /// last is tried first.
    pub fn start(&self, places: &[Flow], begin: &Begin) -> Option<Handle> {
        let found = self.reserve().then(|| self.find(places, begin)).flatten();
        if found.is_none() {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        found
    }

    /// The flow that a handle leads to, `None` if it has ended.
    pub fn flow(places: &[Flow], handle: Handle) -> Option<&Flow> {
        let flow = places.get(handle.index())?;
        let generation = flow.generation.load(Ordering::Acquire);
        (generation == handle.generation() && generation >= FIRST).then_some(flow)
    }

    /// One of those who led to a flow is gone. With the last one it is over:
    /// what it came to, and its place is free. `None` while others are left, and
    /// for a flow that was over before; of two calls at once one gets it.
    pub fn release<'a>(&self, places: &'a [Flow], handle: Handle) -> Option<Ended<'a, '_>> {
        let flow = Self::flow(places, handle)?;
        if flow.holders.fetch_sub(1, Ordering::AcqRel) != 1 {
            return None;
        }
        let (generation, place) = (handle.generation(), handle.index());
        let ours =
            flow.generation.compare_exchange(generation, CHANGING, Ordering::AcqRel, Ordering::Relaxed);
        ours.ok()?;
        Some(Ended { flow, limit: self, place })
    }

    /// Flows at this moment.
    pub fn flows(&self) -> u32 {
        self.flows.load(Ordering::SeqCst)
    }

    /// Flows that found no place.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Refuses every flow from now on.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// The flows that last, each with the handle to it.
    pub fn lasting(places: &[Flow]) -> impl Iterator<Item = (Handle, &Flow)> {
        let of = |(index, flow): (usize, &'_ Flow)| {
            let generation = flow.generation.load(Ordering::Acquire);
            (generation >= FIRST).then(|| Handle::new(index, generation))
        };
        places.iter().enumerate().filter_map(move |(index, flow)| Some((of((index, flow))?, flow)))
    }

    fn reserve(&self) -> bool {
        // Counted before it is asked: who closes sees either the count or
        // nobody who got in.
        let before = self.flows.fetch_add(1, Ordering::SeqCst);
        if before < self.limit && !self.closed.load(Ordering::SeqCst) {
            return true;
        }
        self.flows.fetch_sub(1, Ordering::Relaxed);
        false
    }

    fn find(&self, places: &[Flow], begin: &Begin) -> Option<Handle> {
        let hint = self.hint.load(Ordering::Relaxed) as usize;
        let (before, behind) = places.split_at_checked(hint).unwrap_or((places, &[]));
        let from_hint = behind.iter().enumerate().map(|(at, flow)| (hint.saturating_add(at), flow));
        let around = from_hint.chain(before.iter().enumerate());
        for (index, flow) in around.take(PROBES) {
            if let Some(generation) = flow.take(begin) {
                self.hint.store(index.saturating_add(1) as u32, Ordering::Relaxed);
                return Some(Handle::new(index, generation));
            }
        }
        // The next one tries further on.
        let further =
            if hint.saturating_add(PROBES) < places.len() { hint.saturating_add(PROBES) } else { 0 };
        self.hint.store(further as u32, Ordering::Relaxed);
        self.flows.fetch_sub(1, Ordering::Relaxed);
        None
    }
}

/// A flow that has ended; dropped, its place is free.
#[derive(Debug)]
pub struct Ended<'a, 'l> {
    flow: &'a Flow,
    limit: &'l Limit,
    place: usize,
}

impl Ended<'_, '_> {
    /// What it came to.
    pub fn flow(&self) -> &Flow {
        self.flow
    }
}

impl Drop for Ended<'_, '_> {
    fn drop(&mut self) {
        self.flow.generation.store(FREE, Ordering::Release);
        self.limit.hint.store(self.place as u32, Ordering::Relaxed);
        self.limit.flows.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    fn begin(started: u64, process: u64) -> Begin {
        Begin { started, process, ..Begin::default() }
    }

    fn places(limit: u32) -> Vec<Flow> {
        (0..Limit::places(limit)).map(|_| Flow::default()).collect()
    }

    #[test]
    fn a_flow_counts_by_direction_and_ends_once() {
        let (limit, places) = (Limit::new(4), places(4));
        let handle = limit.start(&places, &begin(7, 4711)).unwrap();
        let flow = Limit::flow(&places, handle).unwrap();
        flow.count(Direction::Outbound, 1, 100);
        flow.count(Direction::Inbound, 1, 1460);
        flow.count(Direction::Inbound, 1, 40);
        let totals = Totals { packets: [1, 2], bytes: [100, 1500], started: 7, process: 4711 };
        assert_eq!(flow.totals(), totals);
        assert_eq!(limit.release(&places, handle).unwrap().flow().totals(), totals);
        assert!(limit.release(&places, handle).is_none());
        assert!(Limit::flow(&places, handle).is_none());
        assert_eq!(limit.flows(), 0);
    }

    #[test]
    fn a_place_used_again_is_another_flow_and_begins_anew() {
        let (limit, places) = (Limit::new(1), places(1));
        let first = limit.start(&places, &begin(1, 1)).unwrap();
        Limit::flow(&places, first).unwrap().count(Direction::Inbound, 1, 1);
        drop(limit.release(&places, first));
        let second = limit.start(&places, &begin(2, 2)).unwrap();
        assert_eq!(first.index(), second.index());
        assert!(Limit::flow(&places, first).is_none());
        assert!(limit.release(&places, first).is_none());
        let fresh = Totals { started: 2, process: 2, ..Totals::default() };
        assert_eq!(Limit::flow(&places, second).unwrap().totals(), fresh);
    }

    #[test]
    fn generations_wrap_past_the_marks() {
        let (limit, places) = (Limit::new(1), places(1));
        for flow in &places {
            flow.last.store(u32::MAX - 1, Ordering::Relaxed);
        }
        for generation in [u32::MAX, FIRST, FIRST + 1] {
            let handle = limit.start(&places, &begin(0, 0)).unwrap();
            assert_eq!(handle.generation(), generation);
            assert_ne!(handle.context(), 0);
            drop(limit.release(&places, handle));
        }
    }

    #[test]
    fn a_flow_lasts_as_long_as_anybody_leads_to_it() {
        let (limit, places) = (Limit::new(1), places(1));
        let handle = limit.start(&places, &begin(1, 1)).unwrap();
        let flow = Limit::flow(&places, handle).unwrap();
        flow.hold();
        flow.hold();
        assert!(limit.release(&places, handle).is_none());
        assert!(limit.release(&places, handle).is_none());
        assert_eq!(limit.flows(), 1);
        assert!(limit.release(&places, handle).is_some());
        assert!(limit.release(&places, handle).is_none());
        assert_eq!(limit.flows(), 0);
    }

    #[test]
    fn closed_it_refuses_and_says_who_is_left() {
        let (limit, places) = (Limit::new(4), places(4));
        let handles = [1, 2].map(|id| limit.start(&places, &Begin { id, ..Begin::default() }).unwrap());
        limit.close();
        assert_eq!(limit.start(&places, &Begin::default()), None);
        let left: Vec<_> = Limit::lasting(&places).map(|(handle, flow)| (handle, flow.id())).collect();
        assert_eq!(left, [(handles[0], 1), (handles[1], 2)]);
        left.iter().for_each(|(handle, _)| drop(limit.release(&places, *handle)));
        assert_eq!((Limit::lasting(&places).count(), limit.flows()), (0, 0));
    }

    #[test]
    fn no_context_leads_astray() {
        let places = places(2);
        for context in [0, 1, u64::MAX, 1 << 32, 2 << 32, 3 << 32 | 1] {
            assert!(Limit::flow(&places, Handle::from_context(context)).is_none(), "{context:#x}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn never_more_than_the_limit_and_every_place_is_found(
            limit in 0_u32..40,
            calls in proptest::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 0..300),
        ) {
            let (accounts, places) = (Limit::new(limit), places(limit));
            let mut flows: Vec<Handle> = Vec::new();
            for (start, which) in calls {
                if start {
                    let handle = accounts.start(&places, &begin(0, 0));
                    prop_assert_eq!(handle.is_some(), flows.len() < limit as usize);
                    flows.extend(handle);
                } else if !flows.is_empty() {
                    let handle = flows.swap_remove(which.index(flows.len()));
                    prop_assert!(accounts.release(&places, handle).is_some());
                }
                prop_assert_eq!(accounts.flows() as usize, flows.len());
                let distinct: BTreeSet<_> = flows.iter().map(|handle| handle.index()).collect();
                prop_assert_eq!(distinct.len(), flows.len());
            }
        }
    }

    #[test]
    fn processors_at_once_never_share_a_place() {
        const LIMIT: u32 = 16;
        let (limit, places) = (Limit::new(LIMIT), places(LIMIT));
        let owned: Vec<AtomicBool> = places.iter().map(|_| AtomicBool::new(false)).collect();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..2000 {
                        let Some(handle) = limit.start(&places, &begin(round, 0)) else { continue };
                        let owned = &owned[handle.index()];
                        assert!(!owned.swap(true, Ordering::SeqCst));
                        Limit::flow(&places, handle).unwrap().count(Direction::Inbound, 1, 1);
                        let ended = limit.release(&places, handle).unwrap();
                        assert_eq!(ended.flow().totals().started, round);
                        assert_eq!(ended.flow().totals().packets, [0, 1]);
                        assert!(owned.swap(false, Ordering::SeqCst));
                    }
                });
            }
        });
        assert_eq!(limit.flows(), 0);
    }
}
