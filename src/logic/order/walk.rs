//! One thing's walk: which rows it may still be on.

use super::place::Place;
use super::rows::{DISCARDED, IN_IP, Kinds, MASKS, Mask, OUT_IP};

/// The first point where a walk leaves the documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deviation {
    /// The place that was due, `None` where nothing was.
    pub expected: Option<Place>,
    /// What came instead, `None` where nothing did.
    pub seen: Option<Place>,
}

/// Whether a walk may be met in its middle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Whoever watches sees everything: a walk begins where a row begins.
    Whole,
    /// The beginning may have passed unseen: on another processor, or before
    /// there was a watcher.
    Anywhere,
}

/// The positions in the rows where a packet or a call may be.
///
/// All rows are followed at once, a bit for each position: a step moves every
/// bit by one and keeps those that stand at the place seen. So it costs the
/// same whatever came before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Walk(Mask);

impl Walk {
    /// Nothing seen yet.
    pub const NEW: Self = Self(0);

    /// Takes in the next place.
    ///
    /// After a deviation the walk goes on from the place that was seen, so
    /// that one fault is one report.
    pub fn step(&mut self, seen: Place, kinds: Kinds, start: Start) -> Result<(), Deviation> {
        let of_kinds = MASKS.of_kinds(kinds);
        let here = MASKS.of_place.get(seen.number()).copied().unwrap_or(0);
        if self.at().is_some_and(|last| last.discard() == seen && last != seen) {
            // A filter's drop; a row may go on behind it, too.
            self.0 = ((self.0 << 1) & !MASKS.first & of_kinds & here) | DISCARDED;
            return Ok(());
        }
        let due = match (self.0, start) {
            (0, Start::Whole) => MASKS.first,
            (0, Start::Anywhere) => Mask::MAX,
            (at, _) => ((at << 1) & !MASKS.first) | again(at, kinds),
        } & of_kinds;
        let next = due & here;
        if next != 0 {
            self.0 = next;
            return Ok(());
        }
        let expected = match self.0 {
            0 => beginning(here & of_kinds),
            at => place_of((at << 1) & !MASKS.first & of_kinds),
        };
        self.0 = here;
        Err(Deviation { expected, seen: Some(seen) })
    }

    /// Whether the walk may be over: for whoever knows that nothing follows. A
    /// packet can be lost between any two layers, and wait there.
    pub fn end(&self) -> Result<(), Deviation> {
        if self.0 == 0 || self.0 & MASKS.last != 0 {
            return Ok(());
        }
        Err(Deviation { expected: place_of((self.0 << 1) & !MASKS.first), seen: None })
    }

    /// The place seen last.
    pub fn at(&self) -> Option<Place> {
        place_of(self.0)
    }
}

/// Where another walk may begin behind one that is over: any call behind a
/// call; another packet with the same mark goes the same way as the first.
fn again(at: Mask, kinds: Kinds) -> Mask {
    let of = |place: Place| MASKS.of_place.get(place.number()).copied().unwrap_or(0);
    if at & MASKS.last == 0 {
        0
    } else if at & DISCARDED != 0 || kinds.within(Kinds::CALL) {
        MASKS.first
    } else if at & of(OUT_IP) != 0 {
        MASKS.first & !of(IN_IP)
    } else {
        MASKS.first & of(IN_IP)
    }
}

/// The first of these positions' places: the documented row's, if one is among
/// them.
fn place_of(mask: Mask) -> Option<Place> {
    MASKS.places.get(mask.trailing_zeros() as usize).copied()
}

/// Where the first row with one of these positions begins.
fn beginning(mask: Mask) -> Option<Place> {
    let lowest = mask & mask.wrapping_neg();
    // Nothing below the lowest of none.
    let up_to = lowest | lowest.saturating_sub(1);
    let firsts = MASKS.first & up_to;
    let first = Mask::BITS.checked_sub(firsts.leading_zeros() + 1)?;
    MASKS.places.get(first as usize).copied()
}
