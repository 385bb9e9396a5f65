//! The callouts' handlers, and their registration in the table's order.

mod decide;
mod echo_request;
mod icmp_error;
mod observe;
mod packet_discard;
mod transport_discard;

use super::events;
use super::flows::{Ended, Flows};
use super::noticed::Noticed;
use super::order::Watch;
use super::policy::Policies;
use super::scans::Scans;
use crate::kernel::device::Device;
use crate::kernel::etw::Channel;
use crate::kernel::irql::{MaxDispatch, Passive};
use crate::kernel::per_cpu::{Part, PerCpu};
use crate::kernel::pool::{PoolArc, PoolVec};
use crate::kernel::published::Published;
use crate::kernel::status::Result;
use crate::kernel::wfp::callout::Registration;
use crate::kernel::wfp::incoming::Incoming;
use crate::logic::callouts::{CALLOUTS, COUNT, Index};
use crate::logic::flow::{Flow, Passed};
use crate::logic::layers::{self, Decision, Role};
use crate::logic::order::Deviation;
use crate::logic::processor::Processor;
use crate::logic::scan::Encounter;
use crate::logic::stealth::Verdict;
use decide::Deciding;
use echo_request::EchoRequest;
use icmp_error::IcmpError;
use observe::Observe;
use packet_discard::PacketDiscard;
use transport_discard::TransportDiscard;

/// What every classify shares.
///
/// In a debugger: `hushport::driver::callouts::SHARED` leads here, and the first
/// word to the [`Processor`]s, whose number is the third; each ends with two
/// sets of counters. What was counted is the sum of all.
#[repr(C)]
pub struct Shared {
    /// Verdicts by callout, and remotes that have met closed ports.
    pub processors: PerCpu<Processor>,
    /// What the administrator asks for.
    pub policies: PoolArc<Policies>,
    /// What was noticed.
    pub noticed: Noticed,
    /// Who scans.
    pub scans: Scans,
    /// What flows there are.
    pub flows: Flows,
    /// Whether the layers are passed in order.
    pub order: Watch,
    /// Where it is said what happens.
    pub channel: PoolArc<Channel>,
}

/// Where classifies find it.
pub static SHARED: Published<Shared> = Published::empty();

/// Registers every callout; dropped, the last registered goes first.
pub fn register(device: &Device, flows: &Flows, irql: &Passive) -> Result<PoolVec<Registration>> {
    let mut registrations = PoolVec::with_capacity(COUNT)?;
    for callout in &CALLOUTS {
        let register = match callout.role {
            Role::Observe => Registration::new::<Observe>,
            Role::Decide(Decision::TransportDiscard) => Registration::new::<Deciding<TransportDiscard>>,
            Role::Decide(Decision::PacketDiscard) => Registration::new::<Deciding<PacketDiscard>>,
            Role::Decide(Decision::IcmpError) => Registration::new::<Deciding<IcmpError>>,
            Role::Decide(Decision::EchoRequest) => Registration::new::<Deciding<EchoRequest>>,
        };
        let registration = register(device, callout.key(), callout.has_flows(), irql)?;
        flows.registered(callout.index, registration.id());
        registrations.push(registration)?;
    }
    Ok(registrations)
}

impl Shared {
    /// Watches what passes here, whatever is decided: the flow that begins or
    /// goes on, and the order of layers.
    #[inline(always)]
    fn watch(&self, incoming: &Incoming<'_>, irql: &MaxDispatch) {
        let watch = self.policies.standing().order_watch();
        if watch == 0 {
            self.follow(incoming, watch, irql);
            return;
        }
        // Most of what passes belongs to no flow.
        let at = incoming.callout();
        let flow = match incoming.flow_context() {
            0 if !at.begins_flows => None,
            context if !at.begins_flows && at.layer.flows != layers::Flows::Every => self.flow(context),
            _ => self.follow(incoming, watch, irql),
        };
        if let Some(deviation) = self.order.see(watch, flow, incoming, irql) {
            self.deviated(incoming, deviation, irql);
        }
    }

    #[cold]
    #[inline(never)]
    fn deviated(&self, incoming: &Incoming<'_>, deviation: Deviation, irql: &MaxDispatch) {
        self.noticed.deviation();
        events::order_deviation(&self.channel, incoming, deviation, irql);
    }

    #[inline(never)]
    fn flow(&self, context: u64) -> Option<&Flow> {
        self.flows.flow(context)
    }

    /// Begins a flow or counts for one; says which, where its order is watched.
    #[inline(never)]
    fn follow(&self, incoming: &Incoming<'_>, watch: u16, irql: &MaxDispatch) -> Option<&Flow> {
        let (at, context) = (incoming.callout(), incoming.flow_context());
        let flow = match at.begins_flows {
            true => self.flows.begin(incoming, watch, irql, |ended| self.flow_ended(&ended, irql)),
            // Who does not ask for the order need not touch the flow's record.
            false if watch != 0 => self.flows.flow(context),
            false => None,
        };
        // Counted where every packet of a flow passes once.
        if context != 0
            && at.layer.flows == layers::Flows::Every
            && let Some(direction) = incoming.direction()
        {
            self.pass_aside(context, incoming.payload(direction), irql);
        }
        flow
    }

    /// A flow's context has gone from one of its layers.
    fn flow_deleted(&self, context: u64, irql: &MaxDispatch) {
        if let Some(ended) = self.flows.release(context) {
            self.flow_ended(&ended, irql);
        }
    }

    #[cold]
    #[inline(never)]
    fn flow_ended(&self, ended: &Ended, irql: &MaxDispatch) {
        self.noticed.flow_ended();
        events::flow_ended(&self.channel, ended, irql);
    }

    /// Counts packets of a flow.
    #[inline(always)]
    fn pass(&self, context: u64, passed: Passed, irql: &MaxDispatch) {
        if let Some(ended) = self.flows.pass(context, passed, irql) {
            self.flow_ended(&ended, irql);
        }
    }

    /// The same, once for all that are not most of what comes.
    #[inline(never)]
    fn pass_aside(&self, context: u64, passed: Passed, irql: &MaxDispatch) {
        self.pass(context, passed, irql);
    }

    /// Takes in who has met a closed port.
    #[inline(always)]
    fn meet(&self, met: &Encounter, irql: &MaxDispatch) {
        if let Some(processor) = self.processors.current(irql) {
            self.scans.meet(&processor.remotes, met);
        }
    }

    #[inline(always)]
    fn count(&self, at: Index, verdict: Verdict, irql: &MaxDispatch) {
        match self.processors.part(|processor| &processor.counters, irql) {
            Some(Part::Alone(counters)) => counters.count_alone(at, verdict),
            Some(Part::Common(counters)) => counters.count(at, verdict),
            None => {}
        }
    }
}
