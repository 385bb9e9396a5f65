//! How many flows there are, and where the next one finds a place.

use super::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use super::counts::{Passed, Totals};
use super::record::{Begin, Flow};
use super::slots::Slots;

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

    pub(super) const fn index(self) -> usize {
        (self.0 & 0xffff_ffff) as usize
    }

    pub(super) const fn generation(self) -> u32 {
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
    pub fn new(limit: u32) -> Self {
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
        places.get(handle.index()).filter(|flow| flow.word().lasts(handle.generation()))
    }

    /// Counts where nobody counts alone: in the record.
    pub fn count(places: &[Flow], handle: Handle, passed: Passed) {
        if let Some(flow) = Self::flow(places, handle) {
            flow.sums().pass(passed);
        }
    }

    /// One of those who led to a flow is gone. With the last one it is over, to
    /// be wound up by the caller. `None` while others are left, or a processor is
    /// adding what it counted, which then gets it; and for a flow that was over
    /// before; of two calls at once one gets it.
    pub fn release<'a>(&self, places: &'a [Flow], handle: Handle) -> Option<Ended<'a, '_>> {
        let flow = places.get(handle.index())?;
        flow.release(handle.generation()).then(|| Ended::new(flow, self, handle))
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
            let word = flow.word();
            let generation = word.generation();
            word.lasts(generation).then(|| Handle::new(index, generation))
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

/// A flow that has ended, to be wound up by whoever has this; dropped, its
/// place is free.
#[derive(Debug)]
pub struct Ended<'a, 'l> {
    flow: &'a Flow,
    limit: &'l Limit,
    handle: Handle,
}

impl<'a, 'l> Ended<'a, 'l> {
    pub(super) fn new(flow: &'a Flow, limit: &'l Limit, handle: Handle) -> Self {
        Self { flow, limit, handle }
    }

    /// The handle that led to it.
    pub fn handle(&self) -> Handle {
        self.handle
    }

    /// Its record.
    pub fn flow(&self) -> &Flow {
        self.flow
    }

    /// What it came to, with what every processor has counted and not yet added.
    pub fn totals<'s>(&self, processors: impl Iterator<Item = Slots<'s>>) -> Totals {
        for slots in processors {
            self.flow.sums().add(slots.take(self.handle));
        }
        self.flow.sums().read()
    }
}

impl Drop for Ended<'_, '_> {
    fn drop(&mut self) {
        self.flow.give_free();
        self.limit.hint.store(self.handle.index() as u32, Ordering::Relaxed);
        self.limit.flows.fetch_sub(1, Ordering::Relaxed);
    }
}
