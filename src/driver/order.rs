//! The watch over the order in which packets and calls pass the layers
//! (`CheckOrder`).

use crate::kernel::exclusive::Exclusive;
use crate::kernel::irql::{LevelLock, MaxDispatch, Passive};
use crate::kernel::status::Result;
use crate::kernel::wfp::incoming::Incoming;
use crate::logic::flow::Flow;
use crate::logic::order::{Deviation, Walks};

/// Packets and calls under way that are followed on one processor. A packet
/// passes its layers in one go; between two of them others come in only where
/// it is put together or waits.
const WALKS: usize = 16;

/// What every processor has under way.
pub struct Watch(Exclusive<Underway>);

struct Underway {
    /// Of which watch they are.
    watch: u16,
    walks: Walks<WALKS>,
}

impl Watch {
    /// Nothing under way.
    pub fn new(irql: &Passive) -> Result<Self> {
        let nothing = || Underway { watch: 0, walks: Walks::default() };
        Ok(Self(Exclusive::new(nothing, irql)?))
    }

    /// Looks at a classify while the watch with this number is on; says where
    /// the documented order is left.
    pub fn see(
        &self,
        watch: u16,
        flow: Option<&Flow>,
        incoming: &Incoming<'_>,
        irql: &MaxDispatch,
    ) -> Option<Deviation> {
        let sight = incoming.sight()?;
        let order = flow.map(Flow::order).filter(|order| order.watch() == watch);
        if !sight.is_marked() {
            // No walk goes on; its flow is asked.
            return sight.deviation::<WALKS>(order, None);
        }
        let mut lock = LevelLock::default();
        let irql = irql.raise(&mut lock);
        let mut underway = self.0.take(&irql)?;
        if underway.watch != watch {
            // What an earlier watch left has gone on unseen.
            *underway = Underway { watch, walks: Walks::default() };
        }
        sight.deviation(order, Some(&mut underway.walks))
    }
}
