//! The packets on their way on one processor, or the calls of endpoints.

use core::cell::Cell;
use core::num::NonZeroU64;

use super::layer::LayerIndex;
use super::rows::Kinds;
use super::sets::OrderLayer;
use super::walk::{Deviation, Start, Walk};

/// The latest `N` walks, 16 at the most, each known by a mark.
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
/// middle: so [`Start::AtAnyLayer`], unless it is known that none does.
///
/// What every step uses lies together before the walks, so that it is in one
/// cache line; a walk is in one other.
#[repr(C)]
#[derive(Debug)]
pub struct Walks<const N: usize> {
    /// A byte of each mark: a new packet's is compared with all of them.
    tags: Cell<[u8; MOST]>,
    /// The mark of the walk that took the last step, and the walk: a packet
    /// mostly passes its layers without another between them.
    latest: Cell<u64>,
    walk: Cell<Walk>,
    /// Where it belongs among all of them.
    place: Cell<usize>,
    oldest: Cell<usize>,
    walks: [Cell<Kept>; N],
}

/// As many as are compared at once.
const MOST: usize = 16;

/// A walk that is not the latest, by its mark.
#[repr(C, align(16))]
#[derive(Clone, Copy, Debug)]
struct Kept(u64, Walk);

impl<const N: usize> Default for Walks<N> {
    fn default() -> Self {
        const { assert!(N <= MOST) };
        Self {
            tags: Cell::new([0; MOST]),
            latest: Cell::new(0),
            walk: Cell::new(Walk::NEW),
            place: Cell::new(0),
            oldest: Cell::new(0),
            walks: [const { Cell::new(Kept(0, Walk::NEW)) }; N],
        }
    }
}

impl<const N: usize> Walks<N> {
    /// Takes in a step of what has this mark. Looks at `N` walks at the most.
    #[inline(always)]
    pub fn step(&self, mark: u64, seen: LayerIndex, kinds: Kinds, start: Start) -> Result<(), Deviation> {
        self.step_to(mark, OrderLayer::of(seen), kinds, start)
    }

    /// The same of what a classify shows.
    #[inline(always)]
    pub fn step_of(&self, mark: NonZeroU64, seen: OrderLayer, kinds: Kinds) -> Option<Deviation> {
        self.step_to(mark.get(), seen, kinds, Start::AtAnyLayer).err()
    }

    #[inline(always)]
    fn step_to(&self, mark: u64, seen: OrderLayer, kinds: Kinds, start: Start) -> Result<(), Deviation> {
        if mark != self.latest.get() || mark == 0 {
            self.turn_to(mark);
        }
        let mut walk = self.walk.get();
        let stepped = walk.step_to(seen, kinds, start);
        self.walk.set(walk);
        stepped
    }

    /// Forgets all of them.
    pub fn clear(&self) {
        for kept in &self.walks {
            kept.set(Kept(0, Walk::NEW));
        }
        self.tags.set([0; MOST]);
        self.latest.set(0);
        self.walk.set(Walk::NEW);
    }

    /// Makes the walk with this mark the latest; the oldest one's place is a
    /// new one's.
    #[inline(never)]
    fn turn_to(&self, mark: u64) {
        if let Some(kept) = self.walks.get(self.place.get() % MOST) {
            kept.set(Kept(self.latest.get(), self.walk.get()));
        }
        self.latest.set(mark);
        // Mostly none: what comes is new.
        match self.alike(mark) {
            0 => self.begin(mark),
            _ => self.turn_to_one_alike(mark),
        }
    }

    #[cold]
    #[inline(never)]
    fn turn_to_one_alike(&self, mark: u64) {
        let mut alike = self.alike(mark);
        while alike != 0 && mark != 0 {
            let place = alike.trailing_zeros() as usize / 8;
            if let Some(Kept(known, walk)) = self.walks.get(place).map(Cell::get)
                && known == mark
            {
                self.walk.set(walk);
                self.place.set(place);
                return;
            }
            alike &= alike - 1;
        }
        self.begin(mark);
    }

    /// A bit for each place whose mark may be this one: the highest of the
    /// place's byte.
    #[inline(always)]
    fn alike(&self, mark: u64) -> u128 {
        zeros(u128::from_le_bytes(self.tags.get()) ^ u128::from_ne_bytes([tag(mark); MOST]))
    }

    /// Has the latest begin, in the place of the oldest.
    #[inline(always)]
    fn begin(&self, mark: u64) {
        let place = self.oldest.get();
        if let Some(of_place) = self.tags.as_array_of_cells().get(place % MOST) {
            of_place.set(tag(mark));
        }
        self.walk.set(Walk::NEW);
        self.place.set(place);
        self.oldest.set(match place + 1 {
            next if N == MOST => next % MOST,
            next if next < N => next,
            _ => 0,
        });
    }
}

/// A byte of all of a mark: an endpoint's handle may be an address or a small
/// number.
const fn tag(mark: u64) -> u8 {
    (mark.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// The highest bit of each byte that is 0, and of some above the first of them:
/// where a borrow comes from below.
const fn zeros(bytes: u128) -> u128 {
    const LOWEST: u128 = u128::from_ne_bytes([1; MOST]);
    bytes.wrapping_sub(LOWEST) & !bytes & LOWEST << 7
}
