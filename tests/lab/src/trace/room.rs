//! Maps of bounded size.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

/// The maximum number of entries.
pub(super) const MOST: usize = 1 << 16;

/// Makes room for one more entry. If the map is full, the eighth of its entries
/// that was idle longest is evicted, and `evicted` is called with each of them.
pub(super) fn make_room<K: Eq + Hash, V>(
    map: &mut HashMap<K, V>,
    since: impl Fn(&V) -> Duration,
    mut evicted: impl FnMut(&V),
) {
    if map.len() < MOST {
        return;
    }
    let mut ages: Vec<Duration> = map.values().map(&since).collect();
    let (_, limit, _) = ages.select_nth_unstable(MOST / 8);
    let limit = *limit;
    map.retain(|_, value| {
        let stays = since(value) > limit;
        if !stays {
            evicted(value);
        }
        stays
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_idle_entries_are_evicted() {
        let mut map: HashMap<_, _> = (0..MOST as u64).map(|at| (at, Duration::from_nanos(at))).collect();
        let mut gone = 0;
        make_room(&mut map, |since| *since, |_| gone += 1);
        assert_eq!((map.len() + gone, gone), (MOST, MOST / 8 + 1));
        assert!(!map.contains_key(&0) && map.contains_key(&(MOST as u64 - 1)));
        make_room(&mut map, |since| *since, |_| panic!("there is room"));
    }
}
