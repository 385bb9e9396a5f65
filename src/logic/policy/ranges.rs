//! A bounded set of numbers, as sorted ranges with an index.

/// The numbers of a range.
pub trait Number: Copy + Ord {
    /// The next larger number; `None` for the largest.
    fn next(self) -> Option<Self>;

    /// The number of bits of the distance to a number that is not larger.
    fn bits_from(self, lower: Self) -> u32;

    /// The distance to a number that is not larger, shifted right by `shift` bits,
    /// which is less than the number of bits. At most `BUCKETS` is returned.
    fn bucket(self, lower: Self, shift: u32) -> usize;
}

macro_rules! number {
    ($($kind:ty),*) => { $(
        impl Number for $kind {
            fn next(self) -> Option<Self> {
                self.checked_add(1)
            }

            fn bits_from(self, lower: Self) -> u32 {
                Self::BITS - self.wrapping_sub(lower).leading_zeros()
            }

            fn bucket(self, lower: Self, shift: u32) -> usize {
                let bucket = self.wrapping_sub(lower).wrapping_shr(shift);
                if bucket < BUCKETS as Self { bucket as usize } else { BUCKETS }
            }
        }
    )* };
}

/// The index has this many buckets of equal size between the smallest number and the
/// largest.
const BUCKET_BITS: u32 = 8;
const BUCKETS: usize = 1 << BUCKET_BITS;

number!(u32, u128);

/// The numbers from `first` to `last`, inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Range<T> {
    /// The smallest number.
    pub first: T,
    /// The largest number.
    pub last: T,
}

impl<T: Number> Range<T> {
    /// Whether all of this range is below `other`, with at least one number between
    /// them.
    fn is_apart_before(self, other: Self) -> bool {
        self.last.next().is_some_and(|next| next < other.first)
    }
}

/// At most `N` ranges.
///
/// The type contains only integers, and zero means empty, so that large sets can be
/// made in zeroed memory. Invariants: the first `length` ranges are sorted and not
/// adjacent, and the index belongs to them.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct RangeSet<T, const N: usize> {
    length: usize,
    index: BucketIndex<T>,
    ranges: [Range<T>; N],
}

/// The index of a set. If the ranges are spread out, a lookup takes one or two
/// steps. If all of them are in one bucket, it is a binary search.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct BucketIndex<T> {
    /// The smallest number of all ranges, and the largest.
    bounds: Range<T>,
    /// The shift from a distance to a bucket.
    shift: u32,
    /// For each bucket: the first range that ends in it or behind it.
    starts: [u16; BUCKETS + 1],
}

/// There is no room for another range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl<T: Number, const N: usize> RangeSet<T, N> {
    /// No ranges; for tests, which have a larger stack.
    #[cfg(test)]
    pub fn empty() -> Self
    where
        T: Default,
    {
        let nothing = Range { first: T::default(), last: T::default() };
        let index = BucketIndex { bounds: nothing, shift: 0, starts: [0; BUCKETS + 1] };
        Self { length: 0, index, ranges: [nothing; N] }
    }

    /// The ranges, sorted.
    pub fn ranges(&self) -> &[Range<T>] {
        self.ranges.get(..self.length).unwrap_or(&[])
    }

    /// Whether a number is in one of them.
    #[inline(always)]
    pub fn contains(&self, number: T) -> bool {
        let BucketIndex { bounds, shift, starts } = &self.index;
        if number < bounds.first || bounds.last < number {
            return false;
        }
        let bucket = number.bucket(bounds.first, *shift);
        let Some([start, end]) = starts.get(bucket..).and_then(<[u16]>::first_chunk) else { return false };
        // The range with which the next bucket starts may begin in this one.
        let near = self.ranges().get(usize::from(*start)..).unwrap_or(&[]);
        let near = near.get(..=usize::from(end.wrapping_sub(*start))).unwrap_or(near);
        let at = match near {
            [_] => 0,
            [one, _] => usize::from(one.last < number),
            _ => near.partition_point(|range| range.last < number),
        };
        near.get(at).is_some_and(|range| range.first <= number && number <= range.last)
    }

    /// Removes all ranges.
    pub fn clear(&mut self) {
        self.length = 0;
        self.reindex();
    }

    /// Computes the index.
    fn reindex(&mut self) {
        let Self { length, index, ranges } = self;
        let ranges = ranges.get(..*length).unwrap_or(&[]);
        let (Some(first), Some(last)) = (ranges.first(), ranges.last()) else {
            // A number within the old bounds is then looked for in an empty list.
            index.starts.fill(0);
            return;
        };
        index.bounds = Range { first: first.first, last: last.last };
        index.shift = last.last.bits_from(first.first).saturating_sub(BUCKET_BITS);
        let mut at = 0;
        for (bucket, start) in index.starts.iter_mut().enumerate() {
            let ends_before = |range: &Range<T>| range.last.bucket(index.bounds.first, index.shift) < bucket;
            while ranges.get(at).is_some_and(ends_before) {
                at += 1;
            }
            *start = at as u16;
        }
    }

    /// Adds a range, and merges it with those that overlap or are adjacent. A full
    /// set stays as it is.
    pub fn insert(&mut self, mut range: Range<T>) -> Result<(), Full> {
        if self.length == N && self.ranges().iter().all(|other| is_apart(*other, range)) {
            return Err(Full);
        }
        // Ranges that stay move up. A range merged with the new one cannot touch a
        // third range, because they were not adjacent before.
        let (mut kept, mut before) = (0, 0);
        for at in 0..self.length {
            let Some(other) = self.ranges.get(at).copied() else { break };
            if !is_apart(other, range) {
                range = Range { first: range.first.min(other.first), last: range.last.max(other.last) };
                continue;
            }
            if let Some(place) = self.ranges.get_mut(kept) {
                *place = other;
            }
            kept += 1;
            before += usize::from(other.last < range.first);
        }
        let mut carried = range;
        for place in self.ranges.iter_mut().take(kept.saturating_add(1)).skip(before) {
            core::mem::swap(place, &mut carried);
        }
        self.length = kept.saturating_add(1).min(N);
        self.reindex();
        Ok(())
    }
}

fn is_apart<T: Number>(one: Range<T>, other: Range<T>) -> bool {
    one.is_apart_before(other) || other.is_apart_before(one)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const ROOM: usize = 12;

    fn empty<T: Number + Default>() -> RangeSet<T, ROOM> {
        RangeSet::empty()
    }

    fn range() -> impl Strategy<Value = Range<u32>> {
        (0u32..200, 0u32..12).prop_map(|(first, more)| Range { first, last: first + more })
    }

    proptest! {
        #[test]
        fn holds_what_was_put_in_and_stays_sorted(ranges in prop::collection::vec(range(), 0..40)) {
            let (mut set, mut model) = (empty::<u32>(), BTreeSet::new());
            for range in ranges {
                let before = set.ranges().to_vec();
                match set.insert(range) {
                    Ok(()) => model.extend(range.first..=range.last),
                    Err(Full) => {
                        prop_assert_eq!(before.len(), ROOM);
                        prop_assert_eq!(set.ranges(), &before[..]);
                    }
                }
                prop_assert!(set.ranges().is_sorted_by(|a, b| a.is_apart_before(*b)));
                prop_assert!((0..230).all(|number| set.contains(number) == model.contains(&number)));
            }
            set.clear();
            prop_assert!((0..230).all(|number| !set.contains(number)));
        }
    }

    proptest! {
        #[test]
        fn the_index_finds_what_a_search_finds(
            ranges in prop::collection::vec((any::<u128>(), 0u32..128, 0u32..128), 0..40),
            numbers in prop::collection::vec((any::<prop::sample::Index>(), 0u128..3, any::<bool>()), 200),
        ) {
            let mut set = RangeSet::<u128, 40>::empty();
            for (number, high, size) in ranges {
                // Numbers of every magnitude, so that some buckets are crowded and
                // some empty.
                let first = number >> high;
                let _full = set.insert(Range { first, last: first.saturating_add(number >> size >> 1) });
            }
            let ends: Vec<u128> = set.ranges().iter().flat_map(|range| [range.first, range.last]).collect();
            let ends = if ends.is_empty() { vec![0, u128::MAX] } else { ends };
            for (end, off, up) in numbers {
                let end = *end.get(&ends);
                let number = if up { end.wrapping_add(off) } else { end.wrapping_sub(off) };
                let expected = set.ranges().iter().any(|range| (range.first..=range.last).contains(&number));
                prop_assert_eq!(set.contains(number), expected, "{}", number);
            }
        }
    }

    #[test]
    fn the_smallest_and_the_largest_number_work() {
        let mut set = empty::<u128>();
        set.insert(Range { first: u128::MAX, last: u128::MAX }).unwrap();
        set.insert(Range { first: 0, last: 0 }).unwrap();
        assert!(set.contains(0) && set.contains(u128::MAX) && !set.contains(1));
        set.insert(Range { first: 0, last: u128::MAX }).unwrap();
        assert_eq!(set.ranges(), [Range { first: 0, last: u128::MAX }]);
    }

    #[test]
    fn a_full_set_takes_only_what_it_can_join() {
        let mut set = empty::<u32>();
        for number in 0..ROOM as u32 {
            set.insert(Range { first: number * 10, last: number * 10 }).unwrap();
        }
        assert_eq!(set.insert(Range { first: 5, last: 5 }), Err(Full));
        assert_eq!(set.insert(Range { first: 11, last: 12 }), Ok(()));
        assert_eq!(set.ranges().len(), ROOM);
        assert_eq!(set.insert(Range { first: 0, last: 30 }), Ok(()));
        assert_eq!(set.ranges().len(), ROOM - 3);
    }
}
