//! ETW: registering a provider and writing its events.
//!
//! This is our own TraceLogging ([`logic::tracelogging`]), not the crate
//! `tracelogging` (1.2.4), for three reasons:
//! - Its registration can panic, so the image would contain
//!   `core::panicking::panic_fmt`.
//! - Its callback writes level and keywords to plain memory, which other processors
//!   read at that moment.
//! - A session that asks for level 0, which means every level, gets no events from
//!   it. `TraceLoggingProvider.h` gives such a session all events.
//!
//! [`logic::tracelogging`]: crate::logic::tracelogging

use core::ffi::c_void;
use core::marker::PhantomData;
use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};

use super::clock;
use super::critical_region::CriticalRegion;
use super::irql::{MaxDispatch, Passive};
use super::pool::PoolArc;
use super::published::{Findable, Publication};
use super::waiting::waiting;
use super::wfp::guid;
use crate::ffi;
use crate::logic::events::LARGEST;
use crate::logic::layers::Guid;
use crate::logic::rate::RateLimit;
use crate::logic::tracelogging::{Description, Event, Payload};
use crate::logic::waiting::Awaited;

/// The most events that a provider can have: a third of the gate's bits.
const MAX: usize = u64::BITS as usize / 3;
const ALL: u64 = (1 << MAX) - 1;

/// `WINEVENT_CHANNEL_TRACELOGGING` (winmeta.xml): marks self-describing events.
const CHANNEL_TRACELOGGING: u8 = 11;

/// A provider.
pub struct EventProvider {
    /// The control GUID.
    pub id: Guid,
    /// The provider traits.
    pub traits: &'static [u8],
    /// The events, at most 21.
    pub events: &'static [Description],
}

/// Writes events, at any IRQL up to DISPATCH_LEVEL, without a lock. While no session
/// listens, an event costs one load.
pub struct Channel {
    provider: &'static EventProvider,
    /// Three bits for each event. The lowest [`MAX`] bits say which events are
    /// written: those that sessions set_wanted (the next [`MAX`] bits) and that are
    /// permitted (the bits above).
    gate: AtomicU64,
    /// The registration's handle; 0 while there is none.
    handle: AtomicU64,
    /// When the channel was created.
    made: u64,
    suppressed: AtomicU64,
    limits: [RateLimit; MAX],
}

/// Answers sessions that ask for the provider's state.
pub trait Listen: 'static {
    /// The state that is reported.
    type Shared: Findable;

    /// The channel of the provider.
    fn channel(shared: &Self::Shared) -> &PoolArc<Channel>;

    /// Writes the events that describe the state.
    fn rundown(shared: &Self::Shared, channel: &Channel, irql: &Passive);
}

impl Channel {
    /// A channel on which these events are permitted, one bit for each.
    pub fn new(provider: &'static EventProvider, permitted: u32) -> Self {
        Self {
            provider,
            gate: AtomicU64::new((permitted as u64) << (2 * MAX)),
            handle: AtomicU64::new(0),
            made: clock::now(),
            suppressed: AtomicU64::new(0),
            limits: [const { RateLimit::new() }; MAX],
        }
    }

    /// The permitted events, one bit for each.
    pub fn permitted(&self) -> u32 {
        (self.gate.load(Ordering::Relaxed) >> (2 * MAX) & ALL) as u32
    }

    /// Sets the permitted events.
    pub fn permit(&self, events: u32) {
        self.set_part(2, events);
    }

    fn set_wanted(&self, events: u32) {
        self.set_part(1, events);
    }

    /// Called at PASSIVE_LEVEL only, and rarely.
    fn set_part(&self, part: usize, events: u32) {
        let change = |gate: u64| {
            let gate = gate & !(ALL << (part * MAX)) | (u64::from(events) & ALL) << (part * MAX);
            Some(gate & !ALL | gate >> MAX & gate >> (2 * MAX) & ALL)
        };
        let _before = self.gate.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change);
    }

    /// Whether an event would be written now.
    #[inline(always)]
    pub fn is_open<E: Event>(&self) -> bool {
        const { assert!(E::INDEX < MAX) };
        self.is_any_open(1 << E::INDEX)
    }

    /// Whether any of these events would be written now, one bit for each.
    #[inline(always)]
    pub fn is_any_open(&self, events: u32) -> bool {
        self.gate.load(Ordering::Relaxed) & u64::from(events) & ALL != 0
    }

    /// How long ago the channel was created, in ms.
    pub fn age_ms(&self) -> u64 {
        clock::now().saturating_sub(self.made) / clock::PER_MS
    }

    /// Events suppressed so far because of their rate limits.
    pub fn suppressed(&self) -> u64 {
        self.suppressed.load(Ordering::Relaxed)
    }

    /// Writes an event. `event` is called only if the event is written.
    #[inline]
    pub fn write<E: Event>(&self, irql: &MaxDispatch, event: impl FnOnce() -> E) {
        if self.is_open::<E>() {
            self.write_open(irql, event);
        }
    }

    /// Asks the rate limit for one more event in this second. Returns how many were
    /// suppressed before it, or `None` if it is suppressed itself.
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

    // Not inlined: one copy for all events.
    #[inline(never)]
    fn transfer(&self, event: &Description, payload: &Payload<'_>, _: &MaxDispatch) {
        let Some(values) = payload.bytes() else { return };
        let handle = self.handle.load(Ordering::SeqCst);
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
    // The type is the first byte of a field that was reserved once (evntprov.h).
    part.__bindgen_anon_1.Reserved = kind;
    part
}

/// A provider's registration, undone when dropped. Events that are written afterwards
/// are lost. To be dropped at PASSIVE_LEVEL.
///
/// No page says whether EtwUnregister waits for callbacks that run. So the channel is
/// not their context: they find the shared state as callouts do, are counted while they
/// use it, and who frees it waits for them.
pub struct ProviderRegistration<L: Listen>(PoolArc<Channel>, PhantomData<L>);

impl<L: Listen> ProviderRegistration<L> {
    /// Registers the channel's provider. A session may ask for the state before this
    /// returns. What is written then is lost, so the caller logs the state
    /// afterwards. If the system refuses, no session can listen; the driver works
    /// nevertheless.
    pub fn new(shared: &Publication<L::Shared>, _: &Passive) -> Self {
        let channel = L::channel(shared).clone();
        let id = guid(channel.provider.id);
        let mut handle = 0;
        // SAFETY: id and handle are locals, the callback lives as long as the image and
        // needs no context, and the call is made at PASSIVE_LEVEL.
        let registered = unsafe { ffi::EtwRegister(&id, Some(enable::<L>), ptr::null_mut(), &mut handle) };
        if registered < 0 {
            return Self(channel, PhantomData);
        }
        let traits = channel.provider.traits;
        // SAFETY: the handle is registered, the traits live as long as the
        // image, and the call is made at PASSIVE_LEVEL. If it fails, events only
        // lack the provider's traits for some tools.
        let _set_or_not = unsafe {
            ffi::EtwSetInformation(
                handle,
                ffi::_EVENT_INFO_CLASS::EventProviderSetTraits,
                traits.as_ptr().cast_mut().cast(),
                traits.len() as ffi::ULONG,
            )
        };
        channel.handle.store(handle, Ordering::SeqCst);
        Self(channel, PhantomData)
    }
}

impl<L: Listen> Drop for ProviderRegistration<L> {
    fn drop(&mut self) {
        let handle = self.0.handle.swap(0, Ordering::SeqCst);
        if handle != 0 {
            // SAFETY: registrations are made at PASSIVE_LEVEL, and dropped there.
            let irql = unsafe { Passive::assume() };
            // A callback or a classify may have loaded the handle.
            L::Shared::published().wait_for_users(&irql);
            // SAFETY: the handle is registered and unregistered once, here;
            // registrations are only held at PASSIVE_LEVEL.
            let gone = waiting(Awaited::EtwUnregister, || unsafe { ffi::EtwUnregister(handle) });
            debug_assert!(gone >= 0, "unregistering a registered handle succeeds");
        }
    }
}

/// ETWENABLECALLBACK: a session starts, stops, or asks for the state. It runs on the
/// thread that controls the session, which others may suspend.
unsafe extern "C" fn enable<L: Listen>(
    _source: *const ffi::GUID,
    control: ffi::ULONG,
    level: ffi::UCHAR,
    any: ffi::ULONGLONG,
    all: ffi::ULONGLONG,
    _filter: *mut ffi::EVENT_FILTER_DESCRIPTOR,
    _context: *mut c_void,
) {
    // SAFETY: enable callbacks run at PASSIVE_LEVEL (ETWENABLECALLBACK).
    let irql = unsafe { Passive::assume() };
    let region = CriticalRegion::enter(&irql);
    // Published before the registration, and gone only when the driver stops.
    let Some(shared) = L::Shared::published().enter(&region) else { return };
    let channel = L::channel(&shared);
    match control {
        ffi::EVENT_CONTROL_CODE_DISABLE_PROVIDER => return channel.set_wanted(0),
        ffi::EVENT_CONTROL_CODE_ENABLE_PROVIDER => {
            let wanted = channel.provider.events.iter().take(MAX).enumerate();
            let wanted = wanted.filter(|(_, event)| event.is_wanted(level, any, all));
            channel.set_wanted(wanted.fold(0, |bits, (index, _)| bits | 1 << index));
        }
        ffi::EVENT_CONTROL_CODE_CAPTURE_STATE => {}
        // Not a control code of evntrace.h.
        _ => return,
    }
    L::rundown(&shared, channel, &irql);
}
