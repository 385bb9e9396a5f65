//! What the rows say, as sets of rows, so that a walk follows all of them at
//! once.

use super::place::{PLACES, Place};
use super::rows::{Kinds, rows};

/// A set of rows, a bit for each.
pub(super) type Rows = u64;

/// Where walks in order come: places that are on some row, numbered.
const STOPS: usize = stops();
/// With what is none behind them.
const ALL: usize = STOPS + 1;

/// A walk that has come to an end at a twin; behind all rows.
pub(super) const DISCARDED: Rows = 1 << (Rows::BITS - 1);
const _: () = assert!(rows().len() < Rows::BITS as usize - 1);

/// What the rows say of a place.
#[derive(Clone, Copy)]
pub(super) struct Stop {
    /// Rows that come here. Each does once: so place and rows together say
    /// where in the rows a walk is.
    pub here: Rows,
    /// Those that begin here.
    pub first: Rows,
    /// Those that end here.
    pub last: Rows,
    /// Rows that come here from each stop.
    from: [Rows; ALL],
}

/// By number.
static STOP: [Stop; ALL] = all();

/// Room for all places, so that none is too high.
const ROOM: usize = 64;
const _: () = assert!(PLACES <= ROOM && ROOM.is_power_of_two());
/// By place, its stop's number.
static NUMBERS: [u8; ROOM] = numbers();

/// The rows that something walks, by the lower half of its kinds' bits, and by
/// the upper.
static OF_KINDS: [[Rows; 16]; 2] = of_kinds();

impl Stop {
    /// What no row comes to.
    const NONE: Self = Self { here: 0, first: 0, last: 0, from: [0; ALL] };

    /// At a place.
    #[inline(always)]
    pub fn at(place: Place) -> &'static Self {
        STOP.get(number(place)).unwrap_or(&Self::NONE)
    }

    /// Rows that come here from another place.
    #[inline(always)]
    pub fn from(&self, place: Place) -> Rows {
        self.from.get(number(place)).copied().unwrap_or(0)
    }
}

#[inline(always)]
fn number(place: Place) -> usize {
    NUMBERS.get(place.number() % ROOM).copied().unwrap_or(STOPS as u8).into()
}

/// Whether any row comes to a place.
pub(super) const fn is_stop(place: Place) -> bool {
    numbers()[place.number()] as usize != STOPS
}

/// The rows that one of these may walk.
#[inline(always)]
pub(super) fn of(kinds: Kinds) -> Rows {
    let [lower, upper] = &OF_KINDS;
    let half = |rows: &[Rows; 16], bits: u8| rows.get(usize::from(bits % 16)).copied().unwrap_or(0);
    half(lower, kinds.bits()) | half(upper, kinds.bits() / 16)
}

const fn stops() -> usize {
    let (rows, mut seen, mut row) = (rows(), 0_u64, 0);
    while row < rows.len() {
        let mut at = 0;
        while at < rows[row].places.len() {
            seen |= 1 << rows[row].places[at].number();
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
        while at < rows[row].places.len() {
            let place = rows[row].places[at].number();
            if numbers[place] as usize == STOPS {
                numbers[place] = count;
                count += 1;
            }
            at += 1;
        }
        row += 1;
    }
    numbers
}

const fn all() -> [Stop; ALL] {
    let (rows, numbers) = (rows(), numbers());
    let (mut stops, mut row) = ([Stop::NONE; ALL], 0);
    while row < rows.len() {
        let bit = 1 << row;
        let (mut at, mut before) = (0, None);
        while at < rows[row].places.len() {
            let number = numbers[rows[row].places[at].number()] as usize;
            let stop = &mut stops[number];
            assert!(stop.here & bit == 0, "a row comes to a place once");
            stop.here |= bit;
            match before {
                None => stop.first |= bit,
                Some(before) => stop.from[before] |= bit,
            }
            before = Some(number);
            at += 1;
        }
        if let Some(last) = before {
            stops[last].last |= bit;
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
