//! The driver's exports: callouts, state of BFE, flows (`fwpsk.h`, `fwpmk.h`).
#![expect(non_snake_case, reason = "the names are fwpkclnt's own")]

use std::sync::Arc;

use super::super::cpu::{self, InCallback};
use super::super::enter::enter;
use super::super::foreign;
use super::super::placement::Callback;
use super::super::types::{Address, FWPS_CALLOUT3, HANDLE, NTSTATUS};
use super::super::{Kernel, Trouble};
use super::callout::{GuestCallout, Prototype};
use super::{REFUSED, bad_handle, give_id, key};
use crate::status::Status;
use crate::verifier::{Violation, rules};
use crate::wfp::{BfeState, FlowHandle, LayerId};

/// `FwpsCalloutRegister0`, with the prototype of Windows Vista.
pub extern "win64" fn FwpsCalloutRegister0(
    deviceObject: Address,
    callout: Address,
    calloutId: Address,
) -> NTSTATUS {
    let kernel = enter!(FwpsCalloutRegister0);
    let outcome = register(&kernel, deviceObject, callout, calloutId, Prototype::Vista);
    kernel.settle(outcome, REFUSED).0
}

/// `FwpsCalloutRegister1`.
pub extern "win64" fn FwpsCalloutRegister1(
    deviceObject: Address,
    callout: Address,
    calloutId: Address,
) -> NTSTATUS {
    let kernel = enter!(FwpsCalloutRegister1);
    let outcome = register(&kernel, deviceObject, callout, calloutId, Prototype::Windows7);
    kernel.settle(outcome, REFUSED).0
}

/// `FwpsCalloutRegister2`.
pub extern "win64" fn FwpsCalloutRegister2(
    deviceObject: Address,
    callout: Address,
    calloutId: Address,
) -> NTSTATUS {
    let kernel = enter!(FwpsCalloutRegister2);
    let outcome = register(&kernel, deviceObject, callout, calloutId, Prototype::Windows7);
    kernel.settle(outcome, REFUSED).0
}

/// `FwpsCalloutRegister3`.
pub extern "win64" fn FwpsCalloutRegister3(
    deviceObject: Address,
    callout: Address,
    calloutId: Address,
) -> NTSTATUS {
    let kernel = enter!(FwpsCalloutRegister3);
    let outcome = register(&kernel, deviceObject, callout, calloutId, Prototype::Windows7);
    kernel.settle(outcome, REFUSED).0
}

/// The four structures differ only in the prototypes of their functions.
fn register(
    kernel: &Kernel,
    device: Address,
    callout: Address,
    out: Address,
    prototype: Prototype,
) -> Result<Status, Trouble> {
    let callout: FWPS_CALLOUT3 = foreign::read(callout)?;
    if !kernel.objects().devices.contains_key(&device) {
        let text = format!("DEVICE_OBJECT {device:#x}");
        return Err(Violation::new(&rules::BAD_OBJECT, [device as u64, 0, 0], text).into());
    }
    if callout.classifyFn == 0 || callout.notifyFn == 0 {
        return Ok(Status::INVALID_PARAMETER);
    }
    let guest = GuestCallout::new(kernel.weak(), kernel.caller(), callout, prototype);
    let key = callout.calloutKey.to_guid();
    kernel.objects().callouts.insert(key, (callout, prototype));
    let id = kernel.engine().callout_register(key, callout.flags, Arc::new(guest));
    if let Ok(id) = id {
        kernel.objects().callout_devices.insert(id, device);
    }
    give_id(id, out)
}

/// `FwpsCalloutUnregisterById0`.
pub extern "win64" fn FwpsCalloutUnregisterById0(calloutId: u32) -> NTSTATUS {
    let kernel = enter!(FwpsCalloutUnregisterById0);
    let status = kernel.engine().callout_unregister_by_id(calloutId);
    if status.is_success() {
        kernel.objects().callout_devices.remove(&calloutId);
    }
    status.0
}

/// `FwpsCalloutUnregisterByKey0`.
pub extern "win64" fn FwpsCalloutUnregisterByKey0(calloutKey: Address) -> NTSTATUS {
    let kernel = enter!(FwpsCalloutUnregisterByKey0);
    let outcome = key(calloutKey).map(|key| {
        let id = kernel.engine().callout_id(key);
        let status = kernel.engine().callout_unregister_by_key(key);
        if let Some(id) = id.filter(|_| status.is_success()) {
            kernel.objects().callout_devices.remove(&id);
        }
        status
    });
    kernel.settle(outcome, REFUSED).0
}

/// `FwpmBfeStateGet0`.
pub extern "win64" fn FwpmBfeStateGet0() -> i32 {
    let kernel = enter!(FwpmBfeStateGet0);
    // "Before calling FwpmBfeStateGet0, the callout driver must call the
    // FwpmBfeStateSubscribeChanges0 function."
    if !kernel.objects().subscribed.contains(&kernel.caller()) {
        let text = "FwpmBfeStateGet0";
        kernel.violate(Violation::new(&rules::STATE_BEFORE_SUBSCRIPTION, [0; 3], text));
    }
    kernel.engine().bfe_state() as i32
}

/// `FwpmBfeStateSubscribeChanges0`. The callback runs on the thread that changes the
/// state, at `Options::bfe_irql` or a level of its own.
pub extern "win64" fn FwpmBfeStateSubscribeChanges0(
    deviceObject: Address,
    callback: Address,
    context: Address,
    changeHandle: Address,
) -> NTSTATUS {
    let kernel = enter!(FwpmBfeStateSubscribeChanges0);
    let outcome = subscribe(&kernel, deviceObject, callback, context, changeHandle);
    kernel.settle(outcome, REFUSED).0
}

fn subscribe(
    kernel: &Kernel,
    device: Address,
    callback: Address,
    context: Address,
    out: Address,
) -> Result<Status, Trouble> {
    if !kernel.objects().devices.contains_key(&device) {
        let text = format!("DEVICE_OBJECT {device:#x}");
        return Err(Violation::new(&rules::BAD_OBJECT, [device as u64, 0, 0], text).into());
    }
    foreign::write(out, &0usize)?;
    let (machine, driver) = (kernel.weak(), kernel.caller());
    let notify = move |state: BfeState| {
        if let Some(kernel) = machine.upgrade() {
            let inside = InCallback::begin();
            let arguments = [context as u64, state as u64];
            // If the call failed, it has already stopped the machine.
            let level = kernel.level_of(Callback::BfeState);
            let _ = kernel.call_driver(callback, &arguments, level, "BFE callback");
            drop(inside);
        }
    };
    let id = match kernel.engine().bfe_subscribe_for(driver, Arc::new(notify)) {
        Ok(id) => id,
        Err(status) => return Ok(status),
    };
    let handle = {
        let mut objects = kernel.objects();
        let handle = objects.opaque();
        objects.subscriptions.insert(handle, id);
        objects.subscription_devices.insert(handle, device);
        objects.subscribed.insert(kernel.caller());
        handle
    };
    foreign::write(out, &handle)?;
    Ok(Status::SUCCESS)
}

/// `FwpmBfeStateUnsubscribeChanges0` waits for callbacks in progress, so a callback
/// must not call it (documentation).
pub extern "win64" fn FwpmBfeStateUnsubscribeChanges0(changeHandle: HANDLE) -> NTSTATUS {
    let kernel = enter!(FwpmBfeStateUnsubscribeChanges0);
    kernel.settle(unsubscribe(&kernel, changeHandle), REFUSED).0
}

fn unsubscribe(kernel: &Kernel, handle: HANDLE) -> Result<Status, Trouble> {
    if cpu::in_callback() {
        let parameters = [handle as u64, 0, 0];
        return Err(Violation::new(&rules::CALLBACK_DEADLOCK, parameters, "").into());
    }
    let id = kernel.objects().subscriptions.get(&handle).copied();
    let id = id.ok_or_else(|| bad_handle("change handle", handle))?;
    let status = kernel.engine().bfe_unsubscribe(id);
    if status.is_success() {
        let mut objects = kernel.objects();
        objects.subscriptions.remove(&handle);
        objects.subscription_devices.remove(&handle);
    }
    Ok(status)
}

/// `FwpsFlowAssociateContext0`.
pub extern "win64" fn FwpsFlowAssociateContext0(
    flowId: u64,
    layerId: u16,
    calloutId: u32,
    flowContext: u64,
) -> NTSTATUS {
    let kernel = enter!(FwpsFlowAssociateContext0);
    let (flow, layer) = (FlowHandle(flowId), LayerId(layerId));
    let engine = kernel.engine();
    engine.flow_associate(flow, layer, calloutId, flowContext).0
}

/// `FwpsFlowRemoveContext0`.
pub extern "win64" fn FwpsFlowRemoveContext0(flowId: u64, layerId: u16, calloutId: u32) -> NTSTATUS {
    let kernel = enter!(FwpsFlowRemoveContext0);
    let (flow, layer) = (FlowHandle(flowId), LayerId(layerId));
    kernel.engine().flow_remove(flow, layer, calloutId).0
}
