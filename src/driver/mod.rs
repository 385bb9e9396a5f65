//! WIRING: the order of start and stop, and what each callout does.
#![deny(unsafe_code)]

mod callouts;
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

use crate::kernel::device::Device;
use crate::kernel::entry::{self, DriverObject};
use crate::kernel::etw::{self, Channel};
use crate::kernel::irql::Passive;
use crate::kernel::per_cpu::PerCpu;
use crate::kernel::pool::{PoolArc, PoolVec};
use crate::kernel::published::Publication;
use crate::kernel::status::Result;
use crate::kernel::thread::Signal;
use crate::kernel::watch::KeyWatch;
use crate::kernel::wfp::bfe::Subscription;
use crate::kernel::wfp::callout::CalloutRegistration;
use crate::logic::protection::Shown;
use filtering::Filtering;
use flows::Flows;
use policy::Policies;
use rare_counters::RareCounters;
use reload::Reload;
use rundown::Rundown;
use scans::Scans;
use shared::{SHARED, Shared};

/// The running driver. The fields are in the order in which they are stopped.
pub struct Driver {
    reload: KeyWatch<Reload>,
    filtering: Subscription<PoolArc<Filtering>>,
    callouts: PoolVec<CalloutRegistration>,
    events: etw::ProviderRegistration,
    shared: Publication<Shared>,
    device: Device,
}

impl entry::Lifecycle for Driver {
    /// If a step fails, what was started before is dropped in reverse order.
    ///
    /// Success means that the driver protects, or that BFE does not run yet and the
    /// driver will protect as soon as it does.
    fn start(object: &DriverObject, irql: &Passive) -> Result<Self> {
        let policies = PoolArc::new(Policies::start(object, irql)?)?;
        let device = Device::create(object, irql)?;
        let channel = PoolArc::new(Channel::new(&events::HUSHPORT))?;
        let policy = policies.values(irql);
        let processors = PerCpu::zeroed(irql)?;
        let shared = SHARED.publish(
            PoolArc::new(Shared {
                scans: Scans::new(&policy, processors.all()),
                processors,
                policies,
                rare: RareCounters::default(),
                channel: channel.clone(),
                flows: Flows::new(policy.flow_limit, irql)?,
                order: order::OrderCheck::new(irql)?,
                shown: Shown::new(),
            })?,
            irql,
        );
        if policy.checks_order() {
            shared.order.prepare(irql);
        }
        let events = etw::ProviderRegistration::new::<Rundown>(channel, irql);
        let callouts = callouts::register(&device, &shared.flows, irql)?;
        let signal = PoolArc::new(Signal::new(irql)?)?;
        let filtering = PoolArc::new(Filtering::new(shared.share(), signal.clone(), irql)?)?;
        let reload = Reload::new(shared.share(), filtering);
        let following = follow(object, &device, reload, signal, irql);
        if following.is_err() {
            // A session may have been open meanwhile, and flows may have begun.
            shared.flows.close(irql);
        }
        let (filtering, reload) = following?;
        Ok(Self { reload, filtering, callouts, events, shared, device })
    }

    fn stop(self, irql: &Passive) {
        let Self { reload, filtering, callouts, events, shared, device } = self;
        drop(reload);
        // First no more changes of BFE's state, then no session and no objects.
        filtering.follower().end(irql);
        drop(filtering);
        shared.flows.close(irql);
        // Waits for running classifies, which use the shared state.
        drop(callouts);
        shared.log_counters(irql);
        events::stopped(&shared.channel, irql);
        // Nothing writes events any more. This waits for a rundown that runs.
        drop(events);
        drop(shared);
        drop(device);
    }
}

/// Follows the state of BFE, with a session while it runs, and then the registry.
fn follow(
    object: &DriverObject,
    device: &Device,
    reload: Reload,
    signal: PoolArc<Signal>,
    irql: &Passive,
) -> Result<(Subscription<PoolArc<Filtering>>, KeyWatch<Reload>)> {
    let filtering = Subscription::new(device, reload.filtering.clone(), irql)?;
    filtering::begin(&filtering, irql)?;
    reload.started(irql);
    let reload = KeyWatch::new(object, reload, signal, irql)?;
    Ok((filtering, reload))
}
