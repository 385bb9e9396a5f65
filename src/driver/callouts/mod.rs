//! The callouts' handlers, and their registration in the table's order.

mod decide;
mod echo_request;
mod icmp_error;
mod observe;
mod packet_discard;
mod transport_discard;

use super::flows::Flows;
use crate::kernel::device::Device;
use crate::kernel::irql::Passive;
use crate::kernel::pool::PoolVec;
use crate::kernel::status::Result;
use crate::kernel::wfp::callout::CalloutRegistration;
use crate::logic::callouts::{CALLOUTS, COUNT};
use crate::logic::layers::{Decision, Role};
use decide::Deciding;
use echo_request::EchoRequest;
use icmp_error::IcmpError;
use observe::Observe;
use packet_discard::PacketDiscard;
use transport_discard::TransportDiscard;

/// Registers every callout. Dropping the list unregisters them in reverse order.
pub fn register(device: &Device, flows: &Flows, irql: &Passive) -> Result<PoolVec<CalloutRegistration>> {
    let mut registrations = PoolVec::with_capacity(COUNT)?;
    for callout in &CALLOUTS {
        let register = match callout.role {
            Role::Observe => CalloutRegistration::new::<Observe>,
            Role::Decide(Decision::TransportDiscard) => {
                CalloutRegistration::new::<Deciding<TransportDiscard>>
            }
            Role::Decide(Decision::PacketDiscard) => CalloutRegistration::new::<Deciding<PacketDiscard>>,
            Role::Decide(Decision::IcmpError) => CalloutRegistration::new::<Deciding<IcmpError>>,
            Role::Decide(Decision::EchoRequest) => CalloutRegistration::new::<Deciding<EchoRequest>>,
        };
        let registration = register(device, callout.key(), callout.has_flows(), irql)?;
        flows.registered(callout.index, registration.id());
        registrations.push(registration)?;
    }
    Ok(registrations)
}
