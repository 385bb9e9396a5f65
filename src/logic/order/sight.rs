//! What one classify shows of the order, and who is asked about it.

use super::flow_order::{Direction, Order, Step};
use super::place::Place;
use super::rows::Kinds;
use super::walk::{Deviation, Start};
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
    pub packet: Option<u64>,
    /// The mark of the endpoint that was called.
    pub call: Option<u64>,
}

impl Sight {
    /// Asks the flow, if there is one, then the walks. The first deviation of a
    /// flow is its last word: more of them would tell of the same fault.
    pub fn deviation<const N: usize>(
        &self,
        flow: Option<&Order>,
        walks: Option<&mut Walks<N>>,
    ) -> Option<Deviation> {
        let told = flow.is_some_and(|order| order.deviation().is_some());
        // Every watcher is shown it, whatever another says.
        let of_flow = flow.zip(self.direction).and_then(|(order, direction)| {
            order.step(Step { place: self.place, direction, kinds: self.kinds }).err()
        });
        let of_walk = walks.and_then(|walks| {
            let mut step = |mark, kinds| walks.step(mark, self.place, kinds, Start::Anywhere).err();
            let packet = self.packet.and_then(|mark| step(mark, self.kinds));
            let call = self.call.and_then(|mark| step(mark, Kinds::CALL));
            packet.or(call)
        });
        let deviation = of_flow.or(of_walk).filter(|_| !told)?;
        if let Some(order) = flow {
            order.deviate(deviation);
        }
        Some(deviation)
    }
}
