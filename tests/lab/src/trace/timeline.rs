//! Counts silenced packets over time, by port and by source.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::time::Duration;

/// The number of time intervals.
pub const COLUMNS: usize = 96;

/// The maximum number of ports and of sources.
const ROWS: usize = 4096;

/// A protocol and a local port.
pub type Port = (u8, u16);

/// The counts of each interval, and their sum.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct Line {
    pub counts: [u32; COLUMNS],
    pub total: u64,
}

impl Default for Line {
    fn default() -> Self {
        Self { counts: [0; COLUMNS], total: 0 }
    }
}

impl Line {
    fn add(&mut self, column: usize) {
        self.counts[column] = self.counts[column].saturating_add(1);
        self.total += 1;
    }

    fn merge(&mut self, other: &Self) {
        for (sum, count) in self.counts.iter_mut().zip(other.counts) {
            *sum = sum.saturating_add(count);
        }
        self.total += other.total;
    }
}

/// Lines by key, and one line for all keys that did not fit.
#[derive(Clone, Debug)]
struct Lines<K> {
    lines: HashMap<K, Line>,
    others: Line,
}

impl<K> Default for Lines<K> {
    fn default() -> Self {
        Self { lines: HashMap::new(), others: Line::default() }
    }
}

impl<K: Copy + Eq + Hash + Ord> Lines<K> {
    fn add(&mut self, key: K, column: usize) {
        if self.lines.len() >= ROWS && !self.lines.contains_key(&key) {
            return self.others.add(column);
        }
        self.lines.entry(key).or_default().add(column);
    }

    /// The `most` lines with the highest counts, and the sum of all others.
    fn top(&self, most: usize) -> (Vec<(K, &Line)>, Line) {
        let mut lines: Vec<_> = self.lines.iter().map(|(key, line)| (*key, line)).collect();
        lines.sort_by_key(|(key, line)| (std::cmp::Reverse(line.total), *key));
        let mut others = self.others.clone();
        for (_, line) in lines.split_off(lines.len().min(most)) {
            others.merge(line);
        }
        (lines, others)
    }
}

/// The silenced packets of a run.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    length: Duration,
    ports: Lines<Port>,
    sources: Lines<IpAddr>,
}

impl Timeline {
    /// A timeline of about this length. Later packets count in the last interval.
    pub fn new(length: Duration) -> Self {
        Self { length, ..Self::default() }
    }

    /// The duration of the run.
    pub fn length(&self) -> Duration {
        self.length
    }

    /// Adds a silenced packet.
    pub fn note(&mut self, at: Duration, protocol: u8, port: u16, source: Option<IpAddr>) {
        let length = self.length.as_nanos().max(1);
        let column = at.as_nanos().saturating_mul(COLUMNS as u128) / length;
        let column = usize::try_from(column).unwrap_or(usize::MAX).min(COLUMNS - 1);
        self.ports.add((protocol, port), column);
        if let Some(source) = source {
            self.sources.add(source, column);
        }
    }

    /// The ports with most silenced packets, and the sum of all others.
    pub fn ports(&self, most: usize) -> (Vec<(Port, &Line)>, Line) {
        self.ports.top(most)
    }

    /// The sources with most silenced packets, and the sum of all others.
    pub fn sources(&self, most: usize) -> (Vec<(IpAddr, &Line)>, Line) {
        self.sources.top(most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_that_do_not_fit_are_summed() {
        let mut timeline = Timeline::new(Duration::from_secs(96));
        for port in 0..ROWS as u16 + 10 {
            let source = std::net::Ipv4Addr::from_bits(u32::from(port) + 1).into();
            timeline.note(Duration::from_secs(u64::from(port % 200)), 6, port, Some(source));
        }
        timeline.note(Duration::from_secs(1), 6, 7, None);
        let (top, others) = timeline.ports(3);
        assert_eq!((top[0].0, top[0].1.total), ((6, 7), 2));
        assert_eq!(others.total, ROWS as u64 + 10 - 3);
        let sum: u32 = others.counts.iter().sum();
        assert_eq!(u64::from(sum), others.total, "late packets count in the last stretch");
        assert_eq!(timeline.sources(1).1.total, ROWS as u64 + 9);
    }
}
