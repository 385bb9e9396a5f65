//! The table: finds, makes and evicts ties.
//!
//! A processor that uses a tie may lose it to another one meanwhile, see [`Found`].

use super::Ties;
use super::tie::{BEGUN, CLOSED, Tie, UNCLEAR};
use crate::logic::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// Milliseconds after which everything in progress at the start of a check is over.
/// A half-open connection lasts shorter.
pub const SETTLED_MS: u32 = 60_000;

/// Milliseconds after which a tie may be evicted.
pub(super) const AGED_MS: u32 = 10_000;

const WAYS: usize = 4;
const SETS: usize = if cfg!(loom) { 1 } else { 2048 };

/// The number of ties. Together they take half a megabyte.
pub const TIE_SETS: usize = SETS;

/// What holds for the whole machine.
#[derive(Debug, Default)]
pub struct Common {
    /// The number of the check that the rest belongs to, and [`SECURED`] and
    /// [`FORWARDS`] above it.
    pub(super) state: AtomicU32,
    /// When the check began, in milliseconds.
    pub(super) since: AtomicU32,
}

/// IPsec secures packets: the IP layers show them encrypted.
pub(super) const SECURED: u32 = 1 << 16;
/// The machine forwards packets, which pass the IP layers only.
pub(super) const FORWARDS: u32 = 1 << 17;

/// Ties with one hash. It contains only integers, and zero means empty, so that it can
/// be made in zeroed memory.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct TieSet {
    pub(super) keys: [AtomicU64; WAYS],
    /// When each tie was made, in milliseconds.
    made: [AtomicU32; WAYS],
    /// When a tie was last evicted or found no room; 0 means never.
    lost: AtomicU32,
    pub(super) ties: [Tie; WAYS],
}

impl Common {
    /// Begins a check.
    #[cold]
    pub(super) fn begin(&self, check: u16, now: u32) {
        self.since.store(now, Ordering::Relaxed);
        self.state.store(check.into(), Ordering::Release);
    }

    pub(super) fn has(&self, flag: u32) -> bool {
        self.state.load(Ordering::Relaxed) & flag != 0
    }

    pub(super) fn set(&self, flag: u32) {
        if !self.has(flag) {
            self.state.fetch_or(flag, Ordering::Relaxed);
        }
    }
}

/// A found or new tie. To be left when its use ends.
pub(super) struct Found<'a> {
    pub(super) tie: &'a Tie,
    pub(super) key: &'a AtomicU64,
    pub(super) wanted: u64,
    pub(super) is_new: bool,
}

impl Found<'_> {
    /// Ends the use of the tie. Returns whether another processor has evicted it since it
    /// was found: then nothing that was read counts, and what was added to it belongs to
    /// another.
    ///
    /// Marks and numbers are added by read-modify-writes. Whoever has read something that
    /// [`Ties::make`] wrote meanwhile, or has added something after it, also reads the new
    /// key here.
    #[must_use]
    pub(super) fn leave(self) -> bool {
        fence(Ordering::Acquire);
        let is_evicted = self.key.load(Ordering::Relaxed) != self.wanted;
        if is_evicted {
            self.tie.mark_only(UNCLEAR);
        }
        is_evicted
    }
}

impl<'a> Ties<'a> {
    fn set(&self, wanted: u64) -> Option<&'a TieSet> {
        self.sets.get(wanted as usize / 64 % SETS)
    }

    pub(super) fn wanted(&self, key: u64) -> u64 {
        // Not 0, which is empty, and not 1, which is busy.
        key.wrapping_add(u64::from(self.check)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(20) | 2
    }

    #[inline(always)]
    pub(super) fn find(&self, key: u64) -> Option<Found<'a>> {
        if key == 0 {
            return None;
        }
        self.find_wanted(self.wanted(key))
    }

    #[inline(never)]
    fn find_wanted(&self, wanted: u64) -> Option<Found<'a>> {
        let set = self.set(wanted)?;
        let mut both = set.keys.iter().zip(&set.ties);
        let (key, tie) = both.find(|(key, _)| key.load(Ordering::Acquire) == wanted)?;
        Some(Found { tie, key, wanted, is_new: false })
    }

    pub(super) fn enter(&self, key: u64, now: &impl Fn() -> u64) -> Option<Found<'a>> {
        let wanted = self.wanted(key);
        match self.find_wanted(wanted) {
            Some(found) => Some(found),
            None => self.make(wanted, (now() as u32).max(1)),
        }
    }

    /// Makes a tie, in an empty place or in that of an old one.
    #[cold]
    #[inline(never)]
    fn make(&self, wanted: u64, now: u32) -> Option<Found<'a>> {
        let set = self.set(wanted)?;
        let lost = set.lost.load(Ordering::Relaxed);
        let settled = |since: u32| now.wrapping_sub(since) >= SETTLED_MS;
        let begun = settled(self.common.since.load(Ordering::Relaxed)) && (lost == 0 || settled(lost));
        let mut at = None;
        for (way, ((key, made), tie)) in set.keys.iter().zip(&set.made).zip(&set.ties).enumerate() {
            let (held, age) = (key.load(Ordering::Acquire), now.wrapping_sub(made.load(Ordering::Relaxed)));
            let is_closed = tie.marks.load(Ordering::Relaxed) & CLOSED != 0;
            let may_go = held == 0 || held != 1 && (age >= AGED_MS || is_closed && age >= AGED_MS / 8);
            let best =
                at.is_none_or(|(_, best_age, best_held)| best_held != 0 && (held == 0 || age > best_age));
            if may_go && best {
                at = Some((way, age, held));
            }
        }
        let place = at.and_then(|(way, _, held)| {
            let (key, tie, made) = (set.keys.get(way)?, set.ties.get(way)?, set.made.get(way)?);
            key.compare_exchange(held, 1, Ordering::Acquire, Ordering::Relaxed).ok()?;
            if held != 0 && tie.marks.load(Ordering::Relaxed) & CLOSED == 0 {
                set.lost.store(now, Ordering::Relaxed);
            }
            Some((key, tie, made))
        });
        let Some((key, tie, made)) = place else {
            set.lost.store(now, Ordering::Relaxed);
            return None;
        };
        // Who still uses the old tie and reads the new marks also reads the new key. The
        // marks first, because they are marked after the numbers: who reads a new number
        // also reads the new marks.
        tie.marks.store(if begun { BEGUN } else { 0 }, Ordering::Release);
        fence(Ordering::Release);
        tie.processors.iter().for_each(|processor| processor.store(0, Ordering::Relaxed));
        tie.inbound.clear();
        tie.outbound.clear();
        tie.end.store(0, Ordering::Relaxed);
        made.store(now, Ordering::Relaxed);
        key.store(wanted, Ordering::Release);
        // Two processors may have made it at once. One of them reads both keys.
        fence(Ordering::SeqCst);
        if set.keys.iter().filter(|key| key.load(Ordering::Relaxed) == wanted).count() != 1 {
            set.ties.iter().for_each(|tie| tie.mark_only(UNCLEAR));
        }
        Some(Found { tie, key, wanted, is_new: true })
    }
}
