//! Event tracing: a provider's registration, and writing its events.
//!
//! TraceLogging by our own few lines ([`logic::tracelogging`]) and not by the
//! crate `tracelogging` (1.2.4), for three reasons: registering has panics, and
//! a driver linked with it has `core::panicking::panic_fmt` in its image; the
//! level and the keywords that its callback writes are plain memory, which
//! writers on other processors read meanwhile; and a session that asks for
//! level 0, which is every level, gets no events from it, where
//! `TraceLoggingProvider.h` gives it all.
//!
//! [`logic::tracelogging`]: crate::logic::tracelogging

use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};

use super::clock;
use super::irql::{MaxDispatch, Passive};
use super::pool::PoolArc;
use super::published::Published;
use super::wfp::guid;
use crate::ffi;
use crate::logic::events::LARGEST;
use crate::logic::layers::Guid;
use crate::logic::rate::RateLimit;
use crate::logic::tracelogging::{Description, Event, Payload};

/// Most events that a provider has: as many as bits in a third of the gate.
const MOST: usize = u64::BITS as usize / 3;
const ALL: u64 = (1 << MOST) - 1;

/// `WINEVENT_CHANNEL_TRACELOGGING` (winmeta.xml): what marks events that say
/// themselves what they hold.
const CHANNEL_TRACELOGGING: u8 = 11;

/// What a provider is.
pub struct EventProvider {
    /// Its control GUID.
    pub id: Guid,
    /// Its traits.
    pub traits: &'static [u8],
    /// Its events, at most 21.
    pub events: &'static [Description],
}

/// Where events are written: at any IRQL up to DISPATCH_LEVEL, without a lock,
/// and at the price of one load where nobody listens.
pub struct Channel {
    provider: &'static EventProvider,
    /// A bit for each event, three times: from the lowest bit on those that are
    /// written, which are those that sessions want, from [`MOST`] on, and that
    /// may be written, above.
    gate: AtomicU64,
    /// Of the registration; 0 while there is none.
    handle: AtomicU64,
    /// When this was made.
    made: u64,
    suppressed: AtomicU64,
    limits: [RateLimit; MOST],
}

/// Says the state to sessions that ask.
pub trait Listen: 'static {
    /// What it is read from.
    type Shared: Sync + 'static;

    /// Where that is found.
    fn shared() -> &'static Published<Self::Shared>;

    /// Writes the state.
    fn rundown(shared: &Self::Shared, channel: &Channel, irql: &Passive);
}

impl Channel {
    /// One on which nothing may be written yet.
    pub fn new(provider: &'static EventProvider) -> Self {
        Self {
            provider,
            gate: AtomicU64::new(0),
            handle: AtomicU64::new(0),
            made: clock::now(),
            suppressed: AtomicU64::new(0),
            limits: [const { RateLimit::new() }; MOST],
        }
    }

    /// Which events may be written, a bit for each.
    pub fn permitted(&self) -> u32 {
        (self.gate.load(Ordering::Relaxed) >> (2 * MOST) & ALL) as u32
    }

    /// Says which events may be written.
    pub fn permit(&self, events: u32) {
        self.turn(2, events);
    }

    fn want(&self, events: u32) {
        self.turn(1, events);
    }

    /// Called at PASSIVE_LEVEL alone, and rarely.
    fn turn(&self, part: usize, events: u32) {
        let change = |gate: u64| {
            let gate = gate & !(ALL << (part * MOST)) | (u64::from(events) & ALL) << (part * MOST);
            Some(gate & !ALL | gate >> MOST & gate >> (2 * MOST) & ALL)
        };
        let _before = self.gate.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change);
    }

    /// Whether an event would be written now.
    #[inline(always)]
    pub fn is_open<E: Event>(&self) -> bool {
        const { assert!(E::INDEX < MOST) };
        self.is_any_open(1 << E::INDEX)
    }

    /// Whether one of these would be, a bit for each.
    #[inline(always)]
    pub fn is_any_open(&self, events: u32) -> bool {
        self.gate.load(Ordering::Relaxed) & u64::from(events) & ALL != 0
    }

    /// How long ago this was made, in ms.
    pub fn age_ms(&self) -> u64 {
        clock::now().saturating_sub(self.made) / clock::PER_MS
    }

    /// Events that were held back so far because too many came in a second.
    pub fn suppressed(&self) -> u64 {
        self.suppressed.load(Ordering::Relaxed)
    }

    /// Writes an event, which is made only if it is written.
    #[inline]
    pub fn write<E: Event>(&self, irql: &MaxDispatch, event: impl FnOnce() -> E) {
        if self.is_open::<E>() {
            self.write_open(irql, event);
        }
    }

    /// Whether one more may be written in this second, and how many were held
    /// back before it.
    #[inline(never)]
    fn admit(&self, index: usize, per_second: Option<u32>) -> Option<u32> {
        let Some(most) = per_second else { return Some(0) };
        let second = clock::now() / clock::PER_SECOND;
        let admitted = self.limits.get(index).and_then(|limit| limit.admit(second as u32, most));
        if admitted.is_none() {
            self.suppressed.fetch_add(1, Ordering::Relaxed);
        }
        admitted
    }

    #[cold]
    #[inline(never)]
    fn write_open<E: Event>(&self, irql: &MaxDispatch, event: impl FnOnce() -> E) {
        let Some(dropped) = self.admit(E::INDEX, E::DESCRIPTION.per_second) else { return };
        let mut room = [0; LARGEST];
        let mut payload = Payload::new(&mut room);
        event().put(dropped, &mut payload);
        self.transfer(&E::DESCRIPTION, &payload, irql);
    }

    // Once in the image, not with every event.
    #[inline(never)]
    fn transfer(&self, event: &Description, payload: &Payload<'_>, _: &MaxDispatch) {
        let Some(values) = payload.bytes() else { return };
        let handle = self.handle.load(Ordering::Acquire);
        if handle == 0 {
            return;
        }
        let descriptor = ffi::EVENT_DESCRIPTOR {
            Id: 0,
            Version: 0,
            Channel: CHANNEL_TRACELOGGING,
            Level: event.level,
            Opcode: 0,
            Task: 0,
            Keyword: event.keyword,
        };
        let mut data = [
            part(self.provider.traits, ffi::EVENT_DATA_DESCRIPTOR_TYPE_PROVIDER_METADATA),
            part(event.metadata, ffi::EVENT_DATA_DESCRIPTOR_TYPE_EVENT_METADATA),
            part(values, ffi::EVENT_DATA_DESCRIPTOR_TYPE_NONE),
        ];
        // SAFETY: the handle is registered until every writer has gone, the
        // descriptors are locals and lead to resident memory that outlives the
        // call: the image's and this stack's. Callable at any IRQL.
        let _logged_or_lost = unsafe {
            ffi::EtwWriteTransfer(
                handle,
                &descriptor,
                ptr::null(),
                ptr::null(),
                data.len() as ffi::ULONG,
                data.as_mut_ptr(),
            )
        };
    }
}

fn part(bytes: &[u8], kind: u32) -> ffi::EVENT_DATA_DESCRIPTOR {
    let mut part = ffi::EVENT_DATA_DESCRIPTOR {
        Ptr: bytes.as_ptr() as u64,
        Size: bytes.len() as ffi::ULONG,
        ..Default::default()
    };
    // The type is the first byte of what used to be reserved (evntprov.h).
    part.__bindgen_anon_1.Reserved = kind;
    part
}

/// A provider's registration, undone when dropped. Nobody writes any more then.
pub struct ProviderRegistration(PoolArc<Channel>);

impl ProviderRegistration {
    /// Registers the channel's provider. The first session may ask for the state
    /// before this returns; what is written then goes nowhere, so whoever
    /// registers says it when it has begun. Where the system refuses, nobody can
    /// listen, and that is all: it keeps no driver from doing its work.
    pub fn new<L: Listen>(channel: PoolArc<Channel>, _: &Passive) -> Self {
        let id = guid(channel.provider.id);
        let mut handle = 0;
        // SAFETY: id and handle are locals, the channel lives until the
        // registration is undone (see Drop), and the call is made at
        // PASSIVE_LEVEL.
        let registered = unsafe {
            ffi::EtwRegister(&id, Some(enable::<L>), ptr::from_ref(&*channel).cast_mut().cast(), &mut handle)
        };
        if registered < 0 {
            return Self(channel);
        }
        let traits = channel.provider.traits;
        // SAFETY: the handle is registered, the traits live as long as the
        // image, and the call is made at PASSIVE_LEVEL. What it does is only
        // that events need not be asked who wrote them.
        let _set_or_not = unsafe {
            ffi::EtwSetInformation(
                handle,
                ffi::_EVENT_INFO_CLASS::EventProviderSetTraits,
                traits.as_ptr().cast_mut().cast(),
                traits.len() as ffi::ULONG,
            )
        };
        channel.handle.store(handle, Ordering::Release);
        Self(channel)
    }
}

impl Drop for ProviderRegistration {
    fn drop(&mut self) {
        let handle = self.0.handle.load(Ordering::Acquire);
        if handle != 0 {
            // SAFETY: the handle is registered and unregistered once, here;
            // registrations are only held at PASSIVE_LEVEL.
            let gone = unsafe { ffi::EtwUnregister(handle) };
            debug_assert!(gone >= 0, "what is registered can be unregistered");
            self.0.handle.store(0, Ordering::Release);
        }
    }
}

/// ETWENABLECALLBACK: sessions come, go and ask.
unsafe extern "C" fn enable<L: Listen>(
    _source: *const ffi::GUID,
    control: ffi::ULONG,
    level: ffi::UCHAR,
    any: ffi::ULONGLONG,
    all: ffi::ULONGLONG,
    _filter: *mut ffi::EVENT_FILTER_DESCRIPTOR,
    context: *mut c_void,
) {
    // SAFETY: the context is the channel, which outlives the registration.
    let channel = unsafe { &*context.cast::<Channel>() };
    // SAFETY: enable callbacks run at PASSIVE_LEVEL (ETWENABLECALLBACK).
    let irql = unsafe { Passive::assume() };
    match control {
        ffi::EVENT_CONTROL_CODE_DISABLE_PROVIDER => return channel.want(0),
        ffi::EVENT_CONTROL_CODE_ENABLE_PROVIDER => {
            let wanted = channel.provider.events.iter().take(MOST).enumerate();
            let wanted = wanted.filter(|(_, event)| event.is_wanted(level, any, all));
            channel.want(wanted.fold(0, |bits, (index, _)| bits | 1 << index));
        }
        ffi::EVENT_CONTROL_CODE_CAPTURE_STATE => {}
        // None that evntrace.h knows.
        _ => return,
    }
    // SAFETY: the registration is made after the publication, and dropped, with
    // its callbacks waited for, before its end.
    if let Some(shared) = unsafe { L::shared().get() } {
        L::rundown(shared, channel, &irql);
    }
}
