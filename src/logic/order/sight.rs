//! What one classify shows of the order, and who is asked about it.

use core::num::NonZeroU64;

use super::flow_order::{Direction, Order, Step};
use super::place::Place;
use super::rows::Kinds;
use super::walk::Deviation;
use super::walks::Walks;

/// One classify, as far as the order looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight {
    /// Where.
    pub place: Place,
    /// Which way it goes; `None` for a call.
    pub direction: Option<Direction>,
    /// What it is.
    pub kinds: Kinds,
    /// The packet's mark.
    pub packet: Option<NonZeroU64>,
    /// The mark of the endpoint that was called.
    pub call: Option<NonZeroU64>,
}

impl Sight {
    /// Whether it is known by a mark, so that a walk goes on.
    #[inline(always)]
    pub fn is_marked(&self) -> bool {
        self.packet.is_some() || self.call.is_some()
    }

    /// Asks the flow, if there is one, then the walks. The first deviation of a
    /// flow is its last word: more of them would tell of the same fault.
    #[inline(always)]
    pub fn deviation<const N: usize>(
        &self,
        flow: Option<&Order>,
        walks: Option<&mut Walks<N>>,
    ) -> Option<Deviation> {
        let Some(order) = flow else { return walks?.step_of(self) };
        let told = order.deviation().is_some();
        // Every watcher is shown it, whatever another says.
        let of_flow = self
            .direction
            .and_then(|direction| order.step(Step { place: self.place, direction, kinds: self.kinds }).err());
        let of_walk = walks.and_then(|walks| walks.step_of(self));
        let deviation = of_flow.or(of_walk).filter(|_| !told)?;
        order.deviate(deviation);
        Some(deviation)
    }
}
