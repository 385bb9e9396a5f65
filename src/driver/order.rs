//! Checks the order in which packets and calls pass the layers (`CheckOrder`).

use core::cell::Cell;

use crate::kernel::exclusive::Exclusive;
use crate::kernel::irql::{LevelLock, MaxDispatch, Passive};
use crate::kernel::status::Result;
use crate::kernel::wfp::incoming::Incoming;
use crate::logic::flow::Flow;
use crate::logic::order::{Deviation, Kinds, Step, Walks};

/// Packets and calls that are followed at once on one processor. A packet usually
/// passes its layers without another in between, except while it is reassembled or
/// queued.
const WALKS: usize = 16;

/// The packets and calls under way on every processor.
pub struct OrderCheck(Exclusive<ProcessorWalks>);

#[repr(C)]
struct ProcessorWalks {
    /// The number of the check that they belong to. It is in the cache line in which
    /// the walks begin.
    check: Cell<u16>,
    walks: Walks<WALKS>,
}

impl OrderCheck {
    /// Nothing is under way.
    pub fn new(irql: &Passive) -> Result<Self> {
        let nothing = || ProcessorWalks { check: Cell::new(0), walks: Walks::default() };
        Ok(Self(Exclusive::new(nothing, irql)?))
    }

    /// Takes in a classify, under the check with this number. Returns a deviation
    /// from the documented order, if this is one.
    #[inline(always)]
    pub fn see(
        &self,
        check: u16,
        flow: Option<&Flow>,
        incoming: &Incoming<'_>,
        irql: &MaxDispatch,
    ) -> Option<Deviation> {
        match irql.dispatch() {
            Some(irql) => self.0.here(&irql)?.see(check, flow, incoming),
            None => self.see_below_dispatch(check, flow, incoming, irql),
        }
    }

    /// [`see`](Self::see) below DISPATCH_LEVEL.
    #[cold]
    #[inline(never)]
    fn see_below_dispatch(
        &self,
        check: u16,
        flow: Option<&Flow>,
        incoming: &Incoming<'_>,
        irql: &MaxDispatch,
    ) -> Option<Deviation> {
        let mut lock = LevelLock::default();
        let irql = irql.raise(&mut lock);
        self.0.here(&irql)?.see(check, flow, incoming)
    }
}

impl ProcessorWalks {
    #[inline(always)]
    fn see(&self, check: u16, flow: Option<&Flow>, incoming: &Incoming<'_>) -> Option<Deviation> {
        if self.check.get() != check {
            self.begin(check);
        }
        self.step(flow, incoming)
    }

    /// Forgets what an earlier check has left: its packets went on unseen.
    #[cold]
    #[inline(never)]
    fn begin(&self, check: u16) {
        self.walks.clear();
        self.check.set(check);
    }

    #[inline(never)]
    fn step(&self, flow: Option<&Flow>, incoming: &Incoming<'_>) -> Option<Deviation> {
        let (mark, kinds) = incoming.tracked()?;
        let layer = incoming.callout().order_layer;
        let of_walk = match mark {
            Some(mark) => self.walks.step_of(mark, layer, kinds).filter(|_| !incoming.is_icmp_error()),
            None => None,
        };
        // Most packets are in order, belong to no flow, and are no call.
        if of_walk.is_none() && flow.is_none() && !incoming.may_be_call() {
            return None;
        }
        let of_walk = match incoming.may_be_call() {
            true => of_walk.or(self.step_of_call(incoming)),
            false => of_walk,
        };
        let Some(flow) = flow else { return of_walk };
        let step = incoming.direction_cold().map(|direction| Step { layer: layer.index, direction, kinds });
        match flow.order() {
            // This check has followed the flow from its start.
            order if order.check_number() == self.check.get() => order.step_with_walk(step, of_walk),
            _ => of_walk,
        }
    }

    /// A call that shows its packet is two walks.
    #[inline(never)]
    fn step_of_call(&self, incoming: &Incoming<'_>) -> Option<Deviation> {
        self.walks.step_of(incoming.call()?, incoming.callout().order_layer, Kinds::CALL)
    }
}
