//! Who scans: remotes that meet many closed ports in a short time.
//!
//! One [`Table`] for each processor, written by packets at the discard layers
//! only, with relaxed atomics and no lock. [`sweep`] puts together what the
//! processors saw, so a scan that RSS spreads over all of them is found as if
//! one had seen it: sets of ports are bitmaps, and bitmaps are joined by OR.
//!
//! # Cost
//!
//! A packet reads the [`WAYS`] slots of its remote's set and writes one of
//! them, a cache line; where the set is full of others it reads and writes
//! [`ROWS`] cells instead. All of these are its own processor's. A line is
//! shared only with the sweep, which reads all and writes where it reports, and
//! with a thread below DISPATCH_LEVEL that has moved to another processor.
//!
//! # Exactness
//!
//! - **Time.** Ports are kept in four spans of 3/8 of the window. What is
//!   swept covers at least 9/8 of the window, so with a sweep every eighth of
//!   it no scan within the window is missed; and less than 12/8, so nobody is
//!   reported who met fewer than `ScanPorts` in one and a half windows. Who has
//!   been reported is not again for as long: a scan that lasts is reported every
//!   one and a half windows. It is the sweep that turns the spans, so that no
//!   packet asks for the time; where it comes late, they last as much longer.
//! - **Ports.** A remote's ports are 64 bits by a keyed hash. Two ports may
//!   share a bit, so the bits set are never more than the ports met. Up to 32
//!   ports the bits must reach `ScanPorts`: nobody is reported with fewer, and
//!   a scanner a little later than at the very port (with 16: at the 18th on
//!   average). Above, what so many ports set on average must be reached, at
//!   most 60 bits; the error is then the sketch's.
//! - **Floods.** Memory is fixed. A remote that finds its set full of others
//!   whose ports are as many waits in the [`Queue`], which remembers ports
//!   without remembering remotes, until it has met more ports than somebody in
//!   the set. So a scanner gets in with its second or third port, and stays, as
//!   long as a window brings fewer sources than about eight times the cells in
//!   a row. More sources than that can keep it out, but for no longer than they
//!   last: a window later their slots are free and their marks void.

mod queue;
mod remote;
mod table;
#[cfg(test)]
mod tests;

pub use queue::ROWS;
pub use remote::{Remote, Technique, Techniques};
pub use table::{Encounter, Scan, Table, WAYS, sweep};

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::mix::{fold, mix};

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Closed ports that make a scan (`ScanPorts`).
    pub ports: u32,
    /// The same for all tables.
    pub seed: Seed,
}

/// The key of all hashes: odd, and otherwise random in every bit and unknown to
/// the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed(u64);

impl Seed {
    /// Of a random number.
    pub const fn new(random: u64) -> Self {
        Self(random | 1)
    }
}

/// Bits of a remote's set of ports.
const BITS: u32 = u64::BITS;

/// Spans of time that are kept.
const SPANS: u32 = 4;

/// The time as packets see it, in spans. Numbers wrap.
#[derive(Debug)]
pub struct Spans {
    number: AtomicU32,
    window_ms: AtomicU32,
    began_ms: AtomicU64,
}

impl Spans {
    /// The first one begins now.
    pub const fn new(now_ms: u64, window_ms: u32) -> Self {
        let (window_ms, began_ms) = (AtomicU32::new(window_ms), AtomicU64::new(now_ms));
        Self { number: AtomicU32::new(0), window_ms, began_ms }
    }

    /// The span of now.
    pub fn current(&self) -> u32 {
        self.number.load(Ordering::Relaxed)
    }

    /// Turns to the span of a time, and says which it is; by one thread at a
    /// time, before each [`sweep`]. Of what another window held, nothing counts.
    pub fn turn(&self, now_ms: u64, window_ms: u32) -> u32 {
        let length = (u64::from(window_ms) * 3).div_ceil(8).max(1);
        let (span, began_ms) = (self.current(), self.began_ms.load(Ordering::Relaxed));
        let mut over = now_ms.saturating_sub(began_ms).checked_div(length).unwrap_or(0);
        let mut next_ms = began_ms.saturating_add(over.saturating_mul(length));
        if self.window_ms.swap(window_ms, Ordering::Relaxed) != window_ms {
            (over, next_ms) = (SPANS.into(), now_ms);
        }
        if over == 0 {
            return span;
        }
        self.began_ms.store(next_ms, Ordering::Relaxed);
        // After as many as are kept, nothing of before is.
        let span = span.wrapping_add(over.min(SPANS.into()) as u32);
        self.number.store(span, Ordering::Relaxed);
        span
    }
}

/// Which bit a port has in a remote's set.
#[inline(always)]
const fn port_bit(port: u16, Seed(seed): Seed) -> u32 {
    // One product alone keeps ports in a row, or far apart by a power of two,
    // in some order. What is highest in it depends on most, and is lowest in
    // the second.
    let product = (port as u64).wrapping_add(seed).wrapping_mul(seed);
    (product.swap_bytes().wrapping_mul(seed) >> (u64::BITS - BITS.ilog2())) as u32
}

impl Settings {
    /// The bits that make a scan.
    fn bits(&self) -> u32 {
        const EXACT: u32 = 32;
        const MOST: u32 = 60;
        if self.ports <= EXACT {
            return self.ports;
        }
        (EXACT..MOST).find(|bits| estimate(*bits) >= self.ports).unwrap_or(MOST)
    }
}

/// The ports that have on average been met when this many bits are set: the
/// sum of 64/(64-i), as in collecting coupons (Whang et al., *A linear-time
/// probabilistic counting algorithm*, has the same estimate as a logarithm).
/// With all bits set it is the least that can be said.
///
/// Its standard error, measured: a tenth up to 64 ports, a fifth at 200.
pub const fn estimate(bits: u32) -> u32 {
    const HALF: u64 = 1 << 31;
    let bits = if bits < BITS { bits } else { BITS };
    let (mut sum, mut bit) = (0_u64, 0);
    while bit < bits {
        // In 2^-32; the divisor is 64 at first and never below 1.
        sum += ((BITS as u64) << 32) / (BITS - bit) as u64;
        bit += 1;
    }
    ((sum + HALF) >> 32) as u32
}

/// A scale below `count` for a hash.
const fn scale(hash: u64, count: usize) -> usize {
    ((hash as u128 * count as u128) >> 64) as usize
}
