//! Checks the order in which packets and calls pass the layers (`CheckOrder`).

use core::cell::Cell;

use crate::kernel::clock;
use crate::kernel::current::Current;
use crate::kernel::exclusive::Exclusive;
use crate::kernel::irql::{Dispatch, Passive};
use crate::kernel::pool::{PoolBox, PoolVec, tag};
use crate::kernel::status::Result;
use crate::kernel::wfp::incoming::Incoming;
use crate::kernel::wfp::tracking::Tracked;
use crate::logic::flow::Flow;
use crate::logic::order::{
    Common, Deviation, Direction, Kinds, Passing, Step, TIE_SETS, TieSet, Ties, Told, Walks,
};

/// Packets and calls that are followed at once on one processor. A packet usually
/// passes its layers without another in between, except while it is reassembled or
/// queued.
const WALKS: usize = 16;

/// The packets and calls under way on every processor, and what connections and
/// endpoints have passed.
pub struct OrderCheck {
    walks: Exclusive<ProcessorWalks>,
    /// Empty until the order is first checked.
    ties: Current<PoolVec<TieSet>>,
    common: Common,
}

#[repr(C)]
struct ProcessorWalks {
    /// The number of the check that they belong to. It is in the cache line in which
    /// the walks begin.
    check: Cell<u16>,
    /// The connection of the latest packet at INBOUND_TRANSPORT, if the packet is to
    /// be authorized before it goes on; otherwise 0.
    unauthorized: Cell<u64>,
    walks: Walks<WALKS>,
}

impl OrderCheck {
    /// Nothing is under way.
    pub fn new(irql: &Passive) -> Result<Self> {
        let ties = Current::new(PoolBox::new(tag::TIES, PoolVec::with_capacity(tag::TIES, 0)?)?, irql)?;
        Ok(Self { walks: Exclusive::new(irql)?, ties, common: Common::default() })
    }

    /// Prepares for a processor, on which nothing is under way.
    pub fn add(&self, processor: usize, irql: &Passive) -> Result {
        let nothing =
            || ProcessorWalks { check: Cell::new(0), unauthorized: Cell::new(0), walks: Walks::default() };
        self.walks.add(tag::WALKS, processor, nothing, irql)
    }

    /// Allocates the ties, before the order is checked for the first time.
    pub fn prepare(&self, irql: &Passive) -> Result {
        if irql.at_dispatch(|irql| self.ties.read(irql).is_empty()) {
            let ties = PoolBox::new(tag::TIES, PoolVec::zeroed(tag::TIES, TIE_SETS)?)?;
            self.ties.replace(ties, irql);
        }
        Ok(())
    }

    /// Takes in a classify, under the check with this number. Returns a deviation
    /// from the documented order, if this is one.
    #[inline(never)]
    pub fn see(
        &self,
        check: u16,
        flow: Option<&Flow>,
        incoming: &Incoming<'_>,
        irql: &Dispatch<'_>,
    ) -> Option<Deviation> {
        let here = self.walks.here(irql)?;
        if here.check.get() != check {
            here.begin(check);
        }
        let ties = Ties::new(self.ties.read(irql), &self.common, check, clock::milliseconds);
        let Some(tracked) = incoming.tracked() else { return untracked(&ties, incoming) };
        here.step(&ties, &tracked, flow, incoming, irql.processor())
    }
}

/// A layer that shows no packet of the walks.
#[cold]
#[inline(never)]
fn untracked(ties: &Ties<'_>, incoming: &Incoming<'_>) -> Option<Deviation> {
    if incoming.is_forwarded() {
        ties.forwards();
    }
    of_error(ties, None, incoming)
}

/// The ICMP errors port and protocol unreachable, and what they answer.
#[inline(never)]
fn of_error(ties: &Ties<'_>, tracked: Option<&Tracked>, incoming: &Incoming<'_>) -> Option<Deviation> {
    let (to, of_endpoint) = incoming.unreachable(tracked)?;
    // An endpoint may send any ICMP message.
    ties.see_error(incoming.callout().order_layer.index, to, clock::milliseconds).filter(|_| !of_endpoint)
}

impl ProcessorWalks {
    /// Forgets what an earlier check has left: its packets went on unseen.
    #[cold]
    #[inline(never)]
    fn begin(&self, check: u16) {
        self.walks.clear();
        self.unauthorized.set(0);
        self.check.set(check);
    }

    #[inline(always)]
    fn step(
        &self,
        ties: &Ties<'_>,
        tracked: &Tracked,
        flow: Option<&Flow>,
        incoming: &Incoming<'_>,
        processor: usize,
    ) -> Option<Deviation> {
        let layer = incoming.callout().order_layer;
        let of_walk = match tracked.mark {
            Some(mark) => {
                let stepped = self.walks.step_of(mark, layer, tracked.kinds, tracked.carrier(incoming));
                if incoming.is_blocked() {
                    self.walks.block();
                }
                stepped.filter(|_| !incoming.may_stop(tracked))
            }
            None => None,
        };
        let Told { deviation: of_ties, scattered } = self.see(ties, tracked, incoming, processor);
        let told = if scattered { of_ties } else { of_walk.or(of_ties) };
        // Most packets are in order, belong to no flow, and are no call.
        if told.is_none() && flow.is_none() && !incoming.may_be_call() {
            return None;
        }
        let told = match incoming.may_be_call() {
            true => told.or(self.step_of_call(incoming).filter(|_| !scattered)),
            false => told,
        };
        let Some(flow) = flow else { return told };
        let order = flow.order();
        // Another check has missed a part of the flow.
        let step = match order.check_number() == self.check.get() {
            true => incoming.direction_cold(),
            false => None,
        };
        let kinds = tracked.kinds;
        order.step_with_walk(step.map(|direction| Step { layer: layer.index, direction, kinds }), told)
    }

    #[inline(never)]
    fn see(&self, ties: &Ties<'_>, tracked: &Tracked, incoming: &Incoming<'_>, processor: usize) -> Told {
        if tracked.is_encapsulated() || incoming.is_secured() {
            ties.secures();
        }
        let Some(mut passing) = incoming.passing(tracked, processor) else { return Told::default() };
        let Passing { pair, .. } = passing;
        if incoming.is_at_inbound_transport() {
            self.unauthorized.set(if incoming.requires_authorization() { pair } else { 0 });
        } else if self.unauthorized.get() == pair && pair != 0 {
            if incoming.authorizes() {
                self.unauthorized.set(0);
            }
            passing.is_unauthorized = passing.direction == Direction::Inbound;
        }
        let told = ties.see(&passing, clock::milliseconds);
        match of_error(ties, Some(tracked), incoming) {
            None => told,
            of_error => Told { deviation: told.deviation.or(of_error), ..told },
        }
    }

    /// A call that shows its packet is two walks.
    #[inline(never)]
    fn step_of_call(&self, incoming: &Incoming<'_>) -> Option<Deviation> {
        self.walks.step_of(incoming.call()?, incoming.callout().order_layer, Kinds::CALL, 0)
    }
}
