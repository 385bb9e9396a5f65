//! A wire that loses, duplicates and reorders packets.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use super::{Waker, Wire};
use crate::schedule::Random;

/// What happens to packets in either direction, in percent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// Lost packets.
    pub lost: u8,
    /// Duplicated packets, of those that are not lost.
    pub repeated: u8,
    /// Packets that arrive after the next one, of the others.
    pub reordered: u8,
    /// The seed that decides which packets.
    pub seed: u64,
}

/// A wire with a [`Loss`].
pub struct Lossy<W> {
    wire: W,
    loss: Loss,
    random: Random,
    inbound: Direction,
    outbound: Direction,
}

/// The packets of one direction that are not lost.
#[derive(Default)]
struct Direction {
    ready: VecDeque<Vec<u8>>,
    /// A packet that waits for the next one.
    held: Option<Vec<u8>>,
}

impl<W: Wire> Lossy<W> {
    /// A wire with these losses.
    pub fn new(wire: W, loss: Loss) -> Self {
        let (inbound, outbound) = (Direction::default(), Direction::default());
        Self { wire, loss, random: Random::new(loss.seed), inbound, outbound }
    }
}

impl Direction {
    fn take(&mut self, packet: &[u8], loss: Loss, random: &mut Random) {
        let mut happens = |percent: u8| random.below(100) < percent.into();
        if happens(loss.lost) {
            return;
        }
        let copies = if happens(loss.repeated) { 2 } else { 1 };
        if self.held.is_none() && happens(loss.reordered) {
            self.held = Some(packet.to_vec());
            return;
        }
        self.ready.extend(std::iter::repeat_n(packet.to_vec(), copies));
        self.ready.extend(self.held.take());
    }
}

impl<W: Wire> Wire for Lossy<W> {
    fn read(&mut self, packet: &mut Vec<u8>) -> io::Result<bool> {
        let mut read = Vec::new();
        while self.inbound.ready.is_empty() && self.wire.read(&mut read)? {
            self.inbound.take(&read, self.loss, &mut self.random);
        }
        let next = self.inbound.ready.pop_front();
        let came = next.is_some();
        *packet = next.unwrap_or_default();
        Ok(came)
    }

    fn write(&mut self, packet: &[u8]) -> io::Result<()> {
        self.outbound.take(packet, self.loss, &mut self.random);
        while let Some(packet) = self.outbound.ready.pop_front() {
            self.wire.write(&packet)?;
        }
        Ok(())
    }

    fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        if self.inbound.ready.is_empty() { self.wire.wait(timeout) } else { Ok(()) }
    }

    fn waker(&mut self) -> Option<Waker> {
        self.wire.waker()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::MemoryWire;

    /// The packets of a hundred that arrive, in each direction.
    fn arrivals(loss: Loss) -> [Vec<u8>; 2] {
        let (host, mut peer) = MemoryWire::pair();
        let mut host = Lossy::new(host, loss);
        let mut packet = Vec::new();
        for number in 0..100 {
            peer.write(&[number]).unwrap();
            host.write(&[number]).unwrap();
        }
        let mut all = [Vec::new(), Vec::new()];
        while host.read(&mut packet).unwrap() {
            all[0].push(packet[0]);
        }
        while peer.read(&mut packet).unwrap() {
            all[1].push(packet[0]);
        }
        all
    }

    #[test]
    fn each_fault_has_the_given_frequency() {
        let whole: Vec<u8> = (0..100).collect();
        assert_eq!(arrivals(Loss::default()), [whole.clone(), whole.clone()]);
        for some in arrivals(Loss { lost: 35, ..Loss::default() }) {
            assert!((45..85).contains(&some.len()) && some.is_sorted(), "{some:?}");
        }
        for more in arrivals(Loss { repeated: 20, ..Loss::default() }) {
            assert!((105..140).contains(&more.len()) && more.is_sorted(), "{more:?}");
        }
        for mixed in arrivals(Loss { reordered: 20, ..Loss::default() }) {
            assert!(mixed.len() >= 99 && !mixed.is_sorted(), "{mixed:?}");
        }
        let loss = Loss { lost: 10, repeated: 10, reordered: 10, seed: 7 };
        assert_eq!(arrivals(loss), arrivals(loss), "equal seeds must give equal losses");
        assert_ne!(arrivals(loss), arrivals(Loss { seed: 8, ..loss }));
    }
}
