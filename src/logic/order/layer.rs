//! The index of a documented layer or its discard layer.

use crate::logic::layers::{LAYERS, Layer};

/// A layer or its discard layer, of both families: "IPv6 follows the IPv4 pattern"
/// ("TCP packet flows").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerIndex(u8);

/// The number of layers and discard layers.
pub(super) const LAYER_COUNT: usize = 2 * LAYERS.len();

impl LayerIndex {
    /// The layer with a name (`"STREAM"`).
    ///
    /// # Panics
    /// If no layer has the name. Use it in constants, where that fails the build.
    pub(super) const fn named(name: &str) -> Self {
        let mut row = 0;
        while !same(LAYERS[row].name, name) {
            row += 1;
        }
        Self(2 * row as u8)
    }

    /// The layer with a run-time id; `None` if it is not in the table.
    pub fn of_layer(layer_id: u16) -> Option<Self> {
        match *BY_LAYER.get(usize::from(layer_id))? {
            NOWHERE => None,
            layer => Some(Self(layer)),
        }
    }

    /// The layer in a row of [`LAYERS`], or its discard layer.
    pub const fn of_row(row: usize, discard: bool) -> Self {
        Self(2 * row as u8 + discard as u8)
    }

    /// The row in [`LAYERS`].
    pub fn layer(self) -> Option<&'static Layer> {
        LAYERS.get(usize::from(self.0 / 2))
    }

    /// Whether this is a discard layer.
    pub const fn is_discard(self) -> bool {
        self.0 % 2 == 1
    }

    /// The discard layer of this layer.
    pub(super) const fn discard(self) -> Self {
        Self(self.0 | 1)
    }

    /// The layer of this discard layer.
    pub(super) const fn without_discard(self) -> Self {
        Self(self.0 & !1)
    }

    /// The index, which is below [`LAYER_COUNT`].
    pub(super) const fn number(self) -> usize {
        self.0 as usize
    }

    /// The layer with an index that [`number`](Self::number) has returned.
    pub(super) const fn from_number(number: u8) -> Self {
        Self(number)
    }
}

const NOWHERE: u8 = u8::MAX;
const LAYER_IDS: usize = 72;
static BY_LAYER: [u8; LAYER_IDS] = by_layer();

const fn by_layer() -> [u8; LAYER_IDS] {
    let mut layers = [NOWHERE; LAYER_IDS];
    let mut row = 0;
    while row < LAYERS.len() {
        let mut column = 0;
        while column < LAYERS[row].ids.len() {
            let id = LAYERS[row].ids[column] as usize;
            layers[id] = 2 * row as u8;
            if LAYERS[row].discard.is_some() {
                layers[id + 1] = 2 * row as u8 + 1;
            }
            column += 1;
        }
        row += 1;
    }
    layers
}

const fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    let mut at = 0;
    while at < a.len() {
        if a[at] != b[at] {
            return false;
        }
        at += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::callouts::CALLOUTS;

    #[test]
    fn every_callout_has_a_layer_index() {
        for callout in &CALLOUTS {
            let layer = LayerIndex::of_layer(callout.layer_id).unwrap();
            assert_eq!(layer.layer(), Some(callout.layer));
            assert_eq!(layer.is_discard(), callout.discard);
            let named = LayerIndex::named(callout.layer.name);
            assert_eq!(if callout.discard { named.discard() } else { named }, layer);
        }
        assert_eq!((0..=u16::MAX).filter_map(LayerIndex::of_layer).count(), CALLOUTS.len());
    }
}
