//! The state that all callouts share, and what they do with it.
//!
//! Beside its decision each callout counts, follows flows, checks the order and
//! notes who meets closed ports.

use super::event_log::EventLog;
use super::events;
use super::flows::{FlowSummary, Flows};
use super::order::OrderCheck;
use super::policy::{Policies, PolicyWord};
use super::rare_counters::RareCounters;
use super::scans::Scans;
use crate::kernel::clock;
use crate::kernel::entry::DriverObject;
use crate::kernel::etw::Channel;
use crate::kernel::irql::{Dispatch, MaxDispatch, Passive};
use crate::kernel::per_cpu::PerCpu;
use crate::kernel::pool::{PoolArc, PoolBox, tag};
use crate::kernel::processors::PerProcessor;
use crate::kernel::published::{Findable, Published};
use crate::kernel::status::Result;
use crate::kernel::wfp::callout::State;
use crate::kernel::wfp::headers::FlowData;
use crate::kernel::wfp::incoming::Incoming;
use crate::kernel::wfp::net_buffer::Lists;
use crate::logic::callouts::{CALLOUTS, Callout, CalloutIndex};
use crate::logic::counters::Counters;
use crate::logic::flow::{CUT, Flow, FlowPackets};
use crate::logic::order::{Deviation, Direction};
use crate::logic::processor::Processor;
use crate::logic::protection::{Protection, Shown};
use crate::logic::scan::{Encounter, Remote, Technique};
use crate::logic::stealth::Verdict;

/// The state that all callouts share.
///
/// In a debugger: `hushport::driver::shared::SHARED` points here. The first word
/// points to a list of pointers to the [`Processor`]s of active processors, and the
/// third is the length of the list, which may end with NULL pointers. Each processor
/// ends with its counters; a total is the sum over all processors.
#[repr(C)]
pub struct Shared {
    /// For each processor: counts of verdicts, and remotes that have met closed
    /// ports.
    pub processors: PerCpu<Processor>,
    /// The counts of processors that have no place of their own, because the system did
    /// not announce them.
    pub elsewhere: PoolBox<Counters>,
    /// The policy in force.
    pub policies: PoolArc<Policies>,
    /// Counts of rare events.
    pub rare: RareCounters,
    /// Time and key of scan detection.
    pub scans: Scans,
    /// The flows that are watched.
    pub flows: Flows,
    /// The check of the documented order (`CheckOrder`).
    pub order: OrderCheck,
    /// Where events are written.
    pub channel: PoolArc<Channel>,
    /// The System event log.
    pub event_log: EventLog,
    /// Which filters the engine has.
    pub shown: Shown,
}

/// Where the callout functions find the shared state.
pub static SHARED: Published<Shared> = Published::empty();

impl Findable for Shared {
    fn published() -> &'static Published<Self> {
        &SHARED
    }
}

impl PerProcessor for Shared {
    fn add(&self, processor: usize, irql: &Passive) -> Result {
        self.processors.add(processor, || PoolBox::zeroed(tag::PROCESSOR), irql)?;
        self.flows.add(processor, irql)?;
        self.order.add(processor, irql)
    }
}

impl State for Shared {
    /// A flow's context is gone from one of its layers.
    fn flow_deleted(&self, context: u64, irql: &Dispatch<'_>) {
        if let Some(ended) = self.flows.release(context) {
            self.flow_ended(&ended, irql);
        }
    }
}

impl Shared {
    /// The state at the start.
    pub fn new(driver: &DriverObject, policies: PoolArc<Policies>, irql: &Passive) -> Result<Self> {
        let policy = policies.values(irql);
        let channel = PoolArc::new(tag::CHANNEL, Channel::new(&events::HUSHPORT, events::BEFORE_START))?;
        Ok(Self {
            processors: PerCpu::new(irql)?,
            elsewhere: PoolBox::zeroed(tag::COUNTERS)?,
            scans: Scans::new(&policy, &*channel),
            policies,
            rare: RareCounters::default(),
            channel,
            event_log: EventLog::new(driver),
            flows: Flows::new(policy.flow_limit, irql)?,
            order: OrderCheck::new(irql)?,
            shown: Shown::new(),
        })
    }

    /// Counts a verdict.
    #[inline(always)]
    pub fn count(&self, at: CalloutIndex, verdict: Verdict, irql: &Dispatch<'_>) {
        self.count_and_meet(at, verdict, None, irql);
    }

    /// Counts a verdict, and notes who has met a closed port.
    #[inline(always)]
    pub fn count_and_meet(
        &self,
        at: CalloutIndex,
        verdict: Verdict,
        met: Option<&Encounter>,
        irql: &Dispatch<'_>,
    ) {
        let Some(processor) = self.processors.current(irql) else {
            return self.elsewhere.count_shared(at, verdict);
        };
        if let Some(met) = met {
            self.scans.meet(&processor.remotes, met);
        }
        processor.counters.count(at, verdict);
    }

    /// [`count_and_meet`](Self::count_and_meet), with one copy of the code for all packets of
    /// which few come.
    #[inline(always)]
    pub fn count_and_meet_rare(
        &self,
        at: CalloutIndex,
        verdict: Verdict,
        met: Option<&Encounter>,
        irql: &Dispatch<'_>,
    ) {
        match met {
            // The parts, so that the encounter itself stays in registers.
            Some(&Encounter { remote, port, technique }) => {
                self.count_met(at, verdict, remote, (port, technique), irql);
            }
            None => self.count(at, verdict, irql),
        }
    }

    #[cold]
    #[inline(never)]
    fn count_met(
        &self,
        at: CalloutIndex,
        verdict: Verdict,
        remote: Remote,
        (port, technique): (u16, Technique),
        irql: &Dispatch<'_>,
    ) {
        let met = Encounter { remote, port, technique };
        let met = if verdict.is_closed_port() { Some(&met) } else { None };
        self.count_and_meet(at, verdict, met, irql);
    }

    /// Counts the NET_BUFFERs and bytes of an indication for its flow. Every packet
    /// of a flow passes INBOUND_TRANSPORT or OUTBOUND_TRANSPORT once, with the
    /// flow's context. A packet that a heavier sublayer has blocked is not counted: it
    /// does not go on, or the driver that has blocked it injects it again, and it comes
    /// back.
    #[inline(always)]
    pub fn count_flow_packet(&self, incoming: &Incoming<'_>, irql: &Dispatch<'_>) {
        if let Some(direction) = incoming.callout().flow_packets
            && incoming.flow_context() != 0
            && !incoming.is_blocked()
        {
            let data = incoming.flow_data(direction);
            self.count_flow_data(incoming.flow_context(), direction, data, irql);
        }
    }

    /// Counts what the packets of a flow, which has this context, have brought.
    #[inline(always)]
    pub fn count_flow_data(
        &self,
        context: u64,
        direction: Direction,
        data: FlowData<'_>,
        irql: &Dispatch<'_>,
    ) {
        match data {
            FlowData::Single(bytes) => {
                let packet = FlowPackets { direction, packets: 1, bytes };
                if let Some(ended) = self.flows.count_packet(context, packet, irql) {
                    self.flow_ended(&ended, irql);
                }
            }
            FlowData::Lists(lists, header) => self.count_lists(context, lists, direction, header),
        }
    }

    /// Counts any number of lists, whose packets have headers of this many bytes.
    #[cold]
    #[inline(never)]
    fn count_lists(&self, context: u64, lists: Lists<'_>, direction: Direction, header: u64) {
        let (packets, bytes) = lists.totals();
        let bytes = bytes.saturating_sub(header * u64::from(packets & !CUT));
        self.flows.count_in_record(context, FlowPackets { direction, packets, bytes });
    }

    /// Begins a flow at ALE_FLOW_ESTABLISHED, notes whether its remote has proven its
    /// address, and checks the order if the policy asks for it.
    #[inline(always)]
    pub fn follow(&self, incoming: &Incoming<'_>, word: PolicyWord, irql: &Dispatch<'_>) {
        let check = word.order_check();
        if incoming.callout().begins_flows {
            return self.begin_flow(incoming, check, irql);
        }
        // The engine keeps a flow's context while a classify has it.
        let flow = match incoming.flow_context() {
            // Most packets and calls belong to no flow.
            0 => None,
            context => self.flows.flow(context),
        };
        self.check_order(check, flow, incoming, irql);
    }

    #[inline(never)]
    fn begin_flow(&self, incoming: &Incoming<'_>, check: u16, irql: &Dispatch<'_>) {
        if let Some(remote) = incoming.proven_remote()
            && let Some(processor) = self.processors.current(irql)
        {
            self.scans.prove(&processor.remotes, remote);
        }
        let check_order = |flow: Option<&Flow>| self.check_order(check, flow, incoming, irql);
        if let Some(ended) = self.flows.begin(incoming, check, irql, check_order) {
            self.flow_ended(&ended, irql);
        }
    }

    #[inline(always)]
    fn check_order(&self, check: u16, flow: Option<&Flow>, incoming: &Incoming<'_>, irql: &Dispatch<'_>) {
        if check != 0
            && let Some(deviation) = self.order.see(check, flow, incoming, irql)
        {
            self.deviated(incoming, deviation, irql);
        }
    }

    #[cold]
    #[inline(never)]
    fn deviated(&self, incoming: &Incoming<'_>, deviation: Deviation, irql: &Dispatch<'_>) {
        self.rare.deviation();
        events::order_deviation(&self.channel, incoming, deviation, irql);
    }

    /// How many indications at a callout got each verdict, on all processors.
    pub fn verdicts(&self, at: CalloutIndex) -> [u64; Verdict::COUNT] {
        let mut verdicts = [0; Verdict::COUNT];
        let of_processors = self.processors.all().iter().map(|processor| &processor.counters);
        for counters in of_processors.chain([&*self.elsewhere]) {
            counters.add_to(at, &mut verdicts);
        }
        verdicts
    }

    /// How many packets other filters have permitted that the driver would have blocked.
    pub fn overruled(&self) -> u64 {
        let of_callout = |callout: &Callout| {
            let verdicts = self.verdicts(callout.index);
            verdicts.get(Verdict::Overruled as usize).copied().unwrap_or(0)
        };
        CALLOUTS.iter().map(of_callout).fold(0, u64::wrapping_add)
    }

    /// Which filters the engine has.
    pub fn protection(&self) -> Protection {
        self.shown.at(clock::milliseconds())
    }

    /// Writes the counters to ETW, if a session listens.
    pub fn log_counters(&self, irql: &MaxDispatch) {
        events::counters(self, irql);
    }

    #[cold]
    #[inline(never)]
    fn flow_ended(&self, ended: &FlowSummary, irql: &Dispatch<'_>) {
        self.rare.flow_ended();
        events::flow_ended(&self.channel, ended, irql);
    }
}
