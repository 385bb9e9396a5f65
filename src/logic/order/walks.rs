//! The packets on their way on one processor, or the calls of endpoints.

use super::place::Place;
use super::rows::Kinds;
use super::sight::Sight;
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
    /// The walk that took the last step, and its mark: a packet mostly passes
    /// its layers without another between them.
    latest: (u64, Walk),
    /// Where it belongs among all of them.
    place: usize,
    /// A byte of each mark: a new packet's is compared with all of them.
    tags: [u8; N],
    walks: [(u64, Walk); N],
    oldest: usize,
}

impl<const N: usize> Default for Walks<N> {
    fn default() -> Self {
        let none = (0, Walk::NEW);
        Self { latest: none, place: 0, tags: [0; N], walks: [none; N], oldest: 0 }
    }
}

impl<const N: usize> Walks<N> {
    /// Takes in a step of what has this mark. Looks at `N` walks at the most.
    #[inline(always)]
    pub fn step(&mut self, mark: u64, seen: Place, kinds: Kinds, start: Start) -> Result<(), Deviation> {
        if mark != self.latest.0 || mark == 0 {
            self.turn_to(mark);
        }
        self.latest.1.step(seen, kinds, start)
    }

    /// Takes in what a classify shows: of the packet, and of the call.
    #[inline(always)]
    pub(super) fn step_of(&mut self, sight: &Sight) -> Option<Deviation> {
        let (mark, kinds) = match sight.packet {
            Some(mark) => (mark, sight.kinds),
            None => (sight.call?, Kinds::CALL),
        };
        let first = self.step(mark.get(), sight.place, kinds, Start::Anywhere).err();
        match (sight.packet, sight.call) {
            (Some(_), Some(mark)) => first.or(self.step_of_call(mark.get(), sight.place)),
            _ => first,
        }
    }

    /// A call that shows its packet is two walks.
    #[cold]
    #[inline(never)]
    fn step_of_call(&mut self, mark: u64, seen: Place) -> Option<Deviation> {
        self.step(mark, seen, Kinds::CALL, Start::Anywhere).err()
    }

    /// Makes the walk with this mark the latest; the oldest one's place is a
    /// new one's.
    #[inline(never)]
    fn turn_to(&mut self, mark: u64) {
        if let Some(place) = self.walks.get_mut(self.place) {
            *place = self.latest;
        }
        let tag = tag(mark);
        if let Some((place, walk)) = self.find(mark, tag) {
            (self.latest, self.place) = (walk, place);
            return;
        }
        (self.latest, self.place) = ((mark, Walk::NEW), self.oldest);
        // Found by its tag and its mark when another is latest.
        if let (Some(to_tag), Some(to_walk)) = (self.tags.get_mut(self.place), self.walks.get_mut(self.place))
        {
            (*to_tag, to_walk.0) = (tag, mark);
        }
        self.oldest = if self.oldest + 1 < N { self.oldest + 1 } else { 0 };
    }

    /// The walk with a mark, and its place.
    #[inline(always)]
    fn find(&self, mark: u64, tag: u8) -> Option<(usize, (u64, Walk))> {
        if mark == 0 {
            return None;
        }
        let known =
            |place| self.walks.get(place).filter(|(known, _)| *known == mark).map(|walk| (place, *walk));
        let (eights, rest) = self.tags.as_chunks::<8>();
        let mut first = 0;
        for eight in eights {
            let mut alike = zeros(u64::from_le_bytes(*eight) ^ u64::from_ne_bytes([tag; 8]));
            // Mostly none: what comes is new.
            while alike != 0 {
                let found = known(first + alike.trailing_zeros() as usize / 8);
                if found.is_some() {
                    return found;
                }
                alike &= alike - 1;
            }
            first += 8;
        }
        (first..first + rest.len()).find_map(known)
    }
}

/// A byte of all of a mark: an endpoint's handle may be an address or a small
/// number.
const fn tag(mark: u64) -> u8 {
    (mark.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// The highest bit of each byte that is 0, and of some above the first of them:
/// where a borrow comes from below.
const fn zeros(bytes: u64) -> u64 {
    const LOWEST: u64 = u64::from_ne_bytes([1; 8]);
    bytes.wrapping_sub(LOWEST) & !bytes & LOWEST << 7
}
