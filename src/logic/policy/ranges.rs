//! A bounded set of numbers as sorted ranges, searched by halving.

/// What ranges are made of.
pub trait Number: Copy + Ord {
    /// The next larger one, but for the largest.
    fn next(self) -> Option<Self>;
}

macro_rules! number {
    ($($kind:ty),*) => { $(
        impl Number for $kind {
            fn next(self) -> Option<Self> {
                self.checked_add(1)
            }
        }
    )* };
}

number!(u32, u64, u128);

/// From `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Range<T> {
    /// The smallest number.
    pub first: T,
    /// The largest.
    pub last: T,
}

impl<T: Number> Range<T> {
    /// Whether every number of this one is smaller than all of `other`, with
    /// others between them.
    fn is_apart_before(self, other: Self) -> bool {
        self.last.next().is_some_and(|next| next < other.first)
    }
}

/// At most `N` ranges.
///
/// Integers only, and empty where all of them are zero: large sets are made in
/// zeroed memory, never moved there. Invariant: the first `length` ranges are
/// sorted and apart from each other.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct RangeSet<T, const N: usize> {
    length: usize,
    ranges: [Range<T>; N],
}

/// There is no room for another range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl<T: Number, const N: usize> RangeSet<T, N> {
    /// No ranges; for tests, which have memory to spare on their stacks.
    #[cfg(test)]
    pub fn empty() -> Self
    where
        T: Default,
    {
        let nothing = Range { first: T::default(), last: T::default() };
        Self { length: 0, ranges: [nothing; N] }
    }

    /// The ranges, sorted.
    pub fn ranges(&self) -> &[Range<T>] {
        self.ranges.get(..self.length).unwrap_or(&[])
    }

    /// Whether a number is in one of them.
    pub fn contains(&self, number: T) -> bool {
        let ranges = self.ranges();
        let at = ranges.partition_point(|range| range.last < number);
        ranges.get(at).is_some_and(|range| range.first <= number)
    }

    /// Takes everything out.
    pub fn clear(&mut self) {
        self.length = 0;
    }

    /// Adds a range, joined with those that it overlaps or adjoins. A full set
    /// stays as it is.
    pub fn insert(&mut self, mut range: Range<T>) -> Result<(), Full> {
        if self.length == N && self.ranges().iter().all(|other| is_apart(*other, range)) {
            return Err(Full);
        }
        // Those that stay move up; what the new one swallows cannot reach a
        // third, since they were apart.
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

    #[test]
    fn the_ends_of_the_numbers_are_numbers() {
        let mut set = empty::<u128>();
        set.insert(Range { first: u128::MAX, last: u128::MAX }).unwrap();
        set.insert(Range { first: 0, last: 0 }).unwrap();
        assert!(set.contains(0) && set.contains(u128::MAX) && !set.contains(1));
        set.insert(Range { first: 0, last: u128::MAX }).unwrap();
        assert_eq!(set.ranges(), [Range { first: 0, last: u128::MAX }]);
    }

    #[test]
    fn a_full_set_takes_only_what_it_can_join() {
        let mut set = empty::<u64>();
        for number in 0..ROOM as u64 {
            set.insert(Range { first: number * 10, last: number * 10 }).unwrap();
        }
        assert_eq!(set.insert(Range { first: 5, last: 5 }), Err(Full));
        assert_eq!(set.insert(Range { first: 11, last: 12 }), Ok(()));
        assert_eq!(set.ranges().len(), ROOM);
        assert_eq!(set.insert(Range { first: 0, last: 30 }), Ok(()));
        assert_eq!(set.ranges().len(), ROOM - 3);
    }
}
