//! How many flows there are, and where the next one finds a place.

use super::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use super::counts::{FlowPackets, Totals};
use super::record::{Begin, Flow};
use super::slots::Slots;

/// Leads to a flow for as long as it lasts; never 0, so that it can be a flow
/// context (`FwpsFlowAssociateContext0` takes none that is 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowKey(u64);

impl FlowKey {
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

    pub(super) const fn index(self) -> usize {
        (self.0 & 0xffff_ffff) as usize
    }

    pub(super) const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// How many flows there are, and where the next one finds a place.
///
/// The places are the caller's, allocated at start: [`FlowAllocator::places`] of them.
#[derive(Debug)]
pub struct FlowAllocator {
    limit: u32,
    flows: AtomicU32,
    /// The place freed last, plus one, which leads to the one before it; 0 is
    /// none. In the upper half a number that tells this list from an earlier one
    /// with the same first place.
    free: AtomicU64,
    /// Places from here on have never been used.
    unused: AtomicU32,
    refused: AtomicU64,
    closed: AtomicBool,
}

/// How often a place is reached for: another time only where another processor
/// got one, or freed one, at that moment.
const TRIES: usize = 64;

impl FlowAllocator {
    /// At most `limit` flows (`FlowLimit`).
    pub fn new(limit: u32) -> Self {
        Self {
            limit,
            flows: AtomicU32::new(0),
            free: AtomicU64::new(0),
            unused: AtomicU32::new(0),
            refused: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        }
    }

    /// The places for a limit.
    pub const fn places(limit: u32) -> usize {
        limit as usize
    }

    /// A place for a new flow. `None` where the limit is reached, or where 64
    /// times in a row others were faster.
    pub fn start(&self, places: &[Flow], begin: &Begin) -> Option<FlowKey> {
        let found = self.reserve().then(|| self.find(places, begin)).flatten();
        if found.is_none() {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        found
    }

    /// The flow that a key leads to, `None` if it has ended.
    pub fn flow(places: &[Flow], key: FlowKey) -> Option<&Flow> {
        places.get(key.index()).filter(|flow| flow.word().lasts(key.generation()))
    }

    /// Counts where nobody counts alone: in the record.
    // Seldom at DISPATCH_LEVEL, where packets mostly come; and once in the image.
    #[cold]
    #[inline(never)]
    pub fn count(places: &[Flow], key: FlowKey, passed: FlowPackets) {
        if let Some(flow) = Self::flow(places, key) {
            flow.sums().pass(passed);
        }
    }

    /// One of those who led to a flow is gone. With the last one it is over, to
    /// be wound up by the caller. `None` while others are left, or a processor is
    /// adding what it counted, which then gets it; and for a flow that was over
    /// before; of two calls at once one gets it.
    pub fn release<'a>(&self, places: &'a [Flow], key: FlowKey) -> Option<EndedFlow<'a, '_>> {
        let flow = places.get(key.index())?;
        flow.release(key.generation()).then(|| EndedFlow::new(flow, self, key))
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

    /// The flows that last, each with the key to it.
    pub fn lasting(places: &[Flow]) -> impl Iterator<Item = (FlowKey, &Flow)> {
        let of = |(index, flow): (usize, &'_ Flow)| {
            let word = flow.word();
            let generation = word.generation();
            word.lasts(generation).then(|| FlowKey::new(index, generation))
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

    fn find(&self, places: &[Flow], begin: &Begin) -> Option<FlowKey> {
        let found = self.place(places).and_then(|index| {
            let generation = places.get(index)?.take(begin)?;
            Some(FlowKey::new(index, generation))
        });
        if found.is_none() {
            self.flows.fetch_sub(1, Ordering::Relaxed);
        }
        found
    }

    /// A free place: the one freed last, which is near the processor still and
    /// keeps places in use together, or else one never used.
    fn place(&self, places: &[Flow]) -> Option<usize> {
        for _ in 0..TRIES {
            let free = self.free.load(Ordering::Acquire);
            let Some(index) = (free as u32).checked_sub(1) else {
                let next = |unused| (unused < self.limit).then(|| unused + 1);
                match self.unused.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next) {
                    Ok(index) => return Some(index as usize),
                    // One was freed meanwhile: there is one for each flow below
                    // the limit.
                    Err(_) => continue,
                }
            };
            // It may be in use by now, and lead anywhere; then the list is another.
            let rest = places.get(index as usize)?.next_free();
            if self.replace_free(free, rest) {
                return Some(index as usize);
            }
        }
        None
    }

    fn give_free(&self, flow: &Flow, place: usize) {
        flow.give_free();
        // Again only where another processor changed the list at that moment.
        loop {
            let free = self.free.load(Ordering::Relaxed);
            flow.lead_to_free(free as u32);
            if self.replace_free(free, place as u32 + 1) {
                break;
            }
        }
        // Behind that, for then there is a place for whoever is let in.
        self.flows.fetch_sub(1, Ordering::Release);
    }

    /// Whether the list was still this one; now it begins with another place.
    fn replace_free(&self, before: u64, first: u32) -> bool {
        let after = ((before >> 32) + 1) << 32 | u64::from(first);
        self.free.compare_exchange(before, after, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

/// A flow that has ended, to be wound up by whoever has this; dropped, its
/// place is free.
#[derive(Debug)]
pub struct EndedFlow<'a, 'l> {
    flow: &'a Flow,
    allocator: &'l FlowAllocator,
    key: FlowKey,
}

impl<'a, 'l> EndedFlow<'a, 'l> {
    pub(super) fn new(flow: &'a Flow, allocator: &'l FlowAllocator, key: FlowKey) -> Self {
        Self { flow, allocator, key }
    }

    /// The key that led to it.
    pub fn key(&self) -> FlowKey {
        self.key
    }

    /// Its record.
    pub fn flow(&self) -> &Flow {
        self.flow
    }

    /// What it came to, with what every processor has counted and not yet added.
    pub fn totals<'s>(&self, processors: impl Iterator<Item = Slots<'s>>) -> Totals {
        for slots in processors {
            self.flow.sums().add(slots.take(self.key));
        }
        self.flow.sums().read()
    }
}

impl Drop for EndedFlow<'_, '_> {
    fn drop(&mut self) {
        self.allocator.give_free(self.flow, self.key.index());
    }
}
