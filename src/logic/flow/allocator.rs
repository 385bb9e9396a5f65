//! Allocates and frees the records of flows.

use super::counts::{CUT, FlowPackets, Totals};
use super::record::{Begin, Flow};
use super::slots::Slots;
use crate::logic::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// Leads to a flow as long as the flow is live. Its context is never 0, because
/// `FwpsFlowAssociateContext0` takes no context that is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowKey(u64);

impl FlowKey {
    /// The context to associate with the flow.
    pub const fn context(self) -> u64 {
        self.0
    }

    /// From a context, which may be any number.
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

/// Allocates the records of flows and limits their number.
///
/// The records are the caller's, allocated at the start: [`FlowAllocator::records`]
/// of them.
#[derive(Debug)]
pub struct FlowAllocator {
    limit: u32,
    flows: AtomicU32,
    /// The index of the record that was freed last, plus 1; 0 means none. That
    /// record has the index of the next one. The upper half is a counter, so that a
    /// changed list is never taken for an unchanged one.
    free: AtomicU64,
    /// Records from this index on have never been used.
    unused: AtomicU32,
    refused: AtomicU64,
    closed: AtomicBool,
}

/// How often an allocation is tried. It fails only if another processor allocated or
/// freed a record at the same moment.
const TRIES: usize = 64;

impl FlowAllocator {
    /// Allows at most `limit` flows (`FlowLimit`).
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

    /// The most flows at once.
    pub const fn limit(&self) -> u32 {
        self.limit
    }

    /// The number of records for a limit.
    pub const fn records(limit: u32) -> usize {
        limit as usize
    }

    /// Allocates a record for a new flow. `None` if the limit is reached, or if
    /// other processors were faster 64 times in a row.
    pub fn start(&self, records: &[Flow], begin: &Begin) -> Option<FlowKey> {
        let found = self.reserve().then(|| self.find(records, begin)).flatten();
        if found.is_none() {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        found
    }

    /// The flow that a key leads to; `None` if it has ended.
    #[inline(always)]
    pub fn flow(records: &[Flow], key: FlowKey) -> Option<&Flow> {
        let flow = records.get(key.index())?;
        if flow.word().is_live(key.generation()) { Some(flow) } else { None }
    }

    /// Counts in the record, where no slot can be used.
    // Rare at DISPATCH_LEVEL, at which most packets come. Not inlined: one copy in
    // the image.
    #[cold]
    #[inline(never)]
    pub fn count(records: &[Flow], key: FlowKey, passed: FlowPackets) {
        if let Some(flow) = Self::flow(records, key) {
            flow.sums().pass(FlowPackets { packets: passed.packets & !CUT, ..passed });
            if passed.packets & CUT != 0 {
                flow.cut(key.generation());
            }
        }
    }

    /// Releases one context of a flow. Returns the flow if this call ended it; the
    /// caller then finishes it. `None` while there are other contexts, or while a
    /// processor hands over its counts, which then finishes the flow. Also `None`
    /// for a flow that has already ended. Of two calls at once one returns the flow.
    pub fn release<'a>(&self, records: &'a [Flow], key: FlowKey) -> Option<EndedFlow<'a, '_>> {
        let flow = records.get(key.index())?;
        flow.release(key.generation()).then(|| EndedFlow::new(flow, self, key))
    }

    /// How many flows there are now.
    pub fn flows(&self) -> u32 {
        self.flows.load(Ordering::SeqCst)
    }

    /// How many flows were refused.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Refuses every new flow from now on.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// The live flows, each with its key.
    pub fn live(records: &[Flow]) -> impl Iterator<Item = (FlowKey, &Flow)> {
        let of = |(index, flow): (usize, &'_ Flow)| {
            let word = flow.word();
            let generation = word.generation();
            word.is_live(generation).then(|| FlowKey::new(index, generation))
        };
        records.iter().enumerate().filter_map(move |(index, flow)| Some((of((index, flow))?, flow)))
    }

    fn reserve(&self) -> bool {
        // Count first, then check, so that never more than the limit are let in.
        let before = self.flows.fetch_add(1, Ordering::SeqCst);
        if before < self.limit && !self.closed.load(Ordering::SeqCst) {
            return true;
        }
        self.flows.fetch_sub(1, Ordering::Relaxed);
        false
    }

    fn find(&self, records: &[Flow], begin: &Begin) -> Option<FlowKey> {
        let found = self.free_index(records).and_then(|index| {
            let generation = records.get(index)?.take(begin)?;
            Some(FlowKey::new(index, generation))
        });
        if found.is_none() {
            self.flows.fetch_sub(1, Ordering::Relaxed);
        }
        found
    }

    /// A free record. The one that was freed last comes first: it may still be in a
    /// cache, and used records stay together. If there is none, one that was never
    /// used.
    fn free_index(&self, records: &[Flow]) -> Option<usize> {
        for _ in 0..TRIES {
            let free = self.free.load(Ordering::Acquire);
            let Some(index) = (free as u32).checked_sub(1) else {
                let next = |unused| (unused < self.limit).then(|| unused + 1);
                match self.unused.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next) {
                    Ok(index) => return Some(index as usize),
                    // A record was freed meanwhile: there is one for each flow below
                    // the limit.
                    Err(_) => continue,
                }
            };
            // The record may be in use by now. Then the list has changed, and the
            // exchange fails.
            let rest = records.get(index as usize)?.next_free();
            if self.replace_free(free, rest) {
                return Some(index as usize);
            }
        }
        None
    }

    fn free_record(&self, flow: &Flow, index: usize) {
        flow.free_record();
        // Repeats only if another processor changed the list at the same moment.
        loop {
            let free = self.free.load(Ordering::Relaxed);
            flow.set_next_free(free as u32);
            if self.replace_free(free, index as u32 + 1) {
                break;
            }
        }
        // Last, so that there is a free record for each flow that is let in.
        self.flows.fetch_sub(1, Ordering::Release);
    }

    /// Replaces the first free record. Returns whether the list was unchanged.
    fn replace_free(&self, before: u64, first: u32) -> bool {
        let after = ((before >> 32) + 1) << 32 | u64::from(first);
        self.free.compare_exchange(before, after, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

/// A flow that has ended. Its owner finishes it; dropping this frees the record.
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

    /// The key that led to the flow.
    pub fn key(&self) -> FlowKey {
        self.key
    }

    /// The flow's record.
    pub fn flow(&self) -> &Flow {
        self.flow
    }

    /// The totals, including what each processor has counted and not handed over.
    pub fn totals<'s>(&self, processors: impl Iterator<Item = Slots<'s>>) -> Totals {
        for slots in processors {
            self.flow.sums().add(slots.take(self.key));
        }
        self.flow.sums().read()
    }
}

impl Drop for EndedFlow<'_, '_> {
    fn drop(&mut self) {
        self.allocator.free_record(self.flow, self.key.index());
    }
}
