//! What the rows say, as sets of rows, so that a walk follows all of them at
//! once.

use super::layer::{LayerIndex, PLACES};
use super::rows::{Kinds, rows};

/// A set of rows, a bit for each.
pub(super) type Rows = u64;

/// Where walks in order come: layers that are on some row, numbered.
const STOPS: usize = stops();
/// With what is none behind them.
const ALL: usize = STOPS + 1;

/// A walk that has come to an end at a twin; behind all rows.
pub(super) const DISCARDED: Rows = 1 << (Rows::BITS - 1);

/// Above the rows in a word, and below [`DISCARDED`], a byte for a stop.
const STOP_SHIFT: u32 = 48;
const _: () = assert!(rows().len() <= STOP_SHIFT as usize && ALL <= 1 << 7);

/// A layer as the rows know it: the number of a stop, or of what is none.
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

/// What the rows say of a stop, in one cache line.
#[repr(align(32))]
#[derive(Clone, Copy)]
struct LayerRows {
    /// Rows that come here. Each does once: so layer and rows together say
    /// where in the rows a walk is.
    here: Rows,
    /// Those that begin here.
    first: Rows,
    /// Those that end here.
    last: Rows,
}

/// What the rows say of all stops.
struct RowTables {
    /// Of each.
    passing: [LayerRows; MOST],
    /// Rows that come to each stop, from each.
    from: [[Rows; ALL]; ALL],
}

static STOP: [LayerRows; MOST] = all().passing;
static FROM: [[Rows; ALL]; ALL] = all().from;
/// Room for all stops, so that none is too high.
const MOST: usize = 32;
const _: () = assert!(ALL <= MOST && MOST.is_power_of_two());

/// Room for all layers, so that none is too high.
const ROOM: usize = 64;
const _: () = assert!(PLACES <= ROOM && ROOM.is_power_of_two());
/// By layer, its stop's number.
static NUMBERS: [u8; ROOM] = numbers();

/// The rows that something walks, by the lower half of its kinds' bits, and by
/// the upper.
static OF_KINDS: [[Rows; 16]; 2] = of_kinds();

impl LayerRows {
    /// What no row comes to.
    const NONE: Self = Self { here: 0, first: 0, last: 0 };
}

impl RowLayer {
    /// At a layer.
    #[inline(always)]
    pub const fn at(layer: LayerIndex) -> Self {
        Self(NUMBERS[layer.number() % ROOM])
    }

    /// Whether it is this layer's, and no other's.
    #[inline(always)]
    pub(super) fn is(self, layer: LayerIndex) -> bool {
        self.0 != STOPS as u8 && self == Self::at(layer)
    }

    /// In a word above the rows.
    #[inline(always)]
    pub(super) const fn above_rows(self) -> Rows {
        (self.0 as Rows) << STOP_SHIFT
    }

    /// The one that stands above a word's rows.
    #[inline(always)]
    pub(super) const fn of_word(word: Rows) -> Self {
        Self((word >> STOP_SHIFT) as u8)
    }

    #[inline(always)]
    fn passing(self) -> &'static LayerRows {
        STOP.get(usize::from(self.0) % MOST).unwrap_or(&LayerRows::NONE)
    }

    /// Rows that come here.
    #[inline(always)]
    pub(super) fn here(self) -> Rows {
        self.passing().here
    }

    /// Those that begin here.
    #[inline(always)]
    pub(super) fn first(self) -> Rows {
        self.passing().first
    }

    /// Those that end here.
    #[inline(always)]
    pub(super) fn last(self) -> Rows {
        self.passing().last
    }

    /// Rows that come here from another stop.
    #[inline(always)]
    pub(super) fn from(self, other: Self) -> Rows {
        let at = usize::from(self.0) * ALL + usize::from(other.0);
        FROM.as_flattened().get(at).copied().unwrap_or(0)
    }
}

/// Whether any row contains a layer. A discard layer belongs to its layer.
pub(super) const fn is_on_row(layer: LayerIndex) -> bool {
    numbers()[layer.taken().number()] as usize != STOPS
}

/// The rows that one of these may walk.
#[inline(always)]
pub(super) fn of(kinds: Kinds) -> Rows {
    let [lower, upper] = &OF_KINDS;
    let half = |rows: &[Rows; 16], bits: u32| rows.get(bits as usize % 16).copied().unwrap_or(0);
    let bits = u32::from(kinds.bits());
    half(lower, bits) | half(upper, bits / 16)
}

const fn stops() -> usize {
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
    let (rows, mut numbers, mut count) = (rows(), [STOPS as u8; ROOM], 0);
    let mut row = 0;
    while row < rows.len() {
        let mut at = 0;
        while at < rows[row].layers.len() {
            let layer = rows[row].layers[at].number();
            if numbers[layer] as usize == STOPS {
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
    let mut stops = RowTables { passing: [LayerRows::NONE; MOST], from: [[0; ALL]; ALL] };
    let mut row = 0;
    while row < rows.len() {
        let bit = 1 << row;
        let (mut at, mut before) = (0, None);
        while at < rows[row].layers.len() {
            let number = numbers[rows[row].layers[at].number()] as usize;
            let stop = &mut stops.passing[number];
            assert!(stop.here & bit == 0, "a row comes to a layer once");
            stop.here |= bit;
            match before {
                None => stop.first |= bit,
                Some(before) => stops.from[number][before] |= bit,
            }
            before = Some(number);
            at += 1;
        }
        if let Some(last) = before {
            stops.passing[last].last |= bit;
        }
        row += 1;
    }
    stops
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
