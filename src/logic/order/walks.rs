//! The packets on their way on one processor, or the calls of endpoints.

use super::place::Place;
use super::rows::Kinds;
use super::walk::{Deviation, Start, Walk};

/// The latest `N` walks, each known by a mark.
///
/// A packet's mark has to be the same at every layer and differ between packets
/// that are on their way together: made of addresses, ports and sequence number
/// (at the IP packet layers read from the header, which lies where the data
/// start inbound and behind the IP header outbound: "Data Offset Positions"). A
/// NET_BUFFER_LIST's address alone does not do, for it is used again. 0 stands
/// for no mark.
///
/// One of these is for one processor and one writer at a time. A packet that
/// changes its processor, or that gave way to `N` later ones, is met in its
/// middle: so [`Start::Anywhere`], unless it is known that none does.
#[derive(Clone, Copy, Debug)]
pub struct Walks<const N: usize> {
    walks: [(u64, Walk); N],
    oldest: usize,
}

impl<const N: usize> Default for Walks<N> {
    fn default() -> Self {
        Self { walks: [(0, Walk::NEW); N], oldest: 0 }
    }
}

impl<const N: usize> Walks<N> {
    /// Takes in a step of what has this mark. Looks at `N` walks at the most.
    pub fn step(&mut self, mark: u64, seen: Place, kinds: Kinds, start: Start) -> Result<(), Deviation> {
        if let Some((_, walk)) = self.walks.iter_mut().find(|(known, _)| *known == mark && mark != 0) {
            return walk.step(seen, kinds, start);
        }
        let mut walk = Walk::NEW;
        let result = walk.step(seen, kinds, start);
        if let Some(slot) = self.walks.get_mut(self.oldest) {
            *slot = (mark, walk);
        }
        self.oldest = if self.oldest + 1 < N { self.oldest + 1 } else { 0 };
        result
    }
}
