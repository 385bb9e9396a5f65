//! The callouts' handlers, and their registration in the table's order.

mod decide;
mod echo_request;
mod icmp_error;
mod observe;
mod packet_discard;
mod transport_discard;

use super::shared::Shared;
use crate::kernel::device::Device;
use crate::kernel::ending::{End, Ending};
use crate::kernel::irql::Passive;
use crate::kernel::pool::{PoolArc, PoolVec, tag};
use crate::kernel::status::Result;
use crate::kernel::wfp::callout::{CalloutRegistration, FlowContexts};
use crate::logic::callouts::{CALLOUTS, COUNT};
use crate::logic::layers::{Decision, Role};
use decide::Deciding;
use echo_request::EchoRequest;
use icmp_error::IcmpError;
use observe::Observe;
use packet_discard::PacketDiscard;
use transport_discard::TransportDiscard;

/// The registered callouts. The fields are in the order in which they are dropped: a
/// callout with flow contexts cannot be unregistered. Flows may begin before the driver
/// has a filter, because filters of others may name our callouts.
pub struct Callouts {
    #[expect(dead_code, reason = "its drop closes the flows")]
    flows: Ending<OpenFlows>,
    registrations: PoolVec<CalloutRegistration<OpenFlows>>,
}

/// Flows that may have contexts.
#[derive(Clone)]
pub struct OpenFlows(PoolArc<Shared>);

impl FlowContexts for OpenFlows {
    fn remove_all(&self, irql: &Passive) {
        self.0.flows.remove_contexts(irql);
    }
}

impl End for OpenFlows {
    fn end(&self, irql: &Passive) {
        self.0.flows.close(irql);
    }
}

/// Registers every callout. Dropping them closes the flows and unregisters the callouts
/// in reverse order.
pub fn register(device: &Device, shared: PoolArc<Shared>, irql: &Passive) -> Result<Callouts> {
    let open = OpenFlows(shared.clone());
    let mut callouts = Callouts {
        flows: Ending::new(open.clone(), irql),
        registrations: PoolVec::with_capacity(tag::CALLOUTS, COUNT)?,
    };
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
        let registration = register(device, callout.key(), callout.has_flows(), &open, irql)?;
        shared.flows.registered(callout.index, registration.id());
        callouts.registrations.push(registration)?;
    }
    Ok(callouts)
}
