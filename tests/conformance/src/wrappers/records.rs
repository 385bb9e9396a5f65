//! A table of records that callouts fill without a lock.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, Ordering};

use crate::kernel::pool::{PoolVec, Tag, Zeroed};
use crate::kernel::status::Result;

/// The most data fields of a layer that are described.
pub const FIELDS: usize = 64;

/// What a callout saw.
#[derive(Clone, Copy)]
pub struct Seen {
    /// The index of the probe.
    pub probe: u8,
    /// Which callout saw it.
    pub place: u8,
    /// The IRQL on entry.
    pub irql: u8,
    /// Whether a NET_BUFFER_LIST was passed.
    pub has_packet: bool,
    /// Whether all, none or some of its MDLs are mapped: bit 0 mapped, bit 1 not.
    pub mapping: u8,
    /// The layer's run-time id.
    pub layer: u16,
    /// The number of values.
    pub values: u16,
    /// The local port, if the layer has one.
    pub port: Option<u16>,
    /// The processor on entry.
    pub processor: u32,
    /// `currentMetadataValues`.
    pub metadata: u32,
    /// Discard module and reason.
    pub discard: Option<[u32; 2]>,
    /// Condition flags.
    pub flags: Option<u32>,
    /// The profile.
    pub profile: Option<u32>,
    /// Where the IP header begins, relative to the data start.
    pub ip: Option<i32>,
    /// Where the transport header begins.
    pub transport: Option<i32>,
    /// Where the payload begins.
    pub payload: Option<i32>,
    /// Number of MDLs.
    pub mdls: u32,
    /// The rights on entry.
    pub rights: u32,
    /// The action on entry.
    pub action: u32,
    /// The type of each value.
    pub types: [u8; FIELDS],
}

struct Place {
    ready: AtomicU32,
    seen: UnsafeCell<Option<Seen>>,
}

// SAFETY: `ready` passes the contents from the one that wrote them to readers.
unsafe impl Sync for Place {}

impl Default for Place {
    fn default() -> Self {
        Self { ready: AtomicU32::new(0), seen: UnsafeCell::new(None) }
    }
}

/// The table.
pub struct Records {
    places: PoolVec<Place>,
    next: AtomicU32,
}

impl Records {
    /// An empty table.
    pub fn new(count: usize) -> Result<Self> {
        Ok(Self { places: PoolVec::filled(Tag::new(b"hcPl"), count)?, next: AtomicU32::new(0) })
    }

    /// Adds a record; drops it if the table is full.
    pub fn add(&self, seen: Seen) {
        let mine = self.next.fetch_add(1, Ordering::Relaxed);
        let Some(place) = self.places.get(mine as usize) else { return };
        // SAFETY: the number was given out once, and readers wait for `ready`.
        unsafe { place.seen.get().write(Some(seen)) };
        place.ready.store(1, Ordering::Release);
    }

    /// The records, in the order of their beginning.
    pub fn iter(&self) -> impl Iterator<Item = &Seen> {
        self.places.iter().filter_map(|place| {
            if place.ready.load(Ordering::Acquire) == 0 {
                return None;
            }
            // SAFETY: `ready` says that it was written, and it is not written again.
            unsafe { (*place.seen.get()).as_ref() }
        })
    }

    /// How many records did not fit.
    pub fn lost(&self) -> u32 {
        self.next.load(Ordering::Relaxed).saturating_sub(self.places.len() as u32)
    }
}

/// UTF-16 text, too large for a kernel stack.
pub struct Units(pub [u16; UNITS]);

/// The length of [`Units`].
pub const UNITS: usize = 4096;

// SAFETY: an array of integers.
unsafe impl Zeroed for Units {}
