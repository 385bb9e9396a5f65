//! The calls of the filter engine.

use machine::nt::Place::{Code, Null, Pool};
use machine::nt::journal::{Call, Value};

use super::super::expect::Expect::{self, At, By, Each, Is, Number, Text};
use super::super::expect::{Export, Life};
use super::*;

/// The calls of fwpkclnt.sys, by name.
pub const CALLS: &[Export] = &[
    export!(FwpmBfeStateGet0, PASSIVE),
    export!(FwpmBfeStateSubscribeChanges0, PASSIVE,
        "deviceObject": HANDLE, "the driver's device [FwpmBfeStateSubscribeChanges0]";
        "callback": At(Code), "the driver's [FwpmBfeStateSubscribeChanges0]";
        "context": At(Pool), "the work item's data, which outlives the subscription";
        "changeHandle": LOCAL, OUT;
    ),
    export!(FwpmBfeStateUnsubscribeChanges0, PASSIVE,
        "changeHandle": HANDLE, "returned by the subscription; called again after a failure [FwpmBfeStateUnsubscribeChanges0]";
    ),
    export!(FwpmCalloutAdd0, PASSIVE,
        "engineHandle": HANDLE, "returned by FwpmEngineOpen0";
        "callout": LOCAL, "copied by the engine [FwpmCalloutAdd0]";
        "callout.calloutKey": By(is_registered), "the key of a registered callout: the engine calls only registered callouts [FWPM_CALLOUT0]";
        "callout.displayData.name": By(names_its_layer), "administrators see which layer the callout is for [FWPM_DISPLAY_DATA0]";
        "callout.displayData.description": Each(&[Text(OBSERVES), Text(DECIDES)]), "its purpose [FWPM_DISPLAY_DATA0]";
        "callout.flags": Is(0), "not persistent: it lives as long as the session [FWPM_CALLOUT0]";
        "callout.providerKey": Expect::Guid(PROVIDER), "every object names the provider [FWPM_CALLOUT0]";
        "callout.providerData.size": Is(0), "there is no provider data";
        "callout.providerData.data": NONE, "there is no provider data";
        "callout.applicableLayer": By(is_layer), "filters at other layers cannot lead to it [FWPM_CALLOUT0]";
        "callout.calloutId": Is(0), "the engine fills it in [FWPM_CALLOUT0]";
        "sd": NONE, "the default security descriptor [FwpmCalloutAdd0]";
        "id": NONE, "the run-time id is that of FwpsCalloutRegister3 [FwpmCalloutAdd0]";
    ),
    export!(FwpmEngineClose0, PASSIVE,
        "engineHandle": HANDLE, "returned by FwpmEngineOpen0";
    ),
    export!(FwpmEngineOpen0, PASSIVE,
        "serverName": NONE, "must be NULL [FwpmEngineOpen0]";
        "authnService": Is(10), "RPC_C_AUTHN_WINNT [FwpmEngineOpen0]";
        "authIdentity": NONE, "must be NULL in the kernel [FwpmEngineOpen0]";
        "session": LOCAL, "copied by the engine [FwpmEngineOpen0]";
        "session.sessionKey": Expect::Guid(0), "zero: the engine makes one [FWPM_SESSION0]";
        "session.displayData.name": Text("hushport"), "administrators see the owner of the session [FWPM_SESSION0]";
        "session.displayData.description": Text(PROVIDER_DOES), "its purpose [FWPM_SESSION0]";
        "session.flags": Is(1), "FWPM_SESSION_FLAG_DYNAMIC: all objects go with the session, however it ends [FWPM_SESSION0]";
        "session.txnWaitTimeoutInMSec": Each(&[Is(0), Is(2000)]), "when the driver starts, the default of 15 s; later 2 s, because it tries again [FWPM_SESSION0]";
        "session.processId": Is(0), "the engine fills it in [FWPM_SESSION0]";
        "session.sid": NONE, "the engine fills it in [FWPM_SESSION0]";
        "session.username": NONE, "the engine fills it in [FWPM_SESSION0]";
        "session.kernelMode": Is(0), "the engine fills it in [FWPM_SESSION0]";
        "engineHandle": LOCAL, OUT;
    ),
    export!(FwpmFilterAdd0, PASSIVE,
        "engineHandle": HANDLE, "returned by FwpmEngineOpen0";
        "filter": LOCAL, "copied by the engine [FwpmFilterAdd0]";
        "filter.filterKey": By(is_key), "a key of the driver's own, to delete it by [FWPM_FILTER0]";
        "filter.displayData.name": By(names_its_layer), "administrators see which layer the filter is for [FWPM_FILTER0]";
        "filter.displayData.description": Each(&[Text(OBSERVES), Text(DECIDES)]), "its purpose [FWPM_FILTER0]";
        "filter.flags": Each(&[By(permits_without_its_callout), By(observes_without_flags)]), "PERMIT_IF_CALLOUT_UNREGISTERED where the callout decides: without the driver the machine is open; it is valid for no inspection [FWPM_FILTER0; FWPS_ACTION0]";
        "filter.providerKey": Expect::Guid(PROVIDER), "every object names the provider [FWPM_FILTER0]";
        "filter.providerData.size": Is(0), "there is no provider data";
        "filter.providerData.data": NONE, "there is no provider data";
        "filter.layerKey": By(is_layer_of_its_callout), "a filter leads to the callout of its own layer [FWPM_FILTER0]";
        "filter.subLayerKey": Expect::Guid(SUBLAYER), "the driver's own sublayer, whose weight the policy sets [FWPM_FILTER0]";
        "filter.weight.type": Is(0), "FWP_EMPTY: the engine chooses a weight; no other filter is in the sublayer at that layer [Filter Weight Assignment]";
        "filter.weight.@u1": Is(0), "nothing beside FWP_EMPTY";
        "filter.numFilterConditions": Is(0), "every packet of the layer comes to the callout [FWPM_FILTER0]";
        "filter.filterCondition": NONE, "there are no conditions";
        "filter.action.type": Each(&[By(decides), By(inspects)]), "FWP_ACTION_CALLOUT_UNKNOWN where the callout may block or continue, FWP_ACTION_CALLOUT_INSPECTION elsewhere: skipped when the callout is gone [FWPS_ACTION0]";
        "filter.action.@u1": By(is_registered), "the callout [FWPM_ACTION0]";
        "filter.@u1": Expect::Guid(0), "no context, so that no flag for one is set [FWPM_FILTER0]";
        "filter.reserved": NONE, "reserved [FWPM_FILTER0]";
        "filter.filterId": Is(0), "the engine fills it in [FWPM_FILTER0]";
        "filter.effectiveWeight.type": Is(0), "the engine fills it in [FWPM_FILTER0]";
        "filter.effectiveWeight.@u1": Is(0), "the engine fills it in [FWPM_FILTER0]";
        "sd": NONE, "the default security descriptor [FwpmFilterAdd0]";
        "id": NONE, "filters are deleted by their keys [FwpmFilterAdd0]";
    ),
    export!(FwpmFilterDeleteByKey0, PASSIVE,
        "engineHandle": HANDLE, "returned by FwpmEngineOpen0";
        "key": By(|value, _, life| matches!(value, Value::Guid(key) if life.has_passed("FwpmFilterAdd0", "filter.filterKey", *key))), "the key of one of its filters";
    ),
    export!(FwpmProviderAdd0, PASSIVE,
        "engineHandle": HANDLE, "returned by FwpmEngineOpen0";
        "provider": LOCAL, "copied by the engine [FwpmProviderAdd0]";
        "provider.providerKey": Expect::Guid(PROVIDER), "a constant, so that a second instance is refused [FWPM_PROVIDER0]";
        "provider.displayData.name": Text("hushport"), "the product's name [FWPM_PROVIDER0]";
        "provider.displayData.description": Text(PROVIDER_DOES), "what it does [FWPM_PROVIDER0]";
        "provider.flags": Is(0), "not persistent [FWPM_PROVIDER0]";
        "provider.providerData.size": Is(0), "there is no provider data";
        "provider.providerData.data": NONE, "there is no provider data";
        "provider.serviceName": NONE, "for persistent objects only [FWPM_PROVIDER0]";
        "sd": NONE, "the default security descriptor [FwpmProviderAdd0]";
    ),
    export!(FwpmSubLayerAdd0, PASSIVE,
        "engineHandle": HANDLE, "returned by FwpmEngineOpen0";
        "subLayer": LOCAL, "copied by the engine [FwpmSubLayerAdd0]";
        "subLayer.subLayerKey": Expect::Guid(SUBLAYER), "a constant, so that tools recognize it [FWPM_SUBLAYER0]";
        "subLayer.displayData.name": Text("hushport"), "the product's name [FWPM_SUBLAYER0]";
        "subLayer.displayData.description": Text("Filters of hushport"), "what is in it [FWPM_SUBLAYER0]";
        "subLayer.flags": Is(0), "not persistent [FWPM_SUBLAYER0]";
        "subLayer.providerKey": Expect::Guid(PROVIDER), "every object names the provider [FWPM_SUBLAYER0]";
        "subLayer.providerData.size": Is(0), "there is no provider data";
        "subLayer.providerData.data": NONE, "there is no provider data";
        "subLayer.weight": Each(&[Is(FIRST_WEIGHT as u64), Is(SECOND_WEIGHT as u64)]), "SublayerWeight, read at the start and when BFE has been restarted [docs/CONFIGURATION.md]";
        "sd": NONE, "the default security descriptor [FwpmSubLayerAdd0]";
    ),
    export!(FwpmTransactionAbort0, PASSIVE,
        "engineHandle": HANDLE, "returned by FwpmEngineOpen0";
    ),
    export!(FwpmTransactionBegin0, PASSIVE,
        "engineHandle": HANDLE, "returned by FwpmEngineOpen0";
        "flags": Is(0), "a read/write transaction [FwpmTransactionBegin0]";
    ),
    export!(FwpmTransactionCommit0, PASSIVE,
        "engineHandle": HANDLE, "returned by FwpmEngineOpen0";
    ),
    export!(FwpsCalloutRegister3, PASSIVE,
        "deviceObject": HANDLE, "the driver's device [FwpsCalloutRegister3]";
        "callout": LOCAL, "copied by the engine [FwpsCalloutRegister3]";
        "callout.calloutKey": By(is_added), "a key that FwpmCalloutAdd0 added [FWPS_CALLOUT3]";
        "callout.flags": Is(0x2 | 0x40 | 0x100 | 0x200), "ALLOW_OFFLOAD, ALLOW_RSC, ALLOW_USO, ALLOW_URO: without one of them that offload is disabled for what the filters see [FWPS_CALLOUT3]";
        "callout.classifyFn": At(Code), "required [FWPS_CALLOUT3]";
        "callout.notifyFn": At(Code), "required [FWPS_CALLOUT3]";
        "callout.flowDeleteFn": By(hears_of_flows), "set at layers with flow contexts, else NULL [FWPS_CALLOUT3]";
        "calloutId": LOCAL, OUT;
    ),
    export!(FwpsCalloutUnregisterById0, PASSIVE,
        "calloutId": Number, "returned by FwpsCalloutRegister3; unload reports a callout that stays as a leak";
    ),
    export!(FwpsFlowAssociateContext0, DISPATCH,
        "flowId": By(is_positive), "the flow handle of the metadata [FwpsFlowAssociateContext0]";
        "layerId": By(keeps_contexts), "a layer that every packet or byte of a flow passes once [docs/ARCHITECTURE.md]";
        "calloutId": By(is_positive), "the callout at that layer; another one is refused [FwpsFlowAssociateContext0]";
        "flowContext": By(is_positive), "0 is no context [FwpsFlowAssociateContext0]";
    ),
    export!(FwpsFlowRemoveContext0, PASSIVE,
        "flowId": By(is_positive), "a flow that outlives the driver [FwpsFlowRemoveContext0]";
        "layerId": By(keeps_contexts), "a layer with flow contexts";
        "calloutId": By(is_positive), "the callout at that layer";
    ),
];

const OBSERVES: &str = "Observes";
const DECIDES: &str = "Blocks replies for closed ports";
const PROVIDER_DOES: &str = "Blocks replies for closed ports and observes the layers";

/// Whether the driver decides at a layer ([docs/SECURITY.md]: at the discard
/// layers, over ICMP errors, and over echo requests).
pub fn is_deciding(layer: &str) -> bool {
    let name = layer.replace("_V4", "").replace("_V6", "");
    let deciding =
        ["INBOUND_IPPACKET_DISCARD", "INBOUND_TRANSPORT_DISCARD", "OUTBOUND_ICMP_ERROR", "INBOUND_TRANSPORT"];
    deciding.contains(&&*name)
}

/// `FWP_ACTION_CALLOUT_UNKNOWN` and `FWP_ACTION_CALLOUT_INSPECTION`
/// (fwptypes.h).
const CALLOUT_UNKNOWN: u64 = 0x4005;
const CALLOUT_INSPECTION: u64 = 0x6004;
/// `FWPM_FILTER_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED` (fwpmtypes.h).
const PERMIT_IF_CALLOUT_UNREGISTERED: u64 = 0x10;

fn is_key(value: &Value, call: &Call, life: &Life<'_>) -> bool {
    // Two filters have different keys.
    let Value::Guid(key) = value else { return false };
    let others = life.calls.iter().filter(|other| other.export == call.export);
    let mut others = others.filter(|other| other.guid("filter.layerKey") != call.guid("filter.layerKey"));
    !key.is_nil() && others.all(|other| other.guid("filter.filterKey") != Some(*key))
}

fn is_layer(value: &Value, _: &Call, life: &Life<'_>) -> bool {
    matches!(value, Value::Guid(key) if life.layer(*key).is_some())
}

fn is_registered(value: &Value, _: &Call, life: &Life<'_>) -> bool {
    matches!(value, Value::Guid(key) if life.has_passed("FwpsCalloutRegister3", "callout.calloutKey", *key))
}

fn is_added(value: &Value, _: &Call, life: &Life<'_>) -> bool {
    matches!(value, Value::Guid(key) if life.has_passed("FwpmCalloutAdd0", "callout.calloutKey", *key))
}

fn is_layer_of_its_callout(value: &Value, call: &Call, life: &Life<'_>) -> bool {
    let Some(callout) = call.guid("filter.action.@u1") else { return false };
    matches!(value, Value::Guid(layer) if life.layer_of(callout) == Some(*layer))
}

/// `hushport` and the layer's name, as the management headers spell it.
fn names_its_layer(value: &Value, call: &Call, life: &Life<'_>) -> bool {
    let layer = call.guid("callout.applicableLayer").or_else(|| call.guid("filter.layerKey"));
    let layer = layer.and_then(|layer| life.layer(layer));
    matches!((value, layer), (Value::Text(name), Some(layer)) if *name == format!("hushport {layer}"))
}

fn layer_of_filter(call: &Call, life: &Life<'_>) -> Option<&'static str> {
    life.layer(call.guid("filter.layerKey")?)
}

fn permits_without_its_callout(value: &Value, call: &Call, life: &Life<'_>) -> bool {
    layer_of_filter(call, life).is_some_and(is_deciding)
        && *value == Value::Number(PERMIT_IF_CALLOUT_UNREGISTERED)
}

fn observes_without_flags(value: &Value, call: &Call, life: &Life<'_>) -> bool {
    layer_of_filter(call, life).is_some_and(|layer| !is_deciding(layer)) && *value == Value::Number(0)
}

fn decides(value: &Value, call: &Call, life: &Life<'_>) -> bool {
    layer_of_filter(call, life).is_some_and(is_deciding) && *value == Value::Number(CALLOUT_UNKNOWN)
}

fn inspects(value: &Value, call: &Call, life: &Life<'_>) -> bool {
    layer_of_filter(call, life).is_some_and(|layer| !is_deciding(layer))
        && *value == Value::Number(CALLOUT_INSPECTION)
}

/// Flow contexts are associated at the layers that every segment or datagram of a flow
/// passes once, and at the stream and datagram layers ([docs/ARCHITECTURE.md]).
fn is_followed(layer: &str) -> bool {
    let name = layer.replace("_V4", "").replace("_V6", "");
    ["INBOUND_TRANSPORT", "OUTBOUND_TRANSPORT", "STREAM", "DATAGRAM_DATA"].contains(&&*name)
}

fn hears_of_flows(value: &Value, call: &Call, life: &Life<'_>) -> bool {
    let layer = call.guid("callout.calloutKey").and_then(|callout| life.layer(life.layer_of(callout)?));
    let Some(layer) = layer else { return false };
    let expected = if is_followed(layer) { Code } else { Null };
    matches!(value, Value::Pointer(place, _) if *place == expected)
}

fn keeps_contexts(value: &Value, _: &Call, _: &Life<'_>) -> bool {
    let Value::Number(id) = value else { return false };
    let layer = machine::wfp::layers().iter().find(|layer| u64::from(layer.id.0) == *id);
    layer.is_some_and(|layer| is_followed(layer.name))
}
