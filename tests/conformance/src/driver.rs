//! WIRING: the order of start and stop, and the objects in the engine.
#![deny(unsafe_code)]

use core::sync::atomic::Ordering;

use crate::events::{self, NoState};
use crate::kernel::device::Device;
use crate::kernel::entry::{self, DriverObject};
use crate::kernel::etw::{Channel, ProviderRegistration};
use crate::kernel::irql::Passive;
use crate::kernel::mutex::Mutex;
use crate::kernel::pool::{PoolArc, PoolBox, PoolVec, tag};
use crate::kernel::published::Publication;
use crate::kernel::registry::{Key, Keys, Room};
use crate::kernel::status::{Result, Status};
use crate::kernel::thread::{Signal, Thread};
use crate::kernel::wfp::engine::{CalloutObject, Display, Engine, Provider, Sublayer, Transaction};
use crate::logic::callouts::{CALLOUTS, Callout};
use crate::logic::layers::{Family, Guid};
use crate::measure::{FLOW_LAYER, STATE, State};
use crate::probe;
use crate::report::Report;
use crate::steps::Steps;
use crate::wrappers::callout::{self, Callouts, Place};
use crate::wrappers::filters::{self, Action};

/// The running driver. The fields are in the order in which they are dropped.
#[expect(dead_code, reason = "dropping the fields stops the driver")]
pub struct Conformance {
    thread: Thread<Steps>,
    objects: PoolArc<Objects>,
    callouts: PoolArc<Callouts>,
    events: ProviderRegistration<NoState>,
    state: Publication<State>,
    device: Device,
}

impl entry::Lifecycle for Conformance {
    fn start(object: &DriverObject, irql: &Passive) -> Result<Self> {
        let device = Device::create(object, irql)?;
        let channel = PoolArc::new(tag::CHANNEL, Channel::new(&events::PROVIDER, u32::MAX))?;
        let mut report = Report::open(object, channel.clone(), irql)?;
        let parameters = Some(Key::parameters(object, irql)?.ok_or(Status::INSUFFICIENT_RESOURCES)?);
        let keys = Keys { group_policy: None, parameters };
        let mut room = PoolBox::<Room>::zeroed(tag::VALUE)?;
        let list = keys.value("Probes", &mut *room, irql).ok().flatten();
        let (probes, refused) = probe::parse(list.map_or(&[], |(_, data)| data.bytes))?;
        drop(room);
        report.number("refused-probes", refused, irql);
        let state = STATE.publish(PoolArc::new(tag::SHARED, State::new(probes, channel)?)?, irql);
        let events = ProviderRegistration::new(&state, irql);
        let callouts = PoolArc::new(tag::CALLOUTS, register(&device, &state, irql)?)?;
        let objects = PoolArc::new(tag::FILTERING, Objects::add(irql)?)?;
        let steps = Steps {
            state: state.share(),
            callouts: callouts.clone(),
            objects: objects.clone(),
            device: device.clone(),
            driver: object.clone(),
            report: Mutex::new(report, irql)?,
        };
        let thread = Thread::new(steps, PoolArc::new(tag::SIGNAL, Signal::new(irql)?)?, irql)?;
        Ok(Self { thread, objects, callouts, events, state, device })
    }
}

/// Keys of callouts and their filters; place and layer are added.
const CALLOUT_KEY: Guid = 0x7d1b0c3e_91a4_4f0e_8a52_3be06f150000;
const FILTER_KEY: Guid = 0xb04e6a97_2c5d_4d18_9f36_c81a7de20000;
const SUBLAYER_KEY: Guid = 0x5a93f1d2_08b7_4be6_a4cd_16e7029c0000;
const PROVIDER_KEY: Guid = 0x3f7c25b8_6ad0_4291_b15e_90d4c8a70000;

/// The weights of the sublayers. No sublayer of Windows has one of them.
const OBSERVERS: u16 = 0xFFF0;
const HEAVY: u16 = 0x7A30;
/// The sublayer of the filter that the steps change.
const FILTERS: u16 = 0x7A28;
const MIDDLE: u16 = 0x7A20;
const LIGHT: u16 = 0x7A10;
/// The weight that two sublayers ask for.
const WEIGHED: u16 = 0x7A40;

/// INBOUND_TRANSPORT and its discard layer, where sublayers decide (fwpsk.h).
const LIGHT_LAYERS: [u16; 4] = [12, 13, 14, 15];

/// FWP_CALLOUT_FLAG_ALLOW_OFFLOAD and ALLOW_RSC, which every Windows knows (fwpsk.h).
const FLAGS: u32 = 0x42;

/// IPFORWARD_V4 (fwpsk.h), which no probe passes.
const WEIGHED_LAYER: u16 = 8;

/// The key of a callout.
pub const fn key(place: Place, layer: u16) -> Guid {
    CALLOUT_KEY + ((place as Guid) << 8) + layer as Guid
}

const fn filter_key(place: Place, layer: u16) -> Guid {
    FILTER_KEY + ((place as Guid) << 8) + layer as Guid
}

const fn sublayer_key(weight: u16, number: Guid) -> Guid {
    SUBLAYER_KEY + weight as Guid + (number << 16)
}

/// Every callout: place and layer.
fn placed() -> impl Iterator<Item = (Place, u16)> {
    let observers = CALLOUTS.iter().map(|callout| (Place::Observe, callout.layer_id));
    let deciding = [Place::Heavy, Place::Middle, Place::Light].into_iter();
    let deciding = deciding.flat_map(|place| LIGHT_LAYERS.into_iter().map(move |layer| (place, layer)));
    let flows = [Place::Inside, Place::FilterDeleted, Place::Busy, Place::Held];
    let flows = flows.into_iter().map(|place| (place, FLOW_LAYER));
    observers.chain(deciding).chain(flows).chain([(Place::Weighed, WEIGHED_LAYER)])
}

fn register(device: &Device, state: &State, irql: &Passive) -> Result<Callouts> {
    let mut callouts = Callouts(PoolVec::with_capacity(tag::CALLOUTS, placed().count())?);
    for (place, layer) in placed() {
        let (status, registered) = callout::register(device, key(place, layer), FLAGS, place, irql);
        let registered = registered.ok_or(crate::kernel::status::to_result(status).err());
        let registered = registered.map_err(|status| status.unwrap_or(Status::INSUFFICIENT_RESOURCES))?;
        if let Some(id) = state.ids.get(place as usize) {
            id.store(registered.id(), Ordering::Release);
        }
        callouts.0.push(registered)?;
    }
    Ok(callouts)
}

/// The objects in the engine, in one session. They go with it.
pub struct Objects {
    engine: Mutex<Engine>,
    display: Display,
}

/// The callout of hushport at a layer.
pub fn at_layer(layer: u16) -> Option<&'static Callout> {
    CALLOUTS.iter().find(|callout| callout.layer_id == layer)
}

impl Objects {
    fn add(irql: &Passive) -> Result<Self> {
        let display = Display::new(&["hushport-conformance"], "Measures what the filter engine does");
        let mut engine = Engine::open(&display, 0, irql)?;
        let mut transaction = engine.transaction(irql)?;
        let provider = provider();
        transaction.add_provider(&provider)?;
        for weight in [OBSERVERS, HEAVY, FILTERS, MIDDLE, LIGHT] {
            transaction.add_sublayer(&sublayer(weight, 0), &provider)?;
        }
        for (place, layer) in placed() {
            let Some(at) = at_layer(layer) else { continue };
            let layer_key = at.layer_key();
            let object = CalloutObject { key: key(place, layer), layer: layer_key, display: &display };
            transaction.add_callout(&object, &provider)?;
            let (sublayer, action) = match place {
                Place::Heavy => (HEAVY, Action::Decide(object.key)),
                Place::Middle => (MIDDLE, Action::Decide(object.key)),
                Place::Light => (LIGHT, Action::Inspect(object.key)),
                Place::Weighed | Place::Flags => continue,
                _ => (OBSERVERS, Action::Inspect(object.key)),
            };
            let keys = (filter_key(place, layer), layer_key);
            add_filter(&mut transaction, keys, action, sublayer_key(sublayer, 0), &display)?;
        }
        transaction.commit()?;
        Ok(Self { engine: Mutex::new(engine, irql)?, display })
    }

    /// Adds a sublayer that asks for a weight, and a filter in it. Returns the weight.
    pub fn weigh(&self, number: u8, irql: &Passive) -> Result<u16> {
        let mut engine = self.engine.lock(irql);
        let mut transaction = engine.transaction(irql)?;
        let number = Guid::from(number) + 1;
        transaction.add_sublayer(&sublayer(WEIGHED, number), &provider())?;
        let at = at_layer(WEIGHED_LAYER).ok_or(Status::INSUFFICIENT_RESOURCES)?;
        let keys = (filter_key(Place::Weighed, WEIGHED_LAYER) + (number << 16), at.layer_key());
        let action = Action::Inspect(key(Place::Weighed, WEIGHED_LAYER));
        add_filter(&mut transaction, keys, action, sublayer_key(WEIGHED, number), &self.display)?;
        transaction.commit()?;
        Ok(WEIGHED)
    }

    /// Replaces the filter at INBOUND_TRANSPORT's discard layer.
    pub fn set_filter(&self, family: Family, action: Option<Action>, irql: &Passive) -> Result {
        let [_, v4, _, v6] = LIGHT_LAYERS;
        let layer = match family {
            Family::V4 => v4,
            Family::V6 => v6,
        };
        let at = at_layer(layer).ok_or(Status::INSUFFICIENT_RESOURCES)?;
        let key = filter_key(Place::Flags, layer);
        let mut engine = self.engine.lock(irql);
        let mut transaction = engine.transaction(irql)?;
        let _existed = transaction.delete_filter(key)?;
        if let Some(action) = action {
            let keys = (key, at.layer_key());
            add_filter(&mut transaction, keys, action, sublayer_key(FILTERS, 0), &self.display)?;
        }
        transaction.commit()
    }

    /// Deletes the filter of a place with flow contexts.
    pub fn delete_observer(&self, place: Place, irql: &Passive) -> Result {
        let mut engine = self.engine.lock(irql);
        let mut transaction = engine.transaction(irql)?;
        let _existed = transaction.delete_filter(filter_key(place, FLOW_LAYER))?;
        transaction.commit()
    }
}

fn provider() -> Provider {
    Provider { key: PROVIDER_KEY, display: Display::new(&["hushport-conformance"], "") }
}

fn sublayer(weight: u16, number: Guid) -> Sublayer {
    let display = Display::new(&["hushport-conformance"], "");
    Sublayer { key: sublayer_key(weight, number), display, weight }
}

fn add_filter(
    transaction: &mut Transaction<'_>,
    keys: (Guid, Guid),
    action: Action,
    sublayer: Guid,
    display: &Display,
) -> Result {
    filters::add(transaction, keys, action, sublayer, PROVIDER_KEY, display)
}
