//! The sweep: combines what all processors know of each remote.

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};

use super::proven::Tag;
use super::table::{Scan, Seen, Table, WAYS};
use super::{Remote, Seed, Settings, Techniques, estimate, scale};

/// The places that each table brings: twice its slots of a set, so at least half of
/// all places are empty.
const PLACES: usize = 2 * WAYS;

/// A table's part of the memory in which the sweep combines the slots of one set. So
/// the memory grows with the processors. Only the sweep uses it. Zero means empty.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Merge {
    places: [Place; PLACES],
}

/// What the slots of one set know of a remote.
#[derive(Debug, Default)]
#[repr(C)]
struct Place {
    remote: [AtomicU64; 2],
    /// The ports, as bits. 0 means that the place is empty.
    ports: AtomicU64,
    techniques: AtomicU8,
    /// Whether a slot says that the remote has been reported.
    is_reported: AtomicBool,
    /// Whether this sweep reports it.
    is_scan: AtomicBool,
    /// Whether it has proven its address.
    is_proven: AtomicBool,
}

/// Reports every remote that scans. A remote is not reported again while the ports
/// of its last report are kept. To be called every eighth of a window, after the
/// spans have been changed, at PASSIVE_LEVEL, by one thread.
///
/// `tables` are the tables by number, without a gap. All of them have a remote in the
/// set of the same number. So the sets of one number are combined at a time, in a
/// hash table that the tables bring along. This takes time proportional to the slots
/// of all tables. The hash is keyed, so the network cannot choose its collisions.
pub fn sweep<'a, const SETS: usize, const CELLS: usize>(
    tables: impl Fn(usize) -> Option<&'a Table<SETS, CELLS>>,
    span: u32,
    settings: &Settings,
    mut report: impl FnMut(Scan),
) {
    let all = || (0..).map_while(&tables);
    let memory = Memory { tables: &tables, places: all().count() * PLACES, seed: settings.seed };
    let needed = settings.bits().max(1);
    for set in 0..SETS {
        let slots = || all().flat_map(|table| table.set_number(set));
        let seen = || slots().filter_map(|slot| Some((slot, slot.read(span)?)));
        for (_, seen) in seen() {
            if let Some(place) = memory.place_of(seen.remote) {
                place.add(&seen);
            }
        }
        let is_scan = |place: &Place| place.is_scan(needed);
        if memory.all().any(is_scan) {
            let proven = all().flat_map(|table| table.proven(set, span));
            proven.for_each(|tag| memory.set_proven(tag));
            memory.all().filter(|place| is_scan(place)).for_each(|place| report(place.report()));
            for (slot, seen) in seen() {
                if memory.place_of(seen.remote).is_some_and(|place| place.is_scan.load(Relaxed)) {
                    slot.set_reported(&seen, span);
                }
            }
        }
        memory.all().for_each(Place::clear);
    }
}

/// The places of all tables.
struct Memory<'t, F> {
    tables: &'t F,
    places: usize,
    seed: Seed,
}

impl<'a, 't, const SETS: usize, const CELLS: usize, F> Memory<'t, F>
where
    F: Fn(usize) -> Option<&'a Table<SETS, CELLS>>,
{
    fn all(&self) -> impl Iterator<Item = &'a Place> + use<'a, 't, SETS, CELLS, F> {
        (0..).map_while(self.tables).flat_map(|table| &table.merge.places)
    }

    /// The place of a remote, or an empty one for it. `None` if there is neither.
    fn place_of(&self, remote: Remote) -> Option<&'a Place> {
        self.find(Tag::of(remote, self.seed), |place| place.remote() == remote)
    }

    /// Notes that a remote has proven its address, if it has a place.
    fn set_proven(&self, tag: Tag) {
        let is_its = |place: &Place| Tag::of(place.remote(), self.seed) == tag;
        if let Some(place) = self.find(tag, is_its) {
            place.is_proven.store(true, Relaxed);
        }
    }

    /// The first place from a tag's own on that is empty or the one sought.
    fn find(&self, Tag(tag): Tag, is_sought: impl Fn(&Place) -> bool) -> Option<&'a Place> {
        let first = scale(tag, self.places);
        let numbers = (first..self.places).chain(0..first);
        let mut places = numbers.filter_map(|at| (self.tables)(at / PLACES)?.merge.places.get(at % PLACES));
        places.find(|place| place.is_empty() || is_sought(place))
    }
}

impl Place {
    fn is_empty(&self) -> bool {
        self.ports.load(Relaxed) == 0
    }

    fn remote(&self) -> Remote {
        let [high, low] = self.remote.each_ref().map(|half| half.load(Relaxed));
        Remote(u128::from(high) << 64 | u128::from(low))
    }

    fn add(&self, seen: &Seen) {
        for (to, half) in self.remote.iter().zip(seen.remote.halves()) {
            to.store(half, Relaxed);
        }
        self.ports.store(self.ports.load(Relaxed) | seen.ports, Relaxed);
        self.techniques.store(self.techniques.load(Relaxed) | seen.techniques, Relaxed);
        self.is_reported.store(self.is_reported.load(Relaxed) || seen.is_reported, Relaxed);
    }

    /// Whether the remote scans and has not been reported.
    fn is_scan(&self, needed: u32) -> bool {
        self.ports.load(Relaxed).count_ones() >= needed && !self.is_reported.load(Relaxed)
    }

    /// The scan to report.
    fn report(&self) -> Scan {
        self.is_scan.store(true, Relaxed);
        Scan {
            remote: self.remote(),
            techniques: Techniques::of_bits(self.techniques.load(Relaxed)),
            ports: estimate(self.ports.load(Relaxed).count_ones()),
            is_proven: self.is_proven.load(Relaxed),
        }
    }

    fn clear(&self) {
        self.ports.store(0, Relaxed);
        self.techniques.store(0, Relaxed);
        self.is_reported.store(false, Relaxed);
        self.is_scan.store(false, Relaxed);
        self.is_proven.store(false, Relaxed);
    }
}
