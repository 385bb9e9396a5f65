//! Scan detection: remotes that meet many closed ports in a short time.
//!
//! Each processor has a [`Table`]. Only packets at the discard layers write it, without
//! a lock. A slot has a version, so the sweep never takes the ports of one remote for
//! those of another. [`sweep`] combines the tables, so a scan that
//! RSS spreads over all processors is found as if one had seen it: sets of ports are
//! bitmaps, and bitmaps are combined by OR.
//!
//! # Cost
//!
//! A packet reads the [`WAYS`] slots of its remote's set and writes one of them,
//! which is a cache line. If the set is full of other remotes, it reads and writes
//! [`ROWS`] cells instead. All of these belong to its own processor, which writes them
//! at DISPATCH_LEVEL. A line is shared only with the sweep, which reads all slots and
//! writes those that it reports. A sweep takes time proportional to the slots.
//!
//! # Exactness
//!
//! - **Time.** Ports are kept in four spans of 3/8 of the window. A sweep covers at
//!   least 9/8 of the window. So with a sweep every eighth of the window no scan
//!   within a window is missed. It covers less than 12/8, so no remote is reported
//!   that met fewer than `ScanPorts` in one and a half windows. A remote that has
//!   been reported is not reported again for that long. The sweep changes the spans,
//!   so that no packet reads the time. If the sweep is late, the spans are longer.
//! - **Ports.** The ports of a remote are 64 bits by a keyed hash. Two ports may
//!   share a bit, so there are never more bits than ports. Up to 32 ports, the
//!   number of bits must reach `ScanPorts`. So no remote is reported with fewer
//!   ports, and a scanner is reported a little late (with 16: at the 18th port on
//!   average). Above 32, the average number of bits for `ScanPorts` ports must be
//!   reached, at most 60 bits; then the error is that of the estimate.
//! - **Floods.** Memory is fixed. If a remote's set is full of others with as many
//!   ports, the remote waits in the `Queue`, which remembers ports without
//!   remotes. It gets a slot when it has met more ports than some remote in the set.
//!   So a scanner gets a slot with its second or third port and keeps it, as long as
//!   a window brings fewer sources than about eight times the cells in a row. More
//!   sources can keep it out, but only while they last: a window later their slots
//!   are free and their bits expired.
//!
//! # Forged addresses
//!
//! A remote that completes a TCP handshake has proven its address. A report says whether
//! it has (`proven`).
//!
//! # Late replies
//!
//! What a server still sends to a port that has just been closed is no probe, see
//! [`is_reply`]. It is not counted.

mod late_reply;
mod merge;
mod proven;
mod queue;
mod remote;
mod table;
#[cfg(test)]
mod tests;

pub use late_reply::{WELL_KNOWN_END, is_reply};
pub use merge::sweep;
pub use queue::ROWS;
pub use remote::{Remote, Technique, Techniques};
pub use table::{Encounter, Scan, Table, WAYS};

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::mix::{fold, mix};
use proven::KEPT;

/// The settings of a sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The number of closed ports that make a scan (`ScanPorts`).
    pub ports: u32,
    /// The seed, which must be the same for all tables.
    pub seed: Seed,
}

/// The key of all hashes. It is odd, and otherwise random and unknown to the
/// network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed(u64);

impl Seed {
    /// The seed from a random number.
    pub const fn new(random: u64) -> Self {
        Self(random | 1)
    }
}

/// The bits of a remote's set of ports.
const BITS: u32 = u64::BITS;

/// The number of spans that are kept.
const SPANS: u32 = 4;

/// The current span. The numbers of spans wrap.
#[derive(Debug)]
pub struct Spans {
    number: AtomicU32,
    window_ms: AtomicU32,
    began_ms: AtomicU64,
}

impl Spans {
    /// The first span begins now.
    pub const fn new(now_ms: u64, window_ms: u32) -> Self {
        let (window_ms, began_ms) = (AtomicU32::new(window_ms), AtomicU64::new(now_ms));
        Self { number: AtomicU32::new(0), window_ms, began_ms }
    }

    /// The current span.
    pub fn current(&self) -> u32 {
        self.number.load(Ordering::Relaxed)
    }

    /// Moves on to the span of a time, and returns it. To be called by one thread at
    /// a time, before each [`sweep`]. If the window changed, everything kept so far
    /// expires.
    pub fn advance_to(&self, now_ms: u64, window_ms: u32) -> u32 {
        let length = (u64::from(window_ms) * 3).div_ceil(8).max(1);
        let (span, began_ms) = (self.current(), self.began_ms.load(Ordering::Relaxed));
        let mut over = now_ms.saturating_sub(began_ms).checked_div(length).unwrap_or(0);
        let mut next_ms = began_ms.saturating_add(over.saturating_mul(length));
        if self.window_ms.swap(window_ms, Ordering::Relaxed) != window_ms {
            (over, next_ms) = (KEPT, now_ms);
        }
        if over == 0 {
            return span;
        }
        self.began_ms.store(next_ms, Ordering::Relaxed);
        // After this many spans nothing is left of those before.
        let span = span.wrapping_add(over.min(KEPT) as u32);
        self.number.store(span, Ordering::Relaxed);
        span
    }
}

/// The bit of a port in a remote's set.
#[inline(always)]
const fn port_bit(port: u16, Seed(seed): Seed) -> u32 {
    // One multiplication alone maps ports in a row, or at a distance that is a power
    // of two, to bits in a regular order. Its highest byte depends on most bits, and
    // becomes the lowest byte for the second multiplication.
    let product = (port as u64).wrapping_add(seed).wrapping_mul(seed);
    (product.swap_bytes().wrapping_mul(seed) >> (u64::BITS - BITS.ilog2())) as u32
}

impl Settings {
    /// The number of bits that makes a scan.
    fn bits(&self) -> u32 {
        const EXACT: u32 = 32;
        const MAX: u32 = 60;
        if self.ports <= EXACT {
            return self.ports;
        }
        (EXACT..MAX).find(|bits| estimate(*bits) >= self.ports).unwrap_or(MAX)
    }
}

/// The average number of ports that set this many bits: the sum of 64/(64-i), as in
/// the coupon collector's problem (Whang et al., *A linear-time probabilistic
/// counting algorithm*, has the same estimate as a logarithm). If all bits are set,
/// it is the lower bound.
///
/// The measured standard error is a tenth up to 64 ports, and a fifth at 200.
pub const fn estimate(bits: u32) -> u32 {
    const HALF: u64 = 1 << 31;
    let bits = if bits < BITS { bits } else { BITS };
    let (mut sum, mut bit) = (0_u64, 0);
    while bit < bits {
        // In units of 2^-32; the divisor goes from 64 down to 1.
        sum += ((BITS as u64) << 32) / (BITS - bit) as u64;
        bit += 1;
    }
    ((sum + HALF) >> 32) as u32
}

/// Scales a hash to a number below `count`.
const fn scale(hash: u64, count: usize) -> usize {
    ((hash as u128 * count as u128) >> 64) as usize
}
