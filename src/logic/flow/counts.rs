//! Counters of packets and bytes, packed so that one addition counts both.

use crate::logic::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::logic::order::Direction;

/// Packets and bytes in both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// NET_BUFFERs, by [`Direction`].
    pub packets: [u64; 2],
    /// Bytes, by [`Direction`].
    pub bytes: [u64; 2],
}

/// What one indication adds to a flow's counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowPackets {
    /// The direction.
    pub direction: Direction,
    /// NET_BUFFERs, about a thousand at most, and the mark [`CUT`] if the indication had
    /// more. With RSC, URO, USO and LSO one NET_BUFFER is many packets.
    pub packets: u32,
    /// Bytes of payload.
    pub bytes: u64,
}

/// In a number of NET_BUFFERs: there were more, which are not counted. The number is then
/// too large for a slot.
pub const CUT: u32 = 1 << 31;

/// A slot's counts in one word, from its lowest bit: bytes out and in, 22 bits each,
/// then packets out and in, 10 bits each. The highest bit of each count is a guard:
/// once it is set, the word is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PackedCounts(pub(super) u64);

const FEW_BYTES: u32 = 22;
const FEW_PACKETS: u32 = 10;
/// The position of the packets.
const PACKETS_AT: u32 = 2 * FEW_BYTES;
/// No count in a word that is not full reaches these.
const MAX_BYTES: u64 = 1 << (FEW_BYTES - 1);
const MAX_PACKETS: u32 = 1 << (FEW_PACKETS - 1);
/// The bits of the outbound counts.
const OUTBOUND: u64 = ((1 << FEW_BYTES) - 1) | ((1 << FEW_PACKETS) - 1) << PACKETS_AT;
const GUARDS: u64 = MAX_BYTES
    | MAX_BYTES << FEW_BYTES
    | (MAX_PACKETS as u64) << PACKETS_AT
    | (MAX_PACKETS as u64) << (PACKETS_AT + FEW_PACKETS);

impl PackedCounts {
    /// Packs the counts, if they are small enough.
    #[inline(always)]
    pub(super) fn of(passed: FlowPackets) -> Option<Self> {
        let FlowPackets { direction, packets, bytes } = passed;
        if packets >= MAX_PACKETS || bytes >= MAX_BYTES {
            return None;
        }
        Some(Self(match direction {
            Direction::Outbound => bytes | u64::from(packets) << PACKETS_AT,
            Direction::Inbound => bytes << FEW_BYTES | u64::from(packets) << (PACKETS_AT + FEW_PACKETS),
        }))
    }

    /// The sum of two words that are not full; `None` if the sum is full.
    #[inline(always)]
    pub(super) fn with(self, more: Self) -> Option<Self> {
        // No guard bit is set in either word, so no carry passes a guard bit.
        let sum = self.0.wrapping_add(more.0);
        (sum & GUARDS == 0).then_some(Self(sum))
    }

    /// Packets and bytes in one direction.
    #[inline(always)]
    fn one_way(self, direction: Direction) -> (u64, u64) {
        let (bytes, packets) = match direction {
            Direction::Outbound => (self.0, self.0 >> PACKETS_AT),
            Direction::Inbound => (self.0 >> FEW_BYTES, self.0 >> (PACKETS_AT + FEW_PACKETS)),
        };
        (packets & ((1 << FEW_PACKETS) - 1), bytes & ((1 << FEW_BYTES) - 1))
    }
}

/// A record's counts in one direction: 24 bits of packets and 40 bits of bytes in
/// one word. Before a field is full, whole units are moved from the word to the
/// other two fields.
#[derive(Debug, Default)]
#[cfg_attr(not(loom), repr(C))]
pub(super) struct Sum {
    word: AtomicU64,
    packets: AtomicU32,
    bytes: AtomicU32,
}

/// Bits of the word that count bytes, below the packets.
const BYTES: u32 = 40;
/// Bits of a unit. Whoever finds a whole unit moves it. The rest of the field is
/// room for others that add meanwhile, each less than a unit: 255 of them for the
/// bytes. For the packets it is thousands, because an indication counts at most a thousand
/// NET_BUFFERs and a slot at most 511.
const BYTES_UNIT: u32 = 32;
const PACKETS_UNIT: u32 = 20;
/// The bits of whole units: of bytes, and of both.
const BYTES_UNITS: u64 = (1 << BYTES) - (1 << BYTES_UNIT);
const UNITS: u64 = BYTES_UNITS | u64::MAX << (BYTES + PACKETS_UNIT);

impl Sum {
    /// Sets the counts to 0.
    fn clear(&self) {
        self.word.store(0, Ordering::Relaxed);
        self.packets.store(0, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
    }

    /// Adds packets and bytes, in the common case by one addition.
    fn add(&self, packets: u32, bytes: u64) {
        let (mut packets, mut bytes) = (u64::from(packets), bytes);
        if packets >> PACKETS_UNIT != 0 || bytes >> BYTES_UNIT != 0 {
            self.add_units((packets >> PACKETS_UNIT) as u32, (bytes >> BYTES_UNIT) as u32);
            packets &= (1 << PACKETS_UNIT) - 1;
            bytes &= (1 << BYTES_UNIT) - 1;
        }
        self.add_less(packets, bytes);
    }

    /// Adds less than a unit of either.
    #[inline(always)]
    fn add_less(&self, packets: u64, bytes: u64) {
        let more = packets << BYTES | bytes;
        let sum = self.word.fetch_add(more, Ordering::Relaxed).wrapping_add(more);
        if sum & UNITS != 0 {
            self.take_units_out(sum);
        }
    }

    #[cold]
    #[inline(never)]
    fn add_units(&self, packets: u32, bytes: u32) {
        self.packets.fetch_add(packets, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// If another processor adds meanwhile, the exchange fails, and that one moves
    /// the units.
    #[cold]
    #[inline(never)]
    fn take_units_out(&self, sum: u64) {
        let taken = self.word.compare_exchange(sum, sum & !UNITS, Ordering::Relaxed, Ordering::Relaxed);
        if taken.is_ok() {
            let (packets, bytes) = (sum >> (BYTES + PACKETS_UNIT), (sum & BYTES_UNITS) >> BYTES_UNIT);
            self.add_units(packets as u32, bytes as u32);
        }
    }

    /// Packets and bytes; exact if no other thread adds meanwhile.
    fn read(&self) -> (u64, u64) {
        let word = self.word.load(Ordering::Relaxed);
        let packets = u64::from(self.packets.load(Ordering::Relaxed)) << PACKETS_UNIT;
        let bytes = u64::from(self.bytes.load(Ordering::Relaxed)) << BYTES_UNIT;
        (packets.wrapping_add(word >> BYTES), bytes.wrapping_add(word & ((1 << BYTES) - 1)))
    }
}

/// A record's counts in both directions.
#[derive(Debug, Default)]
#[cfg_attr(not(loom), repr(C))]
pub(super) struct Sums {
    outbound: Sum,
    inbound: Sum,
}

impl Sums {
    /// Sets the counts to 0.
    pub(super) fn clear(&self) {
        self.outbound.clear();
        self.inbound.clear();
    }

    /// Adds an indication.
    pub(super) fn pass(&self, passed: FlowPackets) {
        let sum = match passed.direction {
            Direction::Outbound => &self.outbound,
            Direction::Inbound => &self.inbound,
        };
        sum.add(passed.packets, passed.bytes);
    }

    /// Adds a slot's counts. A direction without counts costs nothing.
    pub(super) fn add(&self, few: PackedCounts) {
        let PackedCounts(word) = few;
        if word & OUTBOUND != 0 {
            let (packets, bytes) = few.one_way(Direction::Outbound);
            self.outbound.add_less(packets, bytes);
        }
        if word & !OUTBOUND != 0 {
            let (packets, bytes) = few.one_way(Direction::Inbound);
            self.inbound.add_less(packets, bytes);
        }
    }

    /// The totals; exact if no other thread adds meanwhile.
    pub(super) fn read(&self) -> Totals {
        let ((packets_out, bytes_out), (packets_in, bytes_in)) = (self.outbound.read(), self.inbound.read());
        Totals { packets: [packets_out, packets_in], bytes: [bytes_out, bytes_in] }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// A sum just below a whole unit, what two processors add to it at the same
    /// moment, and which of them moves the unit first.
    #[test]
    fn a_unit_is_moved_once_by_two_processors() {
        let (packets, bytes) = (1u64 << PACKETS_UNIT, 1u64 << BYTES_UNIT);
        for before in [(packets - 1, 0), (0, bytes - 1), (packets - 1, bytes - 1), (packets - 2, bytes - 2)] {
            for (one, other) in [((1, 1), (1, 1)), ((2, 1), (1, 2)), ((300, 1 << 20), (200, 1 << 21))] {
                for first_takes_first in [true, false] {
                    let sum = Sum::default();
                    sum.add(before.0 as u32, before.1);
                    let add = |(packets, bytes): (u64, u64)| {
                        let more = packets << BYTES | bytes;
                        sum.word.fetch_add(more, Ordering::Relaxed).wrapping_add(more)
                    };
                    let mut found = [add(one), add(other)];
                    if !first_takes_first {
                        found.reverse();
                    }
                    for word in found.into_iter().filter(|word| word & UNITS != 0) {
                        sum.take_units_out(word);
                    }
                    let total = (before.0 + one.0 + other.0, before.1 + one.1 + other.1);
                    assert_eq!(sum.read(), total, "{before:?} and {one:?} and {other:?}");
                    // The next processor that adds moves what is left.
                    sum.add(1, 1);
                    assert_eq!(sum.read(), (total.0 + 1, total.1 + 1));
                    assert_eq!(sum.word.load(Ordering::Relaxed) & UNITS, 0);
                }
            }
        }
    }

    /// Two threads pass many units together.
    #[test]
    fn concurrent_sums_are_exact() {
        const TIMES: u64 = 40_000;
        let (sum, each) = (Sum::default(), (511, (1 << 31) - 1));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..TIMES).for_each(|_| sum.add(each.0, each.1)));
            }
        });
        assert_eq!(sum.read(), (2 * TIMES * u64::from(each.0), 2 * TIMES * each.1));
    }
}
