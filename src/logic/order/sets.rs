//! What the rows say, as sets of rows, so that a walk follows all of them at
//! once.

use super::place::{PLACES, Place};
use super::rows::{Kinds, may_show_no_packet, rows};

/// A set of rows, a bit for each.
pub(super) type Rows = u64;

/// Where walks in order come: places that are on some row, numbered.
const STOPS: usize = stops();
/// With what is none behind them.
const ALL: usize = STOPS + 1;

/// A walk that has come to an end at a twin; behind all rows.
pub(super) const DISCARDED: Rows = 1 << (Rows::BITS - 1);

/// Above the rows in a word, and below [`DISCARDED`], a byte for a stop.
const STOP_SHIFT: u32 = 48;
const _: () = assert!(rows().len() <= STOP_SHIFT as usize && ALL <= 1 << 7);

/// A place as the rows know it: the number of a stop, or of what is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop(u8);

/// What the rows say of a stop, in one cache line.
#[repr(align(32))]
#[derive(Clone, Copy)]
struct Passing {
    /// Rows that come here. Each does once: so place and rows together say
    /// where in the rows a walk is.
    here: Rows,
    /// Those that begin here.
    first: Rows,
    /// Those that begin here for whoever sees packets alone.
    first_shown: Rows,
    /// Those that end here.
    last: Rows,
}

/// What the rows say of all stops.
struct Stops {
    /// Of each.
    passing: [Passing; MOST],
    /// Rows that come to each stop, from each.
    from: [[Rows; ALL]; ALL],
}

static STOP: [Passing; MOST] = all().passing;
static FROM: [[Rows; ALL]; ALL] = all().from;
/// Room for all stops, so that none is too high.
const MOST: usize = 32;
const _: () = assert!(ALL <= MOST && MOST.is_power_of_two());

/// Room for all places, so that none is too high.
const ROOM: usize = 64;
const _: () = assert!(PLACES <= ROOM && ROOM.is_power_of_two());
/// By place, its stop's number.
static NUMBERS: [u8; ROOM] = numbers();

/// The rows that something walks, by the lower half of its kinds' bits, and by
/// the upper.
static OF_KINDS: [[Rows; 16]; 2] = of_kinds();

impl Passing {
    /// What no row comes to.
    const NONE: Self = Self { here: 0, first: 0, first_shown: 0, last: 0 };
}

impl Stop {
    /// At a place.
    #[inline(always)]
    pub const fn at(place: Place) -> Self {
        Self(NUMBERS[place.number() % ROOM])
    }

    /// Whether it is this place's, and no other's.
    #[inline(always)]
    pub(super) fn is(self, place: Place) -> bool {
        self.0 != STOPS as u8 && self == Self::at(place)
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
    fn passing(self) -> &'static Passing {
        STOP.get(usize::from(self.0) % MOST).unwrap_or(&Passing::NONE)
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

    /// Those that begin here for whoever sees packets alone: the first layers may
    /// show none.
    #[inline(always)]
    pub(super) fn first_shown(self) -> Rows {
        self.passing().first_shown
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

/// Whether any row comes to a place.
pub(super) const fn is_stop(place: Place) -> bool {
    numbers()[place.number()] as usize != STOPS
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

const fn all() -> Stops {
    let (rows, numbers) = (rows(), numbers());
    let mut stops = Stops { passing: [Passing::NONE; MOST], from: [[0; ALL]; ALL] };
    let mut row = 0;
    while row < rows.len() {
        let bit = 1 << row;
        let (mut at, mut before, mut is_shown) = (0, None, false);
        while at < rows[row].places.len() {
            let place = rows[row].places[at];
            let number = numbers[place.number()] as usize;
            let stop = &mut stops.passing[number];
            assert!(stop.here & bit == 0, "a row comes to a place once");
            stop.here |= bit;
            match before {
                None => stop.first |= bit,
                Some(before) => stops.from[number][before] |= bit,
            }
            if !is_shown {
                stop.first_shown |= bit;
                is_shown = !may_show_no_packet(place);
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
