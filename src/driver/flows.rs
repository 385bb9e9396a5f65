//! The flows that are watched: a record for each, known to the engine by a
//! context at every layer that takes one. How their packets are counted is told
//! in [`crate::logic::flow`].

use core::sync::atomic::{AtomicU32, Ordering};

use crate::kernel::clock;
use crate::kernel::irql::{MaxDispatch, Passive};
use crate::kernel::per_cpu::PerCpu;
use crate::kernel::pool::PoolVec;
use crate::kernel::prefetch;
use crate::kernel::status::Result;
use crate::kernel::wfp::flow::{self, CalloutAtLayer};
use crate::kernel::wfp::incoming::Incoming;
use crate::logic::callouts::{CALLOUTS, COUNT, Callout, CalloutIndex};
use crate::logic::flow::{
    Begin, Counted, EndedFlow, Flow, FlowAllocator, FlowKey, Passed, Slot, Slots, Totals,
};
use crate::logic::order::Deviation;

/// All of them; their memory is taken at start (`FlowLimit`).
pub struct Flows {
    allocator: FlowAllocator,
    places: PoolVec<Flow>,
    /// What each processor has counted and not yet added to the records.
    processors: PerCpu<PoolVec<Slot>>,
    /// The callouts' run-time ids, in the table's order.
    ids: [AtomicU32; COUNT],
}

/// What is to be said of a flow that is over.
#[derive(Clone, Copy, Debug)]
pub struct FlowSummary {
    /// The engine's key.
    pub id: u64,
    /// Its packets and bytes.
    pub totals: Totals,
    /// Whose it was.
    pub process: u32,
    /// How long it lasted, in milliseconds.
    pub duration: u64,
    /// Where it left the documented order first, if it did.
    pub deviation: Option<Deviation>,
    /// Whether its order was watched.
    pub watched: bool,
}

impl Flows {
    /// None yet, and room for so many.
    pub fn new(limit: u32, irql: &Passive) -> Result<Self> {
        let places = PoolVec::filled(FlowAllocator::places(limit))?;
        let slots = |processors: &mut PoolVec<_>| processors.push(PoolVec::filled(Slots::number(limit))?);
        let processors = PerCpu::try_new(slots, irql)?;
        let ids = [const { AtomicU32::new(0) }; COUNT];
        Ok(Self { allocator: FlowAllocator::new(limit), places, processors, ids })
    }

    /// Takes in a callout's run-time id, before it has a filter.
    pub fn registered(&self, callout: CalloutIndex, id: u32) {
        if let Some(place) = self.ids.get(callout.number()) {
            place.store(id, Ordering::Relaxed);
        }
    }

    /// Begins to watch the flow that has just been established. `watch` is the
    /// one over the order, 0 for none. It may be over before this returns: then
    /// `over` is told.
    pub fn begin(
        &self,
        incoming: &Incoming<'_>,
        watch: u16,
        irql: &MaxDispatch,
        over: impl FnOnce(FlowSummary),
    ) -> Option<&Flow> {
        let (id, protocol) = (incoming.flow()?, incoming.protocol()?);
        // Process ids have 32 bits; the metadata's field has 64 (fwpsk.h).
        let (started, process) = (clock::milliseconds(), incoming.process().unwrap_or(0) as u32);
        let key = self.allocator.start(&self.places, &Begin { id, started, process, watch })?;
        let (context, family) = (key.context(), incoming.callout().family);
        let (flow, mut contexts) = (self.flow(context)?, 0);
        for (callout, place) in self.callouts_with_contexts() {
            if callout.family == family && callout.layer.flows.takes(protocol) {
                flow.hold();
                if flow::associate(id, place, context, irql) {
                    contexts += 1;
                } else {
                    self.release(context);
                }
            }
        }
        // From here on its contexts alone lead to it.
        match self.release(context) {
            Some(ended) if contexts != 0 => over(ended),
            _ => {}
        }
        self.flow(context)
    }

    /// The flow behind a context; any number may come.
    pub fn flow(&self, context: u64) -> Option<&Flow> {
        FlowAllocator::flow(&self.places, FlowKey::from_context(context))
    }

    /// Counts packets of the flow behind a context; any number may come. A flow
    /// that was over but for what this processor had counted of it is given back.
    #[inline(always)]
    pub fn count_packet(&self, context: u64, passed: Passed, irql: &MaxDispatch) -> Option<FlowSummary> {
        let Some(slots) = self.processors.alone(irql) else {
            FlowAllocator::count(&self.places, FlowKey::from_context(context), passed);
            return None;
        };
        match Slots(slots).count(&self.allocator, &self.places, context, passed) {
            Counted::InSlot => None,
            Counted::TakenOver(flow) => {
                flow.into_iter().for_each(prefetch::to_write);
                None
            }
            Counted::Ended(ended) => Some(self.wind_up(&ended)),
        }
    }

    /// A context is gone; with the last of them the flow is over.
    pub fn release(&self, context: u64) -> Option<FlowSummary> {
        let ended = self.allocator.release(&self.places, FlowKey::from_context(context))?;
        Some(self.wind_up(&ended))
    }

    #[cold]
    #[inline(never)]
    fn wind_up(&self, ended: &EndedFlow<'_, '_>) -> FlowSummary {
        let totals = ended.totals(self.processors.all().iter().map(|slots| Slots(slots)));
        let (flow, order) = (ended.flow(), ended.flow().order());
        FlowSummary {
            id: flow.id(),
            totals,
            process: flow.process(),
            duration: flow.lasted(clock::milliseconds()),
            deviation: order.deviation(),
            watched: order.watch() != 0,
        }
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.allocator.flows()
    }

    /// How many were refused because there were so many already.
    pub fn refused(&self) -> u64 {
        self.allocator.refused()
    }

    /// Takes every context back, and no flow in any more: a callout cannot go
    /// while it has contexts.
    pub fn close(&self, irql: &Passive) {
        self.allocator.close();
        let remove_all = || {
            for (_, flow) in FlowAllocator::lasting(&self.places) {
                let id = flow.id();
                for (_, place) in self.callouts_with_contexts() {
                    flow::remove(id, place, irql);
                }
            }
            // What a classify has is deleted when that returns, and a flow that
            // is beginning has its contexts only now.
            self.allocator.flows() == 0
        };
        clock::wait_until(remove_all, irql);
    }

    fn callouts_with_contexts(&self) -> impl Iterator<Item = (&'static Callout, CalloutAtLayer)> {
        CALLOUTS.iter().zip(&self.ids).filter(|(callout, _)| callout.has_flows()).map(|(callout, id)| {
            (callout, CalloutAtLayer { layer: callout.layer_id, callout: id.load(Ordering::Relaxed) })
        })
    }
}
