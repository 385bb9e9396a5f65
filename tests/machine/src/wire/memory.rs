//! A wire without a kernel, for tests and for machines without root.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::{Waker, Wire};

/// The packets of one direction, and the reader that waits for them.
#[derive(Default)]
struct Queue {
    packets: Mutex<VecDeque<Vec<u8>>>,
    arrival: Condvar,
    woken: AtomicBool,
}

/// The maximum number of packets in a direction; further ones are dropped.
const QUEUE_LENGTH: usize = 1024;

/// One end of an in-memory link.
pub struct MemoryWire {
    inbound: Arc<Queue>,
    outbound: Arc<Queue>,
}

impl MemoryWire {
    /// Both ends of a new link.
    pub fn pair() -> (Self, Self) {
        let (a, b) = (Arc::<Queue>::default(), Arc::<Queue>::default());
        let left = Self { inbound: a.clone(), outbound: b.clone() };
        let right = Self { inbound: b, outbound: a };
        (left, right)
    }
}

impl Wire for MemoryWire {
    fn read(&mut self, packet: &mut Vec<u8>) -> io::Result<bool> {
        let mut packets = self.inbound.packets.lock().unwrap_or_else(PoisonError::into_inner);
        match packets.pop_front() {
            Some(next) => {
                *packet = next;
                Ok(true)
            }
            None => Ok(false),
        }
    }

    fn write(&mut self, packet: &[u8]) -> io::Result<()> {
        let mut packets = self.outbound.packets.lock().unwrap_or_else(PoisonError::into_inner);
        if packets.len() < QUEUE_LENGTH {
            packets.push_back(packet.to_vec());
            self.outbound.arrival.notify_one();
        }
        Ok(())
    }

    fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        let packets = self.inbound.packets.lock().unwrap_or_else(PoisonError::into_inner);
        // A timeout needs no handling, because the caller reads next.
        let none = |packets: &mut VecDeque<_>| {
            packets.is_empty() && !self.inbound.woken.swap(false, Ordering::AcqRel)
        };
        drop(self.inbound.arrival.wait_timeout_while(packets, timeout, none));
        Ok(())
    }

    fn waker(&mut self) -> Option<Waker> {
        let queue = Arc::clone(&self.inbound);
        Some(Arc::new(move || {
            let packets = queue.packets.lock().unwrap_or_else(PoisonError::into_inner);
            queue.woken.store(true, Ordering::Release);
            drop(packets);
            queue.arrival.notify_one();
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn carries_both_ways_and_drops_when_full() {
        let (mut left, mut right) = MemoryWire::pair();
        let mut packet = Vec::new();
        assert!(!right.read(&mut packet).unwrap());
        for n in 0..=QUEUE_LENGTH {
            left.write(&n.to_be_bytes()).unwrap();
        }
        right.write(b"back").unwrap();
        right.wait(Duration::from_secs(5)).unwrap();
        let mut got = 0;
        while right.read(&mut packet).unwrap() {
            got += 1;
        }
        assert_eq!(got, QUEUE_LENGTH);
        assert!(left.read(&mut packet).unwrap());
        assert_eq!(packet, b"back");
    }
}
