//! What a callout has done in the classify that is running, and the rules for it.
//!
//! The rules are those of Microsoft's CodeQL queries for callout drivers
//! (kmdf/queries/wfp), and of the pages of the functions, checked as the driver runs.
#![expect(unsafe_code, reason = "reads the values of the classify that is running")]

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};

use super::super::Trouble;
use super::super::types::Address;
use crate::host::flag;
use crate::verifier::{Rule, Violation, rules};
use crate::wfp::{
    ActionType, CLASSIFY_OUT_FLAG_ABSORB, ClassifyOut, Injections, LayerInfo, RIGHT_ACTION_WRITE, Request,
    Value,
};

/// `IPPROTO_TCP` (`ws2def.h`).
const TCP: Value = Value::Uint8(6);

/// What a callout has done in a classify that this thread is executing.
#[derive(Clone)]
pub(super) struct Calls {
    pub(super) layer: &'static LayerInfo,
    /// The endpoint of the indication, and the completion handle.
    pub(super) endpoint: Option<u64>,
    pub(super) completion: Option<u64>,
    /// The indication's values. They live as long as the classify.
    values: *const [Value],
    /// The NET_BUFFER_LIST that is indicated, or 0, and how it was injected.
    list: Address,
    injections: Injections,
    pub(super) injected: bool,
    pub(super) continued: bool,
    /// `FwpsPendClassify0` and `FwpsPendOperation0`.
    pub(super) pended: bool,
    pub(super) pended_operation: bool,
    /// The packet was cloned or referenced.
    held: bool,
}

thread_local! {
    static INSIDE: RefCell<Vec<Calls>> = const { RefCell::new(Vec::new()) };
}

/// A classify that this thread is executing.
pub(super) struct Inside(());

impl Inside {
    /// Begins one.
    pub(super) fn begin(layer: &'static LayerInfo, request: &Request<'_>) -> Self {
        let calls = Calls {
            layer,
            endpoint: request.metadata.transport_endpoint_handle,
            completion: request.metadata.completion_handle,
            values: request.values,
            list: 0,
            injections: request.metadata.injections.clone(),
            injected: false,
            continued: false,
            pended: false,
            pended_operation: false,
            held: false,
        };
        INSIDE.with_borrow_mut(|inside| inside.push(calls));
        Self(())
    }

    /// The NET_BUFFER_LIST that is indicated.
    pub(super) fn indicates(&self, list: Address) {
        INSIDE.with_borrow_mut(|inside| {
            if let Some(calls) = inside.last_mut() {
                calls.list = list;
            }
        });
    }

    /// Whether the packet was cloned or referenced.
    pub(super) fn holds(&self) -> bool {
        INSIDE.with_borrow(|inside| inside.last().is_some_and(|calls| calls.held))
    }

    /// The rule that the result breaks, after what the callout has done.
    pub(super) fn broken_by(&self, after: &ClassifyOut) -> Option<Violation> {
        let blocks = after.action == ActionType::BLOCK;
        let is_hard = blocks && after.rights & RIGHT_ACTION_WRITE == 0;
        INSIDE.with_borrow(|inside| {
            let calls = inside.last()?;
            match calls {
                Calls { injected: true, .. } if calls.layer.is_stream() && !blocks => {
                    Some(violation(&rules::STREAM_INJECTED_WITHOUT_BLOCK, calls))
                }
                // "should set the actionType member … to FWP_ACTION_BLOCK and the Flags member to
                // FWPS_CLASSIFY_OUT_FLAG_ABSORB" (FwpsPendOperation0).
                Calls { pended_operation: true, .. }
                    if !blocks || after.flags & CLASSIFY_OUT_FLAG_ABSORB == 0 =>
                {
                    Some(violation(&rules::OPERATION_NOT_ABSORBED, calls))
                }
                Calls { pended: true, .. } if !is_hard => {
                    Some(violation(&rules::PENDED_WITHOUT_BLOCK, calls))
                }
                _ => None,
            }
        })
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.with_borrow_mut(Vec::pop);
    }
}

/// The classify that this thread is executing.
pub(super) fn calls() -> Option<Calls> {
    INSIDE.with_borrow(|inside| inside.last().cloned())
}

/// How a list was injected, if this thread is executing its classify.
pub(super) fn indicated(list: Address) -> Option<Injections> {
    INSIDE.with_borrow(|inside| {
        let calls = inside.iter().rfind(|calls| calls.list == list && list != 0)?;
        Some(calls.injections.clone())
    })
}

/// Notes that a list is cloned or referenced. If this thread is executing its classify,
/// returns how it was injected, and its origin.
pub(super) fn hold(list: Address) -> Option<(Injections, Option<(u8, IpAddr)>)> {
    INSIDE.with_borrow_mut(|inside| {
        let calls = inside.iter_mut().rfind(|calls| calls.list == list && list != 0)?;
        calls.held = true;
        Some((calls.injections.clone(), calls.origin()))
    })
}

/// Protocol and local address of a list, if this thread is executing its classify.
pub(super) fn origin(list: Address) -> Option<(u8, IpAddr)> {
    INSIDE.with_borrow(|inside| inside.iter().rfind(|calls| calls.list == list)?.origin())
}

/// Whether the indication of a list has a `FWP_CONDITION_FLAG_*`, if this thread is
/// executing its classify.
pub(super) fn has_flag(list: Address, flag: u32) -> bool {
    INSIDE.with_borrow(|inside| {
        inside.iter().rfind(|calls| calls.list == list).is_some_and(|calls| calls.flags() & flag != 0)
    })
}

impl Calls {
    fn value(&self, field: &str) -> Option<&Value> {
        // SAFETY: the values of a request that `Inside` marks. Its classify is running on
        // this thread, so the borrow of `Inside::begin`'s caller has not ended.
        let values = unsafe { &*self.values };
        values.get(self.layer.field(field)?)
    }

    /// The `FWP_CONDITION_FLAG_*` of the indication.
    pub(super) fn flags(&self) -> u32 {
        match self.value("FLAGS") {
            Some(Value::Uint32(flags)) => *flags,
            _ => 0,
        }
    }

    /// Whether it is a reauthorization.
    pub(super) fn is_reauthorization(&self) -> bool {
        self.flags() & flag::IS_REAUTHORIZE != 0
    }

    /// An address and a port. Ports of a layer without them, and unspecified addresses,
    /// are zero.
    fn address(&self, address: &str, port: &str) -> Option<SocketAddr> {
        let ip = match self.value(address)? {
            Value::Uint32(address) => IpAddr::from(address.to_be_bytes()),
            Value::ByteArray16(address) => IpAddr::from(*address),
            _ if self.layer.name.ends_with("_V4") => IpAddr::from([0; 4]),
            _ => IpAddr::from([0; 16]),
        };
        let port = match self.value(port) {
            Some(Value::Uint16(port)) => *port,
            _ => 0,
        };
        Some(SocketAddr::new(ip, port))
    }

    /// The local address of the indication.
    pub(super) fn local(&self) -> Option<SocketAddr> {
        self.address("IP_LOCAL_ADDRESS", "IP_LOCAL_PORT")
    }

    /// The remote address of the indication.
    pub(super) fn remote(&self) -> Option<SocketAddr> {
        self.address("IP_REMOTE_ADDRESS", "IP_REMOTE_PORT")
    }

    fn is_tcp(&self) -> bool {
        self.value("IP_PROTOCOL") == Some(&TCP)
    }

    fn origin(&self) -> Option<(u8, IpAddr)> {
        let Value::Uint8(protocol) = self.value("IP_PROTOCOL")? else { return None };
        let local = self.local().filter(|local| !local.ip().is_unspecified())?;
        Some((*protocol, local.ip()))
    }
}

/// Notes a call, and returns what there was in the classify so far; `None` outside.
pub(super) fn note(change: impl FnOnce(&mut Calls)) -> Option<Calls> {
    INSIDE.with_borrow_mut(|inside| {
        let calls = inside.last_mut()?;
        change(calls);
        Some(calls.clone())
    })
}

pub(super) fn violation(rule: &'static Rule, calls: &Calls) -> Violation {
    Violation::new(rule, [calls.layer.id.0.into(), 0, 0], calls.layer.name)
}

/// FwpsStreamContinue0 and FwpsStreamInjectAsync0 exclude each other in a classify.
pub(super) fn both(calls: Option<Calls>) -> Result<(), Trouble> {
    match calls {
        Some(calls) if calls.injected && calls.continued => {
            Err(violation(&rules::STREAM_CONTINUED_WHILE_INJECTING, &calls).into())
        }
        _ => Ok(()),
    }
}

/// *"Callouts at the transport layer cannot inject a new or cloned TCP packet from the
/// classifyFn callout function"* (Callout Driver Programming Considerations).
pub(super) fn may_inject() -> Result<(), Violation> {
    match calls() {
        Some(calls) if calls.is_tcp() && calls.layer.name.contains("BOUND_TRANSPORT_") => {
            Err(violation(&rules::TCP_INJECTED_FROM_CLASSIFY, &calls))
        }
        _ => Ok(()),
    }
}
