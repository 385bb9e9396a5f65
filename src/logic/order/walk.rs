//! The walk of one packet or one call: the rows that it may be on.

use super::layer::LayerIndex;
use super::rows::{IN_IP, Kinds, OUT_IP, ROW_LAYERS, RowLayers};
use super::sets::{DISCARDED, OrderLayer, RowLayer, Rows, of};

/// The point where a walk leaves the documented order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deviation {
    /// The layer that was expected; `None` if none was.
    pub expected: Option<LayerIndex>,
    /// The layer that came instead; `None` if none did.
    pub seen: Option<LayerIndex>,
}

/// Where the first step of a walk may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At the first layer of a row, for a caller that sees everything.
    AtFirstLayer,
    /// At any layer: the beginning may have been on another processor, or before the
    /// check was switched on.
    AtAnyLayer,
}

/// The position of a packet or a call in the rows.
///
/// It follows all rows that match the layers passed so far. A step keeps the rows that
/// continue with the next layer. So every step costs the same.
///
/// The position is one word: the rows, and between the last row and `DISCARDED`
/// the last layer. 0 means that nothing has been passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walk(Rows);

impl Walk {
    /// Nothing has been passed.
    pub const NEW: Self = Self(0);

    #[inline(always)]
    fn on(rows: Rows, at: RowLayer) -> Self {
        Self(rows | at.above_rows())
    }

    #[inline(always)]
    fn at(self) -> RowLayer {
        RowLayer::of_word(self.0)
    }

    /// Whether the latest layer is this one.
    pub(super) fn is_at(self, layer: OrderLayer) -> bool {
        self.0 != 0 && self.at() == layer.row_layer
    }

    /// The walk of a packet that was blocked where it is: it may be over.
    pub(super) fn blocked(self) -> Self {
        if self.0 == 0 { self } else { Self(self.0 | DISCARDED) }
    }

    /// Takes in the next layer.
    ///
    /// After a deviation the walk continues from the layer that was seen, so that
    /// one fault is reported once.
    #[inline(always)]
    pub fn step(&mut self, seen: LayerIndex, kinds: Kinds, start: Start) -> Result<(), Deviation> {
        self.step_to(OrderLayer::of(seen), kinds, start)
    }

    /// [`step`](Self::step), with the layer's number among those on rows.
    #[inline(always)]
    pub(super) fn step_to(&mut self, layer: OrderLayer, kinds: Kinds, start: Start) -> Result<(), Deviation> {
        let OrderLayer { index: seen, row_layer: here } = layer;
        let due = match (self.0, start) {
            (0, Start::AtFirstLayer) => here.first(),
            (0, Start::AtAnyLayer) => here.here(),
            _ => {
                // If the layer is on no row, this is 0.
                let onward = self.0 & here.from(self.at());
                if seen.is_discard() && self.at().is(seen.without_discard()) {
                    // A filter dropped it. A row may also continue behind it.
                    *self = Self::on(onward & of(kinds) | DISCARDED, here);
                    return Ok(());
                }
                // Few rows begin at a later layer.
                if here.first_shown() != 0 { onward | self.rows_of_next_walk(layer, kinds) } else { onward }
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

    /// The rows on which the next walk with this mark may begin here, if this one
    /// can be over. Any call may follow a call. Another packet with the same mark
    /// has the same direction, and its walk begins at the first layer that shows it.
    #[inline(always)]
    fn rows_of_next_walk(self, layer: OrderLayer, kinds: Kinds) -> Rows {
        if !self.may_end() {
            return 0;
        }
        let OrderLayer { index: seen, row_layer: here } = layer;
        if kinds.within(Kinds::CALL) {
            return here.first();
        }
        let begins = self.0 & DISCARDED != 0 || (self.at() == RowLayer::at(OUT_IP)) != (seen == IN_IP);
        if begins { here.first_shown() } else { 0 }
    }

    /// Continues from a layer that was not expected.
    #[cold]
    #[inline(never)]
    fn deviate(self, seen: LayerIndex, kinds: Kinds) -> (Self, Deviation) {
        let here = RowLayer::at(seen);
        let expected = match self.0 {
            0 => ROW_LAYERS
                .get((here.here() & of(kinds)).trailing_zeros() as usize)
                .and_then(|row| row.layers().first()),
            _ => self.due(of(kinds)),
        };
        let walk = if here.here() == 0 { Self::NEW } else { Self::on(here.here(), here) };
        (walk, Deviation { expected: expected.copied(), seen: Some(seen) })
    }

    /// The layer that is expected next, on a documented row if one is in the set.
    fn due(self, among: Rows) -> Option<&'static LayerIndex> {
        let rows = ROW_LAYERS.iter().enumerate().filter(|(row, _)| self.0 & among & 1 << row != 0);
        let next = |row: &'static RowLayers| {
            let mut behind = row.layers().iter().skip_while(|layer| RowLayer::at(**layer) != self.at());
            behind.nth(1)
        };
        rows.filter_map(|(_, row)| next(row)).next()
    }

    /// Whether the walk may be over; for a caller that knows that nothing follows. A
    /// packet can be lost or wait between any two layers.
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
