//! The remotes that one processor has seen, and the sweep over all processors.

use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

use super::queue::Queue;
use crate::logic::stealth::PacketView;

use super::{Remote, SPANS, Seed, Settings, Technique, Techniques, estimate, port_bit};

/// The slots in a set.
pub const WAYS: usize = 4;

/// One remote, on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct RemoteSlot {
    /// The remote's hash; 0 means that the slot is free.
    hash: AtomicU64,
    /// Its address. Two threads that take a slot at once can mix up addresses, so
    /// the address is valid only if it has the hash.
    address: [AtomicU64; 2],
    /// The span in which the remote was last seen.
    span: AtomicU32,
    /// The span in which it was last reported; valid with [`REPORTED`].
    reported: AtomicU16,
    state: AtomicU8,
    techniques: AtomicU8,
    /// The ports that it met, by span.
    ports: [AtomicU64; SPANS as usize],
}

const _: () = assert!(size_of::<RemoteSlot>() == 64);

/// In [`RemoteSlot::state`]: [`REPORTED`] beside the number of ports met in the
/// queue.
const REPORTED: u8 = 0x80;
const QUEUED: u8 = 0x3f;

/// The remotes of one processor. The type contains only integers, and zero means
/// empty, so that it can be made in zeroed memory.
#[derive(Debug)]
#[repr(C)]
pub struct Table<const SETS: usize, const CELLS: usize> {
    sets: [[RemoteSlot; WAYS]; SETS],
    /// For remotes without a slot.
    queue: Queue<CELLS>,
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
        let (remote, port, technique) = (packet.remote()?, packet.local_port()?, Technique::of(packet)?);
        Some(Self { remote, port, technique })
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
    /// a fifth up to 200. At most the [`estimate`] of a full bitmap.
    pub ports: u32,
}

impl<const SETS: usize, const CELLS: usize> Table<SETS, CELLS> {
    /// No remotes; for tests, which have a larger stack.
    #[cfg(test)]
    pub fn empty() -> Self {
        use core::array::from_fn;
        Self { sets: from_fn(|_| Default::default()), queue: Queue::empty() }
    }

    /// Whether a remote has a slot.
    #[cfg(test)]
    pub fn remembers(&self, remote: Remote, seed: Seed) -> bool {
        self.slot_of(remote.hash(seed)).is_some()
    }

    /// Notes an encounter. The seed is the same for all tables.
    #[inline(always)]
    pub fn meet(&self, met: &Encounter, span: u32, seed: Seed) {
        let slot = match self.slot_of(met.remote.hash(seed)) {
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
        let (port, technique) = (1 << port_bit(met.port, seed), Techniques::bit(met.technique));
        if !slot.has(span, port, technique) {
            slot.mark(span, port, technique);
        }
    }

    /// Whether noting an encounter would change nothing.
    #[cfg(test)]
    pub fn has_met(&self, met: &Encounter, span: u32, seed: Seed) -> bool {
        let (port, technique) = (1 << port_bit(met.port, seed), Techniques::bit(met.technique));
        match self.slot_of(met.remote.hash(seed)) {
            Some(slot) => slot.span.load(Relaxed) == span && slot.has(span, port, technique),
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
        slot.take(remote, hash, span, queued as u8 & QUEUED);
        Some(slot)
    }

    #[inline(always)]
    fn set(&self, hash: u64) -> &[RemoteSlot] {
        match self.sets.get(set_of(hash, SETS)) {
            Some(set) => set,
            None => &[],
        }
    }

    #[inline(always)]
    fn slot_of(&self, hash: u64) -> Option<&RemoteSlot> {
        let [first, second, third, fourth] = self.sets.get(set_of(hash, SETS))?;
        match hash {
            _ if first.hash.load(Relaxed) == hash => Some(first),
            _ if second.hash.load(Relaxed) == hash => Some(second),
            _ if third.hash.load(Relaxed) == hash => Some(third),
            _ if fourth.hash.load(Relaxed) == hash => Some(fourth),
            _ => None,
        }
    }
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

impl RemoteSlot {
    /// The ports met in the spans that are kept, as bits.
    fn ports(&self, span: u32) -> u64 {
        // How many spans ago the slot was last written. The entries of the spans
        // since then are from an earlier round.
        let age = span.wrapping_sub(self.span.load(Relaxed));
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
        if self.hash.load(Relaxed) == 0 {
            return 0;
        }
        match self.ports(span).count_ones() {
            0 => 0,
            ports => ports.max(u32::from(self.state.load(Relaxed) & QUEUED)),
        }
    }

    fn take(&self, remote: Remote, hash: u64, span: u32, queued: u8) {
        // The slot has no remote while it changes.
        self.hash.store(0, Relaxed);
        for (to, half) in self.address.iter().zip(remote.halves()) {
            to.store(half, Relaxed);
        }
        for ports in &self.ports {
            ports.store(0, Relaxed);
        }
        self.span.store(span, Relaxed);
        self.state.store(queued, Relaxed);
        self.techniques.store(0, Relaxed);
        self.hash.store(hash, Relaxed);
    }

    /// Whether the bits of the port and of the technique are set.
    #[inline(always)]
    fn has(&self, span: u32, port: u64, technique: u8) -> bool {
        let Some(ports) = self.ports.get((span % SPANS) as usize) else { return true };
        ports.load(Relaxed) & port != 0 && self.techniques.load(Relaxed) & technique != 0
    }

    /// Sets both bits.
    #[cold]
    #[inline(never)]
    fn mark(&self, span: u32, port: u64, technique: u8) {
        if let Some(ports) = self.ports.get((span % SPANS) as usize) {
            ports.fetch_or(port, Relaxed);
        }
        self.techniques.fetch_or(technique, Relaxed);
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
        self.span.store(span, Relaxed);
    }

    fn remote(&self) -> Remote {
        let [high, low] = self.address.each_ref().map(|half| half.load(Relaxed));
        Remote(u128::from(high) << 64 | u128::from(low))
    }

    fn reported_within(&self, span: u32) -> bool {
        let since = (span as u16).wrapping_sub(self.reported.load(Relaxed));
        self.state.load(Relaxed) & REPORTED != 0 && u32::from(since) < SPANS
    }

    fn set_reported(&self, span: u32) {
        self.reported.store(span as u16, Relaxed);
        self.state.fetch_or(REPORTED, Relaxed);
    }
}

/// Reports every remote that scans. A remote is not reported again while the ports
/// of its last report are kept. To be called every eighth of a window, after the
/// spans have been changed, at PASSIVE_LEVEL, by one thread. It takes time
/// proportional to the slots of all tables.
pub fn sweep<'a, const SETS: usize, const CELLS: usize>(
    tables: impl Iterator<Item = &'a Table<SETS, CELLS>> + Clone,
    span: u32,
    settings: &Settings,
    mut report: impl FnMut(Scan),
) {
    let needed = settings.bits().max(1);
    for (number, table) in tables.clone().enumerate() {
        for slot in table.sets.as_flattened() {
            let (hash, remote) = (slot.hash.load(Relaxed), slot.remote());
            if hash == 0 || remote.hash(settings.seed) != hash || slot.ports(span) == 0 {
                continue;
            }
            let seen_before = |table: &Table<SETS, CELLS>| {
                table.slot_of(hash).is_some_and(|slot| slot.remote() == remote && slot.ports(span) != 0)
            };
            if tables.clone().take(number).any(seen_before) {
                continue;
            }
            let all = || tables.clone().filter_map(|table| table.slot_of(hash));
            let bits = all().fold(0, |bits, slot| bits | slot.ports(span)).count_ones();
            if bits < needed || all().any(|slot| slot.reported_within(span)) {
                continue;
            }
            let techniques = all().fold(0, |bits, slot| bits | slot.techniques.load(Relaxed));
            all().for_each(|slot| slot.set_reported(span));
            report(Scan { remote, techniques: Techniques::of_bits(techniques), ports: estimate(bits) });
        }
    }
}
