//! The filter engine's exports, from registration to unload.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use super::super::fwp::*;
use super::super::io::*;
use super::super::types::*;
use super::super::{DriverImage, Irql, Kernel, LeakReport, Stop};
use super::{clean, drive, machine, peek, poke, stopped_by};
use crate::status::Status;
use crate::verifier::{Rule, rules};
use crate::wfp::{ActionType, BfeState, Guid, LayerData, Metadata, Packet, Request, Value};

/// `FWPM_LAYER_INBOUND_IPPACKET_V4`'s run-time name.
const LAYER: &str = "INBOUND_IPPACKET_V4";

fn guid(n: u128) -> GUID {
    GUID::from(Guid::from_u128(n))
}

fn address<T>(value: &T) -> Address {
    std::ptr::from_ref(value) as Address
}

extern "win64" fn block(_: u64, _: u64, data: u64, _: u64, _: u64, _: u64, out: u64) {
    assert_ne!(data, 0);
    let mut answer: FWPS_CLASSIFY_OUT0 = peek(out as usize);
    answer.actionType = ActionType::BLOCK.0;
    answer.rights = 0;
    poke(out as usize, answer);
}

static NOTIFIED: AtomicU32 = AtomicU32::new(0);

extern "win64" fn notify(_: i32, _: u64, _: u64) -> i32 {
    NOTIFIED.fetch_add(1, Ordering::SeqCst);
    0
}

static STATE: AtomicI32 = AtomicI32::new(-1);

extern "win64" fn on_state(context: u64, state: i32) {
    assert_eq!(context, 9);
    STATE.store(state, Ordering::SeqCst);
}

/// What the test driver keeps.
#[derive(Clone, Copy)]
#[repr(C)]
struct Kept {
    engine: Address,
    changes: Address,
    callout: u32,
}

/// Starts a driver with a callout, a filter and a subscription. `layer` is the key
/// of [`LAYER`]. Management objects are added in one transaction of a dynamic
/// session.
fn start(driver: Address, layer: GUID) -> Kept {
    let device: Address = 0;
    let out = address(&device);
    assert_eq!(IoCreateDevice(driver, 64, 0, 0x12, 0, 0, out), 0);
    let device: Address = peek(out);
    let kept = Kept { engine: 0, changes: 0, callout: 0 };
    let at = address(&kept);
    let changes = at + std::mem::offset_of!(Kept, changes);
    let callback = on_state as *const () as Address;
    assert_eq!(FwpmBfeStateSubscribeChanges0(device, callback, 9, changes), 0);
    assert_eq!(FwpmBfeStateGet0(), BfeState::Running as i32);
    let callout = FWPS_CALLOUT3 {
        calloutKey: guid(1),
        flags: 0,
        classifyFn: block as *const () as Address,
        notifyFn: notify as *const () as Address,
        flowDeleteFn: 0,
    };
    let id = at + std::mem::offset_of!(Kept, callout);
    assert_eq!(FwpsCalloutRegister3(device, address(&callout), id), 0);
    let name = ['h' as u16, 0];
    let display = FWPM_DISPLAY_DATA0 { name: name.as_ptr() as Address, description: 0 };
    let session = FWPM_SESSION0 { flags: 1, displayData: display, ..FWPM_SESSION0::zeroed() };
    assert_eq!(FwpmEngineOpen0(0, 10, 0, address(&session), at), 0);
    let engine: Address = peek(at);
    assert_eq!(FwpmTransactionBegin0(engine, 0), 0);
    let provider = FWPM_PROVIDER0 { providerKey: guid(2), displayData: display, ..FWPM_PROVIDER0::zeroed() };
    assert_eq!(FwpmProviderAdd0(engine, address(&provider), 0), 0);
    let sublayer = FWPM_SUBLAYER0 {
        subLayerKey: guid(3),
        displayData: display,
        providerKey: address(&provider.providerKey),
        weight: 0x8000,
        ..FWPM_SUBLAYER0::zeroed()
    };
    assert_eq!(FwpmSubLayerAdd0(engine, address(&sublayer), 0), 0);
    let managed = FWPM_CALLOUT0 {
        calloutKey: guid(1),
        displayData: display,
        applicableLayer: layer,
        ..FWPM_CALLOUT0::zeroed()
    };
    assert_eq!(FwpmCalloutAdd0(engine, address(&managed), 0, 0), 0);
    let filter = FWPM_FILTER0 {
        displayData: display,
        layerKey: layer,
        subLayerKey: guid(3),
        action: FWPM_ACTION0 { r#type: ActionType::CALLOUT_TERMINATING.0, calloutKey: guid(1) },
        ..FWPM_FILTER0::zeroed()
    };
    let filter_id = 0u64;
    assert_eq!(FwpmFilterAdd0(engine, address(&filter), 0, address(&filter_id)), 0);
    assert_ne!(peek::<u64>(address(&filter_id)), 0);
    assert_eq!(FwpmTransactionCommit0(engine), 0);
    peek(at)
}

fn stop(driver: Address, kept: Kept) {
    assert_eq!(FwpmEngineClose0(kept.engine), 0);
    assert_eq!(FwpsCalloutUnregisterById0(kept.callout), 0);
    assert_eq!(FwpmBfeStateUnsubscribeChanges0(kept.changes), 0);
    IoDeleteDevice(peek::<DRIVER_OBJECT>(driver).DeviceObject);
}

/// Loads a driver, and returns its driver object so that tests can act for it.
fn loaded() -> (Arc<Kernel>, Address) {
    extern "win64" fn unload(_: Address) {}
    extern "win64" fn entry(driver: Address, _: Address) -> i32 {
        let at = driver + std::mem::offset_of!(DRIVER_OBJECT, DriverUnload);
        poke(at, unload as *const () as Address);
        // Tests do not need the registry path.
        DRIVER.with(|kept| kept.set(driver));
        0
    }
    thread_local!(static DRIVER: std::cell::Cell<Address> = const { std::cell::Cell::new(0) });
    let kernel = machine();
    let image = DriverImage { name: "sample".into(), entry: entry as *const () as Address, base: 0, size: 0 };
    assert!(kernel.load_driver(image).unwrap().is_success());
    (kernel, DRIVER.with(std::cell::Cell::get))
}

fn layer_key(kernel: &Kernel) -> GUID {
    kernel.engine().layer_by_name(LAYER).unwrap().key.into()
}

fn blocked(kernel: &Kernel) -> bool {
    let info = kernel.engine().layer_by_name(LAYER).unwrap();
    // FWPS_FIELDS_INBOUND_IPPACKET_V4 in index order.
    let values = [
        Value::Uint32(0x0A00_0001),
        Value::Uint32(0x0A00_0002),
        Value::Uint8(1),
        Value::Uint64(1),
        Value::Uint32(1),
        Value::Uint32(0),
        Value::Uint32(0),
        Value::Uint32(6),
        Value::Uint32(0),
        Value::Uint32(1),
    ];
    let metadata = Metadata { ip_header_size: Some(20), ..Metadata::default() };
    let request = Request {
        layer: info.id,
        values: &values,
        metadata: &metadata,
        data: LayerData::Packet(Packet { bytes: &[0; 40], data_start: 20 }),
    };
    kernel.engine().classify(&request).blocked()
}

#[test]
fn a_callout_filters_until_its_driver_is_unloaded() {
    let (kernel, driver) = loaded();
    let layer = layer_key(&kernel);
    assert!(!blocked(&kernel));
    let kept = clean(&kernel, drive(&kernel, Irql::PASSIVE, || start(driver, layer)));
    assert!(blocked(&kernel));
    assert_ne!(NOTIFIED.load(Ordering::SeqCst), 0);
    kernel.engine().set_bfe_state(BfeState::StopPending);
    assert_eq!(STATE.load(Ordering::SeqCst), BfeState::StopPending as i32);
    clean(&kernel, drive(&kernel, Irql::PASSIVE, || stop(driver, kept)));
    assert!(!blocked(&kernel));
    assert!(clean(&kernel, kernel.unload()).is_empty());
}

/// Loads and starts a driver, runs `undo`, unloads the driver.
fn left(undo: impl FnOnce(Kept)) -> (Arc<Kernel>, Result<LeakReport, Stop>) {
    let (kernel, driver) = loaded();
    let layer = layer_key(&kernel);
    let outcome = drive(&kernel, Irql::PASSIVE, || {
        undo(start(driver, layer));
    });
    clean(&kernel, outcome);
    // IoDeleteDevice would find what is left.
    let device = *kernel.objects().devices.keys().next().expect("the driver's device");
    assert!(super::super::io::delete_device(&kernel, device).is_ok());
    let report = kernel.unload();
    (kernel, report)
}

#[track_caller]
fn leaves(rule: &'static Rule, undo: impl FnOnce(Kept)) {
    let (kernel, outcome) = left(undo);
    stopped_by(&kernel, outcome, rule);
}

#[test]
fn objects_left_in_the_engine_are_reported() {
    leaves(&rules::CALLOUTS_LEFT, |kept| {
        let _ = FwpmEngineClose0(kept.engine);
        let _ = FwpmBfeStateUnsubscribeChanges0(kept.changes);
    });
    leaves(&rules::SUBSCRIPTION_LEFT, |kept| {
        let _ = FwpmEngineClose0(kept.engine);
        let _ = FwpsCalloutUnregisterById0(kept.callout);
    });
    leaves(&rules::FILTER_OBJECT_LEFT, |kept| {
        let _ = FwpsCalloutUnregisterById0(kept.callout);
        let _ = FwpmBfeStateUnsubscribeChanges0(kept.changes);
    });
}

#[test]
fn exports_return_the_status_of_the_engine() {
    let (kernel, driver) = loaded();
    let layer = layer_key(&kernel);
    let kept = clean(&kernel, drive(&kernel, Irql::PASSIVE, || start(driver, layer)));
    let outcome = drive(&kernel, Irql::PASSIVE, || {
        (
            FwpmTransactionCommit0(kept.engine),
            FwpmProviderDeleteByKey0(kept.engine, address(&guid(99))),
            FwpsCalloutUnregisterById0(9999),
            FwpsFlowRemoveContext0(1, 0, kept.callout),
            FwpmEngineOpen0(8, 10, 0, 0, 0),
        )
    });
    let (commit, provider, callout, flow, open) = clean(&kernel, outcome);
    assert_eq!(Status(commit), Status::FWP_NO_TXN_IN_PROGRESS);
    assert_eq!(Status(provider), Status::FWP_PROVIDER_NOT_FOUND);
    assert_eq!(Status(callout), Status::FWP_CALLOUT_NOT_FOUND);
    assert!(!Status(flow).is_success());
    assert_eq!(Status(open), Status::INVALID_PARAMETER);
    let outcome = drive(&kernel, Irql::PASSIVE, || FwpmEngineClose0(kept.engine + 8));
    stopped_by(&kernel, outcome, &rules::ENGINE_HANDLE);
}

static CHANGES: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

extern "win64" fn unsubscribes(_: u64, _: i32) {
    FwpmBfeStateUnsubscribeChanges0(CHANGES.load(Ordering::SeqCst));
}

#[test]
fn unsubscribing_in_the_callback_is_a_deadlock() {
    let (kernel, driver) = loaded();
    let outcome = drive(&kernel, Irql::PASSIVE, || {
        let out: Address = 0;
        let out = address(&out);
        assert_eq!(IoCreateDevice(driver, 0, 0, 0x12, 0, 0, out), 0);
        let device: Address = peek(out);
        let callback = unsubscribes as *const () as Address;
        assert_eq!(FwpmBfeStateSubscribeChanges0(device, callback, 0, out), 0);
        peek::<Address>(out)
    });
    CHANGES.store(clean(&kernel, outcome), Ordering::SeqCst);
    kernel.engine().set_bfe_state(BfeState::StopPending);
    let outcome = kernel.stopped().cloned().map_or(Ok(()), Err);
    stopped_by(&kernel, outcome, &rules::CALLBACK_DEADLOCK);
}
