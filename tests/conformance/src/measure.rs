//! What the callouts do: they describe probes, and answer them.
#![deny(unsafe_code)]

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crate::kernel::clock;
use crate::kernel::etw::Channel;
use crate::kernel::pool::{PoolArc, PoolVec};
use crate::kernel::published::{Findable, Published};
use crate::kernel::status::Result;
use crate::logic::layers::{Family, FlowContexts, Shows, Way};
use crate::logic::protocol::{TCP, UDP};
use crate::probe::{Answer, Probe, Role};
use crate::wrappers::callout::{self, PLACES, Place, Shown};
use crate::wrappers::packet::Window;
use crate::wrappers::records::{FIELDS, Records, Seen};

/// Where the callouts find the state.
pub static STATE: Published<State> = Published::empty();

impl Findable for State {
    fn published() -> &'static Published<Self> {
        &STATE
    }
}

/// What the callouts share.
pub struct State {
    /// The probes.
    pub probes: PoolVec<Probe>,
    /// What was seen of them.
    pub records: Records,
    /// The run-time ids of the callouts with flow contexts, by place.
    pub ids: [AtomicU32; PLACES],
    /// How many contexts the engine has deleted, by place.
    pub deleted: [AtomicU32; PLACES],
    /// The flow that has contexts; 0 is none.
    pub flow: AtomicU64,
    /// What the engine returned for the flow's contexts.
    pub flow_results: FlowResults,
    /// The classify that waits while its callout is unregistered.
    pub held: Held,
    /// The weight of the sublayer of the last filter that was added.
    pub weight: AtomicU32,
    /// Where the measurements are written as events.
    pub channel: PoolArc<Channel>,
}

/// A number that may not be there yet.
#[derive(Default)]
pub struct Measured(AtomicU64);

impl Measured {
    const PRESENT: u64 = 1 << 63;

    /// Sets the number, if there is none yet.
    pub fn set(&self, number: u32) {
        let new = Self::PRESENT | u64::from(number);
        let _first = self.0.compare_exchange(0, new, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// The number.
    pub fn get(&self) -> Option<u32> {
        let number = self.0.load(Ordering::Acquire);
        (number & Self::PRESENT != 0).then_some(number as u32)
    }
}

/// What the engine returned for the contexts of one flow.
#[derive(Default)]
pub struct FlowResults {
    /// The status of the association.
    pub associated: Measured,
    /// The status of a second association.
    pub again: Measured,
    /// The status of removing the context in a classify that has it.
    pub removed: Measured,
    /// How often flowDeleteFn had run when that call returned.
    pub deleted_inside: Measured,
}

/// The classify that waits.
#[derive(Default)]
pub struct Held {
    /// Whether the next probe is held.
    pub armed: AtomicBool,
    /// Whether a classify holds one.
    pub inside: AtomicBool,
    /// Whether a classify has held one.
    pub entered: AtomicBool,
    /// Ends the wait early.
    pub released: AtomicBool,
}

/// The longest wait of a classify, in milliseconds. Windows' watchdog of DPCs allows
/// more.
const LONGEST_WAIT: u64 = 40;

/// INBOUND_TRANSPORT_V4, where flow contexts are measured (fwpsk.h).
pub const FLOW_LAYER: u16 = 12;

/// The places that get a context of the flow.
pub const FLOW_PLACES: [Place; 3] = [Place::Inside, Place::FilterDeleted, Place::Busy];

/// Number of records.
const RECORDS: usize = 4096;

/// `FWP_CONDITION_FLAG_IS_WILDCARD_BIND` (fwptypes.h).
const IS_WILDCARD_BIND: u32 = 8;

impl State {
    /// A state for these probes.
    pub fn new(probes: PoolVec<Probe>, channel: PoolArc<Channel>) -> Result<Self> {
        Ok(Self {
            probes,
            records: Records::new(RECORDS)?,
            ids: [const { AtomicU32::new(0) }; PLACES],
            deleted: [const { AtomicU32::new(0) }; PLACES],
            flow: AtomicU64::new(0),
            flow_results: FlowResults::default(),
            held: Held::default(),
            weight: AtomicU32::new(0),
            channel,
        })
    }

    /// The run-time id of a place's callout.
    pub fn id(&self, place: Place) -> u32 {
        self.ids.get(place as usize).map_or(0, |id| id.load(Ordering::Acquire))
    }

    /// How many contexts of a place the engine has deleted.
    pub fn deletions(&self, place: Place) -> u32 {
        self.deleted.get(place as usize).map_or(0, |count| count.load(Ordering::Acquire))
    }
}

/// A context of a place is gone.
pub fn flow_deleted(state: &State, place: u8) {
    if let Some(count) = state.deleted.get(usize::from(place)) {
        count.fetch_add(1, Ordering::AcqRel);
    }
}

/// A filter of one of our callouts was added.
pub fn filter_added(state: &State, sublayer_weight: u16) {
    state.weight.store(sublayer_weight.into(), Ordering::Release);
}

/// A probe in an indication, and where its headers begin.
struct Found {
    probe: usize,
    ip: Option<i32>,
    transport: Option<i32>,
}

/// Describes the indication if it belongs to a probe, and answers it.
pub fn classify(state: &State, place: u8, shown: &Shown<'_>) -> Answer {
    let window = shown.window();
    let Some(found) = find(&state.probes, shown, window.as_ref()) else { return Answer::Continue };
    let Some(probe) = state.probes.get(found.probe) else { return Answer::Continue };
    let is = |other: Place| place == other as u8;
    if FLOW_PLACES.iter().any(|other| is(*other)) {
        if is(Place::Inside) && shown.flow_context != 0 {
            remove_inside(state, shown);
        }
        return Answer::Continue;
    }
    if is(Place::Held) {
        if probe.role == Role::Held {
            hold(&state.held);
        }
        return Answer::Continue;
    }
    let (heavy, middle, wanted) = match probe.role {
        Role::Arbitrated { heavy, middle } => (heavy, middle, true),
        Role::Filtered => (Answer::Continue, Answer::Continue, is(Place::Light)),
        _ => (Answer::Continue, Answer::Continue, false),
    };
    if is(Place::Observe) || wanted {
        state.records.add(describe(found, place, shown, window.as_ref()));
    }
    if is(Place::Observe) && probe.role == Role::Flow {
        begin_flow(state, shown);
    }
    match place {
        _ if is(Place::Heavy) => heavy,
        _ if is(Place::Middle) => middle,
        _ => Answer::Continue,
    }
}

/// Gives the flow its contexts, once.
fn begin_flow(state: &State, shown: &Shown<'_>) {
    let begins = shown.callout.is_some_and(|callout| matches!(callout.layer.flows, FlowContexts::Begin));
    let Some(flow) = shown.flow().filter(|flow| begins && *flow != 0) else { return };
    if state.flow.compare_exchange(0, flow, Ordering::AcqRel, Ordering::Relaxed).is_err() {
        return;
    }
    for place in FLOW_PLACES {
        state.flow_results.associated.set(callout::associate(flow, FLOW_LAYER, state.id(place)));
    }
    state.flow_results.again.set(callout::associate(flow, FLOW_LAYER, state.id(Place::Inside)));
}

/// Removes the contexts that the flow still has. Without a context it has no effect.
pub fn remove_contexts(state: &State) {
    let flow = state.flow.load(Ordering::Acquire);
    for place in FLOW_PLACES.into_iter().filter(|_| flow != 0) {
        let _removed_or_none = callout::remove(flow, FLOW_LAYER, state.id(place));
    }
}

fn remove_inside(state: &State, shown: &Shown<'_>) {
    let Some(flow) = shown.flow() else { return };
    if state.flow_results.removed.get().is_some() {
        return;
    }
    let before = state.deletions(Place::Inside);
    let status = callout::remove(flow, FLOW_LAYER, state.id(Place::Inside));
    state.flow_results.deleted_inside.set(state.deletions(Place::Inside).wrapping_sub(before));
    state.flow_results.removed.set(status);
}

/// Waits until it is released, for a bounded time.
fn hold(held: &Held) {
    if !held.armed.swap(false, Ordering::AcqRel) {
        return;
    }
    held.inside.store(true, Ordering::Release);
    held.entered.store(true, Ordering::Release);
    let end = clock::milliseconds().saturating_add(LONGEST_WAIT);
    while !held.released.load(Ordering::Acquire) && clock::milliseconds() < end {
        core::hint::spin_loop();
    }
    held.inside.store(false, Ordering::Release);
}

fn describe(found: Found, place: u8, shown: &Shown<'_>, window: Option<&Window>) -> Seen {
    let fields = shown.callout.map(|callout| &callout.layer.fields);
    let mut types = [0; FIELDS];
    for (position, to) in types.iter_mut().enumerate() {
        *to = shown.kind(position).map_or(0, |kind| kind.min(0xFF) as u8);
    }
    let (irql, processor) = shown.here();
    let transport = found.transport;
    let header = transport.zip(window).and_then(|(at, window)| match shown_protocol(window, &found) {
        Some(TCP) => Some(i32::from(window.byte(at + 12)? >> 4) * 4),
        Some(UDP) => Some(8),
        _ => None,
    });
    Seen {
        probe: found.probe as u8,
        place,
        irql,
        has_packet: window.is_some(),
        mapping: window.map_or(0, |window| u8::from(window.mapped) | u8::from(window.unmapped) << 1),
        layer: shown.layer(),
        values: shown.count() as u16,
        port: shown.number(fields.and_then(|fields| fields.local_port)).map(|port| port as u16),
        processor,
        metadata: shown.metadata(),
        discard: shown.discard(),
        flags: shown.number(fields.and_then(|fields| fields.flags)),
        profile: shown.number(fields.and_then(|fields| fields.profile)),
        ip: found.ip,
        transport,
        payload: transport.zip(header).map(|(at, header)| at + header),
        mdls: window.map_or(0, |window| window.mdls),
        rights: shown.rights,
        action: shown.action,
        types,
    }
}

/// The protocol in the IP header that was found; without one it is not known.
fn shown_protocol(window: &Window, found: &Found) -> Option<u8> {
    let ip = found.ip?;
    match window.byte(ip)? >> 4 {
        4 => window.byte(ip + 9),
        _ => window.byte(ip + 6),
    }
}

/// Finds the probe of an indication: by the layer's fields, else by the packet.
fn find(probes: &[Probe], shown: &Shown<'_>, window: Option<&Window>) -> Option<Found> {
    let callout = shown.callout?;
    let layer = callout.layer;
    let fields = &layer.fields;
    let local = shown.number(fields.local_port);
    let remote = shown.number(fields.remote_port);
    // At ALE_AUTH_LISTEN only TCP's sockets are shown.
    let protocol = match fields.protocol {
        Some(_) => shown.number(fields.protocol),
        None if fields.local_port.is_some() && fields.icmp.is_none() => Some(TCP.into()),
        None => None,
    };
    let flags = shown.number(fields.flags).unwrap_or(0);
    let by_fields = protocol.and_then(|protocol| {
        probes.iter().position(|probe| {
            let port = if probe.is_client() { remote } else { local };
            u32::from(probe.protocol) == protocol
                && match probe.role {
                    Role::AnyPort => layer.name == "ALE_RESOURCE_ASSIGNMENT" && flags & IS_WILDCARD_BIND != 0,
                    _ => probe.port == 0 || port == Some(probe.port.into()),
                }
        })
    });
    let outbound = is_outbound(layer.shows, shown);
    let in_packet = window.and_then(|window| in_packet(probes, window, callout.family, outbound));
    match (by_fields, in_packet) {
        (Some(probe), Some(packet)) if packet.probe == probe => Some(packet),
        // Without an IP header, the ports tell where the transport header is.
        (Some(probe), _) => {
            let ports = local.zip(remote).filter(|_| protocol != Some(1) && protocol != Some(58));
            let transport = window.zip(ports).and_then(|(window, (local, remote))| {
                let (source, destination) = if outbound { (local, remote) } else { (remote, local) };
                (-64..=96).step_by(4).find(|at| {
                    window.word(*at).map(u32::from) == Some(source)
                        && window.word(*at + 2).map(u32::from) == Some(destination)
                })
            });
            Some(Found { probe, ip: None, transport })
        }
        (None, packet) => packet,
    }
}

fn is_outbound(shows: Shows, shown: &Shown<'_>) -> bool {
    match shows {
        Shows::CallOrSegment(way) | Shows::Segment(way) | Shows::Packet(way) | Shows::Error(way) => match way
        {
            Way::Out => true,
            Way::In => false,
            // FWP_DIRECTION_OUTBOUND is 0.
            Way::Field(at) => shown.number(Some(at)) == Some(0),
        },
        Shows::Call | Shows::Stream | Shows::Forwarded => false,
    }
}

/// Looks for the IP header of a probe. In an outbound packet, a header behind the data
/// start is that of the packet that an ICMP error quotes, which was inbound.
fn in_packet(probes: &[Probe], window: &Window, family: Family, outbound: bool) -> Option<Found> {
    (-96..=64).step_by(4).find_map(|ip| {
        let first = window.byte(ip)?;
        let (size, protocol) = match family {
            Family::V4 if first == 0x45 => (20, window.byte(ip + 9)?),
            Family::V6 if first >> 4 == 6 => (40, window.byte(ip + 6)?),
            _ => return None,
        };
        if !outbound && ip > 0 {
            return None;
        }
        let transport = ip + size;
        let inbound = !outbound || ip > 0;
        let position = probes.iter().position(|probe| {
            let at_destination = inbound != probe.is_client();
            let at = if at_destination { transport + 2 } else { transport };
            probe.protocol == protocol
                && probe.role != Role::AnyPort
                && (probe.port == 0 || window.word(at) == Some(probe.port))
        });
        Some(Found { probe: position?, ip: Some(ip), transport: Some(transport) })
    })
}
