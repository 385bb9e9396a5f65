//! What one classify shows of the order, and who is asked about it.

use core::num::NonZeroU64;

use super::flow_order::{Direction, Order, Step};
use super::place::Spot;
use super::rows::Kinds;
use super::walk::Deviation;
use super::walks::Walks;

/// One classify, as far as the order looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight {
    /// Where.
    pub spot: Spot,
    /// Which way it goes; `None` for a call.
    pub direction: Option<Direction>,
    /// What it is.
    pub kinds: Kinds,
    /// What it is known by, so that a walk goes on: the packet's mark, or the
    /// mark of the endpoint that was called.
    pub mark: Option<NonZeroU64>,
}

impl Sight {
    /// Asks the walks, and then the flow, if there is one.
    pub fn deviation<const N: usize>(
        &self,
        flow: Option<&Order>,
        walks: Option<&Walks<N>>,
    ) -> Option<Deviation> {
        let of_walk = match (walks, self.mark) {
            (Some(walks), Some(mark)) => walks.step_of(mark, self.spot, self.kinds),
            _ => None,
        };
        match flow {
            Some(order) => self.of_flow(order, of_walk),
            None => of_walk,
        }
    }

    /// Asks a flow, too, where this was found otherwise. The first deviation of a
    /// flow is its last word: more of them would tell of the same fault.
    #[inline(always)]
    pub fn of_flow(&self, order: &Order, of_walk: Option<Deviation>) -> Option<Deviation> {
        let told = order.deviation().is_some();
        // Every watcher is shown it, whatever another says.
        let of_flow = match self.direction {
            Some(direction) => {
                order.step(Step { place: self.spot.place, direction, kinds: self.kinds }).err()
            }
            None => None,
        };
        match of_flow.or(of_walk) {
            Some(deviation) if !told => {
                order.deviate(deviation);
                Some(deviation)
            }
            _ => None,
        }
    }
}
