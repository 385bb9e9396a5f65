//! Pended operations and classifies (`fwpsk.h`; *Processing Classify Callouts
//! Asynchronously*).
#![expect(non_snake_case, reason = "the names are fwpkclnt's own")]

use super::super::enter::enter;
use super::super::foreign;
use super::super::types::{Address, FWPS_CLASSIFY_OUT0, HANDLE, NTSTATUS};
use super::super::{Kernel, Trouble};
use super::contract::{calls, note};
use super::{REFUSED, bad_handle};
use crate::driver::DriverId;
use crate::status::Status;
use crate::verifier::{Violation, rules};
use crate::wfp::{ActionType, Demand};

/// A pended operation.
#[derive(Clone, Copy, Debug)]
pub(in crate::nt) struct Operation {
    pub(in crate::nt) driver: DriverId,
    layer: &'static str,
    completion: u64,
}

/// A classify that a driver has a handle for.
#[derive(Clone, Copy, Debug)]
pub(in crate::nt) struct Classification {
    pub(in crate::nt) driver: DriverId,
    pub(super) layer: &'static str,
    pub(super) endpoint: Option<u64>,
    /// Handles and the pend, each once.
    references: u32,
    pub(super) pended: bool,
    /// The writable data that the driver has, or 0.
    pub(super) data: Address,
}

/// The layers whose operations can be pended (`FwpsPendOperation0`).
const OPERATIONS: [&str; 4] =
    ["ALE_RESOURCE_ASSIGNMENT_", "ALE_AUTH_LISTEN_", "ALE_AUTH_CONNECT_", "ALE_AUTH_RECV_ACCEPT_"];
/// The layers whose classifies can be pended (*Types of Callouts*).
const CLASSIFIES: [&str; 3] = ["ALE_ENDPOINT_CLOSURE_", "ALE_CONNECT_REDIRECT_", "ALE_BIND_REDIRECT_"];

fn is_one_of(layer: &str, prefixes: &[&str]) -> bool {
    prefixes.iter().any(|prefix| layer.starts_with(prefix)) && !layer.ends_with("_DISCARD")
}

/// `FwpsPendOperation0`. A reauthorization cannot be pended.
pub extern "win64" fn FwpsPendOperation0(completionHandle: HANDLE, completionContext: Address) -> NTSTATUS {
    let kernel = enter!(FwpsPendOperation0);
    kernel.settle(pend_operation(&kernel, completionHandle, completionContext), REFUSED).0
}

fn pend_operation(kernel: &Kernel, handle: HANDLE, out: Address) -> Result<Status, Trouble> {
    if handle == 0 || out == 0 {
        return Ok(Status::FWP_NULL_POINTER);
    }
    let Some(inside) = calls().filter(|it| is_one_of(it.layer.name, &OPERATIONS)) else {
        return Ok(Status::FWP_CANNOT_PEND);
    };
    if inside.is_reauthorization() {
        return Ok(Status::FWP_CANNOT_PEND);
    }
    let Some(completion) = inside.completion.filter(|it| *it == handle as u64) else {
        return Err(bad_handle("completion handle", handle));
    };
    let context = kernel.objects().opaque();
    foreign::write(out, &context)?;
    note(|calls| calls.pended_operation = true);
    // The completion handle is that of the endpoint.
    kernel.engine().demands.set_pended(completion);
    let operation = Operation { driver: kernel.caller(), layer: inside.layer.name, completion };
    kernel.packets().state().operations.insert(context, operation);
    Ok(Status::SUCCESS)
}

/// `FwpsCompleteOperation0`. At ALE_AUTH_CONNECT, the operation is authorized again; at
/// ALE_AUTH_RECV_ACCEPT, the driver injects the packet that it has cloned.
pub extern "win64" fn FwpsCompleteOperation0(completionContext: HANDLE, netBufferList: Address) {
    let kernel = enter!(FwpsCompleteOperation0);
    let _ = netBufferList;
    let operation = kernel.packets().state().operations.remove(&completionContext);
    let completed = match operation {
        Some(operation) => {
            if !operation.layer.starts_with("ALE_AUTH_RECV_ACCEPT_") {
                let demand = Demand::CompleteOperation { endpoint: operation.completion };
                kernel.engine().demands.demand(demand, |_| ());
            }
            Ok(())
        }
        None => {
            let text = format!("completion context {completionContext:#x}");
            let parameters = [completionContext as u64, 0, 0];
            Err(Violation::new(&rules::OPERATION_COMPLETED_TWICE, parameters, text))
        }
    };
    kernel.settle(completed, ());
}

/// `FwpsAcquireClassifyHandle0`.
pub extern "win64" fn FwpsAcquireClassifyHandle0(
    classifyContext: Address,
    flags: u32,
    classifyHandle: Address,
) -> NTSTATUS {
    let kernel = enter!(FwpsAcquireClassifyHandle0);
    let Some(inside) = calls().filter(|_| classifyContext != 0 && flags == 0) else {
        return Status::INVALID_PARAMETER.0;
    };
    let (layer, endpoint) = (inside.layer.name, inside.endpoint);
    drop(inside);
    let handle = kernel.objects().opaque();
    let driver = kernel.caller();
    let classify = Classification { driver, layer, endpoint, references: 1, pended: false, data: 0 };
    let written = foreign::write(classifyHandle, &(handle as u64)).map(|()| {
        kernel.packets().state().classifies.insert(handle, classify);
        Status::SUCCESS
    });
    kernel.settle(written, REFUSED).0
}

/// Changes a classify that a driver has a handle for.
pub(super) fn with_classify<T>(
    kernel: &Kernel,
    handle: u64,
    change: impl FnOnce(&mut Classification) -> T,
) -> Result<T, Trouble> {
    let mut state = kernel.packets().state();
    match state.classifies.get_mut(&(handle as Address)) {
        Some(classify) => Ok(change(classify)),
        None => Err(bad_handle("classify handle", handle as HANDLE)),
    }
}

/// Ends a reference to a classify.
fn release(kernel: &Kernel, handle: u64) -> Result<(), Trouble> {
    let left = with_classify(kernel, handle, |classify| {
        classify.references -= 1;
        (classify.references, classify.data)
    })?;
    if left.0 == 0 {
        kernel.packets().state().classifies.remove(&(handle as Address));
        if left.1 != 0 {
            kernel.packets().free(kernel, left.1)?;
            let text = format!("classify handle {handle:#x}");
            return Err(Violation::new(&rules::LAYER_DATA_NOT_APPLIED, [handle, 0, 0], text).into());
        }
    }
    Ok(())
}

/// `FwpsReleaseClassifyHandle0`.
pub extern "win64" fn FwpsReleaseClassifyHandle0(classifyHandle: u64) {
    let kernel = enter!(FwpsReleaseClassifyHandle0);
    kernel.settle(release(&kernel, classifyHandle), ());
}

/// `FwpsPendClassify0`. It references the handle until the classify is completed.
pub extern "win64" fn FwpsPendClassify0(
    classifyHandle: u64,
    filterId: u64,
    flags: u32,
    classifyOut: Address,
) -> NTSTATUS {
    let kernel = enter!(FwpsPendClassify0);
    let _ = (filterId, flags, classifyOut);
    kernel.settle(pend(&kernel, classifyHandle), REFUSED).0
}

fn pend(kernel: &Kernel, handle: u64) -> Result<Status, Trouble> {
    // Only a classify that has not returned can be pended.
    let inside = calls().is_some();
    let pended = with_classify(kernel, handle, |classify| {
        if !inside || classify.pended || !is_one_of(classify.layer, &CLASSIFIES) {
            return None;
        }
        classify.pended = true;
        classify.references += 1;
        Some(classify.endpoint)
    })?;
    let Some(endpoint) = pended else { return Ok(Status::FWP_CANNOT_PEND) };
    note(|calls| calls.pended = true);
    if let Some(endpoint) = endpoint {
        kernel.engine().demands.set_pended(endpoint);
    }
    Ok(Status::SUCCESS)
}

/// `FwpsCompleteClassify0`. With `classifyOut`, it is the driver's final decision;
/// without, the indication is authorized again.
pub extern "win64" fn FwpsCompleteClassify0(classifyHandle: u64, flags: u32, classifyOut: Address) {
    let kernel = enter!(FwpsCompleteClassify0);
    let _ = flags;
    kernel.settle(complete(&kernel, classifyHandle, classifyOut), ());
}

fn complete(kernel: &Kernel, handle: u64, out: Address) -> Result<(), Trouble> {
    let out: Option<FWPS_CLASSIFY_OUT0> = foreign::read_optional(out)?;
    let pended = with_classify(kernel, handle, |classify| {
        std::mem::replace(&mut classify.pended, false).then_some(classify.endpoint)
    })?;
    let Some(endpoint) = pended else {
        let text = format!("classify handle {handle:#x}");
        return Err(Violation::new(&rules::CLASSIFY_NOT_PENDED, [handle, 0, 0], text).into());
    };
    if let Some(endpoint) = endpoint {
        let permit = out.map(|out| out.actionType != ActionType::BLOCK.0);
        kernel.engine().demands.demand(Demand::CompleteClassify { endpoint, permit }, |_| ());
    }
    release(kernel, handle)
}

impl Operation {
    /// Describes a lost one.
    pub(in crate::nt) fn describe(&self) -> String {
        format!("{} of endpoint {:#x}", self.layer, self.completion)
    }
}

impl Classification {
    /// Describes a lost one; `None` if it is not pended.
    pub(in crate::nt) fn lost(&self) -> Option<String> {
        self.pended.then(|| format!("{} of endpoint {:#x}", self.layer, self.endpoint.unwrap_or(0)))
    }
}
