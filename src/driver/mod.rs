//! WIRING: the order of start and stop, and what each callout does.
#![deny(unsafe_code)]

mod callouts;
mod event_log;
mod events;
mod filtering;
mod flows;
mod order;
mod policy;
mod rare_counters;
mod reload;
mod rundown;
mod scans;
mod shared;
mod watchdog;

use crate::kernel::device::Device;
use crate::kernel::ending::{End, Ending};
use crate::kernel::entry::{self, DriverObject};
use crate::kernel::etw::ProviderRegistration;
use crate::kernel::irql::Passive;
use crate::kernel::pool::{PoolArc, tag};
use crate::kernel::processors::ProcessorRegistration;
use crate::kernel::published::Publication;
use crate::kernel::status::Result;
use crate::kernel::thread::{Signal, Thread};
use crate::kernel::watch::KeyWatch;
use callouts::Callouts;
use filtering::{Changes, Filtering, Following};
use policy::Policies;
use reload::Reload;
use rundown::Rundown;
use shared::{SHARED, Shared};
use watchdog::Watchdog;

/// The running driver. The fields are in the order in which they are dropped: what
/// changes the policy and the filters, what the engine and sessions call, the state that
/// these use.
#[expect(dead_code, reason = "dropping the fields stops the driver")]
pub struct Driver {
    reload: KeyWatch<Reload>,
    following: Following,
    callouts: Callouts,
    watchdog: Thread<Watchdog>,
    last_events: Ending<LastEvents>,
    events: ProviderRegistration<Rundown>,
    processors: ProcessorRegistration,
    shared: Publication<Shared>,
    device: Device,
}

/// The events that the driver writes when it stops.
struct LastEvents(PoolArc<Shared>);

impl End for LastEvents {
    fn end(&self, irql: &Passive) {
        self.0.log_counters(irql);
        events::stopped(&self.0.channel, irql);
        self.0.event_log.stopped(irql);
    }
}

impl entry::Lifecycle for Driver {
    /// If a step fails, what was started before is dropped in reverse order, which is
    /// the order of the fields.
    ///
    /// Success means that the driver protects, or that BFE does not run yet and the
    /// driver will protect as soon as it does.
    fn start(object: &DriverObject, irql: &Passive) -> Result<Self> {
        let policies = PoolArc::new(tag::POLICIES, Policies::start(object, irql)?)?;
        let device = Device::create(object, irql)?;
        let shared = SHARED.publish(PoolArc::new(tag::SHARED, Shared::new(object, policies, irql)?)?, irql);
        if shared.policies.values(irql).checks_order() {
            shared.order.prepare(irql)?;
        }
        // Before a callout can be called.
        let processors = ProcessorRegistration::new(&shared, irql)?;
        let events = ProviderRegistration::new(&shared, irql);
        let signal = PoolArc::new(tag::SIGNAL, Signal::new(irql)?)?;
        let watchdog = Thread::new(Watchdog(shared.share()), signal, irql)?;
        let callouts = callouts::register(&device, shared.share(), irql)?;
        let signal = PoolArc::new(tag::SIGNAL, Signal::new(irql)?)?;
        let changes = PoolArc::new(tag::FILTERING, Changes::new(signal.clone()))?;
        let following = Following::new(&device, changes, irql)?;
        let reload = Reload::new(shared.share(), Filtering::begin(shared.share(), &following, irql)?);
        reload.started(irql);
        let reload = KeyWatch::new(object, reload, signal, irql)?;
        let last_events = Ending::new(LastEvents(shared.share()), irql);
        Ok(Self { reload, following, callouts, watchdog, last_events, events, processors, shared, device })
    }
}
