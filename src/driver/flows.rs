//! The flows that are watched.
//!
//! Each flow has a record, which the engine knows by a context at every layer that
//! takes contexts. [`crate::logic::flow`] describes how its packets are counted.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::kernel::clock;
use crate::kernel::irql::{Dispatch, Passive};
use crate::kernel::per_cpu::PerCpu;
use crate::kernel::pool::{PoolBox, PoolVec, tag};
use crate::kernel::prefetch;
use crate::kernel::status::Result;
use crate::kernel::wfp::flow::{self, CalloutAtLayer};
use crate::kernel::wfp::incoming::Incoming;
use crate::logic::callouts::{CALLOUTS, COUNT, Callout, CalloutIndex};
use crate::logic::flow::{
    Begin, Counted, EndedFlow, Flow, FlowAllocator, FlowKey, FlowPackets, Slot, Slots, Totals,
};
use crate::logic::order::Deviation;

/// The records of all flows. Their memory is allocated at the start (`FlowLimit`).
pub struct Flows {
    allocator: FlowAllocator,
    records: PoolVec<Flow>,
    /// What each processor has counted and not yet added to the records.
    processors: PerCpu<PoolVec<Slot>>,
    /// The callouts' run-time ids, in the table's order.
    ids: [AtomicU32; COUNT],
}

/// What is reported of a flow that has ended.
#[derive(Clone, Copy, Debug)]
pub struct FlowSummary {
    /// The engine's handle of the flow.
    pub id: u64,
    /// Packets and bytes.
    pub totals: Totals,
    /// Some NET_BUFFERs were not counted.
    pub is_cut: bool,
    /// The id of the process.
    pub process: u32,
    /// How long the flow lasted, in milliseconds.
    pub duration: u64,
    /// The first deviation from the documented order, if there was one.
    pub deviation: Option<Deviation>,
    /// Whether the order was checked.
    pub watched: bool,
}

impl Flows {
    /// Starts without flows, with memory for `limit` of them.
    pub fn new(limit: u32, irql: &Passive) -> Result<Self> {
        let records = PoolVec::filled(tag::FLOWS, FlowAllocator::records(limit))?;
        let ids = [const { AtomicU32::new(0) }; COUNT];
        Ok(Self { allocator: FlowAllocator::new(limit), records, processors: PerCpu::new(irql)?, ids })
    }

    /// Prepares for a processor, which has counted nothing.
    pub fn add(&self, processor: usize, irql: &Passive) -> Result {
        let slots = Slots::number(self.allocator.limit());
        let make = || PoolBox::new(tag::SLOTS, PoolVec::filled(tag::SLOTS, slots)?);
        self.processors.add(processor, make, irql)
    }

    /// Stores a callout's run-time id; to be called before the callout has a filter.
    pub fn registered(&self, callout: CalloutIndex, id: u32) {
        if let Some(place) = self.ids.get(callout.number()) {
            place.store(id, Ordering::Relaxed);
        }
    }

    /// Begins to watch the flow that has just been established. `check` is the
    /// number of the order check, 0 if the order is not checked. `use_flow` is called
    /// once, with the flow if there is memory for it. The engine may end the flow
    /// meanwhile; its record stays its own until `use_flow` returns. Returns a summary
    /// of a flow that has ended by then.
    pub fn begin(
        &self,
        incoming: &Incoming<'_>,
        check: u16,
        irql: &Dispatch<'_>,
        use_flow: impl FnOnce(Option<&Flow>),
    ) -> Option<FlowSummary> {
        let Some((id, protocol, flow, context)) = self.start(incoming, check) else {
            use_flow(None);
            return None;
        };
        let (family, mut contexts) = (incoming.callout().family, 0);
        // The packets of a dual-stack socket's IPv4 flow may pass the layers of IPv4.
        let is_mapped = incoming.is_mapped();
        for (callout, place) in self.callouts_with_contexts() {
            if (callout.family == family || is_mapped) && callout.layer.flows.takes(protocol) {
                flow.hold();
                if flow::associate(id, place, context, irql) {
                    contexts += 1;
                } else {
                    self.release(context);
                }
            }
        }
        use_flow(Some(flow));
        // From here on only the flow's contexts keep the record alive.
        self.release(context).filter(|_| contexts != 0)
    }

    /// Takes a record for a flow and holds it. Returns the flow's handle, protocol,
    /// record and context.
    fn start(&self, incoming: &Incoming<'_>, check: u16) -> Option<(u64, u8, &Flow, u64)> {
        let (id, protocol) = (incoming.flow()?, incoming.protocol()?);
        // Process ids have 32 bits; the metadata's field has 64 (fwpsk.h).
        let (started, process) = (clock::milliseconds(), incoming.process().unwrap_or(0) as u32);
        let key = self.allocator.start(&self.records, &Begin { id, started, process, check })?;
        Some((id, protocol, self.flow(key.context())?, key.context()))
    }

    /// The flow that a context leads to. The context may be any number.
    pub fn flow(&self, context: u64) -> Option<&Flow> {
        FlowAllocator::flow(&self.records, FlowKey::from_context(context))
    }

    /// Counts packets of the flow that a context leads to. The context may be any
    /// number. Returns a summary if this call ended a flow: one that was over, but
    /// whose counts this processor had not yet handed over.
    #[inline(always)]
    pub fn count_packet(
        &self,
        context: u64,
        passed: FlowPackets,
        irql: &Dispatch<'_>,
    ) -> Option<FlowSummary> {
        let Some(slots) = self.processors.current(irql) else {
            FlowAllocator::count(&self.records, FlowKey::from_context(context), passed);
            return None;
        };
        match Slots(slots).count(&self.allocator, &self.records, context, passed) {
            Counted::Done => None,
            Counted::TakenOver(flow) => {
                if let Some(flow) = flow {
                    prefetch::for_write(flow);
                }
                None
            }
            Counted::Ended(ended) => Some(self.finish(&ended)),
        }
    }

    /// Counts packets in the flow's record. The context may be any number.
    pub fn count_in_record(&self, context: u64, passed: FlowPackets) {
        FlowAllocator::count(&self.records, FlowKey::from_context(context), passed);
    }

    /// A context is gone. The flow ends with its last context.
    pub fn release(&self, context: u64) -> Option<FlowSummary> {
        let ended = self.allocator.release(&self.records, FlowKey::from_context(context))?;
        Some(self.finish(&ended))
    }

    #[cold]
    #[inline(never)]
    fn finish(&self, ended: &EndedFlow<'_, '_>) -> FlowSummary {
        let totals = ended.totals(self.processors.all().iter().map(|slots| Slots(slots)));
        let (flow, order) = (ended.flow(), ended.flow().order());
        FlowSummary {
            id: flow.id(),
            totals,
            is_cut: flow.is_cut(),
            process: flow.process(),
            duration: flow.duration(clock::milliseconds()),
            deviation: order.deviation(),
            watched: order.check_number() != 0,
        }
    }

    /// How many flows there are.
    pub fn count(&self) -> u32 {
        self.allocator.flows()
    }

    /// How many flows were refused because the limit was reached.
    pub fn refused(&self) -> u64 {
        self.allocator.refused()
    }

    /// Refuses new flows and removes every context. A callout cannot be unregistered
    /// while it has contexts. A flow that is just beginning may get its contexts only
    /// now. Then the engine refuses to unregister a callout, and the driver removes the
    /// contexts again.
    pub fn close(&self, irql: &Passive) {
        self.allocator.close();
        self.remove_contexts(irql);
    }

    /// Asks the engine to remove every context. It deletes a context only after the
    /// classify that has it returns. This does not wait until the flows have ended: a
    /// thread may be suspended before it enters flowDeleteFn.
    pub fn remove_contexts(&self, irql: &Passive) {
        for (_, flow) in FlowAllocator::live(&self.records) {
            let id = flow.id();
            for (_, place) in self.callouts_with_contexts() {
                flow::remove(id, place, irql);
            }
        }
    }

    fn callouts_with_contexts(&self) -> impl Iterator<Item = (&'static Callout, CalloutAtLayer)> {
        CALLOUTS.iter().zip(&self.ids).filter(|(callout, _)| callout.has_flows()).map(|(callout, id)| {
            (callout, CalloutAtLayer { layer: callout.layer_id, callout: id.load(Ordering::Relaxed) })
        })
    }
}
