//! The rows as sets, so that a walk follows all of them at once.

use super::layer::{LAYER_COUNT, LayerIndex};
use super::rows::{Kinds, may_show_no_packet, rows};

/// A set of rows, one bit for each.
pub(super) type Rows = u64;

/// The number of layers that are on some row.
const ROW_LAYER_COUNT: usize = row_layers();
/// One more, for layers that are on no row.
const ALL: usize = ROW_LAYER_COUNT + 1;

/// A walk that has ended at a discard layer. The bit is above those of all rows.
pub(super) const DISCARDED: Rows = 1 << (Rows::BITS - 1);

/// Above the rows in a word, and below [`DISCARDED`]: one byte for a [`RowLayer`].
const ROW_LAYER_SHIFT: u32 = 48;
const _: () = assert!(rows().len() <= ROW_LAYER_SHIFT as usize && ALL <= 1 << 7);

/// A layer's number among the layers on rows, or the number that means no row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowLayer(u8);

/// A layer, and its number among the layers on rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrderLayer {
    /// The layer.
    pub index: LayerIndex,
    pub(super) row_layer: RowLayer,
}

impl OrderLayer {
    /// Looks up the number of a layer.
    #[inline(always)]
    pub const fn of(index: LayerIndex) -> Self {
        Self { index, row_layer: RowLayer::at(index) }
    }
}

/// The rows at a layer, in one cache line.
#[repr(align(32))]
#[derive(Clone, Copy)]
struct LayerRows {
    /// Rows that contain the layer. Each contains it once, so layer and rows
    /// together are the position of a walk.
    here: Rows,
    /// Rows that begin here.
    first: Rows,
    /// Rows in which this may be the first layer that shows the packet.
    first_shown: Rows,
    /// Rows that end here.
    last: Rows,
}

/// The rows at all layers.
struct RowTables {
    /// By layer.
    at_layer: [LayerRows; MAX],
    /// Rows that come to a layer, by the layer before it.
    from: [[Rows; ALL]; ALL],
}

static ROWS_AT: [LayerRows; MAX] = all().at_layer;
/// Sets of rows that come from one layer to another. Few pairs of layers follow each
/// other on a row, so each set is stored once. The first set is empty.
static STEPS: [Rows; steps().count] = steps_alone();
/// By layer, and by the layer before it: the place in [`STEPS`].
static STEP_AT: [[u8; ALL]; ALL] = steps().at;
/// Room for all layers on rows, so that no index is out of bounds.
const MAX: usize = 32;
const _: () = assert!(ALL <= MAX && MAX.is_power_of_two());

/// Room for all layers, so that no index is out of bounds.
const ROOM: usize = 64;
const _: () = assert!(LAYER_COUNT <= ROOM && ROOM.is_power_of_two());
/// By layer: its number among the layers on rows.
static NUMBERS: [u8; ROOM] = numbers();

/// The rows that a packet or call may follow, by the lower half of its kinds' bits
/// and by the upper half.
static OF_KINDS: [[Rows; 16]; 2] = of_kinds();

impl LayerRows {
    /// No row contains the layer.
    const NONE: Self = Self { here: 0, first: 0, first_shown: 0, last: 0 };
}

impl RowLayer {
    /// The number of a layer.
    #[inline(always)]
    pub const fn at(layer: LayerIndex) -> Self {
        Self(NUMBERS[layer.number() % ROOM])
    }

    /// Whether it is the number of this layer.
    #[inline(always)]
    pub(super) fn is(self, layer: LayerIndex) -> bool {
        self.0 != ROW_LAYER_COUNT as u8 && self == Self::at(layer)
    }

    /// The number in a word, above the rows.
    #[inline(always)]
    pub(super) const fn above_rows(self) -> Rows {
        (self.0 as Rows) << ROW_LAYER_SHIFT
    }

    /// The number in a word.
    #[inline(always)]
    pub(super) const fn of_word(word: Rows) -> Self {
        Self((word >> ROW_LAYER_SHIFT) as u8)
    }

    #[inline(always)]
    fn at_layer(self) -> &'static LayerRows {
        ROWS_AT.get(usize::from(self.0) % MAX).unwrap_or(&LayerRows::NONE)
    }

    /// Rows that contain the layer.
    #[inline(always)]
    pub(super) fn here(self) -> Rows {
        self.at_layer().here
    }

    /// Rows that begin here.
    #[inline(always)]
    pub(super) fn first(self) -> Rows {
        self.at_layer().first
    }

    /// Rows in which this may be the first layer that shows the packet.
    #[inline(always)]
    pub(super) fn first_shown(self) -> Rows {
        self.at_layer().first_shown
    }

    /// Rows that end here.
    #[inline(always)]
    pub(super) fn last(self) -> Rows {
        self.at_layer().last
    }

    /// Rows that come here from another layer.
    #[inline(always)]
    pub(super) fn from(self, other: Self) -> Rows {
        let at = usize::from(self.0) * ALL + usize::from(other.0);
        let step = STEP_AT.as_flattened().get(at).copied().unwrap_or(0);
        STEPS.get(usize::from(step)).copied().unwrap_or(0)
    }
}

/// Whether any row contains a layer. A discard layer belongs to its layer.
pub(super) const fn is_on_row(layer: LayerIndex) -> bool {
    numbers()[layer.without_discard().number()] as usize != ROW_LAYER_COUNT
}

/// The rows that one of these kinds may follow.
#[inline(always)]
pub(super) fn of(kinds: Kinds) -> Rows {
    let [lower, upper] = &OF_KINDS;
    let half = |rows: &[Rows; 16], bits: u32| rows.get(bits as usize % 16).copied().unwrap_or(0);
    let bits = u32::from(kinds.bits());
    half(lower, bits) | half(upper, bits / 16)
}

const fn row_layers() -> usize {
    let (rows, mut seen, mut row) = (rows(), 0_u64, 0);
    while row < rows.len() {
        let mut at = 0;
        while at < rows[row].layers.len() {
            seen |= 1 << rows[row].layers[at].number();
            at += 1;
        }
        row += 1;
    }
    seen.count_ones() as usize
}

const fn numbers() -> [u8; ROOM] {
    let (rows, mut numbers, mut count) = (rows(), [ROW_LAYER_COUNT as u8; ROOM], 0);
    let mut row = 0;
    while row < rows.len() {
        let mut at = 0;
        while at < rows[row].layers.len() {
            let layer = rows[row].layers[at].number();
            if numbers[layer] as usize == ROW_LAYER_COUNT {
                numbers[layer] = count;
                count += 1;
            }
            at += 1;
        }
        row += 1;
    }
    numbers
}

const fn all() -> RowTables {
    let (rows, numbers) = (rows(), numbers());
    let mut row_layers = RowTables { at_layer: [LayerRows::NONE; MAX], from: [[0; ALL]; ALL] };
    let mut row = 0;
    while row < rows.len() {
        let bit = 1 << row;
        let (mut at, mut before, mut is_shown) = (0, None, false);
        while at < rows[row].layers.len() {
            let layer = rows[row].layers[at];
            let number = numbers[layer.number()] as usize;
            let at_layer = &mut row_layers.at_layer[number];
            assert!(at_layer.here & bit == 0, "a row comes to a layer once");
            at_layer.here |= bit;
            match before {
                None => at_layer.first |= bit,
                Some(before) => row_layers.from[number][before] |= bit,
            }
            if !is_shown {
                at_layer.first_shown |= bit;
                is_shown = !may_show_no_packet(layer);
            }
            before = Some(number);
            at += 1;
        }
        if let Some(last) = before {
            row_layers.at_layer[last].last |= bit;
        }
        row += 1;
    }
    row_layers
}

/// The different sets of [`RowTables::from`], and where each stands.
struct Steps {
    sets: [Rows; MOST_STEPS],
    count: usize,
    at: [[u8; ALL]; ALL],
}

/// What a place of one byte can tell apart.
const MOST_STEPS: usize = 1 << u8::BITS;

const fn steps() -> Steps {
    let from = all().from;
    let mut steps = Steps { sets: [0; MOST_STEPS], count: 1, at: [[0; ALL]; ALL] };
    let mut pair = 0;
    while pair < ALL * ALL {
        let (layer, before) = (pair / ALL, pair % ALL);
        let mut step = 0;
        while step < steps.count && steps.sets[step] != from[layer][before] {
            step += 1;
        }
        if step == steps.count {
            steps.sets[step] = from[layer][before];
            steps.count += 1;
        }
        steps.at[layer][before] = step as u8;
        pair += 1;
    }
    steps
}

const fn steps_alone() -> [Rows; steps().count] {
    let (steps, mut alone, mut step) = (steps(), [0; steps().count], 0);
    while step < alone.len() {
        alone[step] = steps.sets[step];
        step += 1;
    }
    alone
}

const fn of_kinds() -> [[Rows; 16]; 2] {
    let rows = rows();
    let mut sets = [[0; 16]; 2];
    let mut bits = 0;
    while bits < 16 {
        let mut row = 0;
        while row < rows.len() {
            let walked = [
                rows[row].kinds.meets(Kinds::of_bits(bits)),
                rows[row].kinds.meets(Kinds::of_bits(bits << 4)),
            ];
            sets[0][bits as usize] |= (walked[0] as Rows) << row;
            sets[1][bits as usize] |= (walked[1] as Rows) << row;
            row += 1;
        }
        bits += 1;
    }
    sets
}
