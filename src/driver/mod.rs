//! WIRING: what is started in which order, and what each callout does.
#![deny(unsafe_code)]

mod callouts;
mod counters;
mod events;
mod filtering;
mod policy;

use crate::kernel::device::Device;
use crate::kernel::entry::{self, DriverObject};
use crate::kernel::etw::{self, Channel};
use crate::kernel::irql::Passive;
use crate::kernel::per_cpu::PerCpu;
use crate::kernel::pool::{PoolArc, PoolBox, PoolVec};
use crate::kernel::published::Publication;
use crate::kernel::status::Result;
use crate::kernel::watch::Watch;
use crate::kernel::wfp::bfe::Subscription;
use crate::kernel::wfp::callout::Registration;
use callouts::{SHARED, Shared};
use counters::Counters;
use filtering::Filtering;
use policy::{Occasion, Policies, Reload};

/// The running driver. Its fields are in the order in which they are stopped.
pub struct Driver {
    reload: Watch<Reload>,
    filtering: Subscription<Filtering>,
    callouts: PoolVec<Registration>,
    events: etw::Registration,
    shared: Publication<Shared>,
    device: Device,
}

impl entry::Driver for Driver {
    /// What is started before a failure is dropped in reverse.
    ///
    /// Success means that the driver protects, or that BFE does not run yet and
    /// it will as soon as BFE does.
    fn start(object: &DriverObject, irql: &Passive) -> Result<Self> {
        let policies = PoolArc::new(Policies::start(object, irql)?)?;
        let device = Device::create(object, irql)?;
        let counters = PerCpu::new(Counters::zero, irql)?;
        let channel = PoolArc::new(Channel::new(&events::HUSHPORT, irql))?;
        let (all, said) = (policies.clone(), channel.clone());
        let shared = SHARED.publish(PoolBox::new(Shared { counters, policies: all, channel: said })?);
        let events = etw::Registration::new::<events::Rundown>(channel.clone(), irql);
        let callouts = callouts::register(&device, irql)?;
        let filtering = Subscription::new(&device, Filtering::new(policies.clone(), irql)?, irql)?;
        filtering.follower().bring_about(irql)?;
        events::policy(&channel, Occasion::Start, &policies, irql);
        events::started(&channel, Occasion::Start, irql);
        let reload = Watch::new(object, Reload(policies, channel), irql)?;
        Ok(Self { reload, filtering, callouts, events, shared, device })
    }

    fn stop(self, irql: &Passive) {
        let Self { reload, filtering, callouts, events, shared, device } = self;
        drop(reload);
        // No more changes of BFE's state, then the session with its objects.
        filtering.follower().end(irql);
        drop(filtering);
        // Waits for classifies, which use what is shared.
        drop(callouts);
        events::counters(&shared.channel, &shared.counters, irql);
        events::stopped(&shared.channel, irql);
        // Nobody writes any more, and the last rundown is waited for.
        drop(events);
        drop(shared);
        drop(device);
    }
}
