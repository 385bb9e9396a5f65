//! A set of ports: one bit for each.

const BITS: u16 = u64::BITS as u16;
const WORDS: usize = (1 << 16) / u64::BITS as usize;

/// Any of the 65,536 ports, in 8 KB.
///
/// The type contains only integers, and zero means empty, so that it can be made in
/// zeroed memory.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct PortSet([u64; WORDS]);

impl PortSet {
    /// No ports; for tests, which have a larger stack.
    #[cfg(test)]
    pub fn empty() -> Self {
        Self([0; WORDS])
    }

    /// Whether a port is in it.
    pub fn contains(&self, port: u16) -> bool {
        let word = self.0.get(usize::from(port / BITS));
        word.is_some_and(|word| word & bit(port) != 0)
    }

    /// Whether no port is in it.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// How many ports are in it.
    pub fn count(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// Adds every port from `first` to `last`.
    pub fn insert(&mut self, first: u16, last: u16) {
        for port in first..=last {
            if let Some(word) = self.0.get_mut(usize::from(port / BITS)) {
                *word |= bit(port);
            }
        }
    }

    /// Removes all ports.
    pub fn clear(&mut self) {
        self.0.fill(0);
    }
}

const fn bit(port: u16) -> u64 {
    1 << (port % BITS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn holds_the_ranges_put_in(ranges in prop::collection::vec((any::<u16>(), any::<u16>()), 0..4)) {
            let mut set = PortSet::empty();
            for (first, last) in &ranges {
                set.insert(*first, *last);
            }
            for port in 0..=u16::MAX {
                let expected = ranges.iter().any(|(first, last)| (*first..=*last).contains(&port));
                prop_assert_eq!(set.contains(port), expected, "{}", port);
            }
            set.clear();
            prop_assert!((0..=u16::MAX).all(|port| !set.contains(port)));
        }
    }
}
