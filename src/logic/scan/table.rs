//! The remotes that one processor has seen.

use super::merge::Merge;
use super::proven::{Proven, Tag};
use super::queue::Queue;
use crate::logic::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering, fence};
use crate::logic::stealth::PacketView;

use super::{Remote, SPANS, Seed, Technique, Techniques, port_bit};
use Ordering::{Acquire, Relaxed, Release};

/// The slots in a set.
pub const WAYS: usize = 4;

/// One remote, on a cache line of its own.
///
/// Only the table's own processor writes a slot, at DISPATCH_LEVEL, so nothing
/// interrupts it. The sweep reads slots on another processor: see [`RemoteSlot::read`].
/// It writes `reported` and nothing else.
///
/// A slot of zeros has no ports, so it counts as free.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct RemoteSlot {
    /// The remote's address.
    address: [AtomicU64; 2],
    /// The ports that it met, by span.
    ports: [AtomicU64; SPANS as usize],
    /// Changes with the remote. It is odd while the slot is being changed.
    version: AtomicU32,
    /// The span in which the remote was last seen.
    span: AtomicU32,
    /// The span in which it was last reported, and the version it belongs to
    /// ([`tag`]).
    reported: AtomicU32,
    /// The number of ports met in the queue.
    queued: AtomicU8,
    techniques: AtomicU8,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<RemoteSlot>() == 64);

/// The largest [`RemoteSlot::queued`].
const QUEUED: u32 = 0x3f;

/// The remotes of one processor. The type contains only integers, and zero means
/// empty, so that it can be made in zeroed memory.
#[derive(Debug)]
#[repr(C)]
pub struct Table<const SETS: usize, const CELLS: usize> {
    sets: [[RemoteSlot; WAYS]; SETS],
    /// For remotes without a slot.
    queue: Queue<CELLS>,
    /// This table's part of the sweep's memory.
    pub(super) merge: Merge,
    /// Remotes that have proven their addresses.
    proven: [Proven; SETS],
}

/// A remote has met a closed port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encounter {
    /// The remote.
    pub remote: Remote,
    /// The port.
    pub port: u16,
    /// The technique.
    pub technique: Technique,
}

impl Encounter {
    /// The encounter of a packet to a closed port; `None` if no scan sends such a
    /// packet.
    #[inline(always)]
    pub fn of(packet: &impl PacketView) -> Option<Self> {
        let (remote, port) = (packet.remote()?, packet.local_port()?);
        Some(Self { remote, port, technique: Technique::of(packet)? })
    }
}

/// A remote that scans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scan {
    /// The remote.
    pub remote: Remote,
    /// The techniques that it has used.
    pub techniques: Techniques,
    /// An estimate of the ports that it met. The error is a tenth up to 64 ports and
    /// a fifth up to 200. At most the estimate of a full bitmap.
    pub ports: u32,
    /// Whether the remote has proven its address, by a TCP handshake that it began and
    /// completed.
    pub is_proven: bool,
}

impl<const SETS: usize, const CELLS: usize> Table<SETS, CELLS> {
    /// No remotes; for tests, which have a larger stack.
    #[cfg(test)]
    pub fn empty() -> Self {
        use core::array::from_fn;
        let (queue, merge) = (Queue::empty(), Merge::default());
        Self { sets: from_fn(|_| Default::default()), queue, merge, proven: from_fn(|_| Default::default()) }
    }

    /// Whether a remote has a slot.
    #[cfg(test)]
    pub fn remembers(&self, remote: Remote, seed: Seed) -> bool {
        self.slot_of(remote, remote.hash(seed)).is_some()
    }

    /// Notes an encounter. The seed is the same for all tables.
    #[inline(always)]
    pub fn meet(&self, met: &Encounter, span: u32, seed: Seed) {
        let slot = match self.slot_of(met.remote, met.remote.hash(seed)) {
            Some(slot) => slot,
            // A copy, so that the encounter itself stays in registers.
            None => match self.enter(&Encounter { ..*met }, span, seed) {
                Some(slot) => slot,
                None => return,
            },
        };
        if slot.span.load(Relaxed) != span {
            slot.advance(span);
        }
        let port = port_bit(met.port, seed);
        if !slot.has(span, port, met.technique) {
            slot.mark(span, port, met.technique);
        }
    }

    /// Notes that a remote has proven its address.
    pub fn prove(&self, remote: Remote, span: u32, seed: Seed) {
        if let Some(set) = self.proven.get(set_of(remote.hash(seed), SETS)) {
            set.note(Tag::of(remote, seed), span);
        }
    }

    /// The remotes of a set that have proven their addresses.
    pub(super) fn proven(&self, set: usize, span: u32) -> impl Iterator<Item = Tag> {
        self.proven.get(set).into_iter().flat_map(move |set| set.tags(span))
    }

    /// Whether noting an encounter would change nothing.
    #[cfg(test)]
    pub fn has_met(&self, met: &Encounter, span: u32, seed: Seed) -> bool {
        let port = port_bit(met.port, seed);
        match self.slot_of(met.remote, met.remote.hash(seed)) {
            Some(slot) => slot.span.load(Relaxed) == span && slot.has(span, port, met.technique),
            None => false,
        }
    }

    /// Takes a slot for a remote that has none, if possible.
    #[cold]
    #[inline(never)]
    fn enter(&self, met: &Encounter, span: u32, seed: Seed) -> Option<&RemoteSlot> {
        let Encounter { remote, port, .. } = *met;
        let hash = remote.hash(seed);
        let ranked = self.set(hash).iter().map(|slot| (slot, slot.rank(span)));
        let (slot, rank) = ranked.min_by_key(|at| at.1)?;
        let queued = if rank == 0 {
            0
        } else {
            // Three spans, which are 9/8 of the window.
            self.queue.meet(hash, port, seed, (span / 3) as u16)
        };
        if rank != 0 && queued <= rank {
            return None;
        }
        slot.take(remote, span, queued);
        Some(slot)
    }

    #[inline(always)]
    fn set(&self, hash: u64) -> &[RemoteSlot] {
        self.set_number(set_of(hash, SETS))
    }

    /// The slots of a set; none behind the last set.
    #[inline(always)]
    pub(super) fn set_number(&self, number: usize) -> &[RemoteSlot] {
        match self.sets.get(number) {
            Some(set) => set,
            None => &[],
        }
    }

    /// The slot of a remote. One of the address's halves rarely tells two remotes
    /// apart, so the other half is compared only in one slot.
    #[inline(always)]
    fn slot_of(&self, remote: Remote, hash: u64) -> Option<&RemoteSlot> {
        let set @ [first, second, third, fourth] = self.sets.get(set_of(hash, SETS))?;
        let [high, low] = remote.halves();
        let slot = match low {
            _ if first.low() == low => first,
            _ if second.low() == low => second,
            _ if third.low() == low => third,
            _ if fourth.low() == low => fourth,
            _ => return None,
        };
        if slot.high() == high { Some(slot) } else { other_slot_of(set, remote) }
    }
}

/// Finds the slot of a remote, where another remote has the same lower half.
#[cold]
#[inline(never)]
fn other_slot_of(set: &[RemoteSlot; WAYS], remote: Remote) -> Option<&RemoteSlot> {
    set.iter().find(|slot| slot.remote() == remote)
}

/// The set of a hash.
#[inline(always)]
pub(super) const fn set_of(hash: u64, sets: usize) -> usize {
    // Shifted by the size of a set, so that a mask computes its address.
    let hash = (hash >> size_of::<[RemoteSlot; WAYS]>().ilog2()) as usize;
    match hash.checked_rem(sets) {
        Some(set) => set,
        None => 0,
    }
}

/// What the sweep has read in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub remote: Remote,
    /// The ports met in the spans that are kept, as bits.
    pub ports: u64,
    /// The techniques, as bits.
    pub techniques: u8,
    /// Whether the remote was reported in the spans that are kept.
    pub is_reported: bool,
    version: u32,
}

impl RemoteSlot {
    /// Reads the slot on any processor. `None` if it has no ports, or if its processor
    /// gave it to another remote meanwhile.
    ///
    /// The version is read before the contents and after them. If both are the same
    /// even number, the contents belong together: whoever reads anything that was
    /// written later than [`take`](Self::take) began, also reads its odd version.
    pub(super) fn read(&self, span: u32) -> Option<Seen> {
        let version = self.version.load(Relaxed);
        if !version.is_multiple_of(2) {
            return None;
        }
        fence(Acquire);
        let (remote, ports) = (self.remote(), self.ports(span));
        let techniques = self.techniques.load(Relaxed);
        fence(Acquire);
        if self.version.load(Relaxed) != version || ports == 0 {
            return None;
        }
        let reported = self.reported.load(Relaxed);
        let since = (span as u16).wrapping_sub(reported as u16);
        let is_reported = reported >> u16::BITS == tag(version) && u32::from(since) < SPANS;
        Some(Seen { remote, ports, techniques, is_reported, version })
    }

    /// Notes that the remote was reported. If the slot has another remote by now, this
    /// changes nothing for it.
    pub(super) fn set_reported(&self, seen: &Seen, span: u32) {
        self.reported.store(tag(seen.version) << u16::BITS | span & u32::from(u16::MAX), Relaxed);
    }

    /// The ports met in the spans that are kept, as bits.
    fn ports(&self, span: u32) -> u64 {
        // How many spans ago the slot was last written. The entries of the spans
        // since then are from an earlier round.
        let age = span.wrapping_sub(self.span.load(Relaxed));
        fence(Acquire);
        // Another processor may have a newer span.
        let age = if age > u32::MAX / 2 { 0 } else { age };
        let newest = span.wrapping_sub(age);
        let kept = (age..SPANS).filter_map(|back| {
            let span = newest.wrapping_sub(back.wrapping_sub(age));
            self.ports.get((span % SPANS) as usize)
        });
        kept.fold(0, |all, ports| all | ports.load(Relaxed))
    }

    /// How difficult the remote is to evict; 0 means that the slot is free.
    fn rank(&self, span: u32) -> u32 {
        match self.ports(span).count_ones() {
            0 => 0,
            ports => ports.max(self.queued.load(Relaxed).into()),
        }
    }

    /// Gives the slot to another remote.
    fn take(&self, remote: Remote, span: u32, queued: u32) {
        let version = self.version.load(Relaxed);
        self.version.store(version.wrapping_add(1), Relaxed);
        // Whoever reads anything written below also reads the odd version.
        fence(Release);
        for (to, half) in self.address.iter().zip(remote.halves()) {
            to.store(half, Relaxed);
        }
        for ports in &self.ports {
            ports.store(0, Relaxed);
        }
        self.span.store(span, Relaxed);
        self.queued.store(queued.min(QUEUED) as u8, Relaxed);
        self.techniques.store(0, Relaxed);
        // Whoever reads the new version also reads what was written above.
        fence(Release);
        self.version.store(version.wrapping_add(2), Relaxed);
    }

    /// Whether the port's bit, which has this number, and the technique's are set.
    #[inline(always)]
    fn has(&self, span: u32, port: u32, technique: Technique) -> bool {
        let Some(ports) = self.ports.get((span % SPANS) as usize) else { return true };
        ports.load(Relaxed) & 1 << port != 0
            && Techniques::of_bits(self.techniques.load(Relaxed)).has(technique)
    }

    /// Sets both bits.
    #[cold]
    #[inline(never)]
    fn mark(&self, span: u32, port: u32, technique: Technique) {
        if let Some(ports) = self.ports.get((span % SPANS) as usize) {
            ports.fetch_or(1 << port, Relaxed);
        }
        self.techniques.fetch_or(Techniques::bit(technique), Relaxed);
    }

    /// Clears the spans since the last one.
    #[cold]
    #[inline(never)]
    fn advance(&self, span: u32) {
        let behind = span.wrapping_sub(self.span.load(Relaxed));
        if behind == 0 || behind > u32::MAX / 2 {
            return;
        }
        for back in 0..behind.min(SPANS) {
            if let Some(ports) = self.ports.get((span.wrapping_sub(back) % SPANS) as usize) {
                ports.store(0, Relaxed);
            }
        }
        // Whoever reads the new span also reads the cleared ports.
        fence(Release);
        self.span.store(span, Relaxed);
    }

    #[inline(always)]
    fn high(&self) -> u64 {
        let [high, _] = &self.address;
        high.load(Relaxed)
    }

    #[inline(always)]
    fn low(&self) -> u64 {
        let [_, low] = &self.address;
        low.load(Relaxed)
    }

    fn remote(&self) -> Remote {
        Remote(u128::from(self.high()) << 64 | u128::from(self.low()))
    }
}

/// The part of a version that is kept with a report. It is never 0.
const fn tag(version: u32) -> u32 {
    version & 0xffff | 1
}

#[cfg(all(test, loom))]
mod model;
