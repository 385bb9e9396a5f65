//! The watch over the order in which packets and calls pass the layers
//! (`CheckOrder`).

use core::cell::Cell;

use crate::kernel::exclusive::Exclusive;
use crate::kernel::irql::{LevelLock, MaxDispatch, Passive};
use crate::kernel::status::Result;
use crate::kernel::wfp::incoming::Incoming;
use crate::logic::flow::Flow;
use crate::logic::order::{Deviation, Kinds, Step, Walks};

/// Packets and calls under way that are followed on one processor. A packet
/// passes its layers in one go; between two of them others come in only where
/// it is put together or waits.
const WALKS: usize = 16;

/// What every processor has under way.
pub struct OrderCheck(Exclusive<ProcessorWalks>);

#[repr(C)]
struct ProcessorWalks {
    /// Of which watch they are. In the line that begins the walks.
    watch: Cell<u16>,
    walks: Walks<WALKS>,
}

impl OrderCheck {
    /// Nothing under way.
    pub fn new(irql: &Passive) -> Result<Self> {
        let nothing = || ProcessorWalks { watch: Cell::new(0), walks: Walks::default() };
        Ok(Self(Exclusive::new(nothing, irql)?))
    }

    /// Looks at a classify while the watch with this number is on; says where
    /// the documented order is left.
    #[inline(always)]
    pub fn see(
        &self,
        watch: u16,
        flow: Option<&Flow>,
        incoming: &Incoming<'_>,
        irql: &MaxDispatch,
    ) -> Option<Deviation> {
        match irql.dispatch() {
            Some(irql) => self.0.here(&irql)?.see(watch, flow, incoming),
            None => self.check_below_dispatch(watch, flow, incoming, irql),
        }
    }

    /// The same below DISPATCH_LEVEL.
    #[cold]
    #[inline(never)]
    fn check_below_dispatch(
        &self,
        watch: u16,
        flow: Option<&Flow>,
        incoming: &Incoming<'_>,
        irql: &MaxDispatch,
    ) -> Option<Deviation> {
        let mut lock = LevelLock::default();
        let irql = irql.raise(&mut lock);
        self.0.here(&irql)?.see(watch, flow, incoming)
    }
}

impl ProcessorWalks {
    #[inline(always)]
    fn see(&self, watch: u16, flow: Option<&Flow>, incoming: &Incoming<'_>) -> Option<Deviation> {
        if self.watch.get() != watch {
            self.begin(watch);
        }
        self.step(flow, incoming)
    }

    /// What an earlier watch left has gone on unseen.
    #[cold]
    #[inline(never)]
    fn begin(&self, watch: u16) {
        self.walks.clear();
        self.watch.set(watch);
    }

    #[inline(never)]
    fn step(&self, flow: Option<&Flow>, incoming: &Incoming<'_>) -> Option<Deviation> {
        let (mark, kinds) = incoming.tracked()?;
        let layer = incoming.callout().order_layer;
        let of_walk = match mark {
            Some(mark) => self.walks.step_of(mark, layer, kinds).filter(|_| !incoming.is_icmp_error()),
            None => None,
        };
        // Most is in order, of no flow, and a packet or a call.
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
            // It was watched from its start.
            order if order.watch() == self.watch.get() => order.step_beside(step, of_walk),
            _ => of_walk,
        }
    }

    /// A call that shows its packet is two walks.
    #[inline(never)]
    fn step_of_call(&self, incoming: &Incoming<'_>) -> Option<Deviation> {
        self.walks.step_of(incoming.call()?, incoming.callout().order_layer, Kinds::CALL)
    }
}
