//! One thing's walk: which rows it may still be on.

use super::layer::LayerIndex;
use super::rows::{IN_IP, Kinds, OUT_IP, ROW_LAYERS};
use super::sets::{DISCARDED, OrderLayer, RowLayer, Rows, of};

/// The first point where a walk leaves the documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deviation {
    /// The layer that was due, `None` where nothing was.
    pub expected: Option<LayerIndex>,
    /// What came instead, `None` where nothing did.
    pub seen: Option<LayerIndex>,
}

/// Whether a walk may be met in its middle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Whoever watches sees everything: a walk begins where a row begins.
    AtFirstLayer,
    /// The beginning may have passed unseen: on another processor, or before
    /// there was a watcher.
    AtAnyLayer,
}

/// Where in the rows a packet or a call may be.
///
/// All rows are followed at once: those that have come to the layer seen last as
/// the walk did. A step keeps the rows that go on where the next thing is seen.
/// So it costs the same whatever came before.
///
/// One word: the rows and, between the last of them and [`DISCARDED`], the stop
/// seen last. No row is nothing at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walk(Rows);

impl Walk {
    /// Nothing seen yet.
    pub const NEW: Self = Self(0);

    #[inline(always)]
    fn on(rows: Rows, at: RowLayer) -> Self {
        Self(rows | at.above_rows())
    }

    #[inline(always)]
    fn at(self) -> RowLayer {
        RowLayer::of_word(self.0)
    }

    /// Takes in the next layer.
    ///
    /// After a deviation the walk goes on from the layer that was seen, so
    /// that one fault is one report.
    #[inline(always)]
    pub fn step(&mut self, seen: LayerIndex, kinds: Kinds, start: Start) -> Result<(), Deviation> {
        self.step_to(OrderLayer::of(seen), kinds, start)
    }

    /// The same where the rows' name for the layer is known.
    #[inline(always)]
    pub(super) fn step_to(&mut self, layer: OrderLayer, kinds: Kinds, start: Start) -> Result<(), Deviation> {
        let OrderLayer { index: seen, row_layer: here } = layer;
        let due = match (self.0, start) {
            (0, Start::AtFirstLayer) => here.first(),
            (0, Start::AtAnyLayer) => here.here(),
            _ => {
                // Of no stop: its bits are no rows.
                let onward = self.0 & here.from(self.at());
                if seen.is_discard() && self.at().is(seen.taken()) {
                    // A filter's drop; a row may go on behind it, too.
                    *self = Self::on(onward & of(kinds) | DISCARDED, here);
                    return Ok(());
                }
                // Mostly nothing begins here.
                if here.first() != 0 { onward | self.rows_of_next_walk(seen, kinds) } else { onward }
            }
        };
        let next = due & of(kinds);
        if next == 0 {
            let (walk, deviation) = self.deviate(seen, kinds);
            *self = walk;
            return Err(deviation);
        }
        *self = Self::on(next, here);
        Ok(())
    }

    /// The rows on which another walk may begin here behind this one, which is
    /// over: any call behind a call; another packet with the same mark goes the
    /// same way as the first.
    fn rows_of_next_walk(self, seen: LayerIndex, kinds: Kinds) -> Rows {
        if !self.may_end() {
            return 0;
        }
        let begins = self.0 & DISCARDED != 0
            || kinds.within(Kinds::CALL)
            || (self.at() == RowLayer::at(OUT_IP)) != (seen == IN_IP);
        if begins { RowLayer::at(seen).first() } else { 0 }
    }

    /// Goes on from a layer that was not due.
    #[cold]
    #[inline(never)]
    fn deviate(self, seen: LayerIndex, kinds: Kinds) -> (Self, Deviation) {
        let here = RowLayer::at(seen);
        let expected = match self.0 {
            0 => ROW_LAYERS
                .get((here.here() & of(kinds)).trailing_zeros() as usize)
                .and_then(|layers| layers.first()),
            _ => self.due(of(kinds)),
        };
        let walk = if here.here() == 0 { Self::NEW } else { Self::on(here.here(), here) };
        (walk, Deviation { expected: expected.copied(), seen: Some(seen) })
    }

    /// What is due next: on the documented row, if that is among these.
    fn due(self, among: Rows) -> Option<&'static LayerIndex> {
        let rows = ROW_LAYERS.iter().enumerate().filter(|(row, _)| self.0 & among & 1 << row != 0);
        let next = |layers: &'static [LayerIndex]| {
            let mut behind = layers.iter().skip_while(|layer| RowLayer::at(**layer) != self.at());
            behind.nth(1)
        };
        rows.filter_map(|(_, layers)| next(layers)).next()
    }

    /// Whether the walk may be over: for whoever knows that nothing follows. A
    /// packet can be lost between any two layers, and wait there.
    pub fn end(&self) -> Result<(), Deviation> {
        if self.0 == 0 || self.may_end() {
            return Ok(());
        }
        Err(Deviation { expected: self.due(Rows::MAX).copied(), seen: None })
    }

    fn may_end(self) -> bool {
        self.0 & (self.at().last() | DISCARDED) != 0
    }
}
