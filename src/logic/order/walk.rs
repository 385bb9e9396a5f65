//! One thing's walk: which rows it may still be on.

use super::place::Place;
use super::rows::{IN_IP, Kinds, OUT_IP, WAYS};
use super::sets::{DISCARDED, Rows, Stop, of};

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

/// Where in the rows a packet or a call may be.
///
/// All rows are followed at once: those that have come to the place seen last as
/// the walk did. A step keeps the rows that go on where the next thing is seen.
/// So it costs the same whatever came before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walk {
    /// No row is: nothing seen yet.
    rows: Rows,
    at: Place,
}

impl Walk {
    /// Nothing seen yet.
    pub const NEW: Self = Self { rows: 0, at: IN_IP };

    /// Takes in the next place.
    ///
    /// After a deviation the walk goes on from the place that was seen, so
    /// that one fault is one report.
    #[inline(always)]
    pub fn step(&mut self, seen: Place, kinds: Kinds, start: Start) -> Result<(), Deviation> {
        let here = Stop::at(seen);
        let onward = self.rows & here.from(self.at);
        let due = match (self.rows, start) {
            (0, Start::Whole) => here.first,
            (0, Start::Anywhere) => here.here,
            _ if seen.is_discard() && self.at == seen.taken() => {
                // A filter's drop; a row may go on behind it, too.
                *self = Self { rows: (onward & of(kinds)) | DISCARDED, at: seen };
                return Ok(());
            }
            // Mostly nothing begins here.
            _ if here.first != 0 => onward | self.again(seen, kinds),
            _ => onward,
        };
        let next = due & of(kinds);
        if next == 0 {
            return Err(self.deviate(seen, kinds));
        }
        *self = Self { rows: next, at: seen };
        Ok(())
    }

    /// The rows on which another walk may begin here behind this one, which is
    /// over: any call behind a call; another packet with the same mark goes the
    /// same way as the first.
    fn again(&self, seen: Place, kinds: Kinds) -> Rows {
        if !self.may_end() {
            return 0;
        }
        let begins =
            self.rows & DISCARDED != 0 || kinds.within(Kinds::CALL) || (self.at == OUT_IP) != (seen == IN_IP);
        if begins { Stop::at(seen).first } else { 0 }
    }

    /// Goes on from a place that was not due.
    #[cold]
    #[inline(never)]
    fn deviate(&mut self, seen: Place, kinds: Kinds) -> Deviation {
        let here = Stop::at(seen).here;
        let expected = match self.rows {
            0 => WAYS.get((here & of(kinds)).trailing_zeros() as usize).and_then(|way| way.first()),
            _ => self.due(of(kinds)),
        };
        *self = Self { rows: here, at: seen };
        Deviation { expected: expected.copied(), seen: Some(seen) }
    }

    /// What is due next: on the documented row, if that is among these.
    fn due(&self, among: Rows) -> Option<&'static Place> {
        let ways = WAYS.iter().enumerate().filter(|(row, _)| self.rows & among & 1 << row != 0);
        let next = |way: &'static [Place]| {
            let mut behind = way.iter().skip_while(|place| **place != self.at);
            behind.nth(1)
        };
        ways.filter_map(|(_, way)| next(way)).next()
    }

    /// Whether the walk may be over: for whoever knows that nothing follows. A
    /// packet can be lost between any two layers, and wait there.
    pub fn end(&self) -> Result<(), Deviation> {
        if self.rows == 0 || self.may_end() {
            return Ok(());
        }
        Err(Deviation { expected: self.due(Rows::MAX).copied(), seen: None })
    }

    fn may_end(&self) -> bool {
        self.rows & (Stop::at(self.at).last | DISCARDED) != 0
    }
}
