//! The callouts' handlers, and their registration in the table's order.

mod decide;
mod echo_request;
mod icmp_error;
mod observe;
mod packet_discard;
mod transport_discard;

use super::counters::Counters;
use super::policy::Policies;
use crate::kernel::device::Device;
use crate::kernel::etw::Channel;
use crate::kernel::irql::{MaxDispatch, Passive};
use crate::kernel::per_cpu::PerCpu;
use crate::kernel::pool::{PoolArc, PoolVec};
use crate::kernel::published::Published;
use crate::kernel::status::Result;
use crate::kernel::wfp::callout::Registration;
use crate::kernel::wfp::incoming::Incoming;
use crate::logic::callouts::{CALLOUTS, COUNT};
use crate::logic::layers::{Decision, Role};
use crate::logic::stealth::Verdict;
use decide::Deciding;
use echo_request::EchoRequest;
use icmp_error::IcmpError;
use observe::Observe;
use packet_discard::PacketDiscard;
use transport_discard::TransportDiscard;

/// What every classify shares.
#[repr(C)]
pub struct Shared {
    /// Verdicts by callout.
    pub counters: PerCpu<Counters>,
    /// What the administrator asks for.
    pub policies: PoolArc<Policies>,
    /// Where it is said what happens.
    pub channel: PoolArc<Channel>,
}

/// Where classifies find it.
pub static SHARED: Published<Shared> = Published::empty();

/// Registers every callout; dropped, the last registered goes first.
pub fn register(device: &Device, irql: &Passive) -> Result<PoolVec<Registration>> {
    let mut registrations = PoolVec::with_capacity(COUNT)?;
    for callout in &CALLOUTS {
        let register = match callout.role {
            Role::Observe => Registration::new::<Observe>,
            Role::Decide(Decision::TransportDiscard) => Registration::new::<Deciding<TransportDiscard>>,
            Role::Decide(Decision::PacketDiscard) => Registration::new::<Deciding<PacketDiscard>>,
            Role::Decide(Decision::IcmpError) => Registration::new::<Deciding<IcmpError>>,
            Role::Decide(Decision::EchoRequest) => Registration::new::<Deciding<EchoRequest>>,
        };
        registrations.push(register(device, callout.key(), irql)?)?;
    }
    Ok(registrations)
}

impl Shared {
    fn count(&self, incoming: &Incoming<'_>, verdict: Verdict, irql: &MaxDispatch) {
        if let Some(counters) = self.counters.current(irql) {
            counters.count(incoming.index(), verdict);
        }
    }
}
