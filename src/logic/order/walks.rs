//! The walks of the packets and calls that are under way on one processor.

use core::cell::Cell;
use core::num::NonZeroU64;

use super::layer::LayerIndex;
use super::rows::Kinds;
use super::sets::OrderLayer;
use super::walk::{Deviation, Start, Walk};

/// The latest `N` walks, at most 16, each with its mark.
///
/// A packet's mark must be the same at every layer, and differ from those of other
/// packets under way. So it is made of addresses, ports and sequence number. At the
/// IP packet layers they are read from the header, which lies where "Data Offset
/// Positions" says. The address of the NET_BUFFER_LIST is not enough, because it is
/// used again. 0 means no mark.
///
/// Each value is for one processor and one writer at a time. A packet that changes
/// its processor, or that was evicted by `N` later ones, is next seen in the middle
/// of its walk. So the start is [`Start::AtAnyLayer`], unless the caller knows
/// better.
///
/// What every step uses is in one cache line, before the walks; a walk is in one
/// other.
#[repr(C)]
#[derive(Debug)]
pub struct Walks<const N: usize> {
    /// One byte of each mark; the mark of a new packet is compared with all of them.
    tags: Cell<[u8; MAX]>,
    /// The mark of the latest walk, and the walk. Usually a packet passes its layers
    /// without another packet in between.
    latest: Cell<u64>,
    walk: Cell<Walk>,
    /// What carries the packet, see [`step_of`](Walks::step_of).
    carrier: Cell<u64>,
    /// The index of the latest walk.
    place: Cell<usize>,
    oldest: Cell<usize>,
    walks: [Cell<Kept>; N],
}

/// The number of marks that are compared at once.
const MAX: usize = 16;

/// A walk that is not the latest, with its mark and what carries its packet.
#[repr(C, align(32))]
#[derive(Clone, Copy, Debug)]
struct Kept(u64, Walk, u64);

impl Kept {
    const NONE: Self = Self(0, Walk::NEW, 0);
}

impl<const N: usize> Default for Walks<N> {
    fn default() -> Self {
        const { assert!(N <= MAX) };
        Self {
            tags: Cell::new([0; MAX]),
            latest: Cell::new(0),
            walk: Cell::new(Walk::NEW),
            carrier: Cell::new(0),
            place: Cell::new(0),
            oldest: Cell::new(0),
            walks: [const { Cell::new(Kept::NONE) }; N],
        }
    }
}

impl<const N: usize> Walks<N> {
    /// Takes in a step of the packet or call with this mark.
    #[inline(always)]
    pub fn step(&self, mark: u64, seen: LayerIndex, kinds: Kinds, start: Start) -> Result<(), Deviation> {
        self.step_to(mark, OrderLayer::of(seen), kinds, start, 0)
    }

    /// Takes in a step of an indication, which may be at any layer of its walk.
    ///
    /// `carrier` is the address of the NET_BUFFER_LIST. If an equal packet comes to a
    /// layer again in another one, it is another packet: it was sent again, or another
    /// driver has injected a copy.
    #[inline(always)]
    pub fn step_of(
        &self,
        mark: NonZeroU64,
        seen: OrderLayer,
        kinds: Kinds,
        carrier: u64,
    ) -> Option<Deviation> {
        self.step_to(mark.get(), seen, kinds, Start::AtAnyLayer, carrier).err()
    }

    #[inline(always)]
    fn step_to(
        &self,
        mark: u64,
        seen: OrderLayer,
        kinds: Kinds,
        start: Start,
        carrier: u64,
    ) -> Result<(), Deviation> {
        if mark != self.latest.get() || mark == 0 {
            self.turn_to(mark);
        }
        let (mut walk, before) = (self.walk.get(), self.walk.get());
        let stepped = walk.step_to(seen, kinds, start);
        self.walk.set(walk);
        let carried = self.carrier.replace(carrier);
        match stepped {
            Err(_) if carried != carrier && before.is_at(seen) => Ok(()),
            stepped => stepped,
        }
    }

    /// The latest packet was blocked. It may have been absorbed, so that no layer shows
    /// its end; an equal packet may come next, in the same NET_BUFFER_LIST.
    #[cold]
    #[inline(never)]
    pub fn block(&self) {
        self.walk.set(self.walk.get().blocked());
    }

    /// Forgets all walks.
    pub fn clear(&self) {
        for kept in &self.walks {
            kept.set(Kept::NONE);
        }
        self.tags.set([0; MAX]);
        self.latest.set(0);
        self.walk.set(Walk::NEW);
    }

    /// Makes the walk with this mark the latest. A new walk evicts the oldest one.
    #[inline(never)]
    fn turn_to(&self, mark: u64) {
        if let Some(kept) = self.walks.get(self.place.get() % MAX) {
            kept.set(Kept(self.latest.get(), self.walk.get(), self.carrier.get()));
        }
        self.latest.set(mark);
        // Usually none is alike, because the packet is new.
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
            if let Some(Kept(known, walk, carrier)) = self.walks.get(place).map(Cell::get)
                && known == mark
            {
                self.walk.set(walk);
                self.carrier.set(carrier);
                self.place.set(place);
                return;
            }
            alike &= alike - 1;
        }
        self.begin(mark);
    }

    /// One bit for each walk whose mark may be this one: the highest bit of its
    /// byte.
    #[inline(always)]
    fn alike(&self, mark: u64) -> u128 {
        zeros(u128::from_le_bytes(self.tags.get()) ^ u128::from_ne_bytes([tag(mark); MAX]))
    }

    /// Begins a walk, which evicts the oldest one.
    #[inline(always)]
    fn begin(&self, mark: u64) {
        let place = self.oldest.get();
        if let Some(of_place) = self.tags.as_array_of_cells().get(place % MAX) {
            of_place.set(tag(mark));
        }
        self.walk.set(Walk::NEW);
        self.place.set(place);
        self.oldest.set(match place + 1 {
            next if N == MAX => next % MAX,
            next if next < N => next,
            _ => 0,
        });
    }
}

/// One byte that depends on all bits of a mark, because an endpoint's handle may be
/// an address or a small number.
const fn tag(mark: u64) -> u8 {
    (mark.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// The highest bit of each byte that is 0, and of some bytes above the first of
/// them, because of the borrow.
const fn zeros(bytes: u128) -> u128 {
    const LOWEST: u128 = u128::from_ne_bytes([1; MAX]);
    bytes.wrapping_sub(LOWEST) & !bytes & LOWEST << 7
}
